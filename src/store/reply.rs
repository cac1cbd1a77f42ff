//! Replies of Redis, taken apart without trusting their shape. Works alike for RESP2 and RESP3.

use redis::Value;

use super::error::Kind;
use crate::policy::entry::Timestamp;

/// A reply of another shape than the command promises, or an error in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unexpected {
    pub(super) kind: Kind,
    pub(super) detail: String,
}

impl Unexpected {
    pub(super) fn shape(detail: impl Into<String>) -> Self {
        Self { kind: Kind::Other, detail: detail.into() }
    }
}

type Result<T> = std::result::Result<T, Unexpected>;

/// The error that stands in place of a reply, if one does.
pub(super) fn refusal(value: &Value) -> Option<Unexpected> {
    let Value::ServerError(error) = value else { return None };
    let detail = format!("{} {}", error.code(), error.details().unwrap_or_default());
    Some(Unexpected { kind: Kind::of_code(error.code()), detail })
}

fn unexpected<T>(wanted: &str, value: &Value) -> Result<T> {
    if let Some(refusal) = refusal(value) {
        return Err(refusal);
    }
    let shape: String = match value {
        Value::Nil => "nothing".into(),
        Value::Int(_) => "an integer".into(),
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay | Value::VerbatimString { .. } => "a string".into(),
        Value::Array(_) | Value::Set(_) => "an array".into(),
        Value::Map(_) => "a map".into(),
        _ => "something else".into(),
    };
    Err(Unexpected::shape(format!("expected {wanted}, got {shape}")))
}

/// Whether the key holds another type than the command is for.
pub(super) fn is_wrong_type(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if Kind::of_code(error.code()) == Kind::WrongType)
}

/// A string; none for nil.
pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(Some(text.into_bytes())),
        Value::Okay => Ok(Some(b"OK".to_vec())),
        Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        other => unexpected("a string", &other),
    }
}

/// A string that has to be there.
pub(super) fn some_bytes(value: Value) -> Result<Vec<u8>> {
    bytes(value)?.ok_or_else(|| Unexpected::shape("expected a string, got nothing"))
}

/// A list.
pub(super) fn array(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        other => unexpected("an array", &other),
    }
}

/// A list of pairs: flat in RESP2, nested or a map in RESP3.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>> {
    if let Value::Map(pairs) = value {
        return Ok(pairs);
    }
    let items = array(value)?;
    let nested = items.first().is_some_and(|item| matches!(item, Value::Array(_)));
    let flat = if nested {
        items.into_iter().map(array).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
    } else {
        items
    };
    if flat.len() % 2 != 0 {
        return Err(Unexpected::shape("expected pairs, got an odd number of items"));
    }
    let mut items = flat.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

/// An unsigned number, as an integer or in a string.
pub(super) fn count(value: Value) -> Result<u64> {
    let number = match &value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    number.map_or_else(|| unexpected("a number", &value), Ok)
}

/// A sorted set's score, a double in RESP3 and its text in RESP2; none for nil.
pub(super) fn score(value: Value) -> Result<Option<f64>> {
    let score = match &value {
        Value::Nil => return Ok(None),
        Value::Double(score) => Some(*score),
        Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    score.map_or_else(|| unexpected("a score", &value), |score| Ok(Some(score)))
}

/// The reply of `TIME`.
pub(super) fn time(value: Value) -> Result<Timestamp> {
    let parts = array(value)?.into_iter().map(count).collect::<Result<Vec<_>>>()?;
    let [seconds, micros] = parts[..] else { return Err(Unexpected::shape("expected two numbers from TIME")) };
    let millis = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
    Ok(Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// The reply of `SCAN` or `HSCAN`: the next cursor and the page.
pub(super) fn page(value: Value) -> Result<(u64, Value)> {
    let mut parts = array(value)?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(cursor), Some(items), None) => Ok((count(cursor)?, items)),
        _ => Err(Unexpected::shape("expected a cursor and a page")),
    }
}

/// The size of a reply's payload in bytes, roughly.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len(),
        Value::Array(items) | Value::Set(items) => items.iter().map(size).sum(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| size(key) + size(value)).sum(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn both_protocols_read_alike() {
        let flat = Value::Array(vec![bulk("a"), bulk("1"), bulk("b"), bulk("2")]);
        let nested =
            Value::Array(vec![Value::Array(vec![bulk("a"), bulk("1")]), Value::Array(vec![bulk("b"), bulk("2")])]);
        let map = Value::Map(vec![(bulk("a"), bulk("1")), (bulk("b"), bulk("2"))]);
        assert_eq!(pairs(flat.clone()), pairs(nested));
        assert_eq!(pairs(flat), pairs(map));
        assert_eq!(score(bulk("1.7e+18")), score(Value::Double(1.7e18)));
        assert_eq!(score(bulk("inf")), Ok(Some(f64::INFINITY)));
        assert_eq!(
            time(Value::Array(vec![bulk("1700000000"), bulk("123999")])),
            Ok(Timestamp::from_millis(1_700_000_000_123))
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Double),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            Just(Value::Okay),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_reply_panics(value in any_value()) {
            let _ = (bytes(value.clone()), some_bytes(value.clone()), pairs(value.clone()), count(value.clone()));
            let _ = (score(value.clone()), time(value.clone()), page(value.clone()), size(&value));
        }
    }
}

//! No reply of a server makes us panic, whatever its shape; and both protocols read alike.
//!
//! The module is not public, and need not be: it is compiled in from its source.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use presence_reaper::policy;
use redis::{Value, parse_redis_value};

#[path = "../../src/store"]
#[allow(dead_code, unreachable_pub, reason = "compiled in for a part of it")]
mod store {
    mod error;
    mod reply;

    pub(crate) mod all {
        use redis::Value;

        use super::reply::{array, bytes, count, is_wrong_type, page, pairs, score, size, some_bytes, time};

        /// What each of them makes of a reply, as text.
        pub(crate) fn read(value: &Value) -> [String; 9] {
            let _ = (size(value), is_wrong_type(value));
            [
                format!("{:?}", bytes(value.clone())),
                format!("{:?}", some_bytes(value.clone())),
                format!("{:?}", array(value.clone())),
                format!("{:?}", pairs(value.clone())),
                format!("{:?}", count(value.clone())),
                format!("{:?}", score(value.clone())),
                format!("{:?}", time(value.clone())),
                format!("{:?}", page(value.clone())),
                size(value).to_string(),
            ]
        }

        pub(crate) fn pairs_of(value: Value) -> Option<Vec<(Value, Value)>> {
            pairs(value).ok()
        }

        pub(crate) fn score_of(value: Value) -> Option<Option<f64>> {
            score(value).ok()
        }

        pub(crate) fn count_of(value: Value) -> Option<u64> {
            count(value).ok()
        }
    }
}

use store::all::{count_of, pairs_of, read, score_of};

/// Longer or deeper replies are the client's business, which reads them before we do.
const LARGEST: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    wire: &'a [u8],
    tree: Tree<'a>,
    pairs: Vec<(&'a [u8], &'a [u8])>,
    score: f64,
    count: u64,
}

#[derive(Arbitrary, Debug)]
enum Tree<'a> {
    Nil,
    Int(i64),
    Double(f64),
    Boolean(bool),
    Bulk(&'a [u8]),
    Simple(&'a str),
    Okay,
    Array(Vec<Tree<'a>>),
    Set(Vec<Tree<'a>>),
    Map(Vec<(Tree<'a>, Tree<'a>)>),
}

fuzz_target!(|input: Input<'_>| {
    if input.wire.len() <= LARGEST
        && let Ok(value) = parse_redis_value(input.wire)
    {
        read(&value);
    }
    read(&input.tree.value());

    // Pairs are flat in RESP2, a map or nested in RESP3.
    let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    let map: Vec<(Value, Value)> = input.pairs.iter().map(|(one, other)| (bulk(one), bulk(other))).collect();
    let flat = Value::Array(map.iter().flat_map(|(one, other)| [one.clone(), other.clone()]).collect());
    let nested = map.iter().map(|(one, other)| Value::Array(vec![one.clone(), other.clone()])).collect();
    for shape in [flat, Value::Array(nested), Value::Map(map.clone())] {
        assert_eq!(pairs_of(shape).as_ref(), Some(&map));
    }

    // A score is the double that it is, or its text; no number is none.
    let as_text = score_of(bulk(input.score.to_string().as_bytes())).expect("a number").expect("it is there");
    let as_double = score_of(Value::Double(input.score)).expect("a number").expect("it is there");
    assert!(as_text == as_double || (as_text.is_nan() && as_double.is_nan()), "{as_text} and {as_double}");

    assert_eq!(count_of(bulk(input.count.to_string().as_bytes())), Some(input.count));
    if let Ok(number) = i64::try_from(input.count) {
        assert_eq!(count_of(Value::Int(number)), Some(input.count));
        assert_eq!(count_of(Value::Int(number.wrapping_neg())), (number == 0).then_some(0));
    }
});

impl Tree<'_> {
    fn value(&self) -> Value {
        let all = |items: &[Tree<'_>]| items.iter().map(Tree::value).collect();
        match self {
            Tree::Nil => Value::Nil,
            Tree::Int(number) => Value::Int(*number),
            Tree::Double(number) => Value::Double(*number),
            Tree::Boolean(truth) => Value::Boolean(*truth),
            Tree::Bulk(bytes) => Value::BulkString(bytes.to_vec()),
            Tree::Simple(text) => Value::SimpleString((*text).to_owned()),
            Tree::Okay => Value::Okay,
            Tree::Array(items) => Value::Array(all(items)),
            Tree::Set(items) => Value::Set(all(items)),
            Tree::Map(pairs) => Value::Map(pairs.iter().map(|(one, other)| (one.value(), other.value())).collect()),
        }
    }
}

//! What a `POST` says: one JSON document for a batch of events, and how it is signed.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use ring::hmac;
use serde_json::Value;

use super::Event;
use crate::policy::outcome::Form;

/// The texts of a document do not grow beyond this, unless a single one does: half of what nginx takes by default, for JSON
/// makes more of them.
pub(super) const MOST_BYTES: usize = 512 << 10;

/// How many events of these sizes go into one document.
pub(super) fn fitting(sizes: impl Iterator<Item = usize>, most: u32) -> usize {
    let mut bytes = 0;
    let fits = sizes.take(most as usize).enumerate().take_while(|(at, size)| {
        bytes += size;
        *at == 0 || bytes <= MOST_BYTES
    });
    fits.count()
}

/// `{"schema_version":1,"source":"hub","events":[{"id":"…","payload":…}]}`
pub(super) fn render(source: &str, events: &[Event]) -> String {
    let events: Vec<String> = events.iter().map(event).collect();
    format!(r#"{{"schema_version":1,"source":{},"events":[{}]}}"#, Value::from(source), events.join(","))
}

/// A table is an object as it was spelt, a text is a string. What is no UTF-8 shows what can be read of it, and all of it
/// in base64 beside.
fn event(event: &Event) -> String {
    let id = Value::from(event.id.as_str());
    // What came out of Redis may have been put there by anybody.
    let json = std::str::from_utf8(&event.text)
        .ok()
        .filter(|text| event.form == Form::Json && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    if let Some(json) = json {
        return format!(r#"{{"id":{id},"payload":{json}}}"#);
    }
    let exact = match std::str::from_utf8(&event.text) {
        Ok(_) => String::new(),
        Err(_) => format!(r#","payload_base64":"{}""#, BASE64.encode(&event.text)),
    };
    format!(r#"{{"id":{id},"payload":{}{exact}}}"#, Value::from(String::from_utf8_lossy(&event.text)))
}

/// What a receiver may tell a repeated delivery by: the same for the same events.
pub(super) fn delivery(events: &[Event]) -> String {
    let first = events.first().map_or("", |event| event.id.as_str());
    format!("{first}+{}", events.len())
}

/// `t=1769860800,v1=5257a8…`: the HMAC-SHA256 of the time, a full stop and the body.
pub(super) fn signature(secret: &[u8], seconds: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body.as_bytes());
    let mut text = format!("t={seconds},v1=");
    for byte in signing.sign().as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event_of(id: &str, form: Form, text: &[u8]) -> Event {
        Event { id: id.into(), form, text: text.to_vec(), entry: None }
    }

    fn read(events: &[Event]) -> Value {
        serde_json::from_str(&render("hub", events)).unwrap()
    }

    #[test]
    fn a_table_is_an_object_and_a_text_a_string() {
        let events = [
            event_of("a-1", Form::Json, br#"{"id":"c","n":41,"age":3600123}"#),
            event_of("a-2", Form::Text, br#"{"id":"c"}"#),
            event_of("a-3", Form::Text, b"a\xff"),
            event_of("a-4", Form::Json, b"{broken"),
        ];
        let expected = json!({"schema_version": 1, "source": "hub", "events": [
            {"id": "a-1", "payload": {"id": "c", "n": 41, "age": 3_600_123}},
            {"id": "a-2", "payload": "{\"id\":\"c\"}"},
            {"id": "a-3", "payload": "a\u{fffd}", "payload_base64": "Yf8="},
            {"id": "a-4", "payload": "{broken"},
        ]});
        assert_eq!(read(&events), expected);
        assert_eq!(delivery(&events), "a-1+4");
    }

    /// Computed by `printf '1769860800.{"a":1}' | openssl dgst -sha256 -hmac whsec`.
    #[test]
    fn a_signature_is_that_of_others() {
        let found = signature(b"whsec", 1_769_860_800, r#"{"a":1}"#);
        let expected = "t=1769860800,v1=81b8a9a6d395035dfb84696bfa1b00b478d2bba09871396236f5e193add43c0a";
        assert_eq!(found, expected);
    }

    #[test]
    fn a_document_holds_so_many_and_so_much() {
        let of = |sizes: &[usize], most| fitting(sizes.iter().copied(), most);
        assert_eq!(of(&[], 10), 0);
        assert_eq!(of(&[1; 20], 10), 10);
        assert_eq!(of(&[MOST_BYTES * 2, 1], 10), 1);
        assert_eq!(of(&[MOST_BYTES / 2, MOST_BYTES / 2, 1], 10), 2);
    }

    proptest! {
        #[test]
        fn the_document_is_json_whatever_it_says(id: String, json: bool, text: Vec<u8>) {
            let form = if json { Form::Json } else { Form::Text };
            let document = read(&[event_of(&id, form, &text), event_of("b", Form::Text, b"x")]);
            let event = &document["events"][0];
            prop_assert_eq!(event["id"].as_str(), Some(id.as_str()));
            if form == Form::Text {
                prop_assert_eq!(event["payload"].as_str().unwrap(), String::from_utf8_lossy(&text));
                let exact = event.get("payload_base64").map(|text| BASE64.decode(text.as_str().unwrap()).unwrap());
                prop_assert_eq!(exact, std::str::from_utf8(&text).is_err().then_some(text));
            }
            prop_assert_eq!(document["events"][1]["payload"].as_str(), Some("x"));
        }
    }
}

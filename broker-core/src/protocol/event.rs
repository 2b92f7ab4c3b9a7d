//! Parses the JSON of a published event. The known keys are found, the message stays bytes, and everything is validated once.
//!
//! Nearly every event takes the fast path ([`scan`]): one pass without allocation. Whatever that does not accept goes to the full
//! parser ([`fields`]), which either accepts it or words the error.

mod fields;
mod scan;

use std::borrow::Cow;

use uuid::Uuid;

use crate::event::{NewEvent, Payload, Priority};
use crate::name::{IdKey, check_event_id};

/// The deepest nesting of an event, its own object included.
pub const MAX_DEPTH: usize = 128;

/// The largest `ttl_ms` and `delay_ms`: 2^53 - 1, up to which every JSON implementation represents integers exactly.
pub const MAX_MS: u64 = (1 << 53) - 1;

/// The error for JSON that is not an object.
const EXPECTED: &str = r#"expected an object such as {"id":"1","priority":0,"msg":"any JSON value"}"#;

/// Parses `{"id":…,"priority":…,"msg":…}` and encodes it for `topic`. A missing id becomes a UUID of version 7.
///
/// # Errors
/// A text that completes `event is not of an accepted format: `, with what is wrong and what is expected.
pub fn parse_event(topic: &str, json: &str) -> Result<NewEvent, String> {
    if !matches!(json.trim_ascii_start().as_bytes().first(), None | Some(b'{')) {
        // The parser's own error would quote all of it.
        return Err(EXPECTED.to_owned());
    }
    let fields = match scan::fields(json) {
        Some(fields) => fields,
        None => fields::parse(json)?,
    };
    let fields = fields.without_nulls();
    let id = match fields.id {
        None => Cow::Owned(Uuid::now_v7().to_string()),
        Some(raw) => id(raw)?,
    };
    let priority = fields.priority.map_or(Ok(0), |text| {
        text.parse::<i32>()
            .ok()
            .filter(|_| is_integer(text))
            .ok_or_else(|| format!("priority must be an integer from {} to {}", i32::MIN, i32::MAX))
    })?;
    let ms = |name: &str, text: Option<&str>| {
        let Some(text) = text else { return Ok(0) };
        let ms = text.parse::<u64>().ok().filter(|ms| *ms <= MAX_MS && is_integer(text));
        ms.ok_or_else(|| format!("{name} must be an integer from 0 to {MAX_MS}"))
    };
    let (ttl_ms, delay_ms) = (ms("ttl_ms", fields.ttl_ms)?, ms("delay_ms", fields.delay_ms)?);
    let priority = Priority(priority);
    let payload = Payload::encode(topic, priority, fields.msg.unwrap_or("null"), &id);
    Ok(NewEvent { id: IdKey::of(&id), priority, ttl_ms, delay_ms, payload })
}

/// Whether a JSON number has no fraction and no exponent.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn id(text: &str) -> Result<Cow<'_, str>, String> {
    let id = if is_integer(text) {
        Cow::Borrowed(text)
    } else if text.starts_with('"') {
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|text| !text.contains('\\')) {
            Some(plain) => Cow::Borrowed(plain),
            None => Cow::Owned(
                serde_json::from_str(text).map_err(|_| "id holds an escape that is no character".to_owned())?,
            ),
        }
    } else {
        return Err("id must be a string or an integer".to_owned());
    };
    check_event_id(&id).map_err(|error| format!("id: {error}"))?;
    Ok(id)
}

/// Whether a valid JSON text is nested deeper than `limit`.
#[must_use]
pub fn is_nested_deeper(json: &str, limit: usize) -> bool {
    // Most texts have fewer brackets in total, and counting those is cheap.
    if json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= limit {
        return false;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(json: &str) -> String {
        let event = parse_event("t", json).unwrap_or_else(|error| panic!("{json}: {error}"));
        String::from_utf8(event.payload.bytes().to_vec()).unwrap()
    }

    #[test]
    fn an_event_is_encoded_once_with_its_message_as_it_stands() {
        for (json, line) in [
            (r#"{"id":"042","priority":3,"msg":"x"}"#, r#"{"topic":"t","priority":3,"msg":"x","id":"042"}"#),
            (
                r#" { "msg" : { "a" : [1e999,-0.0] } , "id":7 } "#,
                r#"{"topic":"t","priority":0,"msg":{ "a" : [1e999,-0.0] },"id":"7"}"#,
            ),
            (r#"{"id":-0}"#, r#"{"topic":"t","priority":0,"msg":null,"id":"-0"}"#),
            (
                r#"{"id":123456789012345678901234567890,"priority":-2147483648}"#,
                r#"{"topic":"t","priority":-2147483648,"msg":null,"id":"123456789012345678901234567890"}"#,
            ),
            (
                r#"{"\u0069d":"\u00e9\"","priority":null,"ttl_ms":9007199254740991,"delay_ms":0}"#,
                r#"{"topic":"t","priority":0,"msg":null,"id":"é\""}"#,
            ),
            (
                r#"{"id":"a","msg":"\ud800","other":1,"other":2}"#,
                r#"{"topic":"t","priority":0,"msg":"\ud800","id":"a"}"#,
            ),
        ] {
            assert_eq!(encoded(json), line, "{json}");
        }
        let id = |json| parse_event("t", json).unwrap().payload.id().into_owned();
        assert_eq!(Uuid::parse_str(&id("{}")).unwrap().get_version_num(), 7);
        assert_eq!(Uuid::parse_str(&id(r#"{"id":null}"#)).unwrap().get_version_num(), 7);
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (json, reason) in [
            ("", "EOF while parsing a value at column 0"),
            ("[]", "expected an object such as"),
            ("\"x\"", "expected an object such as"),
            ("17", "expected an object such as"),
            ("{} x", "trailing characters at column 4"),
            (r#"{"id":"a","id":"b"}"#, "key \"id\" given twice"),
            (r#"{"id":null,"\u0069\u0064":"b"}"#, "key \"id\" given twice"),
            (r#"{"msg":1,"msg":1}"#, "key \"msg\" given twice"),
            (r#"{"priority":1.0}"#, "priority must be an integer from -2147483648 to 2147483647"),
            (r#"{"priority":1e1}"#, "priority must be an integer"),
            (r#"{"priority":"1"}"#, "priority must be an integer"),
            (r#"{"priority":2147483648}"#, "priority must be an integer"),
            (r#"{"priority":true}"#, "priority must be an integer"),
            (r#"{"id":1.5}"#, "id must be a string or an integer"),
            (r#"{"id":[]}"#, "id must be a string or an integer"),
            (r#"{"id":true}"#, "id must be a string or an integer"),
            (r#"{"id":""}"#, "id: an id is not empty"),
            (r#"{"id":"a b"}"#, "id: an id holds no blanks"),
            (r#"{"id":"\u0000"}"#, "id: an id holds no blanks and no control characters"),
            (r#"{"id":"\ud800"}"#, "id holds an escape that is no character"),
            (r#"{"ttl_ms":-1}"#, "ttl_ms must be an integer from 0 to 9007199254740991"),
            (r#"{"ttl_ms":9007199254740992}"#, "ttl_ms must be an integer"),
            (r#"{"delay_ms":1.5}"#, "delay_ms must be an integer"),
            (r#"{"msg":01}"#, "invalid number"),
            (r#"{"msg":}"#, "expected value"),
            (r#"{"msg":"a"#, "EOF while parsing a string"),
            (r#"{'id':1}"#, "key must be a string"),
        ] {
            let error = parse_event("t", json).err().unwrap_or_else(|| panic!("{json} is accepted"));
            assert!(error.contains(reason), "{json}: {error}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(256));
        assert!(parse_event("t", &long).err().is_some_and(|error| error.contains("at most 255 bytes")));
    }

    #[test]
    fn nesting_counts_the_events_own_object() {
        let nested = |n: usize| format!("{{\"msg\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(parse_event("t", &nested(127)).is_ok());
        assert_eq!(parse_event("t", &nested(128)).err().as_deref(), Some("nested deeper than 128 levels"));
        assert!(parse_event("t", &nested(100_000)).is_err());
        let unknown = format!("{{\"other\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(parse_event("t", &unknown).is_err());
        assert!(parse_event("t", &format!("{{\"msg\":\"{}\"}}", "[".repeat(1000))).is_ok());
    }

    #[test]
    fn an_unknown_key_may_be_half_of_a_surrogate_pair() {
        assert!(parse_event("t", r#"{"\ud800":1,"id":"1"}"#).is_ok());
        assert!(parse_event("t", "{\"a\u{1}\":1}").is_err());
    }
}

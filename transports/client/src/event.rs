//! The events that are published.

use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, excerpt};
use crate::name::{EventId, TopicName};

/// The largest `ttl_ms` and `delay_ms`: every integer up to here is exact in any JSON implementation.
const MAX_MS: u64 = (1 << 53) - 1;

/// An event to publish.
///
/// ```
/// # use transport_client::Event;
/// # use std::time::Duration;
/// let event = Event::json(&vec![1, 2])?.with_priority(3).with_ttl(Duration::from_secs(60));
/// let same = Event::raw("[1,2]")?.with_priority(3).with_ttl(Duration::from_secs(60));
/// let as_typed = Event::parse(r#"{"priority":3,"msg":[1,2],"ttl_ms":60000}"#)?;
/// # Ok::<(), transport_client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's id; without one it gets a UUIDv7 when it is published.
    pub id: Option<EventId>,
    /// Higher is delivered first. Default: 0.
    pub priority: i32,
    /// Any JSON value. The consumer gets it byte for byte, save that line breaks between tokens become blanks.
    pub msg: Box<RawValue>,
    /// Not delivered once it has waited for longer, in milliseconds; at most 2^53-1. 0 or `None`: no limit.
    pub ttl_ms: Option<u64>,
    /// Not delivered before so many milliseconds; at most 2^53-1.
    pub delay_ms: Option<u64>,
}

impl Event {
    /// An event whose `msg` is `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`]: `value` has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        serde_json::value::to_raw_value(value)
            .map(Self::from)
            .map_err(|error| Error::Invalid(format!("the message cannot be written as JSON: {error}")))
    }

    /// An event whose `msg` is the JSON in `text`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: `text` is not one JSON value.
    pub fn raw(text: impl Into<String>) -> Result<Self, Error> {
        RawValue::from_string(text.into())
            .map(Self::from)
            .map_err(|error| Error::Invalid(format!("the message is not JSON: {error}")))
    }

    /// A whole event as the protocol writes it: `{"id":"042","priority":3,"msg":…,"ttl_ms":…,"delay_ms":…}`, every key
    /// optional. For command lines and files; what other keys say is left out, as the broker would.
    ///
    /// # Errors
    /// [`Error::Invalid`]: not such an object, or a key with a value of another kind or given twice.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_noting(text).map(|(event, _)| event)
    }

    /// [`Event::parse`], with the keys that were left out.
    ///
    /// # Errors
    /// As there.
    pub fn parse_noting(text: &str) -> Result<(Self, Vec<String>), Error> {
        let written = Written::parse(text)?;
        let id = written.id.map(|id| parse_id(id.get())).transpose()?;
        let msg = written.msg.map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned);
        let integer = |key: &str, value: Option<&RawValue>, least: i64, most: i64| match value.map(RawValue::get) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                // What Rust reads and JSON does not, such as `+1`, has been refused as JSON.
                Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => Err(Error::Invalid(format!(
                    "{key}: expected an integer from {least} to {most}, got {}",
                    excerpt(text)
                ))),
            },
        };
        let priority = integer("priority", written.priority, i64::from(i32::MIN), i64::from(i32::MAX))?;
        let ms = |key, value| Ok(integer(key, value, 0, MAX_MS.cast_signed())?.map(i64::cast_unsigned));
        let event = Self {
            id,
            priority: priority.and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            msg,
            ttl_ms: ms("ttl_ms", written.ttl_ms)?,
            delay_ms: ms("delay_ms", written.delay_ms)?,
        };
        Ok((event, written.others))
    }

    /// With this id. Publishing an id again replaces the event of that id while it waits.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// With this priority; higher is delivered first.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Not delivered once it has waited for longer. Rounded up to a millisecond, since 0 would mean no limit.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(whole_ms(ttl).max(1));
        self
    }

    /// Not delivered before that time has passed. Rounded up to a millisecond.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay_ms = Some(whole_ms(delay));
        self
    }

    fn validate(&self) -> Result<(), Error> {
        for (key, value) in [("ttl_ms", self.ttl_ms), ("delay_ms", self.delay_ms)] {
            if value.is_some_and(|ms| ms > MAX_MS) {
                return Err(Error::Invalid(format!("{key}: expected an integer from 0 to {MAX_MS}")));
            }
        }
        Ok(())
    }

    /// The `publish` line, with its ending. `id` goes in place of the event's own.
    pub(crate) fn encode(&self, topic: &TopicName, id: &EventId) -> Result<Vec<u8>, Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            id: &'a str,
            priority: i32,
            #[serde(skip_serializing_if = "Option::is_none")]
            ttl_ms: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            delay_ms: Option<u64>,
            msg: &'a RawValue,
        }
        self.validate()?;
        // The long form of the command: the short one may have been renamed in the broker's configuration.
        const COMMAND: &[u8] = b"publish ";
        let mut line = Vec::with_capacity(COMMAND.len() + topic.as_str().len() + self.msg.get().len() + 96);
        line.extend_from_slice(COMMAND);
        line.extend_from_slice(topic.as_str().as_bytes());
        line.push(b' ');
        let written = Written {
            id: id.as_str(),
            priority: self.priority,
            ttl_ms: self.ttl_ms,
            delay_ms: self.delay_ms,
            msg: &self.msg,
        };
        serde_json::to_writer(&mut line, &written)
            .map_err(|error| Error::Invalid(format!("the event cannot be written as JSON: {error}")))?;
        // Pretty-printed JSON is valid JSON and would be several lines. A string cannot hold a raw line break, so those
        // that are there stand between tokens, where a blank means the same.
        for byte in &mut line {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        line.push(b'\n');
        Ok(line)
    }
}

/// The keys of an event as they were written; `null` is as good as absent.
#[derive(Default)]
struct Written<'a> {
    id: Option<&'a RawValue>,
    priority: Option<&'a RawValue>,
    msg: Option<&'a RawValue>,
    ttl_ms: Option<&'a RawValue>,
    delay_ms: Option<&'a RawValue>,
    /// Keys that no event has, the first few.
    others: Vec<String>,
}

/// How many unknown keys are noted.
const MAX_OTHERS: usize = 16;

impl<'a> Written<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let not_an_object = || {
            Error::Invalid(
                "the event is not a JSON object such as {\"priority\":3,\"msg\":\"any JSON value\"}".to_owned(),
            )
        };
        // serde would also take an array for a struct.
        if !text.trim_start().starts_with('{') {
            return Err(not_an_object());
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                Error::Invalid(format!("the event is not accepted: {}", reason(&error)))
            }
            _ => Error::Invalid(format!("the event is not JSON: {}", reason(&error))),
        })
    }
}

/// The parser's message without the line number, which is always 1 here.
fn reason(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Written<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut written = Written::default();
                while let Some(key) = map.next_key::<String>()? {
                    let value: &'de RawValue = map.next_value()?;
                    let slot = match key.as_str() {
                        "id" => &mut written.id,
                        "priority" => &mut written.priority,
                        "msg" => &mut written.msg,
                        "ttl_ms" => &mut written.ttl_ms,
                        "delay_ms" => &mut written.delay_ms,
                        _ => {
                            if written.others.len() < MAX_OTHERS {
                                written.others.push(key);
                            }
                            continue;
                        }
                    };
                    if slot.replace(value).is_some() {
                        return Err(serde::de::Error::custom(format_args!("{key} is given twice")));
                    }
                }
                for slot in [&mut written.id, &mut written.priority, &mut written.ttl_ms, &mut written.delay_ms] {
                    slot.take_if(|value| value.get() == "null");
                }
                Ok(written)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl From<Box<RawValue>> for Event {
    fn from(msg: Box<RawValue>) -> Self {
        Self { id: None, priority: 0, msg, ttl_ms: None, delay_ms: None }
    }
}

/// An id is a string, or an integer whose digits are kept as written.
fn parse_id(json: &str) -> Result<EventId, Error> {
    if json.starts_with('"') {
        let text: String =
            serde_json::from_str(json).map_err(|error| Error::Invalid(format!("the id is not a string: {error}")))?;
        return EventId::new(text);
    }
    let digits = json.strip_prefix('-').unwrap_or(json);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::Invalid(format!("id: expected a string or an integer, got {}", excerpt(json))));
    }
    EventId::new(json)
}

fn whole_ms(duration: Duration) -> u64 {
    // Beyond MAX_MS it fails in `validate`, so saturating hides nothing.
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &Event) -> String {
        let topic = TopicName::new("t").unwrap();
        let id = event.id.clone().unwrap_or_else(|| EventId::new("gen").unwrap());
        String::from_utf8(event.encode(&topic, &id).unwrap()).unwrap()
    }

    #[test]
    fn the_line_has_the_long_command_and_msg_byte_for_byte() {
        let event = Event::raw(r#"{"a":1.0e5,  "b":"\u00e9\/"}"#).unwrap();
        assert_eq!(
            line(&event),
            "publish t {\"id\":\"gen\",\"priority\":0,\"msg\":{\"a\":1.0e5,  \"b\":\"\\u00e9\\/\"}}\n"
        );
        let event = Event::json("x")
            .unwrap()
            .with_id(EventId::new("a\"b").unwrap())
            .with_priority(-7)
            .with_ttl(Duration::from_nanos(1))
            .with_delay(Duration::from_millis(20));
        assert_eq!(
            line(&event),
            "publish t {\"id\":\"a\\\"b\",\"priority\":-7,\"ttl_ms\":1,\"delay_ms\":20,\"msg\":\"x\"}\n"
        );
    }

    #[test]
    fn pretty_printed_json_stays_one_line() {
        let event = Event::raw("{\n  \"a\": 1,\r\n  \"b\": \"x\\ny\"\n}").unwrap();
        let line = line(&event);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains("{   \"a\": 1,    \"b\": \"x\\ny\" }"), "{line}");
    }

    #[test]
    fn a_typed_event_parses_as_the_broker_would() {
        let event =
            Event::parse(r#" {"id":12345678901234567890123,"priority":-2147483648,"x":[],"msg":null} "#).unwrap();
        assert_eq!(event.id.unwrap().as_str(), "12345678901234567890123");
        assert_eq!((event.priority, event.msg.get()), (i32::MIN, "null"));
        let event = Event::parse(r#"{"id":null,"priority":null}"#).unwrap();
        assert_eq!((event.id, event.priority, event.msg.get()), (None, 0, "null"));
        for bad in [
            "",
            "[1]",
            "{",
            "{} x",
            r#"{"id":1.5}"#,
            r#"{"id":true}"#,
            r#"{"id":""}"#,
            r#"{"id":"a b"}"#,
            r#"{"priority":1.0}"#,
            r#"{"priority":2147483648}"#,
            r#"{"priority":1,"priority":1}"#,
            r#"{"ttl_ms":-1}"#,
            r#"{"ttl_ms":9007199254740992}"#,
        ] {
            assert!(matches!(Event::parse(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_expected_in_the_words_of_json() {
        for (text, said) in [
            ("hello", "the event is not a JSON object such as {\"priority\":3,\"msg\":\"any JSON value\"}"),
            ("{\"priority\":1.5}", "priority: expected an integer from -2147483648 to 2147483647, got 1.5"),
            ("{\"priority\":\"3\"}", "priority: expected an integer from -2147483648 to 2147483647, got \\\"3\\\""),
            ("{\"ttl_ms\":-1}", "ttl_ms: expected an integer from 0 to 9007199254740991, got -1"),
            ("{\"delay_ms\":true}", "delay_ms: expected an integer from 0 to 9007199254740991, got true"),
            ("{\"msg\":1,\"msg\":2}", "the event is not accepted: msg is given twice at column 17"),
            ("{\"msg\":", "the event is not JSON: EOF while parsing a value at column 7"),
        ] {
            assert_eq!(Event::parse(text).unwrap_err().to_string(), said, "{text}");
        }
    }

    #[test]
    fn keys_that_no_event_has_are_noted() {
        let (event, others) = Event::parse_noting("{\"priorty\":3,\"msg\":1,\"x\":{}}").unwrap();
        assert_eq!((event.priority, others), (0, vec!["priorty".to_owned(), "x".to_owned()]));
    }

    #[test]
    fn times_out_of_range_are_refused_when_publishing() {
        let event = Event::json(&1).unwrap().with_delay(Duration::MAX);
        let sent = event.encode(&TopicName::new("t").unwrap(), &EventId::generate());
        assert!(matches!(sent, Err(Error::Invalid(_))), "{sent:?}");
    }
}

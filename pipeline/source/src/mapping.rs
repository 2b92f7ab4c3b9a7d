//! Maps a feed's event to a broker event: topic, id, priority and message, by the configured rules.
//!
//! Every source maps by the same rules. The data differs (JSON text, BSON), so the rules see it through [`Lookup`].

mod pointer;
mod watch;

use std::borrow::Cow;
use std::hash::Hasher as _;

use broker_core::event::{NewEvent, Payload, Priority, write_json_string};
use broker_core::name::{IdKey, TopicName, check_event_id};
use broker_core::protocol::event::{MAX_DEPTH, is_nested_deeper};
use serde_json::value::RawValue;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

pub use broker_core::settings::OnMissing;
pub use pointer::{Pointer, PointerError};
pub use watch::PointerWatch;

/// The deepest nesting of a message. The object of the delivery around it adds one level, up to the protocol's 128.
pub const MAX_MSG_DEPTH: usize = MAX_DEPTH - 1;

/// The origin of an event's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRule {
    /// Always this one.
    Fixed(TopicName),
    /// This text with the event's type in place of each `{event}`. An event is skipped if the result is no topic name.
    ByType(String),
    /// A string in the event's data. An event is skipped if there is none, or if it is no topic name.
    Pointer(Pointer),
}

/// The origin of an event's priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PriorityRule {
    /// Always this one.
    Fixed(i32),
    /// A 32-bit integer in the event's data; 0 where there is none.
    Pointer(Pointer),
    /// Evenly spread between the two, both included. It is derived from the event's id, so a repeated event keeps its priority.
    Random(i32, i32),
}

/// The rules of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The origin of the topic.
    pub topic: TopicRule,
    /// Points at the event's id, a string or an integer. Without a pointer, or where it finds no valid id, the source derives one.
    pub id: Option<Pointer>,
    /// Points at the message; the empty pointer takes all of the data.
    pub msg: Pointer,
    /// The origin of the priority.
    pub priority: PriorityRule,
    /// The reaction when `msg` finds nothing.
    pub on_missing: OnMissing,
}

/// The reason that an event is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// The topic's pointer finds no topic name, or the event's type yields none.
    NoTopic,
    /// The message's pointer finds nothing, and the configuration says to skip such events.
    NoMessage,
    /// The message is nested deeper than the protocol allows.
    TooDeep,
    /// The message is longer than storages accept.
    TooLarge,
    /// The event's data breaks the rules of its own format.
    Malformed,
}

/// Data that the rules read from.
pub trait Lookup {
    /// The value at `pointer` as JSON text, possibly of several lines.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped>;

    /// The message at `pointer`; other than a value, it may also be data that is not JSON.
    ///
    /// # Errors
    /// As [`Lookup::find`].
    fn message(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        self.find(pointer)
    }

    /// The value at `pointer` as an id: a string, or an integer by its digits. `None` if it cannot be one.
    fn id(&self, pointer: &Pointer) -> Option<String> {
        self.find(pointer).ok().flatten().and_then(|json| id_of(&json))
    }
}

impl Lookup for &RawValue {
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        Ok(pointer.find(self).map(|raw| Cow::Borrowed(raw.get())))
    }
}

/// Data that is not JSON. It becomes one string as the message; pointers find nothing in it.
struct Plain<'a>(&'a str);

impl Lookup for Plain<'_> {
    fn find(&self, _: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        Ok(None)
    }

    fn message(&self, _: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        Ok(Some(Cow::Owned(string(self.0))))
    }
}

impl Mapping {
    /// Maps an event of type `message`. `derived` is its id unless the data has one.
    ///
    /// # Errors
    /// [`Skipped`]: the reason that it is not published.
    pub fn apply(&self, data: &str, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        self.apply_typed("message", data, derived)
    }

    /// Maps an event of any type, like [`apply`](Self::apply).
    ///
    /// # Errors
    /// [`Skipped`]: the reason that it is not published.
    pub fn apply_typed(&self, event_type: &str, data: &str, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        match serde_json::from_str::<&RawValue>(data) {
            Ok(json) => self.event(event_type, &json, derived),
            Err(_) => self.event(event_type, &Plain(data), derived),
        }
    }

    /// Maps data of any kind as an event of type `message`, like [`apply`](Self::apply).
    ///
    /// # Errors
    /// [`Skipped`]: the reason that it is not published.
    pub fn apply_to(&self, data: &impl Lookup, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        self.event("message", data, derived)
    }

    fn event(&self, event_type: &str, data: &impl Lookup, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        let topic = self.topic(event_type, data)?;
        let id = match self.id.as_ref().and_then(|pointer| data.id(pointer)) {
            Some(id) => Cow::Owned(id),
            None => Cow::Borrowed(derived),
        };
        let priority = match &self.priority {
            PriorityRule::Fixed(priority) => *priority,
            PriorityRule::Pointer(pointer) => data.find(pointer)?.and_then(|json| json.parse().ok()).unwrap_or(0),
            PriorityRule::Random(low, high) => spread(&id, *low, *high),
        };
        let msg = match data.message(&self.msg)? {
            // The protocol has one event per line. JSON allows line breaks only between tokens, where a blank means the same.
            Some(json) if json.contains(['\n', '\r']) => Cow::Owned(json.replace(['\n', '\r'], " ")),
            Some(json) => json,
            None => match self.on_missing {
                OnMissing::Null => Cow::Borrowed("null"),
                OnMissing::Skip => return Err(Skipped::NoMessage),
            },
        };
        if is_nested_deeper(&msg, MAX_MSG_DEPTH) {
            return Err(Skipped::TooDeep);
        }
        Ok(event(topic, priority, &msg, &id))
    }

    fn topic(&self, event_type: &str, data: &impl Lookup) -> Result<TopicName, Skipped> {
        match &self.topic {
            TopicRule::Fixed(topic) => Ok(topic.clone()),
            TopicRule::ByType(pattern) => {
                TopicName::new(&pattern.replace("{event}", event_type)).map_err(|_| Skipped::NoTopic)
            }
            TopicRule::Pointer(pointer) => {
                let name = data.find(pointer)?.and_then(|json| serde_json::from_str::<String>(&json).ok());
                name.and_then(|name| TopicName::new(&name).ok()).ok_or(Skipped::NoTopic)
            }
        }
    }

    /// An event about the source itself. `None` where the topic depends on the data, because there is no data.
    pub fn notice(&self, id: &str, msg: &str) -> Option<(TopicName, NewEvent)> {
        let TopicRule::Fixed(topic) = &self.topic else { return None };
        Some(self.notice_in(topic.clone(), id, msg))
    }

    /// An event about `data`, in the topic that `data` itself maps to. `None` where it maps to none.
    pub fn notice_about(&self, data: &impl Lookup, id: &str, msg: &str) -> Option<(TopicName, NewEvent)> {
        let topic = self.topic("message", data).ok()?;
        Some(self.notice_in(topic, id, msg))
    }

    fn notice_in(&self, topic: TopicName, id: &str, msg: &str) -> (TopicName, NewEvent) {
        let priority = match &self.priority {
            PriorityRule::Fixed(priority) => *priority,
            PriorityRule::Pointer(_) => 0,
            PriorityRule::Random(low, high) => spread(id, *low, *high),
        };
        event(topic, priority, msg, id)
    }
}

fn event(topic: TopicName, priority: i32, msg: &str, id: &str) -> (TopicName, NewEvent) {
    let priority = Priority(priority);
    let payload = Payload::encode(topic.as_str(), priority, msg, id);
    (topic, NewEvent { id: IdKey::of(id), priority, ttl_ms: 0, delay_ms: 0, payload })
}

fn string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_json_string(&mut out, text);
    String::from_utf8(out).expect("escaping keeps UTF-8")
}

/// The id in a JSON value, if it is one: a string, or an integer as its digits.
pub fn id_of(json: &str) -> Option<String> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    let id = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        json.to_owned()
    } else {
        serde_json::from_str::<String>(json).ok()?
    };
    check_event_id(&id).is_ok().then_some(id)
}

/// A 128-bit digest of `parts`, the same in every process and version: ids derived from it are stored.
pub fn digest(parts: &[&str]) -> u128 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish128().as_u128()
}

/// A priority between `low` and `high` that depends on `id` alone.
fn spread(id: &str, low: i32, high: i32) -> i32 {
    let width = u128::from((i64::from(high) - i64::from(low)).unsigned_abs()) + 1;
    let offset = i64::try_from(digest(&["priority", id]) % width).expect("the width of 32 bits fits");
    i32::try_from(i64::from(low.min(high)) + offset).expect("it is between two of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> Mapping {
        Mapping {
            topic: TopicRule::Fixed(TopicName::new("tweets").unwrap()),
            id: None,
            msg: Pointer::new("").unwrap(),
            priority: PriorityRule::Fixed(0),
            on_missing: OnMissing::Null,
        }
    }

    fn line(mapping: &Mapping, data: &str) -> String {
        let (_, event) = mapping.apply(data, "derived").expect("it is published");
        String::from_utf8(event.payload.bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_whole_data_is_published_byte_for_byte() {
        assert_eq!(
            line(&mapping(), r#"{ "a": 1e999 , "b":"\ud800"}"#),
            r#"{"topic":"tweets","priority":0,"msg":{ "a": 1e999 , "b":"\ud800"},"id":"derived"}"#
        );
    }

    #[test]
    fn data_that_is_not_json_becomes_a_string() {
        assert_eq!(
            line(&mapping(), "{\"message\": panic}\n\u{1}"),
            r#"{"topic":"tweets","priority":0,"msg":"{\"message\": panic}\n\u0001","id":"derived"}"#
        );
        let pointed = Mapping { msg: Pointer::new("/text").unwrap(), ..mapping() };
        assert!(line(&pointed, "panic").contains(r#""msg":"panic""#), "a pointer finds nothing in plain text");
    }

    #[test]
    fn line_breaks_in_json_become_blanks() {
        let got = line(&mapping(), "{\n\"a\":\r\n\"x\\ny\"}");
        assert_eq!(got, r#"{"topic":"tweets","priority":0,"msg":{ "a":  "x\ny"},"id":"derived"}"#);
    }

    #[test]
    fn pointers_find_topic_id_message_and_priority() {
        let mapping = Mapping {
            topic: TopicRule::Pointer(Pointer::new("/t").unwrap()),
            id: Some(Pointer::new("/meta/id").unwrap()),
            msg: Pointer::new("/text").unwrap(),
            priority: PriorityRule::Pointer(Pointer::new("/p").unwrap()),
            on_missing: OnMissing::Skip,
        };
        let data = r#"{"t":"a.b","meta":{"id":12345678901234567890},"text":"hi","p":-7}"#;
        assert_eq!(line(&mapping, data), r#"{"topic":"a.b","priority":-7,"msg":"hi","id":"12345678901234567890"}"#);
        let fallbacks = r#"{"t":"a","meta":{"id":"has blanks"},"text":null,"p":1.5}"#;
        assert_eq!(line(&mapping, fallbacks), r#"{"topic":"a","priority":0,"msg":null,"id":"derived"}"#);
        for (data, why) in [
            (r#"{"text":1}"#, Skipped::NoTopic),
            (r#"{"t":"a/b","text":1}"#, Skipped::NoTopic),
            (r#"{"t":7,"text":1}"#, Skipped::NoTopic),
            (r#"{"t":"a"}"#, Skipped::NoMessage),
            ("panic", Skipped::NoTopic),
        ] {
            assert_eq!(mapping.apply(data, "x").err(), Some(why), "{data}");
        }
    }

    #[test]
    fn the_type_of_an_event_can_choose_its_topic() {
        let mapping = Mapping { topic: TopicRule::ByType("mastodon.{event}".to_owned()), ..mapping() };
        let topic = |event_type| mapping.apply_typed(event_type, "1", "x").map(|(topic, _)| topic.to_string());
        assert_eq!(topic("status.update").as_deref(), Ok("mastodon.status.update"));
        assert_eq!(topic("a b"), Err(Skipped::NoTopic));
        assert_eq!(mapping.apply("1", "x").map(|(topic, _)| topic.to_string()).as_deref(), Ok("mastodon.message"));
    }

    #[test]
    fn nesting_beyond_the_protocol_is_not_published() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(mapping().apply(&nested(127), "x").is_ok());
        assert_eq!(mapping().apply(&nested(128), "x").err(), Some(Skipped::TooDeep));
        assert_eq!(mapping().apply(&nested(100_000), "x").err(), Some(Skipped::TooDeep));
        assert!(
            mapping().apply(&format!("\"{}\"", "[".repeat(1000)), "x").is_ok(),
            "brackets in a string nest nothing"
        );
    }

    #[test]
    fn a_random_priority_is_spread_evenly_and_belongs_to_the_id() {
        let mut seen = [0_u32; 7];
        for n in 0..7000 {
            let id = n.to_string();
            let priority = spread(&id, 0, 6);
            assert_eq!(priority, spread(&id, 0, 6));
            seen[usize::try_from(priority).unwrap()] += 1;
        }
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
        spread("x", i32::MIN, i32::MAX);
    }
}

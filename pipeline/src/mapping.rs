//! From an event of a feed to an event of the broker: topic, id, priority and message by the rules of the configuration.
//!
//! Every source maps by the same rules; what they look into differs, and is a [`Lookup`].

mod pointer;

use std::borrow::Cow;
use std::hash::Hasher as _;

use broker_core::event::{NewEvent, Payload, Priority, write_json_string};
use broker_core::name::{IdKey, TopicName, check_event_id};
use broker_core::protocol::event::{MAX_DEPTH, is_nested_deeper};
use rand::RngExt as _;
use serde_json::value::RawValue;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

pub use pointer::{Pointer, PointerError};

/// The deepest nesting of a message: with the delivery's own object it makes the 128 of the protocol.
pub(crate) const MAX_MSG_DEPTH: usize = MAX_DEPTH - 1;

/// Where an event's topic comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRule {
    /// Always this one.
    Fixed(TopicName),
    /// This text with the event's type in place of each `{event}`. An event with which that is not the name of a topic is skipped.
    ByType(String),
    /// A string in the event's data. An event that has none there, or not the name of a topic, is skipped.
    Pointer(Pointer),
}

/// Where an event's priority comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PriorityRule {
    /// Always this one.
    Fixed(i32),
    /// An integer of 32 bits in the event's data; 0 where there is none.
    Pointer(Pointer),
    /// Evenly spread from the first to the second, both included. It depends on the event's id alone, so that an event that
    /// is published again has the same.
    Random(i32, i32),
}

/// What is published of an event whose message is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// `null`.
    #[default]
    Null,
    /// Nothing.
    Skip,
}

/// The rules of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where the topic comes from.
    pub topic: TopicRule,
    /// Where the event's id is in its data, a string or an integer; `None`, or where there is none that can be an id: it is
    /// derived from the SSE id.
    pub id: Option<Pointer>,
    /// Where the message is; the empty pointer: the whole of the data.
    pub msg: Pointer,
    /// Where the priority comes from.
    pub priority: PriorityRule,
    /// What happens where `msg` finds nothing.
    pub on_missing: OnMissing,
}

/// Why an event is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// The topic's pointer finds no topic name, or the event's type makes none.
    NoTopic,
    /// The message's pointer finds nothing, and the configuration says to skip such events.
    NoMessage,
    /// The message is nested deeper than the protocol allows.
    TooDeep,
    /// The message is longer than a storage keeps.
    TooLarge,
    /// The event's data breaks the rules of its own format.
    Malformed,
}

/// Data that a mapping looks into.
pub trait Lookup {
    /// What `pointer` finds, as JSON text; it may stand on several lines.
    ///
    /// # Errors
    /// When what is there cannot be written as JSON.
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped>;

    /// The message at `pointer`.
    ///
    /// # Errors
    /// As [`Lookup::find`].
    fn message(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        self.find(pointer)
    }

    /// What `pointer` finds if it can be an id: a string, or an integer as its digits.
    fn id(&self, pointer: &Pointer) -> Option<String> {
        self.find(pointer).ok().flatten().and_then(|json| id_of(&json))
    }
}

impl Lookup for &RawValue {
    fn find(&self, pointer: &Pointer) -> Result<Option<Cow<'_, str>>, Skipped> {
        Ok(pointer.find(self).map(|raw| Cow::Borrowed(raw.get())))
    }
}

/// Data that is not JSON: a string, in which there is nothing to be found.
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
    /// Makes an event of a feed's `data`, of the type `message`. `derived` is the id that it has if its data does not say.
    ///
    /// # Errors
    /// [`Skipped`] says why there is none.
    pub fn apply(&self, data: &str, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        self.apply_typed("message", data, derived)
    }

    /// The same for an event of any type.
    ///
    /// # Errors
    /// [`Skipped`] says why there is none.
    pub fn apply_typed(&self, event_type: &str, data: &str, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        match serde_json::from_str::<&RawValue>(data) {
            Ok(json) => self.event(event_type, &json, derived),
            Err(_) => self.event(event_type, &Plain(data), derived),
        }
    }

    /// The same of any data.
    ///
    /// # Errors
    /// [`Skipped`] says why there is none.
    pub fn apply_to(&self, data: &impl Lookup, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        self.event("message", data, derived)
    }

    fn event(&self, event_type: &str, data: &impl Lookup, derived: &str) -> Result<(TopicName, NewEvent), Skipped> {
        let topic = match &self.topic {
            TopicRule::Fixed(topic) => topic.clone(),
            TopicRule::ByType(pattern) => {
                TopicName::new(&pattern.replace("{event}", event_type)).map_err(|_| Skipped::NoTopic)?
            }
            TopicRule::Pointer(pointer) => {
                let name = data.find(pointer)?.and_then(|json| serde_json::from_str::<String>(&json).ok());
                name.and_then(|name| TopicName::new(&name).ok()).ok_or(Skipped::NoTopic)?
            }
        };
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
            // A line break between the tokens of a JSON text is a blank; within a string it cannot stand.
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

    /// An event about the source itself. `None` where the topic depends on the data: there is none to publish it to.
    #[cfg(feature = "mongodb")]
    pub(crate) fn notice(&self, id: &str, msg: &str) -> Option<(TopicName, NewEvent)> {
        let TopicRule::Fixed(topic) = &self.topic else { return None };
        let priority = match &self.priority {
            PriorityRule::Fixed(priority) => *priority,
            PriorityRule::Pointer(_) => 0,
            PriorityRule::Random(low, high) => spread(id, *low, *high),
        };
        Some(event(topic.clone(), priority, msg, id))
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
pub(crate) fn id_of(json: &str) -> Option<String> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    let id = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        json.to_owned()
    } else {
        serde_json::from_str::<String>(json).ok()?
    };
    check_event_id(&id).is_ok().then_some(id)
}

/// 128 bits that depend on `parts` alone, in every process.
pub(crate) fn digest(parts: &[&str]) -> u128 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish128().as_u128()
}

pub(crate) fn spread(id: &str, low: i32, high: i32) -> i32 {
    let width = u128::from((i64::from(high) - i64::from(low)).unsigned_abs()) + 1;
    let offset = i64::try_from(digest(&["priority", id]) % width).expect("the width of 32 bits fits");
    i32::try_from(i64::from(low.min(high)) + offset).expect("it is between two of them")
}

/// Derives ids for events from the ids of their stream.
///
/// An SSE id stands for itself if it can be an event's id; a longer one, or one with blanks, becomes its digest. Events that
/// share an SSE id (those after it that have none) are numbered. An event that is read twice, after a reconnect, gets the
/// same id again.
#[derive(Debug)]
pub struct DerivedIds {
    source: String,
    last: String,
    count: u64,
}

impl DerivedIds {
    /// Begins after the event with the SSE id `last`; empty: at the beginning.
    #[must_use]
    pub fn new(source: &str, last: &str) -> Self {
        Self { source: source.to_owned(), last: last.to_owned(), count: 0 }
    }

    /// The id of the next event, whose SSE id is `sse_id`. Without one it is random.
    pub fn next(&mut self, sse_id: &str) -> String {
        if sse_id.is_empty() {
            return format!("{:032x}", rand::rng().random::<u128>());
        }
        if sse_id == self.last {
            self.count += 1;
        } else {
            sse_id.clone_into(&mut self.last);
            self.count = 0;
        }
        match self.count {
            0 if check_event_id(sse_id).is_ok() => sse_id.to_owned(),
            0 => format!("{:032x}", digest(&[&self.source, sse_id])),
            count => format!("{:032x}-{count}", digest(&[&self.source, sse_id])),
        }
    }
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
    fn the_whole_of_the_data_is_handed_on_byte_for_byte() {
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
        assert!(
            line(&pointed, "panic").contains(r#""msg":"panic""#),
            "there is nothing that a pointer could find in it"
        );
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

    #[test]
    fn ids_are_derived_and_come_again_after_a_restart() {
        let mut ids = DerivedIds::new("feed", "");
        assert_eq!(ids.next("7"), "7");
        let second = ids.next("7");
        assert!(second.ends_with("-1"), "{second}");
        let long = "x".repeat(300);
        let digest = ids.next(&long);
        assert_eq!(digest.len(), 32);
        assert_ne!(ids.next(""), ids.next(""));
        let mut again = DerivedIds::new("feed", "7");
        assert_eq!(again.next("7"), second, "it goes on after the event with that id");
        assert_eq!(again.next(&long), digest);
    }
}

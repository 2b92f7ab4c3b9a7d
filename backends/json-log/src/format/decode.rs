//! Decodes lines to mutations. The input is always what [`super::check`] returned: bytes exactly as written, by this release or by
//! an editor that computed a checksum. So no length in them may exhaust the memory, and no value may cause a panic.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Holder, Mutation, Redelivery, StoredEvent};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{MAGIC, MAX_KEYS_READ};

/// The position of a line in its batch: the batch's number, and how many of its lines follow. Header and catalogue are batch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) batch: u64,
    pub(crate) left: u64,
}

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The segment's number.
    pub(crate) segment: u64,
    /// The time at which it was begun.
    pub(crate) created: Millis,
    /// The oldest segment at that time.
    pub(crate) oldest: u64,
    /// The number of the next batch at that time.
    pub(crate) next_batch: u64,
}

/// The content of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The header of a segment of this version.
    Header(Header),
    /// The header of a file of another kind or version.
    Alien { kind: String, version: u64 },
    /// The segments up to this number are gone.
    Freed { through: u64 },
    /// A repair's note that the lines before this one are gone.
    Repaired,
    /// A mutation.
    Mutation(Mutation),
}

/// The names seen so far, so that each is allocated only once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    topics: HashMap<Box<str>, TopicName>,
    last_topic: Option<TopicName>,
    subscriptions: HashMap<Box<str>, SubscriptionName>,
}

impl Names {
    fn topic(&mut self, name: &str) -> Option<TopicName> {
        if let Some(last) = &self.last_topic
            && last.as_str() == name
        {
            return Some(last.clone());
        }
        let topic = match self.topics.get(name) {
            Some(known) => known.clone(),
            None => {
                let new = TopicName::new(name).ok()?;
                self.topics.insert(name.into(), new.clone());
                new
            }
        };
        self.last_topic = Some(topic.clone());
        Some(topic)
    }

    fn subscription(&mut self, name: &str) -> Option<SubscriptionName> {
        if let Some(known) = self.subscriptions.get(name) {
            return Some(known.clone());
        }
        let new = SubscriptionName::new(name).ok()?;
        self.subscriptions.insert(name.into(), new.clone());
        Some(new)
    }
}

/// The frame of a line, without reading the rest; `None` if it is not a line of this format.
pub(crate) fn frame(body: &[u8]) -> Option<Frame> {
    if body.starts_with(MAGIC) {
        // The header's own count comes last.
        let at = memchr::memmem::rfind(body, br#","left":"#)?;
        let mut cursor = Cursor(&body[at..]);
        cursor.literal(br#","left":"#)?;
        return Some(Frame { batch: 0, left: cursor.unsigned()? });
    }
    Cursor(body).frame()
}

/// Decodes the line whose checksum covers `body`; `None` if it is not a record of this format.
pub(crate) fn decode(body: &[u8], names: &mut Names) -> Option<(Frame, Record)> {
    if let Some(event) = decode_event(body) {
        let record = Record::Mutation(event.to_mutation(names)?);
        return Some((event.frame, record));
    }
    // The closing brace comes after the checksum, so it is not part of the body.
    let mut whole = Vec::with_capacity(body.len() + 1);
    whole.extend_from_slice(body);
    whole.push(b'}');
    if body.starts_with(MAGIC) {
        return decode_header(&whole);
    }
    let line: Line<'_> = serde_json::from_slice(&whole).ok()?;
    let frame = Frame { batch: line.batch, left: line.left };
    if let Some(freed) = line.freed {
        return Some((frame, Record::Freed { through: freed.through }));
    }
    if line.repaired.is_some() {
        return Some((frame, Record::Repaired));
    }
    Some((frame, Record::Mutation(line.into_mutation(names)?)))
}

fn decode_header(line: &[u8]) -> Option<(Frame, Record)> {
    let kind: HeaderKind<'_> = serde_json::from_slice(line).ok()?;
    if kind.herald != super::KIND || kind.version != super::VERSION {
        let alien = Record::Alien { kind: kind.herald.into_owned(), version: kind.version };
        return Some((Frame { batch: 0, left: 0 }, alien));
    }
    let header: HeaderLine = serde_json::from_slice(line).ok()?;
    let record = Header {
        segment: header.segment,
        created: Millis(header.created),
        oldest: header.oldest,
        next_batch: header.next_batch,
    };
    Some((Frame { batch: 0, left: header.left }, Record::Header(record)))
}

/// An event's line, borrowed from it.
#[derive(Debug, Clone)]
pub(crate) struct EventLine<'a> {
    pub(crate) frame: Frame,
    pub(crate) topic: &'a str,
    pub(crate) key: EventKey,
    published_at: Millis,
    expires_at: Option<Millis>,
    due_at: Option<Millis>,
    insert_at: Option<u64>,
    /// The holders, as a JSON array.
    holders: Option<&'a [u8]>,
    pub(crate) body: Body<'a>,
}

/// A payload within a line.
#[derive(Debug, Clone)]
pub(crate) enum Body<'a> {
    /// The payload byte for byte.
    Verbatim(&'a [u8]),
    /// A payload stored as a string.
    Text(String),
}

impl EventLine<'_> {
    /// The payload; `None` if the fields of the line are inconsistent.
    pub(crate) fn payload(&self) -> Option<Payload> {
        let bytes = match &self.body {
            Body::Verbatim(bytes) => bytes,
            Body::Text(text) => text.as_bytes(),
        };
        let insert_at = match self.insert_at {
            Some(at) => u32::try_from(at).ok()?,
            None => u32::try_from(bytes.len().checked_sub(1)?).ok()?,
        };
        Payload::from_parts(bytes, insert_at)
    }

    fn to_mutation(&self, names: &mut Names) -> Option<Mutation> {
        let event = StoredEvent {
            topic: names.topic(self.topic)?,
            key: self.key,
            published_at: self.published_at,
            expires_at: self.expires_at,
            due_at: self.due_at,
            payload: self.payload()?,
        };
        let Some(holders) = self.holders else { return Some(Mutation::Publish(event)) };
        let lines: Vec<HolderLine<'_>> = serde_json::from_slice(holders).ok()?;
        let mut holders = Vec::with_capacity(lines.len());
        for line in lines {
            holders.push(Holder {
                subscription: names.subscription(line.subscription)?,
                deliveries: line.deliveries,
                due_at: line.due.map(Millis),
                grace_ms: line.grace,
            });
        }
        Some(Mutation::Rewrite { event, holders })
    }
}

/// Parses the line of an event; `None` if it is not one. Hand-written, because recovery and every read of a payload depend on its
/// speed, which is several times that of serde.
pub(crate) fn decode_event(body: &[u8]) -> Option<EventLine<'_>> {
    let mut cursor = Cursor(body);
    let frame = cursor.frame()?;
    cursor.literal(br#""seq":"#)?;
    let seq = Seq(cursor.unsigned()?);
    cursor.literal(br#","at":"#)?;
    let published_at = Millis(cursor.unsigned()?);
    let expires_at = cursor.optional(br#","expires":"#)?.map(Millis);
    let due_at = cursor.optional(br#","due":"#)?.map(Millis);
    let insert_at = cursor.optional(br#","insert":"#)?;
    let mut names = None;
    if cursor.literal(br#","topic":""#).is_some() {
        let topic = cursor.until(b'"')?;
        cursor.literal(br#","priority":"#)?;
        names = Some((topic, cursor.priority()?));
    }
    let mut holders = None;
    if cursor.literal(br#","holders":"#).is_some() {
        let array = cursor.0;
        cursor.until(b']')?;
        holders = array.get(..array.len() - cursor.0.len());
    }
    let body = if cursor.literal(br#","event":"#).is_some() {
        Body::Verbatim(cursor.0)
    } else {
        cursor.literal(br#","text":"#)?;
        Body::Text(serde_json::from_slice(cursor.0).ok()?)
    };
    let (topic, priority) = match (names, &body) {
        (Some(names), _) => names,
        (None, Body::Verbatim(payload)) => names_of(payload)?,
        (None, Body::Text(_)) => return None,
    };
    let topic = std::str::from_utf8(topic).ok()?;
    let key = EventKey { priority, seq };
    Some(EventLine { frame, topic, key, published_at, expires_at, due_at, insert_at, holders, body })
}

/// The topic and priority that a payload begins with, if it begins as the broker encodes them.
pub(super) fn names_of(payload: &[u8]) -> Option<(&[u8], Priority)> {
    let mut cursor = Cursor(payload);
    cursor.literal(br#"{"topic":""#)?;
    let topic = cursor.until(b'"')?;
    cursor.literal(br#","priority":"#)?;
    let priority = cursor.priority()?;
    cursor.0.starts_with(b",").then_some((topic, priority))
}

/// The unread rest of a line.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn frame(&mut self) -> Option<Frame> {
        let batch = if self.literal(br#"{"batch":"#).is_some() {
            let batch = self.unsigned()?;
            self.literal(b",")?;
            // Catalogue lines have no batch number and count as batch 0.
            (batch > 0).then_some(batch)?
        } else {
            self.literal(b"{")?;
            0
        };
        self.literal(br#""left":"#)?;
        let left = self.unsigned()?;
        self.literal(b",")?;
        Some(Frame { batch, left })
    }

    /// Consumes `expected`; consumes nothing if other bytes come next.
    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        let mut digits = 0;
        while let Some(digit @ b'0'..=b'9') = self.0.get(digits) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            digits += 1;
        }
        self.0 = &self.0[digits..];
        (digits > 0).then_some(value)
    }

    fn priority(&mut self) -> Option<Priority> {
        let negative = self.literal(b"-").is_some();
        let value = i64::try_from(self.unsigned()?).ok()?;
        i32::try_from(if negative { -value } else { value }).ok().map(Priority)
    }

    /// `Some(None)` if `key` does not come next.
    fn optional(&mut self, key: &[u8]) -> Option<Option<u64>> {
        if self.literal(key).is_none() {
            return Some(None);
        }
        self.unsigned().map(Some)
    }

    /// The bytes before the next `end`, which is skipped.
    fn until(&mut self, end: u8) -> Option<&'a [u8]> {
        let at = memchr::memchr(end, self.0)?;
        let (before, rest) = self.0.split_at(at);
        self.0 = &rest[1..];
        Some(before)
    }
}

#[derive(Deserialize)]
struct HeaderKind<'a> {
    #[serde(borrow)]
    herald: Cow<'a, str>,
    version: u64,
}

#[derive(Deserialize)]
struct HeaderLine {
    segment: u64,
    created: u64,
    oldest: u64,
    next_batch: u64,
    left: u64,
}

#[derive(Deserialize)]
struct HolderLine<'a> {
    subscription: &'a str,
    #[serde(default)]
    deliveries: u32,
    due: Option<u64>,
    #[serde(default)]
    grace: u64,
}

/// Any line except a header or an event; exactly one of the options is set.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    batch: u64,
    left: u64,
    #[serde(borrow)]
    topic: Option<TopicLine<'a>>,
    subscribe: Option<SubscriptionLine<'a>>,
    unsubscribe: Option<SubscriptionLine<'a>>,
    settle: Option<SubscriptionLine<'a>>,
    requeue: Option<RequeueLine<'a>>,
    forget: Option<ForgetLine<'a>>,
    cursor: Option<CursorLine<'a>>,
    freed: Option<FreedLine>,
    /// Its content is only for operators.
    repaired: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct TopicLine<'a> {
    name: &'a str,
    last_seq: u64,
}

#[derive(Deserialize)]
struct SubscriptionLine<'a> {
    topic: &'a str,
    subscription: &'a str,
    #[serde(default)]
    since: u64,
    #[serde(default)]
    events: Keys,
}

#[derive(Deserialize)]
struct RequeueLine<'a> {
    topic: &'a str,
    subscription: &'a str,
    events: Vec<RedeliveryEntry>,
}

#[derive(Deserialize)]
struct ForgetLine<'a> {
    topic: &'a str,
    events: Keys,
}

#[derive(Deserialize)]
struct CursorLine<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

#[derive(Deserialize)]
struct FreedLine {
    through: u64,
}

impl Line<'_> {
    fn into_mutation(self, names: &mut Names) -> Option<Mutation> {
        Some(if let Some(line) = self.settle {
            Mutation::Settle {
                topic: names.topic(line.topic)?,
                subscription: names.subscription(line.subscription)?,
                events: line.events.0,
            }
        } else if let Some(line) = self.requeue {
            Mutation::Redeliver {
                topic: names.topic(line.topic)?,
                subscription: names.subscription(line.subscription)?,
                events: line.events.into_iter().map(|entry| entry.0).collect(),
            }
        } else if let Some(line) = self.forget {
            Mutation::Forget { topic: names.topic(line.topic)?, events: line.events.0 }
        } else if let Some(line) = self.cursor {
            Mutation::Cursor { source: line.source.into_owned(), value: line.value.into_owned() }
        } else if let Some(line) = self.subscribe {
            Mutation::Subscribe {
                topic: names.topic(line.topic)?,
                subscription: names.subscription(line.subscription)?,
                since: Seq(line.since),
            }
        } else if let Some(line) = self.unsubscribe {
            Mutation::Unsubscribe {
                topic: names.topic(line.topic)?,
                subscription: names.subscription(line.subscription)?,
            }
        } else {
            let line = self.topic?;
            Mutation::Topic { topic: names.topic(line.name)?, last_seq: Seq(line.last_seq) }
        })
    }
}

/// `{"3":[49,[51,53]]}`: sequences by priority.
#[derive(Default)]
struct Keys(Vec<EventKey>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Priorities;
        impl<'de> Visitor<'de> for Priorities {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("sequences by priority")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(priority) = map.next_key::<i32>()? {
                    for Sequences { first, last } in map.next_value::<Vec<Sequences>>()? {
                        if last.saturating_sub(first) >= MAX_KEYS_READ.saturating_sub(keys.len()) as u64 {
                            return Err(serde::de::Error::custom("more sequences than a line can name"));
                        }
                        let priority = Priority(priority);
                        keys.extend((first..=last).map(|seq| EventKey { priority, seq: Seq(seq) }));
                    }
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Priorities)
    }
}

/// A sequence, or `[first, last]`.
struct Sequences {
    first: u64,
    last: u64,
}

impl<'de> Deserialize<'de> for Sequences {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrRange;
        impl<'de> Visitor<'de> for OneOrRange {
            type Value = Sequences;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence or a range of them")
            }

            fn visit_u64<E>(self, seq: u64) -> Result<Sequences, E> {
                Ok(Sequences { first: seq, last: seq })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sequences, A::Error> {
                let first = next(&mut seq, 0, &self)?;
                let last = next(&mut seq, 1, &self)?;
                Ok(Sequences { first, last })
            }
        }
        deserializer.deserialize_any(OneOrRange)
    }
}

/// `[priority, sequence, deliveries]`, optionally followed by the due time (or `null`) and the milliseconds in flight.
struct RedeliveryEntry(Redelivery);

impl<'de> Deserialize<'de> for RedeliveryEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = RedeliveryEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("priority, sequence, deliveries and perhaps times")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RedeliveryEntry, A::Error> {
                let priority = Priority(next(&mut seq, 0, &self)?);
                let key = EventKey { priority, seq: Seq(next(&mut seq, 1, &self)?) };
                let deliveries = next(&mut seq, 2, &self)?;
                let due_at = seq.next_element::<Option<u64>>()?.flatten().map(Millis);
                let grace_ms = seq.next_element()?.unwrap_or(0);
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(RedeliveryEntry(Redelivery { key, deliveries, due_at, grace_ms }))
            }
        }
        deserializer.deserialize_seq(Entry)
    }
}

fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(
    seq: &mut A,
    at: usize,
    expected: &dyn serde::de::Expected,
) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, expected))
}

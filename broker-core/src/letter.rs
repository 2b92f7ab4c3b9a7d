//! Dead letters: the reason for one, its encoding, and the way back.

use bytes::BufMut;
use serde::Deserialize;

use crate::event::{Millis, Payload, Priority, write_int, write_json_string};
use crate::name::{MAX_NAME_BYTES, SubscriptionName, TopicName};

/// The durable subscription that a dead-letter topic gets if it has none, so that letters are kept.
pub const DEAD: &str = "dead";

/// The reason that an event became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It was delivered as often as the topic allows, and not acknowledged.
    MaxDeliveries,
    /// A consumer gave it up, with `term`.
    Terminated,
    /// Its time to live passed.
    Expired,
    /// It was the least urgent event of a full subscription.
    Overflow,
}

impl Reason {
    /// The word in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxDeliveries => "max_deliveries",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
        }
    }
}

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 1024;

/// A consumer's note, cut at a character and with `…` at its end if it is longer than [`MAX_NOTE`].
#[must_use]
pub fn bounded_note(text: &str) -> Box<str> {
    const CUT: &str = "…";
    if text.len() <= MAX_NOTE {
        return text.into();
    }
    let mut end = MAX_NOTE - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", &text[..end]).into()
}

/// A dead letter's origin and history: the value of `"dead"` in its encoding.
#[derive(Debug, Clone, Copy)]
pub struct Dead<'a> {
    /// The topic that it came from.
    pub topic: &'a TopicName,
    /// The subscription that it came from; `None`, encoded as null, if that had no name.
    pub subscription: Option<&'a SubscriptionName>,
    /// The reason.
    pub reason: Reason,
    /// The deliveries made there.
    pub deliveries: u32,
    /// The time that it became a dead letter.
    pub at: Millis,
    /// The consumer's note.
    pub note: Option<&'a str>,
}

/// A dead letter's origin, as read from its encoding.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Origin {
    /// The topic.
    pub topic: String,
    /// The subscription, if it had a name.
    pub subscription: Option<String>,
}

/// The deaths that a dead letter's history may name: room for them is part of the limit on an event's longest delivery.
const MAX_HISTORY: usize = 10;

/// The most bytes that `,"redelivered":n` and `,"dead":{…}` add to an event's encoding.
const LONGEST_ADDITION: usize = {
    const REDELIVERED: usize = r#","redelivered":4294967295"#.len();
    const DEAD: usize =
        r#","dead":{"topic":"","subscription":"","reason":"max_deliveries","deliveries":4294967295,"at":9223372036854775807"#
            .len()
            + r#","note":"","history":[]}"#.len();
    const DEATH: usize = r#"{"topic":"","subscription":"","reason":"max_deliveries","at":9223372036854775807},"#.len()
        + 2 * MAX_NAME_BYTES;
    // A control character in a note is written as `\u0000`.
    REDELIVERED + DEAD + 2 * MAX_NAME_BYTES + 6 * MAX_NOTE + MAX_HISTORY * DEATH
};

impl Payload {
    /// The length of the longest delivery that this event of the topic `topic` can become, in bytes and without its line ending: a
    /// redelivered dead letter, with the longest names, note and history. It is the same for the event, its letters, and the event
    /// that comes back from them.
    #[must_use]
    pub fn longest_delivery(&self, topic: &TopicName) -> usize {
        let head = (self.insert_at() as usize).saturating_sub(topic.as_str().len());
        // The closing brace.
        head + MAX_NAME_BYTES + LONGEST_ADDITION + 1
    }

    /// Encodes the event as a dead letter in the topic `to`. `None` if this is not the encoding of an event.
    #[must_use]
    pub fn buried(&self, to: &TopicName, priority: Priority, dead: &Dead<'_>) -> Option<Self> {
        let (mut out, insert_at) = self.moved(to, priority, 160)?;
        out.put_slice(br#","dead":{"topic":""#);
        out.put_slice(dead.topic.as_str().as_bytes());
        out.put_slice(br#"","subscription":"#);
        match dead.subscription {
            Some(name) => write_json_string(&mut out, name.as_str()),
            None => out.put_slice(b"null"),
        }
        out.put_slice(br#","reason":""#);
        out.put_slice(dead.reason.as_str().as_bytes());
        out.put_slice(br#"","deliveries":"#);
        write_int(&mut out, i64::from(dead.deliveries));
        out.put_slice(br#","at":"#);
        write_int(&mut out, i64::try_from(dead.at.0).unwrap_or(i64::MAX));
        if let Some(note) = dead.note {
            out.put_slice(br#","note":"#);
            write_json_string(&mut out, note);
        }
        out.put_slice(b"}}");
        Self::from_parts(out, insert_at)
    }

    /// Encodes a dead letter as the event that it was, in the topic `to`. `None` if this is not the encoding of an event.
    #[must_use]
    pub fn revived(&self, to: &TopicName, priority: Priority) -> Option<Self> {
        let (mut out, insert_at) = self.moved(to, priority, 1)?;
        out.put_u8(b'}');
        Self::from_parts(out, insert_at)
    }

    /// The origin of a dead letter; `None` for an ordinary event.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        #[derive(Deserialize)]
        struct Tail<'a> {
            #[serde(borrow)]
            dead: &'a serde_json::value::RawValue,
        }
        let tail = std::str::from_utf8(self.bytes().get(self.insert_at() as usize..)?).ok()?;
        // The tail is `,"dead":{…}}`, which lacks only an opening brace.
        let object = format!("{{{}", tail.strip_prefix(',')?);
        let tail: Tail<'_> = serde_json::from_str(&object).ok()?;
        serde_json::from_str(tail.dead.get()).ok()
    }

    /// The encoding up to the insertion point of `,"redelivered":n`, under another topic's name, with room for `more` bytes.
    fn moved(&self, to: &TopicName, priority: Priority, more: usize) -> Option<(Vec<u8>, u32)> {
        const MSG: &[u8] = br#","msg":"#;
        let head = self.bytes().get(..self.insert_at() as usize)?;
        // Topic and priority come before it and hold no quotes, so the first key `msg` is the event's own.
        let rest = &head[memchr::memmem::find(head, MSG)?..];
        let mut out = Vec::with_capacity(rest.len() + to.as_str().len() + 48 + more);
        out.put_slice(br#"{"topic":""#);
        out.put_slice(to.as_str().as_bytes());
        out.put_slice(br#"","priority":"#);
        write_int(&mut out, i64::from(priority.0));
        out.put_slice(rest);
        let insert_at = u32::try_from(out.len()).ok()?;
        Some((out, insert_at))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn line(payload: &Payload, redelivered: u32) -> String {
        let mut out = BytesMut::new();
        payload.write(redelivered, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_letter_says_where_it_comes_from_and_keeps_message_priority_and_id() {
        let (from, name) = (topic("tweets"), SubscriptionName::new("inbox").unwrap());
        let event = Payload::encode("tweets", Priority(-3), r#"{ "msg" : 1e999 }"#, "a\"b");
        let mut dead = Dead {
            topic: &from,
            subscription: Some(&name),
            reason: Reason::Terminated,
            deliveries: 2,
            at: Millis(1_700_000_000_000),
            note: Some("no \"such\" user"),
        };
        let letter = event.buried(&topic("tweets.dead"), Priority(-3), &dead).unwrap();
        assert_eq!(
            line(&letter, 0),
            r#"{"topic":"tweets.dead","priority":-3,"msg":{ "msg" : 1e999 },"id":"a\"b","dead":{"topic":"tweets","subscription":"inbox","reason":"terminated","deliveries":2,"at":1700000000000,"note":"no \"such\" user"}}"#
        );
        assert!(line(&letter, 7).contains(r#","id":"a\"b","redelivered":7,"dead":{"topic":"#));
        assert_eq!(letter.id(), "a\"b");
        let origin = Origin { topic: "tweets".into(), subscription: Some("inbox".into()) };
        assert_eq!(letter.origin(), Some(origin));
        assert_eq!(letter.revived(&from, Priority(-3)), Some(event.clone()));
        // A letter that becomes a dead letter again names only its latest origin.
        (dead.subscription, dead.note, dead.reason) = (None, None, Reason::MaxDeliveries);
        let again = letter.buried(&topic("grave"), Priority(-3), &dead).unwrap();
        assert!(line(&again, 0).ends_with(
            r#""id":"a\"b","dead":{"topic":"tweets","subscription":null,"reason":"max_deliveries","deliveries":2,"at":1700000000000}}"#
        ));
        assert_eq!(again.origin(), Some(Origin { topic: "tweets".into(), subscription: None }));
        assert_eq!(event.origin(), None);
    }

    #[test]
    fn no_letter_is_longer_than_the_longest_delivery_of_its_event() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        let (from, to, name) = (topic("t"), topic(&longest), SubscriptionName::new(&longest).unwrap());
        let note = bounded_note(&"\u{1}".repeat(5000));
        let dead = Dead {
            topic: &to,
            subscription: Some(&name),
            reason: Reason::MaxDeliveries,
            deliveries: u32::MAX,
            at: Millis(u64::MAX),
            note: Some(&note),
        };
        let event = Payload::encode("t", Priority(i32::MIN), "null", "\"");
        let bound = event.longest_delivery(&from);
        let letter = event.buried(&to, Priority(i32::MIN), &dead).unwrap();
        let history = MAX_HISTORY * (2 * MAX_NAME_BYTES + 82) + r#","history":[]"#.len();
        let written = line(&letter, u32::MAX).len();
        assert!(written + history <= bound, "{written} and {history} of {bound}");
        assert!(bound - event.len() <= 14 << 10, "{bound}");
        assert_eq!(letter.longest_delivery(&to), bound);
        assert_eq!(letter.revived(&from, Priority(i32::MIN)).unwrap().longest_delivery(&from), bound);
    }

    #[test]
    fn what_is_no_event_becomes_no_letter() {
        let nothing = Payload::from_parts(*b"[1]", 2).unwrap();
        assert_eq!(nothing.revived(&topic("t"), Priority(0)), None);
        assert_eq!(nothing.origin(), None);
    }
}

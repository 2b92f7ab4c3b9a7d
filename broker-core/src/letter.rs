//! Dead letters: why an event became one, and how it is encoded on its way there and back.

use bytes::BufMut;
use serde::Deserialize;

use crate::event::{Millis, Payload, Priority, write_int, write_json_string};
use crate::name::{SubscriptionName, TopicName};

/// The durable subscription that keeps what reaches a dead-letter topic without a subscription.
pub const DEAD: &str = "dead";

/// Why an event became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It came back as often as the topic lets it.
    MaxDeliveries,
    /// A subscriber said so.
    Terminated,
    /// It waited for too long.
    Expired,
    /// It was the least urgent when its subscription was full.
    Overflow,
}

impl Reason {
    /// The word that the protocol uses.
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

/// What a dead letter says of where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Dead<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The subscription; `None` (null) if it belonged to its connection.
    pub subscription: Option<&'a SubscriptionName>,
    /// Why.
    pub reason: Reason,
    /// How often it had been delivered there.
    pub deliveries: u32,
    /// When.
    pub at: Millis,
    /// What the subscriber said about it.
    pub note: Option<&'a str>,
}

/// Where a dead letter says that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Origin {
    /// The topic.
    pub topic: String,
    /// The subscription, if it had a name.
    pub subscription: Option<String>,
}

impl Payload {
    /// The event as a letter in the dead-letter topic `to`. `None` if this is not an event's encoding.
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

    /// A dead letter as the event that it was, in the topic `to`. `None` if this is not an event's encoding.
    #[must_use]
    pub fn revived(&self, to: &TopicName, priority: Priority) -> Option<Self> {
        let (mut out, insert_at) = self.moved(to, priority, 1)?;
        out.put_u8(b'}');
        Self::from_parts(out, insert_at)
    }

    /// Where a dead letter comes from; `None` if it is none.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        #[derive(Deserialize)]
        struct Tail<'a> {
            #[serde(borrow)]
            dead: &'a serde_json::value::RawValue,
        }
        let tail = std::str::from_utf8(self.bytes().get(self.insert_at() as usize..)?).ok()?;
        // The tail is `,"dead":{…}}`: an object but for its beginning.
        let object = format!("{{{}", tail.strip_prefix(',')?);
        let tail: Tail<'_> = serde_json::from_str(&object).ok()?;
        serde_json::from_str(tail.dead.get()).ok()
    }

    /// The encoding up to where `,"redelivered":n` goes, under another topic's name, with room for `more` bytes.
    fn moved(&self, to: &TopicName, priority: Priority, more: usize) -> Option<(Vec<u8>, u32)> {
        const MSG: &[u8] = br#","msg":"#;
        let head = self.bytes().get(..self.insert_at() as usize)?;
        // A topic's name and a number hold no quotes: the first key `msg` is the event's own.
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
        // A letter that dies again says so of its last place only.
        (dead.subscription, dead.note, dead.reason) = (None, None, Reason::MaxDeliveries);
        let again = letter.buried(&topic("grave"), Priority(-3), &dead).unwrap();
        assert!(line(&again, 0).ends_with(
            r#""id":"a\"b","dead":{"topic":"tweets","subscription":null,"reason":"max_deliveries","deliveries":2,"at":1700000000000}}"#
        ));
        assert_eq!(again.origin(), Some(Origin { topic: "tweets".into(), subscription: None }));
        assert_eq!(event.origin(), None);
    }

    #[test]
    fn what_is_no_event_becomes_no_letter() {
        let nothing = Payload::from_parts(*b"[1]", 2).unwrap();
        assert_eq!(nothing.revived(&topic("t"), Priority(0)), None);
        assert_eq!(nothing.origin(), None);
    }
}

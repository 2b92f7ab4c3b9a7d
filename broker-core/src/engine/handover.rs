//! The hand-over from a source to the engine: events, the cursor that covers them, and the events that stand aside for a full topic.
//!
//! ```text
//!   Handover { events: [a1, b1, a2], cursor: 7 }     topic a is full, topic b has room
//!
//!   one atomic batch:  Publish b1
//!                      Cursor "feed\n0" = a1         stands aside under its number
//!                      Cursor "feed\n2" = a2         held behind a1: order within a topic is kept
//!                      Cursor "feed"    = 7          moves past all three
//!
//!   later, with room:  Publish a1
//!                      Cursor "feed\n0" = ""         a1 stands aside no longer
//! ```

use super::{Outcome, Refusal};
use crate::event::{NewEvent, Payload, Priority};
use crate::name::{IdKey, TopicName};

/// Events of a source and the cursor that covers them, to be stored in one atomic batch.
///
/// # Contract
///
/// - An event whose topic has room is published. One whose topic is full for the moment ([`Outcome::stands_aside`]), or that is
///   [`held`](Offer::held), **stands aside**: it is stored beside the cursor, in the same batch, under its source and
///   [`Offer::number`]. So the cursor moves past it, the events of other topics go on, and a restart neither loses nor repeats
///   it.
/// - The source offers such an event again, with [`Offer::aside`] set, until it is in. The batch that publishes it also removes
///   its stored copy, so it is never in both places or in neither.
/// - Order within a topic is kept. Once a topic has refused an event of a batch as full, all later events of that topic in the
///   batch stand aside as well. An event of a topic for which others stand aside already is held by its source.
/// - Every other refusal is final. Neither the batch nor the cursor waits for it.
#[derive(Debug, Clone)]
pub struct Handover {
    /// The source's name in the configuration.
    pub source: String,
    /// The events, in the order in which they are published.
    pub events: Vec<Offer>,
    /// The position after the events that do not stand aside yet; `None`: it does not move.
    pub cursor: Option<String>,
    /// An earlier attempt ended in an error and may have been stored. The engine then stores only the missing part.
    pub again: bool,
}

/// An event of a [`Handover`].
#[derive(Debug, Clone)]
pub struct Offer {
    /// Identifies the event among those of its source that stand aside at the same time. Numbers are reused, so that storages keep
    /// few of them.
    pub number: u32,
    /// Its place among the events of its source: it only grows.
    pub order: u64,
    /// The topic.
    pub topic: TopicName,
    /// The event.
    pub event: NewEvent,
    /// Whether it stands aside already.
    pub aside: bool,
    /// Whether it must not be published yet, because earlier events of its topic stand aside.
    pub held: bool,
}

/// Where a source stands in its feed.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The cursor last committed; `None`: none yet.
    pub cursor: Option<String>,
    /// The events before the cursor that stand aside, in their order.
    pub aside: Vec<Offer>,
}

impl Outcome {
    /// Whether a source's event with this outcome stands aside. True for refusals that pass by themselves, once the topic has room or
    /// the storage is back in service.
    #[must_use]
    pub fn stands_aside(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)))
    }
}

impl Offer {
    /// The name of its stored copy, beside the cursor of `source`. A source's name contains no line feed, so the two never clash.
    #[must_use]
    pub fn key(&self, source: &str) -> String {
        Self::key_of(source, self.number)
    }

    /// The [`key`](Self::key) of an event by its number.
    #[must_use]
    pub fn key_of(source: &str, number: u32) -> String {
        format!("{source}\n{number}")
    }

    /// The source and the number in a [`key`](Self::key); `None`: the name of a source's cursor.
    #[must_use]
    pub fn parse_key(key: &str) -> Option<(&str, u32)> {
        let (source, number) = key.split_once('\n')?;
        Some((source, number.parse().ok()?))
    }

    /// The stored form: one line with version, order, times, priority, place of insertion and topic, then the event's encoding.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { order, topic, event: NewEvent { priority, ttl_ms, delay_ms, payload, .. }, .. } = self;
        let encoded = String::from_utf8_lossy(payload.bytes());
        format!("1 {order} {ttl_ms} {delay_ms} {} {} {topic}\n{encoded}", priority.0, payload.insert_at())
    }

    /// Reads the form that [`encode`](Self::encode) writes; `None` for any other text.
    #[must_use]
    pub fn decode(number: u32, text: &str) -> Option<Self> {
        let (head, encoded) = text.split_once('\n')?;
        let mut words = head.split(' ');
        if words.next()? != "1" {
            return None;
        }
        let order = words.next()?.parse().ok()?;
        let (ttl_ms, delay_ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (priority, insert_at) = (Priority(words.next()?.parse().ok()?), words.next()?.parse().ok()?);
        let topic = TopicName::new(words.next()?).ok()?;
        let payload = Payload::from_parts(encoded.as_bytes(), insert_at)?;
        let id = IdKey::of(&payload.id());
        let event = NewEvent { id, priority, ttl_ms, delay_ms, payload };
        Some(Self { number, order, topic, event, aside: true, held: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_stands_aside_is_read_back_as_it_was() {
        let payload = Payload::encode("a.b", Priority(-3), "{\"x\":\"\u{e9}\\n\"}", "i\"d");
        let event = NewEvent { id: IdKey::of("i\"d"), priority: Priority(-3), ttl_ms: 5, delay_ms: u64::MAX, payload };
        let topic = TopicName::new("a.b").expect("a name");
        let offer = Offer { number: 17, order: 1 << 40, topic, event, aside: false, held: true };
        assert_eq!(Offer::parse_key(&offer.key("feed")), Some(("feed", 17)));
        assert_eq!(Offer::parse_key("feed"), None);
        let back = Offer::decode(17, &offer.encode()).expect("it is one");
        assert_eq!((&back.topic, back.event.id, back.event.priority), (&offer.topic, offer.event.id, Priority(-3)));
        assert_eq!((back.event.ttl_ms, back.event.delay_ms, back.aside), (5, u64::MAX, true));
        assert_eq!((back.number, back.order, back.held), (17, 1 << 40, false));
        assert_eq!(back.event.payload, offer.event.payload);
        for text in ["", "1 1 5 0 0 9 t", "2 1 5 0 0 1 t\n{}", "1 1 5 0 0 99 t\n{}", "1 1 5 0 0 0 .\n{}"] {
            assert!(Offer::decode(1, text).is_none(), "{text:?}");
        }
    }
}

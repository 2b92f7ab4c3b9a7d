//! The events of a source that stand aside for full topics: a copy in memory of the ones that the broker has stored.
//!
//! An event has two numbers. Its `order` is its place in the feed: it only grows, and keeps each topic in order. Its `number` names
//! its stored copy. Numbers are reused as soon as their event is in, so that the storage keeps few names.

use std::collections::{BTreeMap, HashMap, HashSet};

use broker_core::engine::Offer;
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::{MAX_ASIDE, MAX_ASIDE_BYTES};

/// The first batch size for a topic whose room is unknown.
const WINDOW: usize = 64;

/// The events that stand aside, by topic, each topic in the order of the feed.
#[derive(Default)]
pub(super) struct Aside {
    topics: HashMap<TopicName, Waiting>,
    /// The numbers in use.
    numbers: HashSet<u32>,
    bytes: usize,
    /// The `order` of the next event.
    next: u64,
}

/// The events of one topic.
struct Waiting {
    /// By `order`.
    events: BTreeMap<u64, Offer>,
    /// The number of events to offer at once: one more for each event that goes in, half for each that does not. A full topic thus
    /// costs a remote broker few lines, and one with room fills quickly.
    window: usize,
}

impl Aside {
    /// Starts with the events that the broker has stored.
    pub(super) fn new(offers: Vec<Offer>) -> Self {
        let mut aside = Self::default();
        offers.into_iter().for_each(|offer| aside.keep(offer));
        aside
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Any topic for which events stand aside.
    pub(super) fn first_topic(&self) -> Option<&TopicName> {
        self.topics.keys().next()
    }

    /// The number of events that may be read, assuming that every one of them has to stand aside.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= MAX_ASIDE_BYTES { 0 } else { MAX_ASIDE.saturating_sub(self.len()) }
    }

    /// Offers for new events, each with a free number. An event is held if earlier ones of its topic stand aside.
    pub(super) fn offers(&mut self, events: Vec<(TopicName, NewEvent)>) -> Vec<Offer> {
        let mut number = 0;
        let mut offers = Vec::with_capacity(events.len());
        for (topic, event) in events {
            while self.numbers.contains(&number) {
                number += 1;
            }
            let held = self.topics.contains_key(&topic);
            offers.push(Offer { number, order: self.next, topic, event, aside: false, held });
            number += 1;
            self.next += 1;
        }
        offers
    }

    /// The next offers: the first `window` events of each topic, in the order of the feed.
    pub(super) fn next(&self) -> Vec<Offer> {
        let first = |waiting: &Waiting| waiting.events.values().take(waiting.window).cloned().collect::<Vec<_>>();
        let mut offers: Vec<Offer> = self.topics.values().flat_map(first).collect();
        offers.sort_unstable_by_key(|offer| offer.order);
        offers
    }

    /// Records that the event's topic had no room: it now stands aside, or still does.
    pub(super) fn keep(&mut self, offer: Offer) {
        let Offer { number, order, .. } = offer;
        let bytes = offer.event.payload.len();
        let waiting = self.topics.entry(offer.topic.clone());
        let waiting = waiting.or_insert_with(|| Waiting { events: BTreeMap::new(), window: WINDOW });
        let was_aside = waiting.events.insert(order, Offer { aside: true, held: false, ..offer }).is_some();
        self.next = self.next.max(order + 1);
        if was_aside {
            waiting.window = (waiting.window / 2).max(1);
        } else {
            self.numbers.insert(number);
            self.bytes += bytes;
        }
    }

    /// Forgets an event that is in or finally refused.
    pub(super) fn remove(&mut self, offer: &Offer) {
        let Some(waiting) = self.topics.get_mut(&offer.topic) else { return };
        if waiting.events.remove(&offer.order).is_none() {
            return;
        }
        waiting.window = (waiting.window + 1).min(MAX_ASIDE);
        if waiting.events.is_empty() {
            self.topics.remove(&offer.topic);
        }
        self.numbers.remove(&offer.number);
        self.bytes = self.bytes.saturating_sub(offer.event.payload.len());
    }
}

#[cfg(test)]
mod tests {
    use broker_core::event::{Payload, Priority};
    use broker_core::name::IdKey;

    use super::*;

    fn event(topic: &str, id: &str, bytes: usize) -> (TopicName, NewEvent) {
        let msg = format!("\"{}\"", "x".repeat(bytes));
        let payload = Payload::encode(topic, Priority(0), &msg, id);
        let event = NewEvent { id: IdKey::of(id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
        (TopicName::new(topic).unwrap(), event)
    }

    #[test]
    fn numbers_are_reused_and_orders_only_grow() {
        let mut aside = Aside::default();
        let offers = aside.offers((0..3).map(|n| event("t", &n.to_string(), 1)).collect());
        aside.keep(offers[0].clone());
        aside.keep(offers[2].clone());
        let more = aside.offers(vec![event("t", "3", 1), event("u", "4", 1)]);
        let seen: Vec<_> = more.iter().map(|offer| (offer.number, offer.order, offer.held)).collect();
        assert_eq!(seen, [(1, 3, true), (3, 4, false)]);
        let restarted = Aside::new(aside.next());
        assert_eq!((restarted.len(), restarted.next), (2, 3));
        aside.remove(&offers[0]);
        aside.remove(&offers[2]);
        assert!(aside.is_empty() && aside.bytes == 0 && aside.room() == MAX_ASIDE);
    }

    #[test]
    fn reading_waits_at_the_limit_of_events_and_of_bytes() {
        let mut aside = Aside::default();
        let offers = aside.offers((0..MAX_ASIDE).map(|n| event("t", &n.to_string(), 1)).collect());
        offers.into_iter().for_each(|offer| aside.keep(offer));
        assert_eq!(aside.room(), 0);
        let mut aside = Aside::default();
        let large = aside.offers(vec![event("t", "a", MAX_ASIDE_BYTES)]);
        aside.keep(large[0].clone());
        assert_eq!(aside.room(), 0);
        aside.remove(&large[0]);
        assert_eq!(aside.room(), MAX_ASIDE);
    }

    #[test]
    fn a_topic_that_stays_full_is_offered_few_events_and_one_with_room_many() {
        let mut aside = Aside::default();
        let offers = aside.offers((0..200).map(|n| event("t", &n.to_string(), 1)).collect());
        offers.into_iter().for_each(|offer| aside.keep(offer));
        assert_eq!(aside.next().len(), WINDOW);
        aside.next().into_iter().for_each(|offer| aside.keep(offer));
        assert_eq!(aside.next().len(), 1);
        for expected in [1, 2, 4, 8] {
            assert_eq!(aside.next().len(), expected);
            for offer in aside.next() {
                aside.remove(&offer);
            }
        }
    }
}

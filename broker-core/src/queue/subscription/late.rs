//! Late acknowledgements, and acknowledgements of events that are not held.
//!
//! The reference's clients acknowledge every delivery, even one that was taken back from them as overdue, and repeat an acknowledgement
//! that is answered with `no_event_error`. So a subscription remembers, within bounds, which deliveries it took back, and which
//! acknowledgements it has already refused.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::event::EventKey;
use crate::name::IdKey;

/// The most overdue deliveries remembered per consumer. Beyond them, a late acknowledgement is answered like that of an unknown event.
const LATE: usize = 1024;

/// The most refused acknowledgements remembered per consumer. A client that repeats more of them is refused as if for the first time.
const REFUSED: usize = 4096;

/// One consumer's deliveries that were taken back as overdue.
///
/// Invariant: `order` names each delivery in `of`, and may name some that are gone.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// The events of each id, oldest delivery first, each with how often it was taken back.
    of: HashMap<IdKey, Vec<(EventKey, u32)>>,
    order: VecDeque<(IdKey, EventKey)>,
}

impl Late {
    /// Adds a delivery, replacing the oldest one beyond the limit.
    pub(super) fn insert(&mut self, events: &mut LateEvents, id: IdKey, key: EventKey) {
        if let Some((_, count)) = self.of.get_mut(&id).and_then(|keys| keys.iter_mut().find(|(other, _)| *other == key))
        {
            *count += 1;
            return;
        }
        if self.order.len() == LATE
            && let Some((id, key)) = self.order.pop_front()
        {
            while self.take(events, id, |other, _| other == key) {}
        }
        self.of.entry(id).or_default().push((key, 1));
        self.order.push_back((id, key));
        events.retain(key);
    }

    /// Takes one delivery of `id` for whose event and acknowledgement `is_it` returns true. Returns whether there was one.
    pub(super) fn take(&mut self, events: &mut LateEvents, id: IdKey, is_it: impl Fn(EventKey, bool) -> bool) -> bool {
        let Some(keys) = self.of.get_mut(&id) else { return false };
        let Some(at) = keys.iter().position(|(key, _)| is_it(*key, events.is_acknowledged(*key))) else { return false };
        keys[at].1 -= 1;
        if keys[at].1 == 0 {
            let (key, _) = keys.remove(at);
            events.release(key);
            if keys.is_empty() {
                self.of.remove(&id);
            }
        }
        true
    }

    /// The events of all deliveries.
    pub(super) fn into_events(self) -> impl Iterator<Item = EventKey> {
        self.of.into_values().flatten().map(|(key, _)| key)
    }
}

#[derive(Debug, Default)]
struct LateEvent {
    /// The number of consumers that remember a delivery of the event.
    consumers: u32,
    acknowledged: bool,
}

/// The events with deliveries taken back as overdue, and whether each has been acknowledged since.
///
/// Invariant: it has exactly the events in the [`Late`] of all consumers.
#[derive(Debug, Default)]
pub(super) struct LateEvents(HashMap<EventKey, LateEvent>);

impl LateEvents {
    fn retain(&mut self, key: EventKey) {
        self.0.entry(key).or_default().consumers += 1;
    }

    pub(super) fn release(&mut self, key: EventKey) {
        if let Some(event) = self.0.get_mut(&key) {
            event.consumers -= 1;
            if event.consumers == 0 {
                self.0.remove(&key);
            }
        }
    }

    #[inline]
    pub(super) fn acknowledge(&mut self, key: EventKey) {
        if !self.0.is_empty()
            && let Some(event) = self.0.get_mut(&key)
        {
            event.acknowledged = true;
        }
    }

    fn is_acknowledged(&self, key: EventKey) -> bool {
        self.0.get(&key).is_some_and(|event| event.acknowledged)
    }
}

/// The ids for which a consumer's acknowledgement was refused.
///
/// Invariant: `order` names each of `ids`, and may name some that are gone.
#[derive(Debug, Default)]
pub(super) struct Refused {
    ids: HashSet<IdKey>,
    order: VecDeque<IdKey>,
}

impl Refused {
    /// Records a refusal of `id`, and returns whether it was refused before.
    pub(super) fn is_repeat(&mut self, id: IdKey) -> bool {
        if !self.ids.insert(id) {
            return true;
        }
        if self.order.len() == REFUSED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.order.push_back(id);
        false
    }

    #[inline]
    pub(super) fn forget(&mut self, id: IdKey) {
        if !self.ids.is_empty() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
impl LateEvents {
    /// Panics if the invariant does not hold; `late` is that of all consumers.
    pub(super) fn check<'a>(&self, late: impl Iterator<Item = &'a Late>) {
        let mut consumers: HashMap<EventKey, u32> = HashMap::new();
        for late in late {
            assert!(late.of.values().map(Vec::len).sum::<usize>() <= late.order.len(), "{late:?}");
            for (key, count) in late.of.values().flatten() {
                assert!(*count > 0, "{late:?}");
                *consumers.entry(*key).or_default() += 1;
            }
        }
        let known: HashMap<EventKey, u32> = self.0.iter().map(|(key, event)| (*key, event.consumers)).collect();
        assert_eq!(known, consumers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_acknowledgements_take_bounded_memory() {
        let mut refused = Refused::default();
        for n in 0..3 * REFUSED {
            assert!(!refused.is_repeat(IdKey::of(&n.to_string())));
        }
        assert_eq!((refused.ids.len(), refused.order.len()), (REFUSED, REFUSED));
    }
}

//! Moves dead letters from a dead-letter topic back to where they came from.
//!
//! The driver walks through the letters in slices ([`Topic::walk_letters`]), takes each out of delivery ([`Topic::send_back`]), has the
//! other topic accept it ([`Topic::revive`]) in the batch that also forgets it here, and reports the outcome ([`Topic::sent_back`]).

use super::Topic;
use super::dead_letters::{LETTER_BYTES, LETTERS};
use crate::event::{EventKey, Millis, NewEvent, Payload, Seq};
use crate::name::{IdKey, SubscriptionName};
use crate::policy::DuplicateId;
use crate::queue::subscription::Hold;
use crate::storage::{Place, StoredEvent};

/// The most events that one step of a walk examines.
const WALK: usize = 4096;

/// A step of a walk through dead letters.
#[derive(Debug)]
pub struct Walk {
    /// The waiting letters in delivery order, each with its payload if that is in memory, and its place if it is written.
    pub letters: Vec<(EventKey, IdKey, Option<Payload>, Option<Place>)>,
    /// The event after which the next step begins; `None` at the end of the walk.
    pub next: Option<EventKey>,
}

impl Topic {
    /// Finds waiting letters after `after` in delivery order, up to the event `until`.
    #[must_use]
    pub fn walk_letters(&self, after: Option<EventKey>, until: Seq) -> Walk {
        let mut walk = Walk { letters: Vec::new(), next: None };
        let (mut looked, mut bytes) = (0, 0);
        let mut from = after;
        let mut lane = match after {
            Some(after) => Some(after.priority),
            None => self.log.priorities().next(),
        };
        while let Some(priority) = lane {
            let position = from.take().filter(|from| from.priority == priority).map_or(Seq(0), |from| from.seq);
            for entry in self.log.iter_after(priority, position).take_while(|entry| entry.seq <= until) {
                let key = EventKey { priority, seq: entry.seq };
                looked += 1;
                if self.only_waits(key, entry.id) {
                    bytes += entry.len as usize;
                    walk.letters.push((key, entry.id, self.log.payload(key).cloned(), entry.place()));
                }
                if looked >= WALK || walk.letters.len() >= LETTERS || bytes >= LETTER_BYTES {
                    walk.next = Some(key);
                    return walk;
                }
            }
            lane = self.log.priority_below(priority);
        }
        walk
    }

    /// Whether an event waits in some subscription, and is neither in flight nor a letter in any.
    fn only_waits(&self, key: EventKey, id: IdKey) -> bool {
        let mut waits = false;
        for sub in self.subscriptions.values() {
            match sub.hold(key, id) {
                Hold::None => {}
                Hold::Waiting if sub.is_letter(key) => return false,
                Hold::Waiting => waits = true,
                Hold::InFlight | Hold::Moving => return false,
            }
        }
        waits
    }

    /// Takes a letter out of delivery, to move it back to where it came from, until [`Topic::sent_back`]. Returns whether it still waited.
    pub fn send_back(&mut self, key: EventKey, id: IdKey) -> bool {
        let waits = self.log.get(key).is_some_and(|entry| !entry.withdrawn()) && self.only_waits(key, id);
        if waits {
            for sub in self.subscriptions.values_mut() {
                if sub.hold(key, id) == Hold::Waiting {
                    sub.send_back(&self.log, key);
                }
            }
        }
        waits
    }

    /// Handles the outcomes for letters that were sent back: whether each has moved. The batch that stored it there also
    /// forgets it here.
    pub fn sent_back(&mut self, letters: Vec<(EventKey, bool)>, now: Millis) {
        for (key, has_gone) in letters {
            let len = self.log.get(key).map_or(0, |entry| u64::from(entry.len));
            let mut gone = false;
            for (at, sub) in self.subscriptions.iter_mut() {
                if !sub.is_moving(key) {
                    continue;
                }
                if has_gone {
                    gone |= sub.letter_is_withdrawn(key, len);
                } else {
                    sub.letter_stays(&mut self.log, key, now);
                    self.changed.push(at);
                }
            }
            if gone {
                self.log.withdraw(key, 0);
            }
        }
    }

    /// Returns an event to the one subscription it came from; others do not get it. `None` if there is no such subscription,
    /// no room in it, or an event of this id in it already.
    pub fn revive(&mut self, event: &NewEvent, name: &SubscriptionName, now: Millis) -> Option<StoredEvent> {
        let id = self.subscriptions.find(name)?;
        let sub = &self.subscriptions[id];
        let is_there = |key: EventKey| sub.hold(key, event.id) != Hold::None;
        if self.policy.duplicate_id != DuplicateId::Keep && self.log.find_id(event.id).into_iter().any(is_there)
            || self.limit_reached(sub, event, &[]).is_some()
        {
            return None;
        }
        let stored = self.insert(event, now);
        for (other, sub) in self.subscriptions.iter_mut() {
            if other != id {
                sub.drop_waiting(&mut self.log, stored.key);
                self.changed.push(other);
            }
        }
        Some(stored)
    }
}

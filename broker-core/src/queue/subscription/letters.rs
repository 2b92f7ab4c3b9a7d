//! The events of a subscription that move to another topic.

use std::collections::{BTreeMap, BTreeSet};

use super::aside::{Exception, Standing};
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::letter::Reason;
use crate::queue::history::History;
use crate::tally::Tally;

/// An event that moves to another topic.
#[derive(Debug, Clone, Copy)]
pub(in crate::queue) struct Letter {
    pub(in crate::queue) history: History,
    /// The reason of a dead letter; `None` for a dead letter that moves back to where it came from.
    pub(in crate::queue) reason: Option<Reason>,
    /// The event's standing before it became a letter, if it had left its lane.
    pub(super) standing: Option<Standing>,
    /// The event's size in bytes, if it made room for other events.
    overflow: Option<u32>,
}

impl Letter {
    /// A letter of a waiting event; `exception` is set if the event had left its lane.
    pub(super) fn new(reason: Option<Reason>, exception: Option<Exception>) -> Self {
        let history = exception.map_or(History::default(), |exception| exception.history);
        Self { history, reason, standing: exception.map(|exception| exception.standing), overflow: None }
    }

    pub(super) fn with_history(self, history: History) -> Self {
        Self { history, ..self }
    }

    pub(super) fn making_room(self, bytes: u32) -> Self {
        Self { overflow: Some(bytes), ..self }
    }

    /// The event and its bytes, if the letter made room for other events.
    fn room(&self) -> Tally {
        self.overflow.map_or(Tally::ZERO, |bytes| Tally::one(u64::from(bytes)))
    }

    /// The time at which the event would be due if it were still in the queue.
    pub(super) fn due_at(&self) -> Option<Millis> {
        if let Some(Standing::Delayed(due)) = self.standing { Some(due) } else { None }
    }
}

/// The events that move to another topic.
///
/// A letter is *unsent* until the other topic is asked to take it: it still waits and can be acknowledged, replaced or purged, but
/// is not delivered. Then it is *sent*, and only the answer decides its fate.
///
/// Invariants:
/// - Each letter is in exactly one of `unsent` and `sent`, and all of them are in `by_age`. Many may be unsent while the other topic is
///   full. `sent` stays small: it holds the letters of one message, and those that consumers terminate.
/// - `overflow` counts exactly the letters that made room.
#[derive(Debug, Default)]
pub(super) struct Letters {
    unsent: BTreeMap<EventKey, Letter>,
    sent: BTreeMap<EventKey, Letter>,
    /// All of them in the order of their publication, so that figures need no search.
    by_age: BTreeSet<(Seq, Priority)>,
    overflow: Tally,
}

impl Letters {
    pub(super) fn len(&self) -> usize {
        self.unsent.len() + self.sent.len()
    }

    fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.sent.is_empty()
    }

    #[inline]
    pub(super) fn contains(&self, key: EventKey) -> bool {
        !self.is_empty() && self.get(key).is_some()
    }

    pub(super) fn get(&self, key: EventKey) -> Option<&Letter> {
        self.unsent.get(&key).or_else(|| self.sent.get(&key))
    }

    /// The letters that another topic has been asked to take.
    pub(super) fn sent(&self) -> impl Iterator<Item = EventKey> {
        self.sent.keys().copied()
    }

    /// The letter that was published first.
    pub(super) fn oldest(&self) -> Option<EventKey> {
        self.by_age.first().map(|(seq, priority)| EventKey { priority: *priority, seq: *seq })
    }

    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn is_unsent(&self, key: EventKey) -> bool {
        self.unsent.contains_key(&key)
    }

    pub(super) fn is_sent(&self, key: EventKey) -> bool {
        self.sent.contains_key(&key)
    }

    /// Whether the event made room for others.
    pub(super) fn is_overflow(&self, key: EventKey) -> bool {
        self.get(key).is_some_and(|letter| letter.overflow.is_some())
    }

    /// The events that made room for others and have not left yet.
    pub(super) fn overflow(&self) -> Tally {
        self.overflow
    }

    /// Adds an unsent letter.
    pub(super) fn insert_unsent(&mut self, key: EventKey, letter: Letter) {
        self.count(key, letter);
        self.unsent.insert(key, letter);
    }

    /// Adds a letter that another topic has been asked to take.
    pub(super) fn insert_sent(&mut self, key: EventKey, letter: Letter) {
        self.count(key, letter);
        self.sent.insert(key, letter);
    }

    fn count(&mut self, key: EventKey, letter: Letter) {
        debug_assert!(!self.contains(key), "an event becomes a letter once");
        self.by_age.insert((key.seq, key.priority));
        self.overflow += letter.room();
    }

    /// Returns the first unsent letter in delivery order and marks it as sent.
    pub(super) fn send_next(&mut self) -> Option<(EventKey, Letter)> {
        let (key, letter) = self.unsent.pop_first()?;
        self.sent.insert(key, letter);
        Some((key, letter))
    }

    /// Marks a sent letter as unsent, so that it is sent again.
    pub(super) fn set_unsent(&mut self, key: EventKey) {
        let letter = self.sent.remove(&key);
        debug_assert!(letter.is_some(), "only a letter is sent again");
        self.unsent.extend(letter.map(|letter| (key, letter)));
    }

    pub(super) fn remove(&mut self, key: EventKey) -> Option<Letter> {
        if self.is_empty() {
            return None;
        }
        let letter = self.unsent.remove(&key).or_else(|| self.sent.remove(&key))?;
        self.by_age.remove(&(key.seq, key.priority));
        self.overflow = self.overflow.saturating_sub(letter.room());
        Some(letter)
    }

    /// Takes the unsent letters, however many. Those that were sent stay.
    pub(super) fn take_unsent(&mut self) -> BTreeMap<EventKey, Letter> {
        self.by_age = self.sent.keys().map(|key| (key.seq, key.priority)).collect();
        self.overflow = self.sent.values().map(Letter::room).sum();
        std::mem::take(&mut self.unsent)
    }
}

#[cfg(test)]
impl Letters {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.len() + self.by_age.len()
    }

    /// Panics if an invariant does not hold.
    pub(super) fn check(&self) {
        let all = || self.unsent.iter().chain(&self.sent);
        assert!(self.sent.keys().all(|key| !self.unsent.contains_key(key)), "{self:?}");
        assert_eq!(all().map(|(key, _)| (key.seq, key.priority)).collect::<BTreeSet<_>>(), self.by_age);
        assert_eq!(all().map(|(_, letter)| letter.room()).sum::<Tally>(), self.overflow);
    }
}

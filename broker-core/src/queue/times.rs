//! The times at which events expire or come due. Only events with such a time are here, so that others cost nothing.

use std::collections::{BTreeSet, HashMap};

use crate::event::{EventKey, Millis, Seq};

/// The period in which an event may be delivered, if it is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) expires_at: Option<Millis>,
    pub(super) due_at: Option<Millis>,
}

impl Times {
    /// `None` for an event without either.
    pub(super) fn new(expires_at: Option<Millis>, due_at: Option<Millis>) -> Option<Self> {
        (expires_at.is_some() || due_at.is_some()).then_some(Self { expires_at, due_at })
    }
}

/// The memory of an expiry, in bytes: a row of the table, and one of the order by time.
const EXPIRY_BYTES: usize = 96;

/// The memory of a delay, likewise.
const DELAY_BYTES: usize = 72;

#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Millis,
    /// The time of the next check.
    check_at: Option<Millis>,
}

/// The events that expire, and when each is checked.
///
/// Invariant: an event has at most one check, at its `check_at`. The check is a hint shared by all subscriptions: one in which the
/// event has been in flight may hold it for longer, and schedules another check.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    of: HashMap<Seq, Expiry>,
    checks: BTreeSet<(Millis, EventKey)>,
}

impl Expiries {
    pub(super) fn insert(&mut self, key: EventKey, at: Millis) {
        self.of.insert(key.seq, Expiry { at, check_at: None });
        self.check(key, at);
    }

    pub(super) fn remove(&mut self, key: EventKey) {
        if let Some(at) = self.of.remove(&key.seq).and_then(|expiry| expiry.check_at) {
            self.checks.remove(&(at, key));
        }
    }

    /// The time at which an event expires, not counting time in flight.
    pub(super) fn get(&self, seq: Seq) -> Option<Millis> {
        self.of.get(&seq).map(|expiry| expiry.at)
    }

    /// Schedules a check of an event that expires, no later than `at`.
    pub(super) fn check(&mut self, key: EventKey, at: Millis) {
        let Some(expiry) = self.of.get_mut(&key.seq) else { return };
        if let Some(earlier) = expiry.check_at {
            if earlier <= at {
                return;
            }
            self.checks.remove(&(earlier, key));
        }
        expiry.check_at = Some(at);
        self.checks.insert((at, key));
    }

    /// Takes the next event whose check is due.
    pub(super) fn pop(&mut self, now: Millis) -> Option<EventKey> {
        let (_, key) = self.checks.first().copied().filter(|(at, _)| *at <= now)?;
        self.checks.pop_first();
        if let Some(expiry) = self.of.get_mut(&key.seq) {
            expiry.check_at = None;
        }
        Some(key)
    }

    /// The time of the next check.
    pub(super) fn next(&self) -> Option<Millis> {
        self.checks.first().map(|(at, _)| *at)
    }

    /// Its memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.of.len() * EXPIRY_BYTES
    }
}

/// The events that were published with a delay.
///
/// Invariant: `pending` has the events whose delay is not over, or whose end [`Delays::pop`] has not noticed yet. The others stay in
/// `of`, because each subscription asks when it reaches the event.
#[derive(Debug, Default)]
pub(super) struct Delays {
    of: HashMap<Seq, Millis>,
    pending: BTreeSet<(Millis, EventKey)>,
}

impl Delays {
    pub(super) fn insert(&mut self, key: EventKey, due_at: Millis) {
        self.of.insert(key.seq, due_at);
        self.pending.insert((due_at, key));
    }

    pub(super) fn remove(&mut self, key: EventKey) {
        if let Some(at) = self.of.remove(&key.seq) {
            self.pending.remove(&(at, key));
        }
    }

    /// The time at which an event is due.
    pub(super) fn get(&self, seq: Seq) -> Option<Millis> {
        self.of.get(&seq).copied()
    }

    /// Whether an event has not come due.
    pub(super) fn contains(&self, key: EventKey) -> bool {
        self.of.get(&key.seq).is_some_and(|at| self.pending.contains(&(*at, key)))
    }

    /// Takes the next event that has come due.
    pub(super) fn pop(&mut self, now: Millis) -> Option<EventKey> {
        let (_, key) = self.pending.first().copied().filter(|(at, _)| *at <= now)?;
        self.pending.pop_first();
        Some(key)
    }

    /// The time at which the next event comes due.
    pub(super) fn next(&self) -> Option<Millis> {
        self.pending.first().map(|(at, _)| *at)
    }

    /// The events that have not come due.
    pub(super) fn iter(&self) -> impl Iterator<Item = EventKey> {
        self.pending.iter().map(|(_, key)| *key)
    }

    /// Its memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.of.len() * DELAY_BYTES
    }
}

#[cfg(test)]
impl Expiries {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.of.len() + self.checks.len()
    }
}

#[cfg(test)]
impl Delays {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.of.len() + self.pending.len()
    }
}

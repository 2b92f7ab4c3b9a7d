//! A subscription's position in each lane of its topic.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::event::{EventKey, Priority, Seq};
use crate::queue::lane::step;
use crate::queue::log::Log;

/// A subscription's position in each lane, and the events beyond it that are already settled.
///
/// ```text
///              position      visible
///                 |             |
///  lane 9   . . . 6   7  (8) 12 |  17   21     6 has an entry in `lanes`; 8 is settled ahead; 17 and 21 are not visible yet
///  lane 3   . .                 |  14          no entry: the position is `seen`, and nothing up to there is left
/// ```
///
/// Invariants:
/// - A position is never before `since` and never moves back. The events up to it have left their lane here: each is settled, in
///   flight, aside, or a letter.
/// - A lane without an entry in `lanes` has the position `seen`, so a subscription that has caught up remembers nothing of its lanes.
/// - `seen` moves to `visible` only in [`Positions::open_changed`], which gives an entry to every lane with an event up to there
///   beyond the position. So no visible event is skipped.
/// - `settled_ahead` has only events beyond the position of their lane, which are forgotten when the position passes them, and some that
///   the log has freed since, whose number [`Positions::forget_freed`] bounds.
#[derive(Debug)]
pub(super) struct Positions {
    /// The sequence after which the subscription holds events.
    since: Seq,
    seen: Seq,
    /// The lanes that may have events beyond their position, each with the latest event taken from it.
    lanes: BTreeMap<Priority, Seq>,
    settled_ahead: BTreeSet<EventKey>,
}

impl Positions {
    pub(super) fn new(since: Seq) -> Self {
        Self { since, seen: since, lanes: BTreeMap::new(), settled_ahead: BTreeSet::new() }
    }

    #[inline]
    pub(super) fn since(&self) -> Seq {
        self.since
    }

    /// The position in a lane.
    #[inline]
    pub(super) fn of(&self, priority: Priority) -> Seq {
        self.lanes.get(&priority).copied().unwrap_or(self.seen)
    }

    /// Whether the position is at or beyond an event.
    #[inline]
    pub(super) fn has_passed(&self, key: EventKey) -> bool {
        key.seq <= self.of(key.priority)
    }

    #[inline]
    pub(super) fn is_settled_ahead(&self, key: EventKey) -> bool {
        !self.settled_ahead.is_empty() && self.settled_ahead.contains(&key)
    }

    /// Moves past an event, which must lie beyond the position.
    #[inline]
    pub(super) fn advance(&mut self, key: EventKey) {
        self.lanes.insert(key.priority, key.seq);
        self.forget_passed(key);
    }

    /// Moves past an event if it is the first beyond the position, so that it need not be remembered.
    pub(super) fn advance_if_first(&mut self, log: &Log, key: EventKey) {
        let position = self.of(key.priority);
        if key.seq > position && log.first_after(key.priority, position).is_some_and(|first| first.seq == key.seq) {
            self.advance(key);
        }
    }

    /// Remembers that an event must not be taken from its lane, unless the position has passed it.
    #[inline]
    pub(super) fn settle(&mut self, key: EventKey) {
        if !self.has_passed(key) {
            self.settled_ahead.insert(key);
        }
    }

    /// Forgets events settled ahead, and lanes, that are no longer in the log.
    ///
    /// An event freed in a lane that this subscription has not reached would be remembered until it reaches the lane,
    /// and so would a lane that was removed with its last event. So this runs when more is remembered than the log can hold, which makes it
    /// cheap per event.
    #[inline]
    pub(super) fn forget_freed(&mut self, log: &Log, key: EventKey) {
        if self.lanes.len() > 2 * log.lanes() + 1024 {
            // Events published to such a lane later come after all of its positions.
            self.lanes.retain(|priority, _| log.last_of(*priority).is_some());
        }
        if log.get(key).is_none() {
            self.settled_ahead.remove(&key);
        } else if self.settled_ahead.len() > 2 * log.live + 1024 {
            self.settled_ahead.retain(|key| log.get(*key).is_some());
        }
    }

    /// Moves all positions to `to`. Returns the old positions.
    pub(super) fn leave(&mut self, to: Seq) -> Self {
        let fresh = Self { seen: to, ..Self::new(self.since) };
        std::mem::replace(self, fresh)
    }

    // ---- In delivery order ----

    /// Adds the lanes in which an event has become visible since the last call.
    #[inline]
    pub(super) fn open_changed(&mut self, log: &Log) {
        if self.seen < log.visible {
            for priority in log.changed_after(self.seen) {
                step();
                self.lanes.entry(priority).or_insert(self.seen);
            }
            self.seen = log.visible;
        }
    }

    /// The first visible event beyond the positions. Lanes without one are closed until they change.
    #[inline]
    pub(super) fn first(&mut self, log: &Log) -> Option<EventKey> {
        let mut last = self.lanes.last_key_value().map(|(p, s)| (*p, *s));
        while let Some((priority, position)) = last {
            step();
            match log.first_after(priority, position) {
                Some(entry) if entry.seq <= log.visible => return Some(EventKey { priority, seq: entry.seq }),
                // Events were dropped before they became visible. The lane keeps its entry, or `seen` would bring them back.
                _ if position > log.visible => {}
                _ => self.close(priority),
            }
            last = self.lanes.range(..priority).next_back().map(|(p, s)| (*p, *s));
        }
        None
    }

    // ---- From the least urgent ----

    /// The least urgent lane above `lane` that may have an event, visible or not; with `None`, the least urgent of all.
    pub(super) fn lane_above(&self, log: &Log, lane: Option<Priority>) -> Option<Priority> {
        let beyond = (lane.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let known = self.lanes.range(beyond).next().map(|(priority, _)| *priority);
        known.into_iter().chain(log.pending().lane_above(lane)).min()
    }

    /// Closes a lane without events beyond the position, unless events that are not visible yet were taken from it.
    pub(super) fn close_empty(&mut self, log: &Log, priority: Priority) {
        if self.of(priority) <= log.visible && self.lanes.contains_key(&priority) {
            self.close(priority);
        }
    }

    fn close(&mut self, priority: Priority) {
        self.lanes.remove(&priority);
        self.forget_passed(EventKey { priority, seq: self.seen });
    }

    /// Forgets events settled ahead that the position has passed by moving to `key`.
    #[inline]
    fn forget_passed(&mut self, key: EventKey) {
        if self.settled_ahead.is_empty() {
            return;
        }
        let start = EventKey { priority: key.priority, seq: Seq(0) };
        while let Some(passed) = self.settled_ahead.range(start..=key).next().copied() {
            self.settled_ahead.remove(&passed);
        }
    }

    // ---- Recovery ----

    /// Remembers an event as settled. Returns whether the subscription held it before.
    pub(super) fn restore_settled(&mut self, key: EventKey) -> bool {
        key.seq > self.since && self.settled_ahead.insert(key)
    }

    pub(super) fn restore_freed(&mut self, key: EventKey) {
        self.settled_ahead.remove(&key);
    }

    /// Forgets the settled events for which `gone` returns true.
    pub(super) fn forget_where(&mut self, gone: impl Fn(EventKey) -> bool) {
        self.settled_ahead.retain(|key| !gone(*key));
    }

    pub(super) fn settled_ahead(&self) -> impl Iterator<Item = EventKey> {
        self.settled_ahead.iter().copied()
    }

    /// Turns the settled events at the start of each lane into its position, and sets `seen` to the end of the log.
    pub(super) fn finish_recovery(&mut self, log: &Log) {
        for priority in log.priorities() {
            let mut position = self.since;
            for entry in log.iter_after(priority, self.since) {
                if !self.settled_ahead.remove(&EventKey { priority, seq: entry.seq }) {
                    break;
                }
                position = entry.seq;
            }
            self.lanes.insert(priority, position);
        }
        self.seen = log.visible;
    }
}

#[cfg(test)]
impl Positions {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.lanes.len() + self.settled_ahead.len()
    }

    /// Panics if an invariant does not hold.
    pub(super) fn check(&self, log: &Log) {
        assert!(self.seen >= self.since);
        assert!(self.lanes.values().all(|position| *position >= self.since));
        for key in &self.settled_ahead {
            assert!(!self.has_passed(*key) || log.get(*key).is_none(), "{key:?} is behind the position: {self:?}");
        }
    }
}

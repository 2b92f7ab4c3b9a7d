//! The published events that are not visible yet.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{EventKey, Priority, Seq};

/// The published events that are not visible yet, in the order of their sequence.
///
/// Invariant: `lanes` counts the events of each lane, and has no empty lane.
#[derive(Debug, Default)]
pub(super) struct Pending {
    events: VecDeque<EventKey>,
    lanes: BTreeMap<Priority, usize>,
}

impl Pending {
    /// Adds the latest event.
    #[inline]
    pub(super) fn push(&mut self, key: EventKey) {
        self.events.push_back(key);
        *self.lanes.entry(key.priority).or_default() += 1;
    }

    /// Takes the oldest event, if it is not after `seq`.
    #[inline]
    pub(super) fn pop_until(&mut self, seq: Seq) -> Option<EventKey> {
        let key = self.events.front().copied().filter(|key| key.seq <= seq)?;
        self.events.pop_front();
        if let Some(count) = self.lanes.get_mut(&key.priority) {
            *count -= 1;
            if *count == 0 {
                self.lanes.remove(&key.priority);
            }
        }
        Some(key)
    }

    #[inline]
    pub(super) fn first(&self) -> Option<Seq> {
        self.events.front().map(|key| key.seq)
    }

    #[inline]
    pub(super) fn last(&self) -> Option<Seq> {
        self.events.back().map(|key| key.seq)
    }

    /// The least urgent lane above `priority` that has an event; with `None`, the least urgent of all.
    pub(super) fn lane_above(&self, priority: Option<Priority>) -> Option<Priority> {
        let mut above = self.lanes.range(priority.unwrap_or(Priority(i32::MIN))..).map(|(lane, _)| *lane);
        above.find(|lane| Some(*lane) != priority)
    }
}

#[cfg(test)]
impl Pending {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.events.len() + self.lanes.len()
    }
}

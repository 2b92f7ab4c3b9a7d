//! A backlog left by a subscription and settled in slices.

use std::collections::BTreeMap;

use super::aside::Exceptions;
use super::letters::Letter;
use super::positions::Positions;
use crate::event::{EventKey, Priority, Seq};
use crate::queue::log::Log;

/// The events that waited in a subscription when it was removed or purged.
///
/// They must be settled one by one, because the log counts the holders of each. A backlog of millions is taken from the subscription
/// at once, and settled a slice at a time so that the shard serves others in between:
///
/// ```text
///  subscription            backlog                     log
///  positions at `until` <- positions as they were  ->  settle(key), a slice in each turn
///  nothing aside        <- the events aside
///  flights, sent letters (they stay, and the backlog passes over them)
/// ```
///
/// Invariants:
/// - It holds the events up to `until` beyond its positions, and those in `aside` and `unsent`, each in one place only.
/// - Nothing is ever added to it. So a finished lane stays finished, and the drain ends.
/// - It never touches an event published later, whose holders the log counts separately.
#[derive(Debug)]
pub(in crate::queue) struct Backlog {
    positions: Positions,
    aside: Exceptions,
    /// The letters that were not sent.
    unsent: BTreeMap<EventKey, Letter>,
    /// The latest event in it.
    until: Seq,
    /// The lane being drained.
    lane: Option<Priority>,
}

impl Backlog {
    pub(super) fn new(positions: Positions, aside: Exceptions, unsent: BTreeMap<EventKey, Letter>, until: Seq) -> Self {
        Self { positions, aside, unsent, until, lane: None }
    }

    /// Settles events and adds them to `settled`. Looks at up to `most` events and lanes, and returns how many of `most` are left over: if
    /// any, the backlog is empty.
    pub(in crate::queue) fn drain(&mut self, log: &mut Log, most: usize, settled: &mut Vec<EventKey>) -> usize {
        let mut left = most;
        while left > 0
            && let Some(key) = self.pop_beside_the_lanes()
        {
            // The drain of the lanes must not find it again.
            self.positions.settle(key);
            // An event that has been replaced is no longer held: the log counts only subscriptions that have it in flight.
            if log.get(key).is_some_and(|entry| !entry.withdrawn()) {
                log.settle(key);
                settled.push(key);
            }
            left -= 1;
        }
        while let Some(priority) = self.lane.or_else(|| log.priorities().next()) {
            self.lane = Some(priority);
            loop {
                if left == 0 {
                    return 0;
                }
                let next = log.first_after(priority, self.positions.of(priority)).map(|entry| entry.seq);
                let Some(seq) = next.filter(|seq| *seq <= self.until) else { break };
                let key = EventKey { priority, seq };
                let was_settled = self.positions.is_settled_ahead(key);
                self.positions.advance(key);
                if !was_settled {
                    log.settle(key);
                    settled.push(key);
                }
                left -= 1;
            }
            match log.priority_below(priority) {
                Some(below) => {
                    // Lanes that hold nothing for this backlog cost a step too: there may be as many as events.
                    self.lane = Some(below);
                    left -= 1;
                }
                None => break,
            }
        }
        left
    }

    fn pop_beside_the_lanes(&mut self) -> Option<EventKey> {
        self.aside.pop_first().map(|(key, _)| key).or_else(|| self.unsent.pop_first().map(|(key, _)| key))
    }
}

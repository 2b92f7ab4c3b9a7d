//! The backlogs left by removed and purged subscriptions, settled one after the other.

use std::collections::VecDeque;

use crate::event::EventKey;
use crate::name::SubscriptionName;
use crate::queue::log::Log;
use crate::queue::subscription::Backlog;

#[derive(Debug)]
struct Left {
    backlog: Backlog,
    /// The durable subscription that left the backlog and continues.
    of: Option<SubscriptionName>,
    /// The ticket of the purge.
    ticket: Option<u64>,
}

/// The backlogs to settle, in the order in which they were left.
///
/// Invariant: the events settled by a purge are in `settled` until the storage is told, and its ticket is in `purged` only after the last. A
/// removed subscription needs neither, because its stored removal covers all its events.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    queue: VecDeque<Left>,
    /// The tickets of completed purges.
    purged: Vec<u64>,
    settled: Vec<(SubscriptionName, Vec<EventKey>)>,
}

impl Backlogs {
    /// Adds the backlog of a removed subscription.
    pub(super) fn push_removed(&mut self, backlog: Backlog) {
        self.queue.push_back(Left { backlog, of: None, ticket: None });
    }

    /// Adds the backlog of a purged subscription; `of` is `None` for one that is not stored.
    pub(super) fn push_purged(&mut self, backlog: Backlog, of: Option<SubscriptionName>, ticket: u64) {
        self.queue.push_back(Left { backlog, of, ticket: Some(ticket) });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Settles up to `most` events. Returns whether there are more.
    pub(super) fn drain(&mut self, log: &mut Log, most: usize) -> bool {
        let mut left = most;
        while left > 0 {
            let Some(first) = self.queue.front_mut() else { return false };
            let mut settled = Vec::new();
            left = first.backlog.drain(log, left, &mut settled);
            if let Some(name) = first.of.as_ref().filter(|_| !settled.is_empty()) {
                self.settled.push((name.clone(), settled));
            }
            if left > 0 {
                self.purged.extend(first.ticket);
                self.queue.pop_front();
            }
        }
        !self.queue.is_empty()
    }

    pub(super) fn take_purged(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.purged)
    }

    /// The events settled by purges since the last call.
    pub(super) fn drain_settled(&mut self) -> impl Iterator<Item = (SubscriptionName, Vec<EventKey>)> + '_ {
        self.settled.drain(..)
    }
}

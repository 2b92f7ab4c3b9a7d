//! Purging, and draining what purges and removed subscriptions leave behind.
//!
//! A removed or purged subscription holds events, possibly millions. Releasing them at once would block the shard, so it happens in
//! two phases:
//!
//! ```text
//!                1. in the turn of the request        2. in slices, between turns
//!   unsubscribe  store Unsubscribe, answer            release the held events
//!   purge        note the events that wait now        settle them, store each slice; then answer
//! ```
//!
//! An event that no subscription holds any more is released to the storage, which then frees its space. A kill during the second
//! phase loses no promise. After an unsubscribe, recovery finds events without a holder and releases them. A purge has not been
//! answered yet: the slices that were stored stay purged, and the remaining events wait again.

use std::collections::VecDeque;

use super::Shard;
use crate::engine::Outcome;
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::{SubscriptionName, TopicName};
use crate::queue::Topic;
use crate::storage::Storage;
use crate::table::Table;

/// Events drained in one turn while nothing else is to be done.
pub(super) const DRAIN: usize = 1024;

/// Events drained in one turn that also does other work.
pub(super) const DRAIN_BESIDES: usize = 256;

/// The topics with something to drain, each once.
///
/// # Invariant
/// At most one slice is on its way to the storage: the next one follows when it is written. Slices submitted without that wait would fill
/// the storage's queue, and everything else that the shard stores would wait behind all of them.
#[derive(Default)]
pub(super) struct Draining {
    topics: VecDeque<TopicAt>,
    under_way: bool,
}

impl Draining {
    /// Whether a slice can be drained now.
    pub(super) fn can_go_on(&self) -> bool {
        !self.under_way && !self.topics.is_empty()
    }

    pub(super) fn insert(&mut self, at: TopicAt) {
        if !self.topics.contains(&at) {
            self.topics.push_back(at);
        }
    }

    /// Notes whether a slice is on its way to the storage.
    pub(super) fn set_under_way(&mut self, under_way: bool) {
        self.under_way = under_way;
    }

    fn pop(&mut self) -> Option<TopicAt> {
        self.topics.pop_front()
    }
}

/// A purge under way.
struct Purge {
    to: ReplyTo,
    /// The number of events it drops.
    events: u64,
}

/// The purges under way, by the ticket that the topic returns when one has finished.
///
/// # Invariant
/// A ticket is never used again, so a finished purge finds its own request.
#[derive(Default)]
pub(super) struct Purges {
    by_ticket: Table<u64, Purge>,
    last: u64,
}

impl Purges {
    fn next_ticket(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Drops all waiting events of a subscription.
    pub(super) fn purge(&mut self, to: ReplyTo, name: &TopicName, subscription: Option<&SubscriptionName>) {
        let (at, sub) = match self.target(to.client, name, subscription, "purge <topic> [<subscription>]") {
            Ok(target) => target,
            Err(refusal) => return self.refuse(to, refusal),
        };
        let ticket = self.purges.next_ticket();
        let events = self.queues.with(at, |topic, _| topic.purge(sub, ticket)).unwrap_or(0);
        self.purges.by_ticket.insert(ticket, Purge { to, events });
        self.queues.draining.insert(at);
        self.queues.schedule(at, sub);
    }

    /// Drains at most `most` events of one topic, and answers the purges that have finished.
    pub(super) fn drain(&mut self, most: usize) {
        if !self.queues.draining.can_go_on() {
            return;
        }
        let Some(at) = self.queues.draining.pop() else { return };
        self.queues.draining.set_under_way(true);
        self.queues.turn.drains();
        if self.queues.with(at, |topic, _| topic.settle_backlogs(most)).unwrap_or(false) {
            self.queues.draining.insert(at);
        }
        let finished = self.queues.topics.change(at, Topic::take_purged).unwrap_or_default();
        for Purge { to, events } in finished.into_iter().filter_map(|ticket| self.purges.by_ticket.remove(&ticket)) {
            self.queues.turn.reply(to, Outcome::Purged(events));
        }
    }
}

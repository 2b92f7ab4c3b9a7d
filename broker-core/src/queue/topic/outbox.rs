//! Schedules the dead letters that leave a topic.

use std::collections::BTreeSet;

use super::{Outgoing, SubscriptionId};
use crate::event::Millis;
use crate::name::TopicName;

/// The milliseconds until a full dead-letter topic is retried.
const FULL_MS: u64 = 1000;

/// The destination of a topic's dead letters, and the schedule for sending them.
///
/// Invariants:
/// - `waiting` has every subscription with unsent letters, and possibly others.
/// - One load of letters is under way at a time, so that they arrive in order. Events terminated by consumers do not wait for it,
///   because a client waits for the answer.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The dead-letter topic; `None` if its name would be invalid.
    address: Option<TopicName>,
    waiting: BTreeSet<SubscriptionId>,
    under_way: bool,
    /// If the dead-letter topic had no room: the time of the next attempt, and the reason.
    full: Option<(Millis, String)>,
    terminated: Vec<Outgoing>,
}

impl Outbox {
    pub(super) fn new(address: Option<TopicName>) -> Self {
        Self { address, waiting: BTreeSet::new(), under_way: false, full: None, terminated: Vec::new() }
    }

    pub(super) fn address(&self) -> Option<&TopicName> {
        self.address.as_ref()
    }

    /// Changes the dead-letter topic. Without a valid new name the old one stays, because letters under way need an address.
    pub(super) fn set_address(&mut self, address: Option<TopicName>) {
        if address.is_some() && address != self.address {
            self.address = address;
            self.full = None;
        }
    }

    /// Adds a subscription with unsent letters.
    pub(super) fn add(&mut self, sub: SubscriptionId) {
        self.waiting.insert(sub);
    }

    /// Removes a subscription without unsent letters.
    pub(super) fn remove(&mut self, sub: SubscriptionId) {
        self.waiting.remove(&sub);
    }

    /// The first subscription that may have unsent letters.
    pub(super) fn first(&self) -> Option<SubscriptionId> {
        self.waiting.first().copied()
    }

    /// Whether a load can be sent now.
    pub(super) fn can_send(&self, now: Millis) -> bool {
        !self.under_way && !self.waiting.is_empty() && self.why_full(now).is_none()
    }

    /// Whether nothing is sent or waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.under_way
    }

    pub(super) fn set_under_way(&mut self, under_way: bool) {
        self.under_way = under_way;
    }

    /// Handles the answer to the load under way. `full`: why the dead-letter topic had no room for some of it.
    pub(super) fn answered(&mut self, full: Option<String>, now: Millis) {
        self.under_way = false;
        self.full = full.map(|why| (now.plus(FULL_MS), why));
    }

    /// The reason why the dead-letter topic has no room now.
    pub(super) fn why_full(&self, now: Millis) -> Option<&str> {
        self.full.as_ref().filter(|(until, _)| *until > now).map(|(_, why)| why.as_str())
    }

    /// The time at which a full dead-letter topic is retried.
    pub(super) fn retry_at(&self) -> Option<Millis> {
        self.full.as_ref().filter(|_| !self.under_way && !self.waiting.is_empty()).map(|(until, _)| *until)
    }

    /// Adds an event terminated by its consumer.
    pub(super) fn push_terminated(&mut self, outgoing: Outgoing) {
        self.terminated.push(outgoing);
    }

    pub(super) fn take_terminated(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.terminated)
    }
}

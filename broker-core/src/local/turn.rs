//! A turn: the work of one wake-up of a shard, and the rules by which its effects leave.
//!
//! ```text
//!   messages, timers, reads
//!        │
//!        ▼
//!   Turn ── mutations ──► one Batch ──► Storage::submit ──► Commit
//!     │                                                       │
//!     └─ effects                                              ▼
//!          WhenWritten   replies, deliveries,            ◄── written: survives a kill of the broker
//!                        answers to other shards
//!          WhenDurable   confirmations, visibility,      ◄── durable: has reached the storage's Level
//!                        answers to sources and janitor
//! ```
//!
//! - **Nothing leaves before its turn is written.** A reply that left earlier could report an acknowledgement that a kill undoes:
//!   the event would be delivered again although its consumer was told that it is done.
//! - **A confirmation leaves only once its event is durable**, because that is what it promises. An event also becomes visible to
//!   subscriptions only then. Otherwise a consumer could act on an event whose publisher is told afterwards that it was refused.
//! - **A turn without mutations has nothing to wait for, except its predecessors.** Its replies follow the latest turn that is not
//!   written yet, so that each client sees its outcomes in the order of its requests.
//! - **If the storage fails, nothing of the turn takes effect outside.** Outcomes become refusals, and deliveries are dropped.
//!
//! [`Turn`] collects the mutations and effects; [`Commits`] holds the effects of submitted turns until their stage completes.

mod commits;
mod effects;
mod outbox;

pub(super) use commits::{Commits, Progress};
pub(super) use effects::{Answer, Effects, WhenDurable, WhenWritten};
pub(super) use outbox::{Outbox, ReplyTo};

use super::message::{PublishReply, RewriteReply};
use super::topics::TopicAt;
use crate::engine::{Delivery, Outcome};
use crate::event::{EventKey, Millis};
use crate::name::{SubscriptionName, TopicName};
use crate::queue::{ClientId, Topic};
use crate::storage::{Holder, Mutation, StoredEvent};

/// The turn that is being assembled.
///
/// # Invariant
/// The effects name one key for each `Publish` and `Rewrite` among the mutations, in their order: the storage returns the places
/// of these events by position.
#[derive(Default)]
pub(super) struct Turn {
    now: Millis,
    mutations: Vec<Mutation>,
    effects: Effects,
    touched: Vec<TopicAt>,
}

impl Turn {
    /// Sets the time of the turn. It stays the same for everything in it.
    pub(super) fn begin(&mut self, now: Millis) {
        self.now = now;
    }

    pub(super) fn now(&self) -> Millis {
        self.now
    }

    // ---- Changes ----

    /// Notes that a topic may have changed: changes to store, letters to send, timers to set.
    pub(super) fn touch(&mut self, at: TopicAt) {
        self.touched.push(at);
    }

    /// The topics touched since the last call, each once.
    pub(super) fn take_touched(&mut self) -> Vec<TopicAt> {
        self.touched.sort_unstable();
        self.touched.dedup();
        std::mem::take(&mut self.touched)
    }

    /// Adds a mutation that is not an event.
    pub(super) fn push(&mut self, mutation: Mutation) {
        debug_assert!(!matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. }), "its key would be missing");
        self.mutations.push(mutation);
    }

    /// Adds the settlements and redeliveries that a topic has to store.
    pub(super) fn drain_changes(&mut self, topic: &mut Topic) {
        topic.drain_changes(&mut self.mutations);
    }

    /// Adds the records of up to `most` deliveries of a topic. Returns the number of deliveries examined.
    pub(super) fn record_deliveries(&mut self, topic: &mut Topic, most: usize) -> usize {
        topic.record_deliveries(most, &mut self.mutations)
    }

    /// Stores an event, and makes it visible once it is durable.
    pub(super) fn store(&mut self, at: TopicAt, event: StoredEvent) {
        let key = event.key;
        self.effects.written.keys.push((at, key));
        self.effects.durable.show(at, key.seq);
        self.mutations.push(Mutation::Publish(event));
    }

    /// Stores another copy of an event, which replaces the earlier ones.
    pub(super) fn rewrite(&mut self, at: TopicAt, event: StoredEvent, holders: Vec<Holder>) {
        self.effects.written.keys.push((at, event.key));
        self.mutations.push(Mutation::Rewrite { event, holders });
    }

    // ---- Effects ----

    /// Answers a request once the turn is written.
    pub(super) fn reply(&mut self, to: ReplyTo, outcome: Outcome) {
        self.effects.written.outbox.outcome(to, outcome);
    }

    /// Answers a request once the turn is durable.
    pub(super) fn confirm(&mut self, to: ReplyTo, outcome: Outcome) {
        self.effects.durable.confirms.outcome(to, outcome);
    }

    /// Sends a delivery once the turn is written.
    pub(super) fn deliver(&mut self, client: ClientId, delivery: Delivery) {
        self.effects.written.outbox.delivery(client, delivery);
    }

    /// Tells a client that its durable subscription was removed, once the turn is written.
    pub(super) fn removed(&mut self, client: ClientId, topic: TopicName, subscription: SubscriptionName) {
        self.effects.written.outbox.removed(client, topic, subscription);
    }

    /// Answers another shard once the turn is written.
    pub(super) fn answer(&mut self, answer: Answer) {
        self.effects.written.answers.push(answer);
    }

    /// Answers a publisher within the process once the turn is durable.
    pub(super) fn answer_publisher(&mut self, reply: PublishReply, outcomes: Vec<Outcome>) {
        self.effects.durable.publishers.push((reply, outcomes));
    }

    /// Answers a storage's request to move events once the turn is durable.
    pub(super) fn answer_rewrite(&mut self, done: RewriteReply) {
        self.effects.durable.rewrites.push(done);
    }

    /// Notes that the turn drains a slice of a backlog.
    pub(super) fn drains(&mut self) {
        self.effects.written.drains = true;
    }

    // ---- The end ----

    /// Whether the turn stores anything so far.
    pub(super) fn stores(&self) -> bool {
        !self.mutations.is_empty()
    }

    /// Whether the turn stores an event so far.
    pub(super) fn stores_events(&self) -> bool {
        !self.effects.written.keys.is_empty()
    }

    /// The mutations and effects so far; the turn starts over.
    pub(super) fn take(&mut self) -> (Vec<Mutation>, Effects) {
        (std::mem::take(&mut self.mutations), std::mem::take(&mut self.effects))
    }
}

/// An event of a turn, by its topic's place.
pub(super) type KeyAt = (TopicAt, EventKey);

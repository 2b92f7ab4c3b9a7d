//! The effects of a turn, by the stage that they wait for.

use super::{KeyAt, Outbox};
use crate::engine::Outcome;
use crate::event::Seq;
use crate::local::message::{PublishReply, RewriteReply};
use crate::local::topics::TopicAt;

/// Tells another shard that a turn has been written.
pub(in crate::local) type Answer = Box<dyn FnOnce() + Send>;

/// The effects of a turn besides its mutations.
#[derive(Default)]
pub(in crate::local) struct Effects {
    pub(in crate::local) written: WhenWritten,
    pub(in crate::local) durable: WhenDurable,
}

/// The effects that leave once the turn is written.
#[derive(Default)]
pub(in crate::local) struct WhenWritten {
    /// The events among the mutations, in their order: each is given its place.
    pub(in crate::local) keys: Vec<KeyAt>,
    /// Replies and deliveries.
    pub(in crate::local) outbox: Outbox,
    /// Answers to other shards. An answer that is dropped tells its receiver that the turn failed.
    pub(in crate::local) answers: Vec<Answer>,
    /// Whether a slice of a backlog is among the mutations.
    pub(in crate::local) drains: bool,
}

/// The effects that leave once the turn is durable.
#[derive(Default)]
pub(in crate::local) struct WhenDurable {
    /// Confirmations.
    pub(in crate::local) confirms: Outbox,
    /// The sequence up to which each topic becomes visible.
    pub(in crate::local) visible: Vec<(TopicAt, Seq)>,
    /// Publishers within the process.
    pub(in crate::local) publishers: Vec<(PublishReply, Vec<Outcome>)>,
    /// The storage's own requests to move events.
    pub(in crate::local) rewrites: Vec<RewriteReply>,
}

impl WhenDurable {
    pub(super) fn show(&mut self, at: TopicAt, seq: Seq) {
        match self.visible.last_mut().filter(|(other, _)| *other == at) {
            Some((_, latest)) => *latest = seq,
            None => self.visible.push((at, seq)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.confirms.is_empty() && self.visible.is_empty() && self.publishers.is_empty() && self.rewrites.is_empty()
    }
}

//! Changes of a subscription that are not yet handed to the storage.

use crate::event::EventKey;
use crate::storage::Redelivery;

/// The changes of a subscription since the last hand-over to the storage.
///
/// Invariant: a subscription that belongs to its connection is not stored and collects nothing.
#[derive(Debug)]
pub(in crate::queue) struct Unstored {
    durable: bool,
    settled: Vec<EventKey>,
    redelivered: Vec<Redelivery>,
}

impl Unstored {
    pub(super) fn new(durable: bool) -> Self {
        Self { durable, settled: Vec::new(), redelivered: Vec::new() }
    }

    /// Records a settlement.
    #[inline]
    pub(super) fn settle(&mut self, key: EventKey) {
        if self.durable {
            self.settled.push(key);
        }
    }

    /// Records an event that came back to the queue.
    pub(super) fn come_back(&mut self, event: Redelivery) {
        if self.durable {
            self.redelivered.push(event);
        }
    }

    /// Whether there are settlements.
    pub(in crate::queue) fn has_settled(&self) -> bool {
        !self.settled.is_empty()
    }

    /// Takes the events that came back. They are stored before the settlements, because an event that came back and was then settled
    /// is settled.
    pub(in crate::queue) fn take_redelivered(&mut self) -> Vec<Redelivery> {
        std::mem::take(&mut self.redelivered)
    }

    /// Takes the settlements.
    pub(in crate::queue) fn take_settled(&mut self) -> Vec<EventKey> {
        std::mem::take(&mut self.settled)
    }
}

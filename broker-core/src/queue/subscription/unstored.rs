//! Changes of a subscription that are not yet handed to the storage.

use crate::event::EventKey;
use crate::name::IdKey;
use crate::storage::Redelivery;

/// The changes of a subscription since the last hand-over to the storage.
///
/// Invariant: a subscription that belongs to its connection is not stored and collects nothing.
#[derive(Debug)]
pub(in crate::queue) struct Unstored {
    durable: bool,
    settled: Vec<EventKey>,
    redelivered: Vec<Redelivery>,
    /// Deliveries to record, possibly of events that are not in flight any more.
    delivered: Vec<(IdKey, EventKey)>,
}

impl Unstored {
    pub(super) fn new(durable: bool) -> Self {
        Self { durable, settled: Vec::new(), redelivered: Vec::new(), delivered: Vec::new() }
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

    /// Notes a delivery whose count has to outlive a kill.
    pub(super) fn deliver(&mut self, id: IdKey, key: EventKey) {
        if self.durable {
            self.delivered.push((id, key));
        }
    }

    /// The number of deliveries to record.
    #[inline]
    pub(super) fn delivered(&self) -> usize {
        self.delivered.len()
    }

    /// Takes up to `most` deliveries to record.
    pub(super) fn take_delivered(&mut self, most: usize) -> Vec<(IdKey, EventKey)> {
        self.delivered.drain(..most.min(self.delivered.len())).collect()
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

//! The events of one commit, with the position after them.

use broker_core::event::NewEvent;
use broker_core::name::TopicName;

use super::position::Position;

/// The most events in a batch, and the number of bytes that ends it.
const BATCH: (usize, usize) = (1024, 8 << 20);

/// Events that have been read and not yet published.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<(TopicName, NewEvent)>,
    pub(super) bytes: usize,
    /// The position after the last change that was read, whether or not it became an event.
    pub(super) position: Option<Position>,
}

impl Batch {
    pub(super) fn push(&mut self, event: (TopicName, NewEvent)) {
        self.bytes += event.1.payload.len();
        self.events.push(event);
    }

    pub(super) fn is_full(&self, most: usize) -> bool {
        self.events.len() >= most.min(BATCH.0) || self.bytes >= BATCH.1
    }
}

//! Recording deliveries where `max_deliveries` is set, so that an event that takes the broker down is counted.
//!
//! A record is worth no write of its own while others come: it joins the next batch. Only if none comes within [`LATEST_MS`] is a batch
//! written for it, which no client waits for.

use std::collections::BTreeSet;

use super::Shard;
use crate::event::Millis;
use crate::local::topics::TopicAt;
use crate::storage::Storage;

/// The time within which a delivery is recorded, in milliseconds.
const LATEST_MS: u64 = 100;

/// Deliveries recorded in one batch. The rest follow in the next one.
const RECORDS: usize = 4096;

/// The topics with deliveries to record.
///
/// # Invariant
/// There is a `due` time exactly while there are topics.
#[derive(Default)]
pub(super) struct Recordings {
    topics: BTreeSet<TopicAt>,
    due: Option<Millis>,
}

impl Recordings {
    fn add(&mut self, at: TopicAt, now: Millis) {
        self.topics.insert(at);
        self.due.get_or_insert_with(|| now.plus(LATEST_MS));
    }

    /// The time at which a batch is written if there was none before.
    pub(super) fn due(&self) -> Option<Millis> {
        self.due
    }
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Notes whether a topic has deliveries to record.
    pub(super) fn note_deliveries(&mut self, at: TopicAt) {
        if self.queues.topics.get(at).is_some_and(|topic| topic.has_deliveries_to_record()) {
            self.recordings.add(at, self.queues.turn.now());
        }
    }

    /// Adds the records to the turn, if it stores something anyway or they have waited long enough.
    pub(super) fn record_deliveries(&mut self) {
        let Some(due) = self.recordings.due else { return };
        let now = self.queues.turn.now();
        if due > now && !self.queues.turn.stores() {
            return;
        }
        let mut left = RECORDS;
        while left > 0
            && let Some(at) = self.recordings.topics.last().copied()
        {
            left -= self.queues.record_deliveries(at, left);
            if self.queues.topics.get(at).is_none_or(|topic| !topic.has_deliveries_to_record()) {
                self.recordings.topics.pop_last();
            }
        }
        self.recordings.due = (!self.recordings.topics.is_empty()).then_some(now);
    }
}

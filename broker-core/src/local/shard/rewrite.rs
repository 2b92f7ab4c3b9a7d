//! Requests of the storage to move events, so that it can free the space around them.

use std::time::Duration;

use super::Shard;
use super::errands::Done;
use crate::local::message::RewriteReply;
use crate::queue::Topic;
use crate::storage::{Place, Storage, StoredEvent};

/// The pause before a rewrite is retried while one of its events is moving to another shard.
const MOVING: Duration = Duration::from_millis(20);

/// A request to move events.
pub(super) struct Rewrite {
    pub(super) events: Vec<(StoredEvent, Place)>,
    pub(super) done: RewriteReply,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Stores again those events that still wait and are still at the given place, with their present holders.
    pub(super) fn rewrite(&mut self, rewrite: Rewrite) {
        let is_moving =
            |(event, _): &(StoredEvent, Place)| self.topic_named(event).is_some_and(|topic| topic.is_moving(event.key));
        if rewrite.events.iter().any(is_moving) {
            // Another shard is about to store, with a dead letter, that a subscription has settled one of these events. The record
            // of a rewrite names the holders of its event. It would follow that settlement, and return the event to the
            // subscription.
            return self.errands.run(async move {
                tokio::time::sleep(MOVING).await;
                Done::Rewrite(rewrite)
            });
        }
        let Rewrite { events, done } = rewrite;
        for (event, place) in events {
            let Some(at) = self.queues.topics.find(&event.topic) else { continue };
            let Some(holders) = self.queues.topics.get(at).and_then(|topic| topic.holders(event.key, place)) else {
                continue;
            };
            self.queues.with(at, |topic, _| topic.await_place());
            self.queues.turn.rewrite(at, event, holders);
        }
        self.queues.turn.answer_rewrite(done);
    }

    fn topic_named(&self, event: &StoredEvent) -> Option<&Topic> {
        self.queues.topics.get(self.queues.topics.find(&event.topic)?)
    }
}

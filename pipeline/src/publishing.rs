//! What every source does to hand its events over: publish until all are taken, and count what came of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::engine::{Cursor, Outcome, Refusal};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::Publisher;
use tokio_util::sync::CancellationToken;

/// How long the broker is left alone after it refused or could not store: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a source has done since it started. Shared, so that others can show it.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// Events read from the feed.
    pub read: AtomicU64,
    /// Events that the broker has taken.
    pub published: AtomicU64,
    /// Events that are not published by the rules of the configuration, or because they are too large or too deep.
    pub skipped: AtomicU64,
    /// Events that the broker refused for good.
    pub refused: AtomicU64,
}

/// A source's way to the broker.
pub(crate) struct Publishing {
    name: String,
    publisher: Arc<dyn Publisher>,
    counters: Arc<SourceCounters>,
    shutdown: CancellationToken,
}

impl Publishing {
    /// For the source called `name`, until `shutdown`.
    pub(crate) fn new(
        name: &str,
        publisher: Arc<dyn Publisher>,
        counters: Arc<SourceCounters>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { name: name.to_owned(), publisher, counters, shutdown }
    }

    /// The cursor last committed, asked for until there is an answer. `None`: told to stop meanwhile.
    pub(crate) async fn cursor(&self) -> Option<Option<String>> {
        let mut pause = PAUSE.0;
        loop {
            match self.publisher.cursor(&self.name).await {
                Ok(cursor) => return Some(cursor),
                Err(error) => tracing::warn!(source = %self.name, %error, "the cursor cannot be read; trying again"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }

    /// Publishes until everything is taken or refused for good, and moves the cursor with it. False: told to stop meanwhile.
    pub(crate) async fn publish(&self, mut events: Vec<(TopicName, NewEvent)>, cursor: Option<String>) -> bool {
        let cursor = cursor.map(|value| Cursor { source: self.name.clone(), value });
        let mut pause = PAUSE.0;
        loop {
            let answer = tokio::select! {
                // What is under way when the broker stops is committed or not; the cursor knows.
                () = self.shutdown.cancelled() => return false,
                answer = self.publisher.publish(events.clone(), cursor.clone()) => answer,
            };
            match answer {
                Ok(outcomes) => {
                    events = self.left_over(events, outcomes);
                    if events.is_empty() {
                        return true;
                    }
                    if pause == PAUSE.0 {
                        tracing::warn!(source = %self.name, topic = %events[0].0, "the topic is full: reading goes on when there is room");
                    }
                }
                Err(error) => tracing::warn!(source = %self.name, %error, "publishing failed; trying again"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Counts outcomes, and keeps the events for which there was no room.
    fn left_over(&self, events: Vec<(TopicName, NewEvent)>, outcomes: Vec<Outcome>) -> Vec<(TopicName, NewEvent)> {
        let mut left = Vec::new();
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)) => left.push(event),
                Outcome::Refused(refusal) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(source = %self.name, topic = %event.0, id = %event.1.payload.id(), %refusal, "the broker refused an event");
                }
                _ => {
                    self.counters.published.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        left
    }
}

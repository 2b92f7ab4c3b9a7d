//! Publishes documents that can never be stored to a topic of the broker, with the reason.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::Backoff;
use broker_core::engine::{Outcome, Refusal};
use broker_core::event::{NewEvent, Payload, Priority};
use broker_core::name::{IdKey, TopicName};
use broker_core::source::Publisher;
use serde::Serialize;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio_util::sync::CancellationToken;

use crate::sink::{Collection, Poison};

/// The most bytes of a document that are published. Escaped, they still fit into a line that brokers accept.
const MAX_DOCUMENT_BYTES: usize = 128 << 10;

/// The first and the longest backoff after the broker failed or refused for lack of room.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The publisher of dead letters and its topic.
pub(super) struct DeadLetters {
    pub(super) topic: TopicName,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) count: Arc<AtomicU64>,
}

/// The event's `msg`.
#[derive(Serialize)]
struct Letter<'a> {
    /// The collection it was meant for; null if it was not a tweet.
    collection: Option<&'static str>,
    id: &'a str,
    reason: &'a str,
    /// As text, since it may not be JSON.
    document: &'a str,
    /// Whether `document` was truncated.
    truncated: bool,
}

impl DeadLetters {
    /// Publishes letters until the broker accepts them, or refuses them permanently, which is logged. False if told to stop
    /// first.
    pub(super) async fn publish(&self, poison: Vec<Poison>, stop: &CancellationToken) -> bool {
        for one in &poison {
            self.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(topic = %self.topic, collection = one.collection.map(Collection::as_str), id = %one.id, reason = %one.reason, "document moved to the dead letters");
        }
        let mut events: Vec<_> = poison.iter().map(|one| (self.topic.clone(), self.letter(one))).collect();
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        while !events.is_empty() {
            match self.publisher.publish(events.clone()).await {
                Ok(outcomes) => events = self.left_over(events, outcomes),
                Err(error) => {
                    tracing::warn!(topic = %self.topic, %error, "publishing dead letters failed, retrying");
                }
            }
            if events.is_empty() {
                break;
            }
            if stop.is_cancelled() {
                return false;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        true
    }

    /// Equal letters have equal ids, so that a letter published again replaces itself.
    fn letter(&self, poison: &Poison) -> NewEvent {
        let Poison { collection, id, document, reason } = poison;
        let collection = collection.map(Collection::as_str);
        let most = document.len().min(MAX_DOCUMENT_BYTES);
        let cut = (0..=most).rev().find(|at| document.is_char_boundary(*at)).unwrap_or(0);
        let letter = Letter { collection, id, reason, document: &document[..cut], truncated: cut < document.len() };
        let msg = serde_json::to_string(&letter).expect("strings are JSON");
        let mut hasher = SipHasher13::new();
        for part in [collection.unwrap_or_default(), id, document] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        let event_id = format!("{:032x}", hasher.finish128().as_u128());
        let priority = Priority::default();
        let payload = Payload::encode(self.topic.as_str(), priority, &msg, &event_id);
        NewEvent { id: IdKey::of(&event_id), priority, ttl_ms: 0, delay_ms: 0, payload }
    }

    /// The letters that did not fit.
    fn left_over(&self, events: Vec<(TopicName, NewEvent)>, outcomes: Vec<Outcome>) -> Vec<(TopicName, NewEvent)> {
        let mut left = Vec::new();
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)) => left.push(event),
                Outcome::Refused(refusal) => {
                    tracing::error!(topic = %self.topic, id = %event.1.payload.id(), %refusal, "the broker refused a dead letter, which is lost");
                }
                _ => {}
            }
        }
        left
    }
}

//! What can never be stored, published to a topic of the broker together with the reason.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::engine::{Outcome, Refusal};
use broker_core::event::{NewEvent, Payload, Priority};
use broker_core::name::{IdKey, TopicName};
use broker_core::source::Publisher;
use serde::Serialize;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio_util::sync::CancellationToken;

use crate::sink::{Collection, Poison};

/// The most of a document that is published, in bytes. Escaped, it still fits into the lines that brokers take.
const MAX_DOCUMENT_BYTES: usize = 128 << 10;

/// How long the broker is left alone after it refused for want of room or failed: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where dead letters go.
pub(super) struct DeadLetters {
    pub(super) topic: TopicName,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) count: Arc<AtomicU64>,
}

/// The event's `msg`.
#[derive(Serialize)]
struct Letter<'a> {
    /// Where it should have gone; null: it was no tweet.
    collection: Option<&'static str>,
    id: &'a str,
    reason: &'a str,
    /// As text, since it need not be JSON.
    document: &'a str,
    /// Whether `document` is only its beginning.
    truncated: bool,
}

impl DeadLetters {
    /// Publishes letters until the broker has taken them, or refused them for good, which is logged. False: told to stop meanwhile.
    pub(super) async fn publish(&self, poison: Vec<Poison>, stop: &CancellationToken) -> bool {
        for one in &poison {
            self.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(topic = %self.topic, collection = one.collection.map(Collection::as_str), id = %one.id, reason = %one.reason, "to the dead letters");
        }
        let mut events: Vec<_> = poison.iter().map(|one| (self.topic.clone(), self.letter(one))).collect();
        let mut pause = PAUSE.0;
        while !events.is_empty() {
            match self.publisher.publish(events.clone(), None).await {
                Ok(outcomes) => events = self.left_over(events, outcomes),
                Err(error) => {
                    tracing::warn!(topic = %self.topic, %error, "dead letters cannot be published; trying again");
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
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
        true
    }

    /// The same letter has the same id, so that one published again replaces itself.
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

    /// Those for which there was no room.
    fn left_over(&self, events: Vec<(TopicName, NewEvent)>, outcomes: Vec<Outcome>) -> Vec<(TopicName, NewEvent)> {
        let mut left = Vec::new();
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)) => left.push(event),
                Outcome::Refused(refusal) => {
                    tracing::error!(topic = %self.topic, id = %event.1.payload.id(), %refusal, "the broker refused a dead letter: it is lost");
                }
                _ => {}
            }
        }
        left
    }
}

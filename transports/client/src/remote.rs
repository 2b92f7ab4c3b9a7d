//! A broker elsewhere as a [`Publisher`]: what sources hand over goes out over the wire, and their cursors stay here.
//!
//! A cursor is stored once the broker has confirmed everything that it covers, so a kill at any moment repeats events and
//! loses none. What is repeated has the ids that it had before, which sources derive from the cursor, so the broker replaces
//! what still waits of it.
//!
//! Each batch is delivered by a task of its own. So a source that is told to stop, and drops its call, takes nothing back:
//! [`RemotePublisher::close`] waits for what is under way, and its cursor is stored.

mod cursors;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::engine::{Cursor, Outcome, Refusal, Unavailable};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::Publisher;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::config::ClientConfig;
use crate::error::Error;
use crate::event::Event;
use crate::name::EventId;
use crate::reply;
use crate::state::ConnectionState;
pub use cursors::CursorError;
use cursors::Cursors;

/// The first and the longest wait before a connection that had ended for good (a refused token, say) is begun anew: a person
/// may have put right at the other end what was wrong. Long, because brokers hold wrong tokens against an address.
const ANEW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The first and the longest wait before a cursor that could not be stored is stored again.
const STORE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Publishes to a broker elsewhere. Needs a tokio runtime around it.
///
/// It connects at once and reconnects for ever, with backoff; a batch waits meanwhile. Confirmations are waited for; what the
/// broker refuses because a topic is full, or its storage out of service, is told to the source, which hands it over again.
/// Order is kept, save for what a full topic has refused.
pub struct RemotePublisher {
    shared: Arc<Shared>,
}

struct Shared {
    config: ClientConfig,
    line: Mutex<Line>,
    /// Connections in a row that ended for good before anything was confirmed.
    failures: AtomicU32,
    cursors: Arc<Cursors>,
    /// Batches in the order in which they were handed over.
    batches: AtomicU64,
    tasks: TaskTracker,
    /// The time for orderly ends is over.
    abandon: CancellationToken,
}

/// The client in use, and before when there is to be no other.
struct Line {
    client: Client,
    not_before: Instant,
}

impl RemotePublisher {
    /// Begins to connect, and opens the directory `cursors`, which is made if it is not there; no other process can have it
    /// meanwhile. The cursors of `sources` are read, so that one that cannot be is found before anything is published.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open<'a>(
        config: ClientConfig,
        cursors: &Path,
        sources: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OpenError> {
        let cursors = Cursors::open(cursors)?;
        for source in sources {
            cursors.get(source)?;
        }
        let client = Client::lazy(config.clone())?;
        client.begin_connecting();
        let shared = Shared {
            config,
            line: Mutex::new(Line { client, not_before: Instant::now() + ANEW.0 }),
            failures: AtomicU32::new(0),
            cursors: Arc::new(cursors),
            batches: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            abandon: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends in an orderly way, after the sources: waits at most `limit` for what is under way, as long as there is a
    /// connection, and stores the cursors of what is confirmed. False: something was cut off, and is published again.
    pub async fn close(&self, limit: Duration) -> bool {
        let Shared { line, tasks, abandon, .. } = &*self.shared;
        tasks.close();
        // Where somebody has it, he waits for the time of a new connection: there is none.
        let state = line.try_lock().map(|line| line.client.state());
        let finished = match state {
            _ if tasks.is_empty() => true,
            Ok(mut state) => tokio::select! {
                () = tasks.wait() => true,
                _ = state.wait_for(|state| !state.is_connected()) => false,
                () = sleep(limit) => false,
            },
            Err(_) => false,
        };
        abandon.cancel();
        // They end at once now, save for one that is writing a cursor.
        let ended = timeout(limit, tasks.wait()).await.is_ok();
        if finished {
            // A courtesy, as nothing is unconfirmed.
            let client = line.lock().await.client.clone();
            if !matches!(timeout(limit, client.close()).await, Ok(Ok(()))) {
                tracing::debug!("the publishing connection did not end in an orderly way");
            }
        }
        finished && ended
    }
}

impl std::fmt::Debug for RemotePublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemotePublisher").field("address", self.shared.config.address()).finish_non_exhaustive()
    }
}

/// Why there can be no [`RemotePublisher`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The cursors cannot be used.
    #[error(transparent)]
    Cursors(#[from] CursorError),
    /// The settings cannot.
    #[error(transparent)]
    Client(#[from] Error),
}

#[async_trait]
impl Publisher for RemotePublisher {
    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        if self.shared.tasks.is_closed() {
            return Err(Unavailable("the publisher is closed".into()));
        }
        let number = self.shared.batches.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        let (answer, answered) = oneshot::channel();
        self.shared.tasks.spawn(async move {
            let abandon = shared.abandon.clone();
            let delivered = tokio::select! {
                delivered = shared.deliver(events, cursor, number) => delivered,
                () = abandon.cancelled() => Err(Unavailable("the publisher is closed".into())),
            };
            // An error here is a source that has been told to stop.
            let _ = answer.send(delivered);
        });
        answered.await.unwrap_or_else(|_| Err(Unavailable("publishing was cut off".into())))
    }

    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable> {
        let (cursors, source) = (Arc::clone(&self.shared.cursors), source.to_owned());
        let read = tokio::task::spawn_blocking(move || cursors.get(&source)).await;
        read.map_err(|panic| unavailable(&panic))?.map_err(|error| unavailable(&error))
    }
}

impl Shared {
    /// The client, once it is connected, because only then the longest line that the broker takes is known; a new one for one that
    /// has ended for good.
    async fn client(&self) -> Result<Client, Error> {
        let mut line = self.line.lock().await;
        if line.client.state().borrow().is_ended() {
            sleep_until(line.not_before).await;
            let client = Client::lazy(self.config.clone())?;
            client.begin_connecting();
            let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
            let wait = ANEW.0.saturating_mul(1 << failures).min(ANEW.1);
            *line = Line { client, not_before: Instant::now() + wait };
        }
        let client = line.client.clone();
        // Other batches may wait for the same.
        drop(line);
        let mut state = client.state();
        match state.wait_for(|state| state.is_connected() || state.is_ended()).await.as_deref() {
            Ok(ConnectionState::Ended { reason }) => Err(reason.clone()),
            Ok(_) => Ok(client),
            Err(_) => Err(Error::Closed),
        }
    }

    async fn deliver(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
        number: u64,
    ) -> Result<Vec<Outcome>, Unavailable> {
        let outcomes = if events.is_empty() { Vec::new() } else { self.send(&events).await? };
        let again =
            |outcome: &Outcome| matches!(outcome, Outcome::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)));
        if let Some(cursor) = cursor.filter(|_| !outcomes.iter().any(again)) {
            self.store(cursor, number).await;
        }
        Ok(outcomes)
    }

    async fn send(&self, events: &[(TopicName, NewEvent)]) -> Result<Vec<Outcome>, Unavailable> {
        let explain = |error: Error| {
            let hint = if matches!(error, Error::Auth { .. }) { "; publish.token is what it is given" } else { "" };
            Unavailable(format!("{}: {}{hint}", self.config.address(), error.with_causes()).into())
        };
        let client = self.client().await.map_err(explain)?;
        let mut sent = Vec::with_capacity(events.len());
        for (topic, event) in events {
            let queued = match to_send(topic, event) {
                Ok((topic, event)) => client.send(&topic, event).await,
                Err(error) => Err(error),
            };
            match queued {
                Ok(pending) => sent.push(Ok(pending)),
                Err(error @ (Error::Invalid(_) | Error::TooLarge { .. })) => sent.push(Err(error)),
                Err(error) => return Err(explain(error)),
            }
        }
        let mut outcomes = Vec::with_capacity(events.len());
        for ((topic, _), sent) in events.iter().zip(sent) {
            let answer = match sent {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            };
            outcomes.push(match answer {
                Ok(confirmation) => outcome(confirmation.outcome),
                Err(error @ (Error::Invalid(_) | Error::TooLarge { .. })) => {
                    Outcome::Refused(Refusal::Elsewhere(error.to_string()))
                }
                Err(Error::Refused { reason }) => Outcome::Refused(refusal(topic, &reason)),
                Err(error) => return Err(explain(error)),
            });
        }
        self.failures.store(0, Ordering::Relaxed);
        Ok(outcomes)
    }

    /// Stores a cursor, however long that takes: what it covers is confirmed, and to hand that over again would publish it
    /// twice.
    async fn store(&self, cursor: Cursor, number: u64) {
        let mut wait = STORE_AGAIN.0;
        loop {
            let (cursors, to_store) = (Arc::clone(&self.cursors), cursor.clone());
            let stored = tokio::task::spawn_blocking(move || cursors.put(&to_store, number)).await;
            let error = match stored {
                Ok(Ok(())) => return,
                Ok(Err(error)) => unavailable(&error),
                Err(panic) => unavailable(&panic),
            };
            tracing::error!(source = %cursor.source, %error, ?wait, "the source's cursor cannot be stored; trying again");
            sleep(wait).await;
            wait = (wait * 2).min(STORE_AGAIN.1);
        }
    }
}

fn unavailable(error: &dyn std::error::Error) -> Unavailable {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    Unavailable(text.into())
}

/// An event as the client takes it. Its id is that of the source, so it is the same whenever it is sent.
fn to_send(topic: &TopicName, event: &NewEvent) -> Result<(crate::name::TopicName, Event), Error> {
    #[derive(Deserialize)]
    struct Encoded<'a> {
        #[serde(borrow)]
        msg: &'a RawValue,
    }
    let encoded: Encoded<'_> = serde_json::from_slice(event.payload.bytes())
        .map_err(|error| Error::Invalid(format!("the event is not one: {error}")))?;
    let event = Event {
        id: Some(EventId::new(event.payload.id())?),
        priority: event.priority.0,
        msg: encoded.msg.to_owned(),
        ttl_ms: (event.ttl_ms > 0).then_some(event.ttl_ms),
        delay_ms: (event.delay_ms > 0).then_some(event.delay_ms),
    };
    Ok((crate::name::TopicName::new(topic.as_str())?, event))
}

fn outcome(outcome: reply::Outcome) -> Outcome {
    match outcome {
        reply::Outcome::Published | reply::Outcome::AlreadyThere => Outcome::Published { replaced: false },
        reply::Outcome::Replaced => Outcome::Published { replaced: true },
        reply::Outcome::Dropped => Outcome::Dropped,
    }
}

/// A refusal by what the broker says: its texts are a part of the protocol.
fn refusal(topic: &TopicName, reason: &str) -> Refusal {
    if let Some(limit) = reply::full(reason, topic.as_str()) {
        return Refusal::Full { topic: topic.clone(), limit: limit.to_owned() };
    }
    if let Some(why) = reply::out_of_service(reason) {
        return Refusal::Unavailable(Unavailable(why.into()));
    }
    if reply::is_duplicate(reason) {
        return Refusal::DuplicateId;
    }
    Refusal::Elsewhere(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use broker_core::event::{Payload, Priority};
    use broker_core::name::IdKey;

    use super::*;

    #[test]
    fn what_can_pass_is_told_from_what_cannot() {
        let topic = TopicName::new("t").unwrap();
        let full = Refusal::Full { topic: topic.clone(), limit: "subscription \"a\" has 3 events".to_owned() };
        let out = Refusal::Unavailable(Unavailable("disk full".into()));
        for refused in [full, out] {
            assert_eq!(refusal(&topic, &refused.to_string()), refused, "the engine's own words");
        }
        assert_eq!(refusal(&topic, "duplicate id 7"), Refusal::DuplicateId);
        for other in ["topic other is full: x", "not allowed to publish to topic t", "storage is out"] {
            assert_eq!(refusal(&topic, other), Refusal::Elsewhere(other.to_owned()));
        }
    }

    #[test]
    fn an_event_keeps_its_id_priority_times_and_message() {
        let topic = TopicName::new("a.b").unwrap();
        let payload = Payload::encode("a.b", Priority(-3), "{\"x\": 1e400}", "i\"d");
        let event = NewEvent { id: IdKey::of("i\"d"), priority: Priority(-3), ttl_ms: 5, delay_ms: 0, payload };
        let (name, event) = to_send(&topic, &event).unwrap();
        assert_eq!((name.as_str(), event.id.as_ref().unwrap().as_str(), event.priority), ("a.b", "i\"d", -3));
        assert_eq!((event.msg.get(), event.ttl_ms, event.delay_ms), ("{\"x\": 1e400}", Some(5), None));
    }
}

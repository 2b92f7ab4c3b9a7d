//! A [`Publisher`] to a remote broker: events from sources are sent over the wire, and the sources' cursors are stored locally.
//!
//! A cursor is stored once the broker has confirmed everything that it covers, so a kill at any moment may repeat events but loses
//! none. Events that the broker refuses because their topic is full are set aside: they are stored beside the cursor before it moves
//! past them. Sources derive ids from the cursor, so a repeated event has its old id and replaces a waiting copy.
//!
//! Each batch is published by a task of its own. So a source that stops and drops its call does not abort the batch:
//! [`RemotePublisher::close`] waits for batches under way and stores their cursors.

mod cursors;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::engine::{Handover, Offer, Outcome, Refusal, Standing, Unavailable};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::Publisher;
use broker_core::{Backoff, error_chain};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
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
use cursors::{Cursors, Stand};

/// The first and the longest wait before a new connection after a permanent failure such as a refused token, because an operator may
/// have fixed the cause at the other end. Long, because brokers count wrong tokens per address.
const ANEW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The first and the longest wait before another attempt to store a cursor.
const STORE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The time that aborted batches have to end, after the limit of [`RemotePublisher::close`].
const GRACE: Duration = Duration::from_millis(200);

/// Publishes to a remote broker. Needs a tokio runtime.
///
/// It connects at once and reconnects indefinitely, with backoff; a batch waits for the connection and for its confirmations. Events
/// that the broker refuses because a topic is full, or because its storage is out of service, are reported to the source, which submits
/// them again. Order is kept, except for events that a full topic has refused.
pub struct RemotePublisher {
    shared: Arc<Shared>,
}

struct Shared {
    config: ClientConfig,
    line: Mutex<Line>,
    /// The backoff over consecutive connections that failed permanently before any confirmation.
    anew: std::sync::Mutex<Backoff>,
    cursors: Arc<Cursors>,
    /// The number of batches so far, which gives each its place in the order.
    batches: AtomicU64,
    tasks: TaskTracker,
    /// Cancelled when the time for an orderly end is over.
    abandon: CancellationToken,
}

/// The client in use, and the earliest time at which another may replace it.
struct Line {
    client: Client,
    not_before: Instant,
}

impl RemotePublisher {
    /// Starts to connect, and locks the directory `cursors`, creating it if it is missing. Reads the cursors of `sources` now, so that
    /// an unreadable cursor is found before anything is published.
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
            anew: std::sync::Mutex::new(Backoff::new(ANEW.0, ANEW.1).at_least(ANEW.0)),
            cursors: Arc::new(cursors),
            batches: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            abandon: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Closes the publisher in an orderly way, after its sources: waits up to `limit` for batches under way, as long as there is a
    /// connection, and stores the cursors of confirmed ones. Returns false if a batch was aborted, which is then published again.
    ///
    /// It takes `limit` and [`GRACE`] at most, whatever the broker, the network or the disk does.
    pub async fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let Shared { line, tasks, abandon, .. } = &*self.shared;
        tasks.close();
        // A held lock means that its holder waits for a new connection, so there is none now.
        let state = line.try_lock().map(|line| line.client.state());
        let finished = match state {
            _ if tasks.is_empty() => true,
            Ok(mut state) => tokio::select! {
                () = tasks.wait() => true,
                _ = state.wait_for(|state| !state.is_connected()) => false,
                () = sleep_until(deadline) => false,
            },
            Err(_) => false,
        };
        abandon.cancel();
        let ended = timeout(GRACE, tasks.wait()).await.is_ok();
        if finished {
            // A courtesy, because nothing is unconfirmed.
            let courtesy = async { line.lock().await.client.clone().close().await };
            if !matches!(timeout_at(deadline, courtesy).await, Ok(Ok(()))) {
                tracing::debug!("the publishing connection was not closed in an orderly way");
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
    async fn publish(&self, events: Vec<(TopicName, NewEvent)>) -> Result<Vec<Outcome>, Unavailable> {
        self.shared.begin(Batch::Events(events)).await
    }

    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        self.shared.begin(Batch::Handover(handover)).await
    }

    async fn standing(&self, source: &str) -> Result<Standing, Unavailable> {
        let (cursors, source) = (Arc::clone(&self.shared.cursors), source.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            Ok::<_, CursorError>(Standing { cursor: cursors.get(&source)?, aside: cursors.aside(&source)? })
        });
        read.await.map_err(|panic| unavailable(&panic))?.map_err(|error| unavailable(&error))
    }
}

/// A batch to be delivered.
enum Batch {
    /// Events that belong to no source.
    Events(Vec<(TopicName, NewEvent)>),
    /// A source's.
    Handover(Handover),
}

impl Shared {
    /// Delivers a batch in a task of its own, which a source that is told to stop does not take back.
    async fn begin(self: &Arc<Self>, batch: Batch) -> Result<Vec<Outcome>, Unavailable> {
        if self.tasks.is_closed() {
            return Err(Unavailable("the publisher is closed".into()));
        }
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(self);
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn(async move {
            let abandon = shared.abandon.clone();
            let deliver = async {
                match batch {
                    Batch::Events(events) if events.is_empty() => Ok(Vec::new()),
                    Batch::Events(events) => shared.send(&events).await,
                    Batch::Handover(handover) => shared.deliver(handover, number).await,
                }
            };
            let delivered = tokio::select! {
                delivered = deliver => delivered,
                () = abandon.cancelled() => Err(Unavailable("the publisher is closed".into())),
            };
            // An error here is a source that has been told to stop.
            let _ = answer.send(delivered);
        });
        answered.await.unwrap_or_else(|_| Err(Unavailable("publishing was cut off".into())))
    }

    fn anew(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.anew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, once it is connected, because only then the longest line that the broker takes is known; a new one for one that
    /// has ended for good.
    async fn client(&self) -> Result<Client, Error> {
        let mut line = self.line.lock().await;
        if line.client.state().borrow().is_ended() {
            sleep_until(line.not_before).await;
            let client = Client::lazy(self.config.clone())?;
            client.begin_connecting();
            let wait = self.anew().next_delay();
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

    /// Sends the events of a source that are not held, then stores where the source stands: first what stands aside now, then the
    /// cursor that has passed it, then what no longer does. A kill in between repeats events and loses none.
    async fn deliver(&self, handover: Handover, number: u64) -> Result<Vec<Outcome>, Unavailable> {
        let Handover { source, events: offers, cursor, .. } = handover;
        let events: Vec<(TopicName, NewEvent)> =
            offers.iter().filter(|offer| !offer.held).map(|offer| (offer.topic.clone(), offer.event.clone())).collect();
        let mut sent = if events.is_empty() { Vec::new() } else { self.send(&events).await? }.into_iter();
        let held = |offer: &Offer| {
            let limit = "earlier events stand aside".to_owned();
            Outcome::Refused(Refusal::Full { topic: offer.topic.clone(), limit })
        };
        let outcomes: Vec<Outcome> = offers
            .iter()
            .map(|offer| if offer.held { None } else { sent.next() }.unwrap_or_else(|| held(offer)))
            .collect();
        let (mut aside, mut gone) = (Vec::new(), Vec::new());
        for (offer, outcome) in offers.into_iter().zip(&outcomes) {
            match (offer.aside, outcome.stands_aside()) {
                (false, true) => aside.push(offer),
                (true, false) => gone.push(offer.number),
                _ => {}
            }
        }
        if !aside.is_empty() || !gone.is_empty() || cursor.is_some() {
            self.store(Stand { source, number, aside, cursor, gone }).await;
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
        self.anew().reset();
        Ok(outcomes)
    }

    /// Stores where a source stands, however long that takes: what the cursor covers is confirmed, and to hand that over again would
    /// publish it twice.
    async fn store(&self, stand: Stand) {
        let mut backoff = Backoff::new(STORE_AGAIN.0, STORE_AGAIN.1);
        let stand = Arc::new(stand);
        loop {
            let (cursors, to_store) = (Arc::clone(&self.cursors), Arc::clone(&stand));
            let stored = tokio::task::spawn_blocking(move || cursors.store(&to_store)).await;
            let error = match stored {
                Ok(Ok(())) => return,
                Ok(Err(error)) => unavailable(&error),
                Err(panic) => unavailable(&panic),
            };
            let wait = backoff.next_delay();
            tracing::error!(source = %stand.source, %error, ?wait, "the source's cursor cannot be stored; trying again");
            sleep(wait).await;
        }
    }
}

fn unavailable(error: &dyn std::error::Error) -> Unavailable {
    Unavailable(error_chain(error).into())
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
    if let Some(limit) = reply::full(reason, topic.as_str()).filter(|limit| !reply::never_fits(limit)) {
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
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// A broker that says hello and confirms nothing.
    async fn silent_broker(listener: TcpListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"Successfully connected to message_broker\r\n").await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let hello = "hello {\"server\":\"herald\",\"version\":\"0\",\"protocol\":1,\"session\":\"s\",\"max_line_bytes\":4096}\r\n";
        stream.write_all(hello.as_bytes()).await.unwrap();
        while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
            line.clear();
        }
    }

    #[tokio::test]
    async fn closing_has_a_deadline_even_where_nothing_is_confirmed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let peer = tokio::spawn(silent_broker(listener));
        let dir = tempfile::tempdir().unwrap();
        let publisher = Arc::new(RemotePublisher::open(ClientConfig::new(address), dir.path(), []).unwrap());
        let payload = Payload::encode("t", Priority(0), "1", "a");
        let event = NewEvent { id: IdKey::of("a"), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
        let events = vec![(TopicName::new("t").unwrap(), event)];
        let publishing = Arc::clone(&publisher);
        let published = tokio::spawn(async move { publishing.publish(events).await });
        let is_under_way = async {
            while publisher.shared.tasks.is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            let mut state = publisher.shared.line.lock().await.client.state();
            state.wait_for(ConnectionState::is_connected).await.map(|_| ()).unwrap();
        };
        timeout(Duration::from_secs(30), is_under_way).await.unwrap();
        // The confirmation never comes, and the client itself would wait for longer than the test.
        let closed = timeout(Duration::from_secs(30), publisher.close(Duration::from_millis(50))).await;
        assert_eq!(closed, Ok(false), "the batch is not confirmed");
        let answer = timeout(Duration::from_secs(30), published).await.unwrap().unwrap();
        assert!(answer.is_err(), "{answer:?}");
        peer.abort();
    }

    #[test]
    fn what_can_pass_is_told_from_what_cannot() {
        let topic = TopicName::new("t").unwrap();
        let full = Refusal::Full { topic: topic.clone(), limit: "subscription \"a\" has 3 events".to_owned() };
        let out = Refusal::Unavailable(Unavailable("disk full".into()));
        for refused in [full, out] {
            assert_eq!(refusal(&topic, &refused.to_string()), refused, "the engine's own words");
        }
        assert_eq!(refusal(&topic, "duplicate id 7"), Refusal::DuplicateId);
        let never = Refusal::NeverFits { topic: topic.clone(), bytes: 300, limit: 200 };
        for other in [
            never.to_string().as_str(),
            "topic other is full: x",
            "not allowed to publish to topic t",
            "storage is out",
        ] {
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

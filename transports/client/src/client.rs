//! The client: what everything else is made from.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Reconnecting;
use crate::config::ClientConfig;
use crate::error::Error;
use crate::event::Event;
use crate::link::Link;
use crate::name::{EventId, TopicName};
use crate::options::SubscribeOptions;
use crate::publish_task::{Publish, PublishTask, Shared};
use crate::reply::{Confirmation, default_max_line_bytes};
use crate::state::ConnectionState;
use crate::subscription::Subscription;

/// The bytes that a publish counts beyond its line.
const PUBLISH_OVERHEAD: usize = 256;

/// A client of one broker: publishes over one connection, and makes subscriptions with a connection each.
///
/// Cheap to clone; the clones share the publishing connection and its order. When the last clone and the last
/// [`Publisher`] are dropped, the connection is closed at once and what is unconfirmed fails with [`Error::Closed`]:
/// use [`Client::close`] for an orderly end. A [`Subscription`] does not need the client it came from.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<ClientConfig>,
    incoming: mpsc::Sender<Publish>,
    shared: Arc<Shared>,
    max_slots: u32,
    max_bytes: u32,
    /// For `close`, when its time is up. The guard does the same when the last handle goes.
    abort: CancellationToken,
    _abort_on_drop: DropGuard,
}

impl Client {
    /// Connects, which checks address, token and protocol, and keeps the connection for publishing.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Timeout`], [`Error::Lost`] and [`Error::ServerFull`], unless
    /// [`ClientConfig::retry_first_connect`] is set; [`Error::Auth`]; [`Error::Protocol`] where something else than a
    /// Herald listens; [`Error::Unsupported`] and [`Error::Invalid`] for what the configuration asks.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        config.validate()?;
        let hello = PublishTask::hello();
        let link = retry_first(&config, || Link::open(&config, &hello)).await?;
        Ok(Self::start(config, Some(link)))
    }

    /// Makes a client without connecting; the first publish does that, in the background, and retries with backoff.
    /// For programs that only subscribe, and for those that start before their broker. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Invalid`].
    pub fn lazy(config: ClientConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self::start(config, None))
    }

    fn start(config: ClientConfig, link: Option<Link>) -> Self {
        let config = Arc::new(config);
        let bounded = |limit: usize| u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let (max_slots, max_bytes) = (bounded(config.max_unconfirmed), bounded(config.max_unconfirmed_bytes));
        // As long as the slots, of which everything in it holds one: there is room for whoever has a slot.
        let (incoming, outgoing) = mpsc::channel(max_slots as usize);
        let first = if link.is_some() { ConnectionState::Connected { connection: 1 } } else { ConnectionState::Idle };
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(max_slots as usize)),
            bytes: Arc::new(Semaphore::new(max_bytes as usize)),
            max_line_bytes: AtomicUsize::new(
                link.as_ref().map_or_else(default_max_line_bytes, |link| link.server().max_line_bytes),
            ),
            state: watch::Sender::new(first),
            ended: OnceLock::new(),
            closing: CancellationToken::new(),
            wanted: Notify::new(),
        });
        let abort = CancellationToken::new();
        let task = PublishTask::new(Arc::clone(&config), Arc::clone(&shared), outgoing, abort.clone());
        tokio::spawn(task.run(link));
        let inner =
            Inner { config, incoming, shared, max_slots, max_bytes, _abort_on_drop: abort.clone().drop_guard(), abort };
        Self { inner: Arc::new(inner) }
    }

    /// Publishes an event and waits for its confirmation, across reconnects: the event is sent again until the broker
    /// answers. It can thus arrive twice; the second replaces the first while that waits (see the crate's page).
    ///
    /// A future that is dropped may or may not publish.
    ///
    /// # Errors
    /// [`Error::Refused`]: the broker's reason; [`Error::Invalid`], [`Error::TooLarge`]: not sent; [`Error::Closed`], or
    /// what ended the publishing connection for good: outcome unknown.
    pub async fn publish(&self, topic: &TopicName, event: Event) -> Result<Confirmation, Error> {
        self.send(topic, event).await?.await
    }

    /// Queues an event, and returns what will be its confirmation. Waits while as much as
    /// [`ClientConfig::max_unconfirmed`] is unconfirmed, and for nothing else. Events go out in the order of these calls.
    ///
    /// The returned future need not be awaited; the event is published all the same.
    ///
    /// # Errors
    /// As for [`Client::publish`]. Nothing has been queued then.
    pub async fn send(&self, topic: &TopicName, event: Event) -> Result<PendingConfirmation, Error> {
        let Inner { incoming, shared, max_bytes, .. } = &*self.inner;
        // Here and not at the broker, so that what is sent again after a reconnect is known to be the same.
        let id = event.id.clone().unwrap_or_else(EventId::generate);
        let line = event.encode(topic, &id)?;
        let (bytes, limit) = (line.len() - 1, shared.max_line_bytes.load(Ordering::Relaxed));
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let weight = u32::try_from(line.len() + PUBLISH_OVERHEAD).unwrap_or(u32::MAX).min(*max_bytes);
        let closed = |_| shared.end_reason();
        let slot = Arc::clone(&shared.slots).acquire_owned().await.map_err(closed)?;
        let bytes = Arc::clone(&shared.bytes).acquire_many_owned(weight).await.map_err(closed)?;
        let (answer, receiver) = oneshot::channel();
        let publish =
            Publish { line, topic: topic.clone(), id: id.clone(), answer, resent: false, _slot: slot, _bytes: bytes };
        incoming.try_send(publish).map_err(|_| shared.end_reason())?;
        Ok(PendingConfirmation { id, receiver })
    }

    /// Publishes many events, pipelined, and returns the answer to each, in order.
    ///
    /// One that is refused does not keep the others from being published.
    pub async fn publish_many(
        &self,
        topic: &TopicName,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Result<Confirmation, Error>> {
        let mut pending = Vec::new();
        for event in events {
            pending.push(self.send(topic, event).await);
        }
        let mut answers = Vec::with_capacity(pending.len());
        for sent in pending {
            answers.push(match sent {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// A handle for one topic.
    #[must_use]
    pub fn publisher(&self, topic: TopicName) -> Publisher {
        Publisher { client: self.clone(), topic }
    }

    /// Subscribes to a topic, over a connection of its own. Resolves once the broker has confirmed the subscription: what
    /// is published from now on is delivered.
    ///
    /// # Errors
    /// Those of [`Client::connect`], and [`Error::Refused`].
    pub async fn subscribe(&self, topic: TopicName, options: SubscribeOptions) -> Result<Subscription, Error> {
        Subscription::open(Arc::clone(&self.inner.config), topic, options).await
    }

    /// Waits until everything queued so far is answered. Publishes that begin in the meantime wait for it.
    ///
    /// # Errors
    /// The reason for which the publishing connection ended for good.
    pub async fn flush(&self) -> Result<(), Error> {
        // Every unanswered event holds a slot, so having all slots means that everything is answered.
        let all = self.inner.shared.slots.acquire_many(self.inner.max_slots).await;
        all.map(drop).map_err(|_| self.inner.shared.end_reason())
    }

    /// Makes the publishing connection of a [`lazy`](Self::lazy) client now, in the background, so that what is wrong with
    /// it shows (in the log and in [`Client::state`]) before there is something to publish.
    pub fn begin_connecting(&self) {
        self.inner.shared.wanted.notify_one();
    }

    /// The publishing connection's state, to read and to wait on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.shared.state.subscribe()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// Lets nothing new in, waits for the answers that are due, says `quit` and closes the publishing connection; for
    /// all clones. Subscriptions go on. Dropped before it resolves, it goes on in the background.
    ///
    /// # Errors
    /// [`Error::Timeout`] where that took more than the close timeout: what was unconfirmed fails with
    /// [`Error::Closed`]. Or what had ended the publishing connection already.
    pub async fn close(&self) -> Result<(), Error> {
        let Inner { shared, abort, config, .. } = &*self.inner;
        shared.slots.close();
        shared.bytes.close();
        shared.closing.cancel();
        let mut state = shared.state.subscribe();
        let after = config.close_timeout;
        let ended = timeout(after, state.wait_for(ConnectionState::is_ended)).await.is_ok();
        abort.cancel();
        match shared.end_reason() {
            Error::Closed if ended => Ok(()),
            Error::Closed => Err(Error::Timeout { what: "the confirmations due when closing", after }),
            error => Err(error),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.inner.config.address).finish_non_exhaustive()
    }
}

/// A [`Client`] and a topic. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: Client,
    topic: TopicName,
}

impl Publisher {
    /// See [`Client::publish`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish(&self, event: Event) -> Result<Confirmation, Error> {
        self.client.publish(&self.topic, event).await
    }

    /// See [`Client::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, event: Event) -> Result<PendingConfirmation, Error> {
        self.client.send(&self.topic, event).await
    }

    /// See [`Client::publish_many`].
    pub async fn publish_many(&self, events: impl IntoIterator<Item = Event>) -> Vec<Result<Confirmation, Error>> {
        self.client.publish_many(&self.topic, events).await
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }
}

/// The confirmation of an event that has been queued: a future.
#[derive(Debug)]
pub struct PendingConfirmation {
    id: EventId,
    receiver: oneshot::Receiver<Result<Confirmation, Error>>,
}

impl PendingConfirmation {
    /// The event's id.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.id
    }
}

impl Future for PendingConfirmation {
    type Output = Result<Confirmation, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

/// The first attempt, and if the configuration wants it, further ones.
pub(crate) async fn retry_first<T, F>(config: &ClientConfig, mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut backoff = Reconnecting::new(&config.backoff);
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !config.retry_first_connect || !error.is_retryable() {
            return Err(error);
        }
        let Some(wait) = backoff.next_wait() else {
            return Err(error);
        };
        tracing::warn!(address = %config.address, error = %error.with_causes(), failures = backoff.failures(), ?wait, "not connected yet");
        sleep(wait).await;
    }
}

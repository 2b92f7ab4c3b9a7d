//! Subscribing: the handles.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::acker::Acker;
use crate::client::retry_first;
use crate::config::ClientConfig;
use crate::delivery::Delivery;
use crate::error::Error;
use crate::name::{EventId, SubscriptionName, TopicName};
use crate::options::SubscribeOptions;
use crate::state::ConnectionState;
use crate::subscription_task::{Command, SubscriptionTask};
use crate::window::{Leave, Settled};

/// Commands on their way to the task. When it is full, `ack` waits.
const COMMANDS: usize = 1024;
/// Deliveries between the task and the consumer; more wait in the task, and the rest in the socket.
const HANDOVER: usize = 128;

/// The state that the handles and the task share.
pub(crate) struct Shared {
    /// The deliveries that have been handed out and not settled: serial to id and connection. At most as many as the prefetch; of
    /// more, the broker has taken back the oldest.
    handed_out: Mutex<BTreeMap<u64, (EventId, u64)>>,
    /// The present connection, 0 where there is none.
    pub(crate) live: AtomicU64,
    pub(crate) resubscribed: AtomicU64,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) ended: OnceLock<Error>,
}

impl Shared {
    pub(crate) fn end_reason(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }

    pub(crate) fn handed_out(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (EventId, u64)>> {
        // Every change to the map is one call, so a panic elsewhere has left nothing half done.
        self.handed_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription to one topic: a stream of [`Delivery`]s over a connection of its own.
///
/// It reconnects and resubscribes by itself. What was delivered and not acknowledged comes again over the new connection
/// if the subscription has a name. If it has none, the broker has forgotten it with the connection, and it begins anew:
/// [`Subscription::resubscribed`] and [`Delivery::connection`] tell, since events may have been missed.
///
/// The stream ends when the subscription is over for good; [`Subscription::end_reason`] says why. A consumer that does not
/// take its deliveries delays no other subscriber: the broker sends no more than the prefetch.
///
/// Dropping it closes the socket at once, and acknowledgements that have not been written are lost (the events come
/// again). [`Subscription::close`] is the orderly way.
pub struct Subscription {
    deliveries: mpsc::Receiver<Delivery>,
    acker: Acker,
    name: Option<SubscriptionName>,
    close_timeout: Duration,
    next_serial: u64,
    _abort_on_drop: DropGuard,
}

impl Subscription {
    pub(crate) async fn open(
        config: Arc<ClientConfig>,
        topic: TopicName,
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        let link = retry_first(&config, || SubscriptionTask::attach(&config, &topic, &options)).await?;
        let prefetch = usize::from(options.prefetch.get());
        let (deliver, deliveries) = mpsc::channel(prefetch.min(HANDOVER));
        let (command, commands) = mpsc::channel(COMMANDS);
        let shared = Arc::new(Shared {
            handed_out: Mutex::new(BTreeMap::new()),
            live: AtomicU64::new(1),
            resubscribed: AtomicU64::new(0),
            state: watch::Sender::new(ConnectionState::Connected { connection: 1 }),
            ended: OnceLock::new(),
        });
        let abort = CancellationToken::new();
        let (name, close_timeout) = (options.name.clone(), config.close_timeout);
        let acker = Acker { commands: command, shared: Arc::clone(&shared), topic: topic.clone(), prefetch };
        let task = SubscriptionTask::new(config, topic, options, shared, deliver, commands, abort.clone());
        tokio::spawn(task.run(link));
        Ok(Self { deliveries, acker, name, close_timeout, next_serial: 0, _abort_on_drop: abort.drop_guard() })
    }

    /// The next delivery, or `None` once the subscription is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_delivery(cx)).await
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            let Some(mut delivery) = ready!(self.deliveries.poll_recv(cx)) else {
                return Poll::Ready(None);
            };
            let shared = &self.acker.shared;
            // What a durable subscription's lost connection has left here comes again over the next one. Without a name
            // this is the only copy.
            if self.name.is_some() && delivery.connection != shared.live.load(Ordering::Acquire) {
                continue;
            }
            self.next_serial += 1;
            delivery.serial = self.next_serial;
            let mut handed_out = shared.handed_out();
            handed_out.insert(delivery.serial, (delivery.id().clone(), delivery.connection));
            while handed_out.len() > self.acker.prefetch {
                handed_out.pop_first();
            }
            drop(handed_out);
            return Poll::Ready(Some(delivery));
        }
    }

    /// A handle that acknowledges, for other tasks.
    #[must_use]
    pub fn acker(&self) -> Acker {
        self.acker.clone()
    }

    /// See [`Acker::ack`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.acker.ack(delivery).await
    }

    /// See [`Acker::ack_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack_many(&self, deliveries: &[Delivery]) -> Result<(), Error> {
        self.acker.ack_many(deliveries).await
    }

    /// See [`Acker::ack_confirmed`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack_confirmed(&self, deliveries: &[Delivery]) -> Result<Vec<Settled>, Error> {
        self.acker.ack_confirmed(deliveries).await
    }

    /// See [`Acker::ack_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack_all(&self) -> Result<usize, Error> {
        self.acker.ack_all().await
    }

    /// See [`Acker::nack`].
    ///
    /// # Errors
    /// As there.
    pub async fn nack(&self, delivery: &Delivery, delay: Option<Duration>) -> Result<Settled, Error> {
        self.acker.nack(delivery, delay).await
    }

    /// See [`Acker::touch`].
    ///
    /// # Errors
    /// As there.
    pub async fn touch(&self, delivery: &Delivery) -> Result<Settled, Error> {
        self.acker.touch(delivery).await
    }

    /// See [`Acker::term`].
    ///
    /// # Errors
    /// As there.
    pub async fn term(&self, delivery: &Delivery, reason: Option<&str>) -> Result<Settled, Error> {
        self.acker.term(delivery, reason).await
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.acker.topic
    }

    /// The name, if it is durable.
    #[must_use]
    pub fn name(&self) -> Option<&SubscriptionName> {
        self.name.as_ref()
    }

    /// How often it has subscribed again after a lost connection. Without a name, events may have been missed each time.
    #[must_use]
    pub fn resubscribed(&self) -> u64 {
        self.acker.shared.resubscribed.load(Ordering::Acquire)
    }

    /// The connection's state, to read and to wait on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.acker.shared.state.subscribe()
    }

    /// Why it is over for good; `None` while it is not.
    #[must_use]
    pub fn end_reason(&self) -> Option<Error> {
        self.acker.shared.ended.get().cloned()
    }

    /// Sends the acknowledgements that wait, then removes the subscription and everything that waits in it, for all who
    /// share it, and closes the connection. Where that is down, it waits for the next one.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Timeout`] after the close timeout, outcome unknown; what ended the subscription.
    pub async fn unsubscribe(self) -> Result<(), Error> {
        self.leave(Leave::Unsubscribe).await
    }

    /// Sends the acknowledgements that wait, then detaches from the subscription and closes the connection. A durable
    /// subscription goes on collecting events.
    ///
    /// # Errors
    /// As for [`Subscription::unsubscribe`].
    pub async fn detach(self) -> Result<(), Error> {
        self.leave(Leave::Detach).await
    }

    /// Sends the acknowledgements that wait, waits for their answers, says `quit` and closes the connection.
    ///
    /// # Errors
    /// As for [`Subscription::unsubscribe`].
    pub async fn close(self) -> Result<(), Error> {
        self.leave(Leave::Close).await
    }

    async fn leave(self, how: Leave) -> Result<(), Error> {
        let (answer, receiver) = oneshot::channel();
        let after = self.close_timeout;
        let left = async {
            self.acker.command(Command::Leave(how, answer)).await?;
            receiver.await.unwrap_or_else(|_| Err(self.acker.shared.end_reason()))
        };
        timeout(after, left).await.unwrap_or(Err(Error::Timeout { what: "the end of a subscription", after }))
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.get_mut().poll_delivery(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.acker.topic)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

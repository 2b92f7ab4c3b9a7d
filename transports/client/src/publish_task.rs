//! The task behind publishing: owns the connection and everything unconfirmed.
//!
//! On its connection (`confirm: true`) each `publish` is answered with exactly one line, in order: a confirmation or an
//! error. So the answers are matched with a queue. A confirmation names topic and id, which have to be those of the
//! queue's front; anything else means that the two ends have lost step, and costs the connection rather than a wrong
//! answer. Unconfirmed events are then sent again, in order, ahead of new ones.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Reconnecting;
use crate::config::ClientConfig;
use crate::error::{Error, excerpt};
use crate::link::{Hello, Link};
use crate::name::{EventId, TopicName};
use crate::reply::{Confirmation, Outcome, Reply, is_duplicate};
use crate::state::ConnectionState;

/// How many events are taken from the queue at once. They go out in one write.
const BATCH: usize = 1024;

/// One publish on its way. Its permits are what bounds them all; they come back when it is answered.
pub(crate) struct Publish {
    pub(crate) line: Vec<u8>,
    pub(crate) topic: TopicName,
    pub(crate) id: EventId,
    pub(crate) answer: oneshot::Sender<Result<Confirmation, Error>>,
    /// Written to an earlier connection already.
    pub(crate) resent: bool,
    pub(crate) _slot: OwnedSemaphorePermit,
    pub(crate) _bytes: OwnedSemaphorePermit,
}

/// The state that the handles and the task share.
pub(crate) struct Shared {
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) bytes: Arc<Semaphore>,
    /// The broker's limit, as it told last.
    pub(crate) max_line_bytes: AtomicUsize,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) ended: OnceLock<Error>,
    /// Set once an orderly close is requested.
    pub(crate) closing: CancellationToken,
    /// The connection is wanted before there is something to publish.
    pub(crate) wanted: Notify,
}

impl Shared {
    /// Why nothing can be published any more.
    pub(crate) fn end_reason(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed)
    }

    fn end(&self, reason: Error) {
        // First the reason, then what lets a waiting publisher look for it.
        let reason = self.ended.get_or_init(|| reason).clone();
        self.slots.close();
        self.bytes.close();
        self.state.send_replace(ConnectionState::Ended { reason });
    }
}

/// How a session ended.
enum SessionEnd {
    Lost(Error),
    Dropped,
    /// Everything is answered, and `close` was asked for.
    Done,
}

pub(crate) struct PublishTask {
    config: Arc<ClientConfig>,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Publish>,
    /// The handles are gone: stop at once.
    abort: CancellationToken,
    backoff: Reconnecting,
    /// In order. The first `sent` of them have been written to the present connection.
    unconfirmed: VecDeque<Publish>,
    sent: usize,
    /// `close` has been noticed; nothing new comes in.
    closing: bool,
    connection: u64,
}

impl Drop for PublishTask {
    /// However the task ends, even by a panic or with the runtime, every waiting caller gets an error.
    fn drop(&mut self) {
        self.shared.end(Error::Closed);
        let reason = self.shared.end_reason();
        self.incoming.close();
        while let Ok(publish) = self.incoming.try_recv() {
            self.unconfirmed.push_back(publish);
        }
        for publish in self.unconfirmed.drain(..) {
            // An error here is a publisher that does not want to know.
            let _ = publish.answer.send(Err(reason.clone()));
        }
    }
}

impl PublishTask {
    pub(crate) fn new(
        config: Arc<ClientConfig>,
        shared: Arc<Shared>,
        incoming: mpsc::Receiver<Publish>,
        abort: CancellationToken,
    ) -> Self {
        let backoff = Reconnecting::new(&config.backoff);
        Self {
            config,
            shared,
            incoming,
            abort,
            backoff,
            unconfirmed: VecDeque::new(),
            sent: 0,
            closing: false,
            connection: 0,
        }
    }

    pub(crate) fn hello() -> Hello {
        Hello { confirm: Some(true), replies: Some("quiet"), ..Hello::default() }
    }

    /// Runs until the handles are gone, `close` is done, or something that waiting cannot mend.
    pub(crate) async fn run(mut self, first: Option<Link>) {
        let reason = self.work(first).await;
        if !matches!(reason, Error::Closed) {
            tracing::warn!(address = %self.config.address, error = %reason.with_causes(), "publishing has ended");
        }
        self.shared.end(reason);
    }

    async fn work(&mut self, first: Option<Link>) -> Error {
        let mut next = first;
        if next.is_none()
            && let Err(end) = self.wait_for_work().await
        {
            return end;
        }
        loop {
            let mut link = match next.take() {
                Some(link) => link,
                None => match self.reconnect().await {
                    Ok(link) => link,
                    Err(end) => return end,
                },
            };
            self.connection += 1;
            self.shared.max_line_bytes.store(link.server().max_line_bytes, Ordering::Relaxed);
            self.shared.state.send_replace(ConnectionState::Connected { connection: self.connection });
            match self.session(&mut link).await {
                SessionEnd::Dropped => return Error::Closed,
                SessionEnd::Done => {
                    // Everything is confirmed; `bye` is a courtesy, which must not use up all of the time `close` has.
                    let _ = timeout(self.config.close_timeout / 2, link.quit()).await;
                    return Error::Closed;
                }
                SessionEnd::Lost(error) => {
                    for publish in self.unconfirmed.iter_mut().take(self.sent) {
                        publish.resent = true;
                    }
                    self.sent = 0;
                    // The socket closes before the wait, not after it.
                    drop(link);
                    if self.closing && self.unconfirmed.is_empty() {
                        return Error::Closed;
                    }
                    if let Err(end) = self.pause(error).await {
                        return end;
                    }
                }
            }
        }
    }

    /// A client that has not published anything needs no connection for it.
    async fn wait_for_work(&mut self) -> Result<(), Error> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            () = self.abort.cancelled() => return Err(Error::Closed),
            _ = self.incoming.recv_many(&mut batch, BATCH) => {}
            () = self.shared.wanted.notified() => {}
            () = self.shared.closing.cancelled() => {}
        }
        self.unconfirmed.extend(batch);
        if self.shared.closing.is_cancelled() { self.begin_closing() } else { Ok(()) }
    }

    async fn reconnect(&mut self) -> Result<Link, Error> {
        loop {
            self.shared.state.send_replace(ConnectionState::Connecting);
            let config = Arc::clone(&self.config);
            let attempt = async move { Link::open(&config, &Self::hello()).await };
            let error = match self.unless_ended(attempt).await? {
                Ok(link) => return Ok(link),
                Err(error) if error.is_retryable() => error,
                // Where there has been a broker, a strange greeting is a proxy or a restart; where there has not, it is
                // the wrong port.
                Err(error @ Error::Protocol(_)) if self.connection > 0 => error,
                Err(error) => return Err(error),
            };
            self.pause(error).await?;
        }
    }

    /// Waits as the backoff has it.
    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let Some(wait) = self.backoff.next_wait() else {
            return Err(error);
        };
        let failures = self.backoff.failures();
        tracing::warn!(address = %self.config.address, error = %error.with_causes(), failures, ?wait, "no connection for publishing");
        self.shared.state.send_replace(ConnectionState::Waiting { failures, wait, reason: error });
        self.unless_ended(sleep(wait)).await
    }

    /// Runs `work` without a connection. An error ends the task: dropped, or closing with nothing left to send.
    async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return Err(Error::Closed),
                () = self.shared.closing.cancelled(), if !self.closing => self.begin_closing()?,
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Takes no new events. An error ends the task: nothing is left to send.
    fn begin_closing(&mut self) -> Result<(), Error> {
        self.closing = true;
        self.incoming.close();
        while let Ok(publish) = self.incoming.try_recv() {
            self.unconfirmed.push_back(publish);
        }
        if self.unconfirmed.is_empty() { Err(Error::Closed) } else { Ok(()) }
    }

    async fn session(&mut self, link: &mut Link) -> SessionEnd {
        let mut batch = Vec::with_capacity(BATCH);
        let mut waiting_since = Instant::now();
        let mut ping_sent = false;
        loop {
            loop {
                match link.next_line() {
                    Ok(Some(line)) => {
                        if let Err(error) = self.on_line(line, &mut ping_sent) {
                            return SessionEnd::Lost(error);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return SessionEnd::Lost(error),
                }
            }
            if self.closing && self.unconfirmed.is_empty() {
                return SessionEnd::Done;
            }
            while self.sent < self.unconfirmed.len() && link.has_room() {
                if self.sent == 0 {
                    waiting_since = Instant::now();
                }
                link.queue_bytes(&self.unconfirmed[self.sent].line);
                self.sent += 1;
            }
            let answer_due = self.sent > 0 || ping_sent;
            let deadline = if answer_due {
                Some(link.last_heard().max(waiting_since) + self.config.response_timeout)
            } else {
                self.config.keepalive.map(|interval| link.last_heard() + interval)
            };
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return SessionEnd::Dropped,
                _ = self.incoming.recv_many(&mut batch, BATCH), if !self.closing => self.unconfirmed.extend(batch.drain(..)),
                result = link.progress(true) => if let Err(error) = result {
                    return SessionEnd::Lost(error);
                },
                () = self.shared.closing.cancelled(), if !self.closing => {
                    // Whether anything is left is asked at the top.
                    let _ = self.begin_closing();
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if answer_due {
                        let after = self.config.response_timeout;
                        return SessionEnd::Lost(Error::Timeout { what: "a publish", after });
                    }
                    // Sent while nothing else is due, so its answer comes before any later one.
                    link.queue("ping\n");
                    ping_sent = true;
                    waiting_since = Instant::now();
                }
            }
        }
    }

    fn on_line(&mut self, line: &str, ping_sent: &mut bool) -> Result<(), Error> {
        match Reply::parse(line) {
            Reply::Confirmed { outcome, topic, id, level } => {
                let matches = self.sent > 0
                    && self.unconfirmed.front().is_some_and(|due| due.topic.as_str() == topic && due.id.as_str() == id);
                if !matches {
                    return Err(Error::Protocol(format!("a confirmation out of order: \"{}\"", excerpt(line))));
                }
                self.answer_front(|due| Ok(Confirmation { id: due.id.clone(), outcome, level }));
            }
            Reply::Error(reason) if self.sent > 0 => self.answer_front(|due| {
                if due.resent && is_duplicate(reason) {
                    return Ok(Confirmation { id: due.id.clone(), outcome: Outcome::AlreadyThere, level: None });
                }
                Err(Error::Refused { reason: reason.to_owned() })
            }),
            Reply::Pong => {
                *ping_sent = false;
                self.backoff.reset();
            }
            Reply::Error(_) | Reply::NoEvent(_) | Reply::Object(_) | Reply::Bye | Reply::Other(_) => {
                tracing::debug!(line = excerpt(line), "a line that nobody asked for");
            }
        }
        Ok(())
    }

    fn answer_front(&mut self, answer: impl FnOnce(&Publish) -> Result<Confirmation, Error>) {
        if let Some(due) = self.unconfirmed.pop_front() {
            self.sent = self.sent.saturating_sub(1);
            self.backoff.reset();
            let answer = answer(&due);
            // An error here is a publisher that does not want to know.
            let _ = due.answer.send(answer);
        }
    }
}

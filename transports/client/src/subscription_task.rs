//! The task behind a subscription: owns its connection, what has been read and not been taken, and the
//! acknowledgements on their way.
//!
//! It never waits for one thing alone: not for the consumer while an answer may be on the way (the consumer could be
//! waiting for that very answer), and not for the broker while the consumer has something to say. What it holds is
//! bounded all the same: it stops reading once a prefetch's worth of deliveries waits and no answer is due.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::backoff::Reconnecting;
use crate::config::ClientConfig;
use crate::delivery::Delivery;
use crate::error::{Error, excerpt};
use crate::link::{Hello, Link};
use crate::name::TopicName;
use crate::options::SubscribeOptions;
use crate::reply::{self, Reply};
use crate::state::ConnectionState;
use crate::subscription::Shared;
use crate::window::{Leave, Settle, Settled, Window};

/// How many commands may be without answer. While they are, further acknowledgements gather and share a line.
const MAX_WINDOWS: usize = 8;
/// How many acknowledgements gather here before `ack` waits.
const MAX_WAITING: usize = 4096;

pub(crate) enum Command {
    Settle(Settle),
    Flush(oneshot::Sender<Result<(), Error>>),
    Leave(Leave, oneshot::Sender<Result<(), Error>>),
}

impl Command {
    fn fail(self, reason: &Error) {
        match self {
            Self::Settle(settle) => {
                if let Some(answer) = settle.answer {
                    let _ = answer.send(Err(reason.clone()));
                }
            }
            Self::Flush(answer) | Self::Leave(_, answer) => drop(answer.send(Err(reason.clone()))),
        }
    }
}

/// How a session ended.
enum SessionEnd {
    Lost(Error),
    /// For good, for this reason.
    Final(Error),
    /// The handles are gone.
    Dropped,
    /// As asked for, with the broker's word on it.
    Left(Result<(), Error>),
}

pub(crate) struct SubscriptionTask {
    config: Arc<ClientConfig>,
    topic: TopicName,
    options: SubscribeOptions,
    shared: Arc<Shared>,
    deliver: mpsc::Sender<Delivery>,
    commands: mpsc::Receiver<Command>,
    abort: CancellationToken,
    backoff: Reconnecting,
    connection: u64,
    backlog: Backlog,
    waiting: VecDeque<Settle>,
    /// A flush or leave to perform once `waiting` is written. No further command is taken until then.
    then: Option<Command>,
    windows: VecDeque<Window>,
    /// Set while a leave is in `windows`.
    leaving: Option<(Leave, oneshot::Sender<Result<(), Error>>)>,
}

impl Drop for SubscriptionTask {
    /// However the task ends, even by a panic or with the runtime, every waiting caller gets an error.
    fn drop(&mut self) {
        let reason = self.shared.ended.get_or_init(|| Error::Closed).clone();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            command.fail(&reason);
        }
        let unanswered = self.windows.drain(..).flat_map(Window::on_lost).chain(self.waiting.drain(..));
        unanswered.map(Command::Settle).chain(self.then.take()).for_each(|command| command.fail(&reason));
        if let Some((_, answer)) = self.leaving.take() {
            let _ = answer.send(Err(reason.clone()));
        }
        self.shared.live.store(0, Ordering::Release);
        self.shared.state.send_replace(ConnectionState::Ended { reason });
    }
}

impl SubscriptionTask {
    pub(crate) fn new(
        config: Arc<ClientConfig>,
        topic: TopicName,
        options: SubscribeOptions,
        shared: Arc<Shared>,
        deliver: mpsc::Sender<Delivery>,
        commands: mpsc::Receiver<Command>,
        abort: CancellationToken,
    ) -> Self {
        let backoff = Reconnecting::new(&config.backoff);
        let backlog = Backlog::new(usize::from(options.prefetch.get()));
        Self {
            config,
            topic,
            options,
            shared,
            deliver,
            commands,
            abort,
            backoff,
            connection: 1,
            backlog,
            waiting: VecDeque::new(),
            then: None,
            windows: VecDeque::new(),
            leaving: None,
        }
    }

    /// Connects and subscribes.
    pub(crate) async fn attach(
        config: &ClientConfig,
        topic: &TopicName,
        options: &SubscribeOptions,
    ) -> Result<Link, Error> {
        let hello = Hello { prefetch: Some(options.prefetch.get()), replies: Some("quiet"), ..Hello::default() };
        let mut link = Link::open(config, &hello).await?;
        // The long form of the command: the short one may have been renamed in the broker's configuration.
        link.queue("subscribe ");
        link.queue(topic.as_str());
        if let Some(name) = &options.name {
            link.queue(" ");
            link.queue(name.as_str());
        }
        link.queue("\n");
        let after = config.response_timeout;
        let answer = match timeout(after, link.read_line()).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(Error::Timeout { what: "subscribe", after });
            }
        };
        match Reply::parse(&answer) {
            Reply::Error(reason) if reason.starts_with("authentication") => {
                Err(Error::Auth { reason: reason.to_owned() })
            }
            Reply::Error(reason) => Err(Error::Refused { reason: reason.to_owned() }),
            Reply::Other(line) if line.strip_prefix("successfully subscribed to topic ") == Some(topic.as_str()) => {
                Ok(link)
            }
            _ => Err(Error::Protocol(format!("expected an answer to subscribe, got \"{}\"", excerpt(&answer)))),
        }
    }

    /// Runs until the handles are gone, a leave is done, or something that waiting cannot mend.
    pub(crate) async fn run(mut self, link: Link) {
        let reason = self.work(link).await;
        if !matches!(reason, Error::Closed) {
            // The handle says it, too: whoever waits for deliveries reports it once.
            tracing::debug!(topic = %self.topic, error = %reason, "the subscription has ended");
            self.deliver_the_rest().await;
        }
        let _ = self.shared.ended.set(reason);
    }

    async fn work(&mut self, first: Link) -> Error {
        let mut link = first;
        loop {
            match self.session(&mut link).await {
                SessionEnd::Dropped => return Error::Closed,
                SessionEnd::Final(error) => return error,
                SessionEnd::Left(result) => {
                    // Everything is answered; `bye` is a courtesy, which must not use up all of the time there is.
                    let _ = timeout(self.config.close_timeout / 2, link.quit()).await;
                    if let Some((_, answer)) = self.leaving.take() {
                        let _ = answer.send(result);
                    }
                    return Error::Closed;
                }
                SessionEnd::Lost(error) => {
                    // The socket closes before the wait, not after it.
                    drop(link);
                    link = match self.recover(error).await {
                        Ok(link) => link,
                        Err(end) => return end,
                    };
                }
            }
        }
    }

    fn is_durable(&self) -> bool {
        self.options.name.is_some()
    }

    fn acks_late(&self) -> bool {
        self.is_durable() && self.options.late_acks
    }

    /// From a lost connection to the next. The error is the end.
    async fn recover(&mut self, error: Error) -> Result<Link, Error> {
        self.on_lost(&error)?;
        let mut error = error;
        loop {
            let Some(wait) = self.backoff.next_wait() else {
                return Err(error);
            };
            let failures = self.backoff.failures();
            tracing::warn!(topic = %self.topic, %error, failures, ?wait, "the subscription has no connection");
            self.shared.state.send_replace(ConnectionState::Waiting { failures, wait, reason: error });
            self.while_unconnected(sleep(wait)).await?;
            self.shared.state.send_replace(ConnectionState::Connecting);
            let (config, topic, options) = (Arc::clone(&self.config), self.topic.clone(), self.options.clone());
            let attempt = async move { Self::attach(&config, &topic, &options).await };
            error = match self.while_unconnected(attempt).await? {
                Ok(link) => {
                    self.connection += 1;
                    self.shared.live.store(self.connection, Ordering::Release);
                    self.shared.resubscribed.fetch_add(1, Ordering::AcqRel);
                    self.shared.state.send_replace(ConnectionState::Connected { connection: self.connection });
                    return Ok(link);
                }
                // Where there has been a broker, a strange greeting is a proxy or a restart.
                Err(error) if error.is_retryable() || matches!(error, Error::Protocol(_)) => error,
                Err(error) => return Err(error),
            };
        }
    }

    fn on_lost(&mut self, error: &Error) -> Result<(), Error> {
        self.shared.live.store(0, Ordering::Release);
        if self.is_durable() {
            // It comes again. Without a name this is the only copy, and goes on to the consumer.
            self.backlog.clear();
        }
        let unanswered: Vec<Settle> = self.windows.drain(..).flat_map(Window::on_lost).collect();
        let some_unanswered = !unanswered.is_empty();
        if self.acks_late() {
            for settle in unanswered.into_iter().rev() {
                self.waiting.push_front(settle);
            }
        } else {
            unanswered
                .into_iter()
                .chain(self.waiting.drain(..))
                .for_each(|lost| lost.answer(Ok(Settled::ConnectionLost)));
        }
        if let Some((how, answer)) = self.leaving.take() {
            if how == Leave::Unsubscribe && self.is_durable() {
                // Whether it was done is unknown, and doing it twice is harmless.
                self.then = Some(Command::Leave(how, answer));
            } else {
                let _ = answer.send(if some_unanswered { Err(error.clone()) } else { Ok(()) });
                return Err(Error::Closed);
            }
        }
        match self.then.take() {
            Some(command) => self.on_command_away(command),
            None => Ok(()),
        }
    }

    /// Runs `work` without a connection, and serves the consumer during it. An error ends the task.
    async fn while_unconnected<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = pin!(work);
        let deliver = self.deliver.clone();
        loop {
            self.backlog.hand_over(&self.deliver);
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return Err(Error::Closed),
                done = &mut work => return Ok(done),
                command = self.commands.recv(), if self.takes_commands() => {
                    self.on_command_away(command.ok_or(Error::Closed)?)?;
                }
                // Used at the top of the loop.
                permit = deliver.reserve(), if !self.backlog.is_empty() => drop(permit.map_err(|_| Error::Closed)?),
            }
        }
    }

    /// A command while there is no connection. The error is the end.
    fn on_command_away(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Settle(settle) if self.acks_late() => self.waiting.push_back(settle),
            Command::Settle(settle) => settle.answer(Ok(Settled::ConnectionLost)),
            Command::Flush(answer) if self.waiting.is_empty() => drop(answer.send(Ok(()))),
            Command::Flush(_) => self.then = Some(command),
            Command::Leave(Leave::Unsubscribe, _) if self.is_durable() => self.then = Some(command),
            Command::Leave(_, answer) => {
                // The subscription has ended at the broker with its connection.
                let lost = Err(Error::Lost { source: None });
                let _ = answer.send(if self.waiting.is_empty() { Ok(()) } else { lost });
                return Err(Error::Closed);
            }
        }
        Ok(())
    }

    /// Delivers the rest of a subscription without a name after it has ended for good.
    async fn deliver_the_rest(&mut self) {
        while let Some(delivery) = self.backlog.pop() {
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return,
                sent = self.deliver.send(delivery) => if sent.is_err() { return },
            }
        }
    }

    fn takes_commands(&self) -> bool {
        self.then.is_none() && self.leaving.is_none() && self.waiting.len() < MAX_WAITING
    }

    /// Whether to read: there is room for deliveries, or an answer is due and lies behind them.
    fn takes_lines(&self) -> bool {
        !self.backlog.is_full() || !self.windows.is_empty()
    }

    async fn session(&mut self, link: &mut Link) -> SessionEnd {
        let mut waiting_since = Instant::now();
        let deliver = self.deliver.clone();
        self.backlog.expect_lines(link.max_line_bytes());
        loop {
            loop {
                if !self.takes_lines() {
                    self.backlog.hand_over(&self.deliver);
                    if !self.takes_lines() {
                        break;
                    }
                }
                // All lines that have been read are handled now: the socket does not wake the task for them again.
                let end = match link.next_line() {
                    Ok(Some(line)) => self.on_line(line),
                    Ok(None) => break,
                    Err(error) => Some(SessionEnd::Lost(error)),
                };
                if let Some(end) = end {
                    return end;
                }
            }
            self.backlog.hand_over(&self.deliver);
            let idle = self.windows.is_empty();
            self.write_commands(link);
            if idle {
                waiting_since = Instant::now();
            }
            let reads = self.takes_lines();
            let answer_due = !self.windows.is_empty();
            let deadline = if answer_due {
                Some(link.last_heard().max(waiting_since) + self.config.response_timeout)
            } else {
                // A silence that is of our making says nothing.
                self.config.keepalive.filter(|_| reads).map(|interval| link.last_heard() + interval)
            };
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return SessionEnd::Dropped,
                command = self.commands.recv(), if self.takes_commands() => {
                    let Some(command) = command else { return SessionEnd::Dropped };
                    self.on_command(command);
                    // All that is there, so that it shares lines.
                    while self.takes_commands() && let Ok(command) = self.commands.try_recv() {
                        self.on_command(command);
                    }
                }
                // Used at the top of the loop.
                permit = deliver.reserve(), if !self.backlog.is_empty() => if permit.is_err() {
                    return SessionEnd::Dropped;
                },
                result = link.progress(reads), if reads || link.has_output() => if let Err(error) = result {
                    return SessionEnd::Lost(error);
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if answer_due {
                        let after = self.config.response_timeout;
                        return SessionEnd::Lost(Error::Timeout { what: "a command of the subscription", after });
                    }
                    waiting_since = Instant::now();
                    self.windows.push_back(Window::fence(link.out()));
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Settle(settle) if settle.connection != self.connection && !self.acks_late() => {
                settle.answer(Ok(Settled::ConnectionLost));
            }
            Command::Settle(settle) => self.waiting.push_back(settle),
            Command::Flush(_) | Command::Leave(..) => self.then = Some(command),
        }
    }

    fn write_commands(&mut self, link: &mut Link) {
        let limit = link.server().max_line_bytes;
        while !self.waiting.is_empty() && self.windows.len() < MAX_WINDOWS && link.has_room() {
            self.windows.push_back(Window::open(&mut self.waiting, &self.topic, limit, link.out()));
        }
        if !self.waiting.is_empty() {
            return;
        }
        match self.then.take() {
            None => {}
            Some(Command::Settle(settle)) => self.waiting.push_back(settle),
            Some(Command::Flush(answer)) => {
                self.windows.push_back(Window::flush(answer, link.out()));
            }
            Some(Command::Leave(how, answer)) => {
                let command = match (how, &self.options.name) {
                    (Leave::Unsubscribe, Some(name)) => Some(format!("unsubscribe {} {name}", self.topic)),
                    (Leave::Unsubscribe, None) => Some(format!("unsubscribe {}", self.topic)),
                    (Leave::Detach, _) => Some(format!("detach {}", self.topic)),
                    // Only the fence: everything before it is answered then.
                    (Leave::Close, _) => None,
                };
                self.windows.push_back(Window::leave(command.as_deref(), link.out()));
                self.leaving = Some((how, answer));
            }
        }
    }

    fn on_line(&mut self, line: &str) -> Option<SessionEnd> {
        match Reply::parse(line) {
            Reply::Object(line) => {
                // Whoever leaves does not want it, and it would only fill the backlog.
                if self.leaving.is_some() {
                    return None;
                }
                self.backoff.reset();
                let pushed = Delivery::parse(line, &self.topic, self.connection)
                    .and_then(|delivery| self.backlog.push(delivery));
                return pushed.err().map(SessionEnd::Lost);
            }
            Reply::NoEvent(id) => {
                if !self.windows.front_mut().is_some_and(|window| window.on_no_event(id)) {
                    tracing::debug!(topic = %self.topic, id = excerpt(id), "an error about an event that nobody settled");
                }
            }
            Reply::Error(reason) if self.is_durable() && reply::is_removal(reason, self.topic.as_str()) => {
                if self.leaving.is_none() {
                    return Some(SessionEnd::Final(Error::Removed { reason: reason.to_owned() }));
                }
            }
            Reply::Error(reason) => match self.windows.front_mut() {
                Some(window) => window.on_error(reason),
                None => {
                    tracing::warn!(topic = %self.topic, reason = excerpt(reason), "an error that answers nothing");
                }
            },
            Reply::Pong => {
                self.backoff.reset();
                let window = self.windows.pop_front()?;
                let leaves = window.leaves;
                let result = window.on_pong();
                if leaves {
                    return Some(SessionEnd::Left(result));
                }
            }
            // Success replies of `touch`, `term` and the like; the fence says as much.
            Reply::Confirmed { .. } | Reply::Bye | Reply::Other(_) => {}
        }
        None
    }
}

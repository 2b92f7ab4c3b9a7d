//! A plain connection for commands by hand: a line out, a line in.

use std::time::Duration;

use tokio::time::timeout;

use crate::config::ClientConfig;
use crate::error::Error;
use crate::link::{Hello, Link};
use crate::name::{SubscriptionName, TopicName};
use crate::reply::{Reply, ServerInfo};

/// The time limit for a command that goes through all waiting events.
const LONG: Duration = Duration::from_secs(3600);

/// The most bytes of the answer to a `peek` besides its last event. The broker ends it after 16 MiB and an event.
const PEEK_BYTES: usize = 32 << 20;

/// A part of what waits in a subscription, of [`Connection::peek_after`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekPage {
    /// The events, as they would be delivered.
    pub events: Vec<String>,
    /// The position to go on after; `None` if these are the last ones.
    pub next: Option<String>,
}

/// One connection without any machinery: no reconnecting, no batching. For `topics`, `stats`, `ping`, `peek` and the like.
///
/// ```no_run
/// # use transport_client::{ClientConfig, Connection};
/// # async fn run() -> Result<(), transport_client::Error> {
/// let mut connection = Connection::open(&ClientConfig::new("127.0.0.1:8000".parse()?)).await?;
/// let topics = connection.request_line("topics").await?;
/// let dead = connection.peek(&"tweets.dead".parse()?, None, Some(5)).await?;
/// let count = connection.redrive(&"tweets".parse()?, None).await?;
/// connection.quit().await?;
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    link: Link,
    config: ClientConfig,
    /// A request whose future was dropped leaves its reply on the way, where the next request would take it for its own.
    abandoned: bool,
}

impl Connection {
    /// Connects, and says `hello` with the token and the name of `config`.
    ///
    /// # Errors
    /// Those of [`Client::connect`](crate::Client::connect).
    pub async fn open(config: &ClientConfig) -> Result<Self, Error> {
        config.validate()?;
        let link = Link::open(config, &Hello::default()).await?;
        Ok(Self { link, config: config.clone(), abandoned: false })
    }

    /// The broker's description of itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        self.link.server()
    }

    /// Sends one line, and waits until the operating system has it. The replies are for [`Connection::recv_line`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a line break in `line`; [`Error::TooLarge`]; [`Error::Lost`], [`Error::Timeout`].
    pub async fn send_line(&mut self, line: &str) -> Result<(), Error> {
        self.queue_line(line)?;
        let after = self.config.response_timeout;
        let write = async {
            while self.link.has_output() {
                self.link.progress(false).await?;
            }
            Ok(())
        };
        timeout(after, write).await.unwrap_or(Err(Error::Timeout { what: "a write", after }))
    }

    /// The next line from the broker, whatever it is and however long it takes; `None` at the end of the stream.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection broke; [`Error::Protocol`] for a line that is too long or not UTF-8.
    pub async fn recv_line(&mut self) -> Result<Option<String>, Error> {
        match self.link.read_line().await {
            Ok(line) => Ok(Some(line)),
            Err(Error::Lost { source: None }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a command that is answered with one line, and returns that line.
    ///
    /// Not for a connection that has subscriptions, where deliveries come between the replies. Not cancel-safe: after a
    /// dropped or timed-out request every further one fails with [`Error::Lost`].
    ///
    /// # Errors
    /// [`Error::Refused`] for `error: …` and `no_event_error: …`; those of [`Connection::send_line`].
    pub async fn request_line(&mut self, command: &str) -> Result<String, Error> {
        let mut lines = self.request_until(command, |_| true).await?;
        lines.pop().ok_or(Error::Lost { source: None })
    }

    /// Sends a command that is answered with several lines, and returns them, the one for which `is_last` is true
    /// included. `help` ends with an empty line, `peek` with `end of peek`. An error ends it at once. The whole answer may
    /// have `max_line_bytes`.
    ///
    /// # Errors
    /// As for [`Connection::request_line`].
    pub async fn request_until(
        &mut self,
        command: &str,
        is_last: impl FnMut(&str) -> bool,
    ) -> Result<Vec<String>, Error> {
        let (after, most) = (self.config.response_timeout, self.config.max_line_bytes);
        self.request_bounded(command, after, most, is_last).await
    }

    /// The events that wait in a subscription, as they would be delivered: up to `most` (the broker's 10, and never more than
    /// 1,000). `None` is this connection's subscription, or else the topic's only one.
    ///
    /// # Errors
    /// As for [`Connection::request_line`].
    pub async fn peek(
        &mut self,
        topic: &TopicName,
        subscription: Option<&SubscriptionName>,
        most: Option<u64>,
    ) -> Result<Vec<String>, Error> {
        let (lines, _) = self.peek_with(topic, subscription, most, None).await?;
        Ok(lines)
    }

    /// The events that wait behind `after` in the order of delivery: `start`, or the position that the page before returned. Events
    /// that come and go meanwhile move no other: each that waits all the time is in one page.
    ///
    /// # Errors
    /// As for [`Connection::request_line`].
    pub async fn peek_after(
        &mut self,
        topic: &TopicName,
        subscription: Option<&SubscriptionName>,
        most: Option<u64>,
        after: &str,
    ) -> Result<PeekPage, Error> {
        let (events, next) = self.peek_with(topic, subscription, most, Some(after)).await?;
        Ok(PeekPage { events, next })
    }

    async fn peek_with(
        &mut self,
        topic: &TopicName,
        subscription: Option<&SubscriptionName>,
        most: Option<u64>,
        position: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        const END: &str = "end of peek";
        let is_one = |at: &&str| *at == "start" || at.contains(':') && !at.contains(char::is_whitespace);
        if let Some(wrong) = position.filter(|at| !is_one(at)) {
            return Err(Error::Invalid(format!("invalid position {wrong:?}: expected start, or where a page ended")));
        }
        let words = ["peek".to_owned(), topic.to_string()].into_iter();
        let words = words.chain(subscription.map(ToString::to_string)).chain(most.map(|most| most.to_string()));
        // A name of digits alone would be taken for a number.
        let default = subscription.filter(|_| most.is_none()).map(|_| "10".to_owned());
        let position = position.map(|at| format!("after {at}"));
        let command = words.chain(default).chain(position).collect::<Vec<_>>().join(" ");
        let after = self.config.response_timeout;
        let most_bytes = PEEK_BYTES.saturating_add(self.link.max_line_bytes());
        let mut lines = self.request_bounded(&command, after, most_bytes, |line| line.starts_with(END)).await?;
        let end = lines.pop();
        let next = end.and_then(|end| end.strip_prefix(END)?.strip_prefix(" after ").map(str::to_owned));
        Ok((lines, next))
    }

    /// Moves up to `most` (all) dead letters of `topic` back to the subscriptions that they came from; returns how many have moved.
    ///
    /// # Errors
    /// As for [`Connection::request_line`].
    pub async fn redrive(&mut self, topic: &TopicName, most: Option<u64>) -> Result<u64, Error> {
        let most = most.map_or_else(String::new, |most| format!(" {most}"));
        self.count(&format!("redrive {topic}{most}"), "redriven ").await
    }

    /// Drops what waits in a subscription; returns how many events that were. `None` as for [`Connection::peek`].
    ///
    /// # Errors
    /// As for [`Connection::request_line`].
    pub async fn purge(&mut self, topic: &TopicName, subscription: Option<&SubscriptionName>) -> Result<u64, Error> {
        let name = subscription.map_or_else(String::new, |name| format!(" {name}"));
        self.count(&format!("purge {topic}{name}"), "purged ").await
    }

    async fn count(&mut self, command: &str, word: &str) -> Result<u64, Error> {
        let lines = self.request_bounded(command, LONG, self.config.max_line_bytes, |_| true).await?;
        let count = lines.first().and_then(|line| line.strip_prefix(word)?.parse().ok());
        count.ok_or_else(|| Error::Protocol(format!("not an answer to {command}: {:?}", lines.first())))
    }

    async fn request_bounded(
        &mut self,
        command: &str,
        after: Duration,
        most: usize,
        mut is_last: impl FnMut(&str) -> bool,
    ) -> Result<Vec<String>, Error> {
        if self.abandoned {
            return Err(Error::Lost { source: None });
        }
        self.queue_line(command)?;
        self.abandoned = true;
        let (mut lines, mut bytes) = (Vec::new(), 0);
        loop {
            let line = match timeout(after, self.link.read_line()).await {
                Ok(line) => line?,
                Err(_) => {
                    return Err(Error::Timeout { what: "a command", after });
                }
            };
            let refused = match Reply::parse(&line) {
                Reply::Error(reason) => Some(reason.to_owned()),
                Reply::NoEvent(_) => Some(line.clone()),
                _ => None,
            };
            if let Some(reason) = refused {
                self.abandoned = false;
                return Err(Error::Refused { reason });
            }
            bytes += line.len() + size_of::<String>();
            if bytes > most {
                return Err(Error::Protocol("an answer does not end".to_owned()));
            }
            let last = is_last(&line);
            lines.push(line);
            if last {
                self.abandoned = false;
                return Ok(lines);
            }
        }
    }

    /// Says `quit`, and waits for the broker to have sent everything and to close.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the close timeout; the socket is closed all the same.
    pub async fn quit(self) -> Result<(), Error> {
        let after = self.config.close_timeout;
        timeout(after, self.link.quit()).await.map_err(|_| Error::Timeout { what: "quit", after })
    }

    fn queue_line(&mut self, line: &str) -> Result<(), Error> {
        if line.contains(['\n', '\r']) {
            return Err(Error::Invalid("a command is one line: there is a line break in it".to_owned()));
        }
        let limit = self.link.server().max_line_bytes;
        if line.len() > limit {
            return Err(Error::TooLarge { bytes: line.len(), limit });
        }
        self.link.queue(line);
        self.link.queue("\n");
        Ok(())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.config.address).finish_non_exhaustive()
    }
}

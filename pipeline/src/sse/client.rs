//! The client: one URL, read for ever.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Response, Url};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::config::{SseConfig, SseConfigError};
use super::deadline::Deadline;
use super::event::{Oversized, SseItem};
use super::parser::Parser;
use super::response::{EVENT_STREAM, Verdict, judge};
use super::resume::Resume;
use super::state::{SseState, Stopped, WaitReason, shown_url};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Probes a quiet connection, so that the system notices a vanished peer even where no idle limit is set.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

type Request = Pin<Box<dyn Future<Output = reqwest::Result<Response>> + Send>>;

/// Reads one event stream for ever, over any number of connections.
///
/// It is pulled, and does nothing between pulls: no task, no queue. What the server sends faster than it is asked for
/// stays in the socket's buffers (and in some hundred kilobytes of the HTTP client's) until the server has to wait.
pub struct SseClient {
    http: reqwest::Client,
    config: SseConfig,
    url: Url,
    headers: HeaderMap,
    /// `url` as it may be logged.
    shown_url: String,
    parser: Parser,
    resume: Resume,
    backoff: Backoff,
    phase: Phase,
    /// What a batch had collected when its future was dropped. At most one batch.
    ready: VecDeque<SseItem>,
    state: watch::Sender<SseState>,
}

/// Everything that is under way is kept here and not in a future, so that dropping a pull loses nothing.
enum Phase {
    Idle,
    Connecting { request: Request, deadline: Option<Deadline> },
    Open(Box<Open>),
    Waiting { until: Instant },
    Stopped(Stopped),
}

struct Open {
    response: Response,
    /// What is not parsed yet of the newest chunk.
    chunk: Bytes,
    /// Set from the first pull after a chunk to the next chunk.
    idle: Option<Deadline>,
    since: Instant,
    last_bytes: Instant,
}

/// Follows up to `most` redirects; to another origin only where no headers are configured, which may hold secrets of this one.
fn redirects(most: usize, has_own_headers: bool) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        let leaves = attempt.previous().first().is_some_and(|first| first.origin() != attempt.url().origin());
        if attempt.previous().len() > most {
            attempt.error("too many redirects")
        } else if leaves && has_own_headers {
            attempt.error("a redirect to another origin, to which the configured headers must not go")
        } else {
            attempt.follow()
        }
    })
}

impl SseClient {
    /// A client that connects when it is pulled first.
    ///
    /// # Errors
    /// The URL, a header or a limit in `config` cannot be used, or the HTTP client cannot be set up.
    pub fn new(config: SseConfig) -> Result<Self, SseConfigError> {
        let (url, own_headers) = config.check()?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .redirect(redirects(config.max_redirects, !own_headers.is_empty()))
            .tcp_keepalive(TCP_KEEPALIVE)
            // Every attempt is counted and waited for here, and none may use a connection that has proved dead.
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0);
        if !config.system_proxy {
            http = http.no_proxy();
        }
        let mut headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static(EVENT_STREAM)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (USER_AGENT, HeaderValue::from_static(concat!("herald/", env!("CARGO_PKG_VERSION")))),
        ]);
        headers.extend(own_headers);
        headers.remove(LAST_EVENT_ID);
        let parser = Parser::new(config.limits, &config.last_event_id);
        Ok(Self {
            http: http.build().map_err(SseConfigError::Client)?,
            shown_url: shown_url(&url),
            url,
            headers,
            resume: Resume::new(parser.last_event_id()),
            backoff: Backoff::new(&config),
            parser,
            phase: Phase::Idle,
            ready: VecDeque::new(),
            state: watch::Sender::new(SseState::Connecting { failures: 0 }),
            config,
        })
    }

    /// Waits for the next item, connecting and reconnecting as it takes.
    ///
    /// Cancel-safe: a dropped call loses nothing, and what it was doing goes on with the next one.
    ///
    /// # Errors
    /// The client has stopped for good; every further call says the same.
    pub async fn next(&mut self) -> Result<SseItem, Stopped> {
        loop {
            if let Some(item) = self.ready.pop_front().or_else(|| self.parse()) {
                return Ok(item);
            }
            self.advance().await?;
        }
    }

    /// Waits for the next item, and gives it with those that are there by then, in order: at least one and at most `max`
    /// (0 counts as 1). A batch also ends when its data reach [`max_event_bytes`](super::ParserLimits::max_event_bytes).
    ///
    /// Cancel-safe, as [`next`](Self::next) is. The two can be mixed.
    ///
    /// # Errors
    /// The client has stopped for good, and has given everything it read.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<SseItem>, Stopped> {
        let max = max.max(1);
        if self.ready.is_empty() {
            let first = self.next().await?;
            self.ready.push_back(first);
        }
        let mut bytes: usize = self.ready.iter().map(data_bytes).sum();
        while self.ready.len() < max && bytes < self.config.limits.max_event_bytes {
            if let Some(item) = self.parse() {
                bytes = bytes.saturating_add(data_bytes(&item));
                self.ready.push_back(item);
            } else if !self.receive_now().await {
                break;
            }
        }
        Ok(self.ready.drain(..max.min(self.ready.len())).collect())
    }

    /// What the client is doing.
    #[must_use]
    pub fn state(&self) -> SseState {
        self.state.borrow().clone()
    }

    /// A view of what the client is doing, for others than its owner. States that pass quickly may not be seen there.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SseState> {
        self.state.subscribe()
    }

    /// The last event id of the stream as far as it has been read. Which events have been dealt with, the ids in the
    /// events themselves say.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }

    /// Parses the next item out of what has been received.
    fn parse(&mut self) -> Option<SseItem> {
        let Phase::Open(open) = &mut self.phase else {
            return None;
        };
        let mut input: &[u8] = &open.chunk;
        let item = self.parser.next(&mut input);
        let unread = input.len();
        open.chunk.advance(open.chunk.len() - unread);

        self.resume.observe(self.parser.last_event_id());
        if let Some(wish_ms) = self.parser.take_retry_ms() {
            let retry_ms = self.backoff.set_base(wish_ms).as_millis() as u64;
            debug!(url = self.shown_url, wish_ms, retry_ms, "sse server sets the reconnection time");
        }
        match &item {
            Some(SseItem::Event(_)) => self.backoff.healthy(),
            Some(SseItem::Oversize(oversize)) => {
                if oversize.what != Oversized::IgnoredLine {
                    self.backoff.healthy();
                }
                let (what, limit) = (oversize.what.as_str(), oversize.limit);
                warn!(
                    url = self.shown_url,
                    what,
                    limit,
                    after = &*oversize.last_event_id,
                    "sse data over the limit skipped"
                );
            }
            None => {}
        }
        item
    }

    /// Waits for one thing to happen. Only to be called with nothing left to parse.
    async fn advance(&mut self) -> Result<(), Stopped> {
        match &mut self.phase {
            Phase::Stopped(stopped) => return Err(stopped.clone()),
            Phase::Idle => self.connect(),
            Phase::Waiting { until } => {
                sleep_until(*until).await;
                self.connect();
            }
            Phase::Connecting { request, deadline } => {
                let answer = within(deadline, request).await;
                self.answered(answer);
            }
            Phase::Open(open) => {
                if let Some(limit) = self.config.idle_timeout {
                    open.idle.get_or_insert_with(|| Deadline::new(Instant::now(), limit));
                }
                let chunk = within(&mut open.idle, open.response.chunk()).await;
                self.received(chunk);
            }
        }
        Ok(())
    }

    /// Takes a further chunk if one is there. `false`: none is, or the stream has ended.
    async fn receive_now(&mut self) -> bool {
        // With chunked encoding an event is often a chunk of its own, and the task that reads the socket hands over one
        // at a time: it gets one turn to bring the next.
        for turn in 0..2 {
            if turn > 0 {
                tokio::task::yield_now().await;
            }
            let Phase::Open(open) = &mut self.phase else {
                return false;
            };
            if let Some(chunk) = open.response.chunk().now_or_never() {
                self.received(Ok(chunk));
                return matches!(self.phase, Phase::Open(_));
            }
        }
        false
    }

    fn connect(&mut self) {
        let mut headers = self.headers.clone();
        if let Some(id) = self.resume.header() {
            headers.insert(LAST_EVENT_ID, id);
        }
        if self.resume.is_behind() {
            warn!(
                url = self.shown_url,
                last_event_id = self.last_event_id(),
                "sse event id cannot be sent as a header, resuming after the newest one that can"
            );
        }
        self.phase = Phase::Connecting {
            request: Box::pin(self.http.get(self.url.clone()).headers(headers).send()),
            deadline: self.config.idle_timeout.map(|limit| Deadline::new(Instant::now(), limit)),
        };
        let failures = self.backoff.failures();
        debug!(url = self.shown_url, failures, "sse connecting");
        self.state.send_replace(SseState::Connecting { failures });
    }

    /// Takes the response, or what came instead: an error, or the limit that passed.
    fn answered(&mut self, answer: Result<reqwest::Result<Response>, Duration>) {
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_redirect() => return self.wait(WaitReason::Redirect),
            Ok(Err(error)) => return self.wait(WaitReason::Unreachable(causes(error))),
            Err(limit) => return self.wait(WaitReason::NoResponse(limit)),
        };
        match judge(response.status(), response.headers(), response.url(), SystemTime::now()) {
            Verdict::Open => {
                let since = Instant::now();
                self.phase =
                    Phase::Open(Box::new(Open { response, chunk: Bytes::new(), idle: None, since, last_bytes: since }));
                info!(url = self.shown_url, last_event_id = self.last_event_id(), "sse stream open");
                self.state.send_replace(SseState::Open { since });
            }
            Verdict::Retry(reason) => self.wait(reason),
            Verdict::Stop(stopped) => {
                error!(url = self.shown_url, reason = %stopped, "sse stopped");
                self.phase = Phase::Stopped(stopped.clone());
                self.state.send_replace(SseState::Stopped(stopped));
            }
        }
    }

    /// Takes a chunk of the stream, or what came instead: the end, an error, or the limit that passed.
    fn received(&mut self, chunk: Result<reqwest::Result<Option<Bytes>>, Duration>) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let now = Instant::now();
        let (reason, up_until) = match chunk {
            Ok(Ok(Some(chunk))) => {
                // An empty one is no sign of life.
                if !chunk.is_empty() {
                    open.chunk = chunk;
                    open.idle = None;
                    open.last_bytes = now;
                }
                return;
            }
            Ok(Ok(None)) => (WaitReason::Ended, now),
            Ok(Err(error)) => (WaitReason::Broken(causes(error)), now),
            // Nobody knows how long it has been dead.
            Err(limit) => (WaitReason::Idle(limit), open.last_bytes),
        };
        if up_until.duration_since(open.since) >= self.config.healthy_after {
            self.backoff.healthy();
        }
        self.parser.restart();
        self.wait(reason);
    }

    /// Drops the connection and plans the next one.
    fn wait(&mut self, reason: WaitReason) {
        let mut delay = self.backoff.next_delay(rand::random());
        if let WaitReason::Status { retry_after: Some(asked), .. } = reason {
            delay = delay.max(asked.min(self.config.max_retry_after));
        }
        let until = Instant::now() + delay;
        self.phase = Phase::Waiting { until };
        let failures = self.backoff.failures();
        let delay_ms = delay.as_millis() as u64;
        if reason == WaitReason::Ended && failures == 1 {
            info!(url = self.shown_url, delay_ms, "sse stream ended, reconnecting");
        } else {
            warn!(url = self.shown_url, %reason, failures, delay_ms, "sse stream interrupted, reconnecting");
        }
        self.state.send_replace(SseState::Waiting { until, delay, failures, reason });
    }
}

/// Waits for `future` until the deadline, if there is one. `Err` holds the limit that has passed.
async fn within<F: Future>(deadline: &mut Option<Deadline>, future: F) -> Result<F::Output, Duration> {
    let Some(deadline) = deadline else {
        return Ok(future.await);
    };
    // The future is asked first, so what has arrived counts however late it is.
    timeout_at(deadline.until(Instant::now()), future).await.map_err(|_| deadline.limit())
}

fn data_bytes(item: &SseItem) -> usize {
    match item {
        SseItem::Event(event) => event.data.len(),
        SseItem::Oversize(_) => 0,
    }
}

/// An error with all its causes, without the URL, which may hold a password.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

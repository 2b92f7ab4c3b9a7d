//! The client, which reads one URL indefinitely.
//!
//! ```text
//!              pull                200, event stream
//!   Idle ───────────► Connecting ─────────────────────► Open ── items
//!                      ▲    │                            │
//!                      │    │ failed, 5xx, …             │ ended, broken, silent too long
//!                 time │    ▼                            │
//!                     Waiting ◄──────────────────────────┘
//!
//!   Connecting ── 204, or a refusal with on_client_error = "stop" ──► Stopped
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use broker_core::error_chain;
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use reqwest::header::HeaderMap;
use reqwest::{Response, Url};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error, info, warn};

use super::backoff::Reconnecting;
use super::config::{SseConfig, SseConfigError};
use super::deadline::Deadline;
use super::event::{Oversized, SseItem};
use super::http::{Http, LAST_EVENT_ID};
use super::parser::Parser;
use super::response::{Verdict, judge};
use super::resume::Resume;
use super::state::{SseState, Stopped, WaitReason, shown_url};

type Request = Pin<Box<dyn Future<Output = reqwest::Result<Response>> + Send>>;

/// Reads one event stream indefinitely, over any number of connections.
///
/// It does nothing between pulls: it has no task and no queue. Data that the server sends ahead stays in the buffers of the socket (and
/// some hundred kilobytes of the HTTP client) until they are full and the server has to wait.
pub struct SseClient {
    http: reqwest::Client,
    config: SseConfig,
    url: Url,
    headers: HeaderMap,
    /// `url` without secrets, for logs.
    shown_url: String,
    /// The proxy without secrets, for logs.
    proxy: Option<String>,
    parser: Parser,
    resume: Resume,
    backoff: Reconnecting,
    phase: Phase,
    /// The items that a batch had collected when its future was dropped; at most one batch.
    ready: VecDeque<SseItem>,
    state: watch::Sender<SseState>,
}

/// The state between pulls. Work in progress is kept here and not in the pull's future, so that dropping a pull loses nothing.
enum Phase {
    Idle,
    Connecting { request: Request, deadline: Option<Deadline> },
    Open(Box<Open>),
    Waiting { until: Instant },
    Stopped(Stopped),
}

struct Open {
    response: Response,
    /// The part of the newest chunk that is not parsed yet.
    chunk: Bytes,
    /// Set from the first pull after a chunk to the next chunk.
    idle: Option<Deadline>,
    since: Instant,
    last_bytes: Instant,
    /// Whether any byte of the stream has arrived, comments included.
    has_sent: bool,
}

impl SseClient {
    /// Creates a client, which connects when it is first pulled.
    ///
    /// # Errors
    /// If the URL, a header or a limit in `config` is invalid, or the HTTP client cannot be set up.
    pub fn new(config: SseConfig) -> Result<Self, SseConfigError> {
        let Http { client: http, url, headers, proxy } = Http::new(&config)?;
        let parser = Parser::new(config.limits, &config.last_event_id);
        Ok(Self {
            http,
            proxy,
            shown_url: shown_url(&url),
            url,
            headers,
            resume: Resume::new(parser.last_event_id(), &config.sendable_event_id),
            backoff: Reconnecting::new(&config),
            parser,
            phase: Phase::Idle,
            ready: VecDeque::new(),
            state: watch::Sender::new(SseState::Connecting { failures: 0 }),
            config,
        })
    }

    /// Waits for the next item, connecting and reconnecting as needed.
    ///
    /// Cancel-safe: a dropped call loses nothing, and the next one continues its work.
    ///
    /// # Errors
    /// If the client has stopped permanently. Every further call returns the same error.
    pub async fn next(&mut self) -> Result<SseItem, Stopped> {
        loop {
            if let Some(item) = self.ready.pop_front().or_else(|| self.parse()) {
                return Ok(item);
            }
            self.advance().await?;
        }
    }

    /// Waits for the next item, and returns it with those available by then, in order: at least one and at most `max` (0 counts
    /// as 1). A batch also ends when its data reach [`max_event_bytes`](super::ParserLimits::max_event_bytes).
    ///
    /// Cancel-safe, like [`next`](Self::next). The two can be mixed.
    ///
    /// # Errors
    /// If the client has stopped permanently and has returned everything it read.
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

    /// The current state of the client.
    #[must_use]
    pub fn state(&self) -> SseState {
        self.state.borrow().clone()
    }

    /// Returns a receiver of the client's state, for observers. Short-lived states may be missed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SseState> {
        self.state.subscribe()
    }

    /// The last event id of the stream as far as it has been read. It may be ahead of the events that the caller has processed; these
    /// carry their own ids.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }

    /// The newest event id that a request can carry. It differs from [`last_event_id`](Self::last_event_id) if HTTP does not allow
    /// the latter in a header.
    #[must_use]
    pub fn sendable_event_id(&self) -> &str {
        self.resume.sendable()
    }

    /// Parses the next item from the received bytes.
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
            let retry_ms = self.backoff.set_reconnection_time(wish_ms).as_millis() as u64;
            debug!(url = self.shown_url, wish_ms, retry_ms, "sse server sets the reconnection time");
        }
        match &item {
            Some(SseItem::Event(_)) => self.backoff.reset(),
            Some(SseItem::Oversize(oversize)) => {
                if oversize.what != Oversized::IgnoredLine {
                    self.backoff.reset();
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
            Some(SseItem::Id(_)) | None => {}
        }
        item
    }

    /// Waits for the next step of the current phase. Call it only with nothing left to parse.
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

    /// Takes another chunk if one is available. `false`: there is none, or the stream has ended.
    async fn receive_now(&mut self) -> bool {
        // With chunked encoding an event is often one chunk, and the task that reads the socket hands over one chunk at a
        // time. It gets one turn to deliver the next.
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

    /// Handles the response, an error, or the limit that passed.
    fn answered(&mut self, answer: Result<reqwest::Result<Response>, Duration>) {
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_redirect() => return self.wait(WaitReason::Redirect),
            Ok(Err(error)) => return self.wait(WaitReason::Unreachable(causes(error))),
            Err(limit) => return self.wait(WaitReason::NoResponse(limit)),
        };
        let verdict = judge(response.status(), response.headers(), response.url(), SystemTime::now());
        match verdict.by(self.config.on_client_error) {
            Verdict::Open => {
                let since = Instant::now();
                self.phase = Phase::Open(Box::new(Open {
                    response,
                    chunk: Bytes::new(),
                    idle: None,
                    since,
                    last_bytes: since,
                    has_sent: false,
                }));
                info!(
                    url = self.shown_url,
                    proxy = self.proxy,
                    last_event_id = self.last_event_id(),
                    "sse stream open"
                );
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

    /// Handles a chunk of the stream, its end, an error, or the limit that passed.
    fn received(&mut self, chunk: Result<reqwest::Result<Option<Bytes>>, Duration>) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let now = Instant::now();
        let (reason, up_until) = match chunk {
            Ok(Ok(Some(chunk))) => {
                // An empty chunk is no sign of life.
                if !chunk.is_empty() {
                    open.chunk = chunk;
                    open.idle = None;
                    open.last_bytes = now;
                    open.has_sent = true;
                }
                return;
            }
            Ok(Ok(None)) => (WaitReason::Ended, now),
            Ok(Err(error)) => (WaitReason::Broken(causes(error)), now),
            // The connection may have died at any time since its last byte.
            Err(limit) => (WaitReason::Idle(limit), open.last_bytes),
        };
        if open.has_sent || up_until.duration_since(open.since) >= self.config.healthy_after {
            self.backoff.reset();
        }
        self.parser.restart();
        self.wait(reason);
    }

    /// Drops the connection and schedules the next one.
    fn wait(&mut self, reason: WaitReason) {
        // The silence was a pause already, and the server may simply have no events.
        if matches!(reason, WaitReason::Idle(_) | WaitReason::NoResponse(_)) {
            self.backoff.reset();
        }
        let mut delay = self.backoff.next_delay();
        if let WaitReason::Status { retry_after: Some(asked), .. } = reason {
            delay = delay.max(asked.min(self.config.max_retry_after));
        }
        let until = Instant::now() + delay;
        self.phase = Phase::Waiting { until };
        let failures = self.backoff.failures();
        let delay_ms = delay.as_millis() as u64;
        if reason == WaitReason::Ended && failures == 1 {
            info!(url = self.shown_url, proxy = self.proxy, delay_ms, "sse stream ended, reconnecting");
        } else {
            warn!(url = self.shown_url, proxy = self.proxy, %reason, failures, delay_ms, "sse stream interrupted, reconnecting");
        }
        self.state.send_replace(SseState::Waiting { until, delay, failures, reason });
    }
}

/// Waits for `future` until the deadline, if there is one. `Err` holds the limit that has passed.
async fn within<F: Future>(deadline: &mut Option<Deadline>, future: F) -> Result<F::Output, Duration> {
    let Some(deadline) = deadline else {
        return Ok(future.await);
    };
    // The future is polled before the timer, so bytes that have arrived count however late they are.
    timeout_at(deadline.until(Instant::now()), future).await.map_err(|_| deadline.limit())
}

fn data_bytes(item: &SseItem) -> usize {
    match item {
        SseItem::Event(event) => event.data.len(),
        SseItem::Oversize(_) | SseItem::Id(_) => 0,
    }
}

/// An error with its causes, without the URL, which may hold a password.
fn causes(error: reqwest::Error) -> String {
    error_chain(&error.without_url())
}

//! The feed's HTTP server: two streams, a help page, and an orderly shutdown.

use std::convert::Infallible;
use std::fmt;
use std::future::{IntoFuture as _, pending};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::event::FeedStream;
use super::listener::LimitedListener;
use super::script::Script;
use super::stream::{EventStream, Shared};
use super::{FeedConfig, FeedCounters, FeedError};

/// The time that clients have after shutdown to read the remaining bytes.
const DRAIN: Duration = Duration::from_millis(500);

const ABOUT: &str = "\
This is Herald's tweet feed: simulated tweets in the format of Twitter's v1.1 API, as server-sent events.

  /tweets/1    the first stream
  /tweets/2    the second stream, with other tweets

Try:

  curl -N http://HOST/tweets/1

Every event has an id; the header Last-Event-ID resumes after it:

  curl -N -H 'Last-Event-ID: ID' http://HOST/tweets/1
";

const NOT_FOUND: &str = "not found: the feed has /tweets/1, /tweets/2 and /\n";

const NOT_ALLOWED: &str = "method not allowed: use GET\n";

/// A feed whose content is loaded, ready for a listener.
pub struct Feed {
    config: FeedConfig,
    script: Script,
    counters: Arc<FeedCounters>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the script, which may hold 256 MiB of text.
        f.debug_struct("Feed").field("config", &self.config).field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Feed {
    /// Checks the settings and loads the files, if any. Blocking: in asynchronous code with large files use [`serve`] or a
    /// blocking task.
    /// # Errors
    /// Any [`FeedError`] except [`FeedError::Serve`].
    pub fn new(config: FeedConfig) -> Result<Self, FeedError> {
        config.validate()?;
        Ok(Self { script: Script::new(&config)?, config, counters: Arc::default() })
    }

    /// The feed's running totals, valid while it serves and afterwards.
    #[must_use]
    pub fn counters(&self) -> Arc<FeedCounters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `shutdown` is cancelled. It then accepts no more connections, ends all streams in an orderly way, and aborts
    /// connections whose clients do not read the remaining bytes within half a second. Dropping the future ends everything too.
    ///
    /// Every connection has its own schedule. It starts with the first event of its stream, or after the one in
    /// `Last-Event-ID`, and continues at the configured rate. An id that is malformed, of the other stream or of a feed with other
    /// content starts over. A slow client may catch up on one second of events.
    /// # Errors
    /// [`FeedError::Serve`] if the server ends by itself.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), FeedError> {
        let abort = CancellationToken::new();
        let stop = shutdown.child_token();
        // If this future is dropped, the guards end its connections' tasks.
        let _abort_on_drop = abort.clone().drop_guard();
        let _stop_on_drop = stop.clone().drop_guard();
        let listener = LimitedListener::new(listener, self.config.max_connections, abort.clone());
        let shared = Arc::new(Shared {
            script: self.script,
            rate: self.config.rate,
            limit: self.config.limit,
            heartbeat: self.config.heartbeat,
            counters: self.counters,
            stop,
        });
        let server = axum::serve(listener, router(shared))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future();
        let cut_off = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
            abort.cancel();
            pending::<Infallible>().await
        };
        tokio::select! {
            served = server => served.map_err(|source| FeedError::Serve { source }),
            never = cut_off => match never {},
        }
    }
}

/// Loads and serves a feed. [`Feed`] does so in two steps, between which its counters are available.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use pipeline_feed::{FeedConfig, serve};
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:4000").await?;
/// let shutdown = tokio_util::sync::CancellationToken::new();
/// serve(listener, FeedConfig::default(), shutdown).await?;
/// # Ok(())
/// # }
/// ```
/// # Errors
/// As [`Feed::new`] and [`Feed::serve`].
pub async fn serve(listener: TcpListener, config: FeedConfig, shutdown: CancellationToken) -> Result<(), FeedError> {
    let feed = tokio::task::spawn_blocking(|| Feed::new(config))
        .await
        .map_err(|e| FeedError::Serve { source: e.into() })??;
    feed.serve(listener, shutdown).await
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(about))
        .route("/tweets/1", get(one))
        .route("/tweets/2", get(two))
        .fallback(async || (StatusCode::NOT_FOUND, NOT_FOUND))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, NOT_ALLOWED))
        .with_state(shared)
}

async fn about(headers: HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1:4000");
    ABOUT.replace("HOST", host)
}

async fn one(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    events(shared, FeedStream::One, &headers)
}

async fn two(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    events(shared, FeedStream::Two, &headers)
}

fn events(shared: Arc<Shared>, stream: FeedStream, headers: &HeaderMap) -> Response {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let events = EventStream::new(shared, stream, last_event_id);
    let body = futures_util::stream::unfold(events, async |mut events| {
        let chunk = events.next_chunk().await?;
        Some((Ok::<_, Infallible>(chunk), events))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // The tweets are fictitious, so any page may read them.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

//! The feed's HTTP server: two streams, a page that says so, and an orderly end.

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

/// How long clients have, after the shutdown, to take what is already written for them.
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

const NOT_FOUND: &str = "not found: there are /tweets/1, /tweets/2 and /\n";

const NOT_ALLOWED: &str = "method not allowed: the feed is read with GET\n";

/// A feed that has its content and waits for a listener.
pub struct Feed {
    config: FeedConfig,
    script: Script,
    counters: Arc<FeedCounters>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the script, which has up to 256 MiB of other people's text.
        f.debug_struct("Feed").field("config", &self.config).field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Feed {
    /// Checks the settings and reads the files, if there are any. Blocks while it reads: from asynchronous code with large
    /// files, use [`serve`] or a blocking task.
    /// # Errors
    /// Any of [`FeedError`] but [`FeedError::Serve`]; the settings and the files are what can be wrong.
    pub fn new(config: FeedConfig) -> Result<Self, FeedError> {
        config.validate()?;
        Ok(Self { script: Script::new(&config)?, config, counters: Arc::default() })
    }

    /// What the feed has done so far; stays valid and exact while it serves and after.
    #[must_use]
    pub fn counters(&self) -> Arc<FeedCounters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `shutdown` is cancelled. Then no more connections are accepted, all streams end in an orderly way, and
    /// clients that do not take their last bytes within half a second are cut off. Dropping the future ends everything too.
    ///
    /// Every connection has its own schedule: it begins with the first event of its stream, or after the one that
    /// `Last-Event-ID` names, and goes on at the rate of the settings. An id that is malformed, of the other stream or of a
    /// feed with other content begins afresh. What a client does not take in time is made up for, up to one second.
    /// # Errors
    /// [`FeedError::Serve`] if the server ends by itself.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), FeedError> {
        let abort = CancellationToken::new();
        let stop = shutdown.child_token();
        // In this order: should this future be dropped, its connections' tasks end too.
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

/// Loads and serves a feed; [`Feed`] does the same in two steps, between which its counters can be had.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use pipeline::feed::{FeedConfig, serve};
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
        // The tweets are made up: any page may read them.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

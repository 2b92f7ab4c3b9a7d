//! The change stream as a [`Source`]: it commits events together with the resume token after them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::Backoff;
use broker_core::source::{Publisher, Source, SourceError};
use pipeline_source::mapping::Mapping;
use pipeline_source::publishing::{Publishing, SourceCounters};
use tokio_util::sync::CancellationToken;

use super::config::{ChangeStreamConfig, ChangeStreamConfigError, Scope};
use super::failure::{Failure, judge};
use super::position::Position;
use super::reader::Reader;
use super::stats::ChangeStreamStats;
use super::stream::Opener;

/// The interval at which stats are logged and the oplog is checked.
const REPORT: Duration = Duration::from_secs(60);

/// The time left in the oplog below which a warning is logged.
const LITTLE_OPLOG: Duration = Duration::from_secs(60 * 60);

/// Publishes a MongoDB change stream to a broker.
///
/// The token is committed in the same atomic batch as the events, so a restart continues exactly where the broker's storage ends. One
/// batch is in progress at a time; until it is stored no further request goes to MongoDB.
pub struct ChangeStreamSource {
    pub(super) name: String,
    pub(super) config: ChangeStreamConfig,
    pub(super) scope: Scope,
    pub(super) mapping: Mapping,
    pub(super) counters: Arc<SourceCounters>,
    pub(super) stats: Arc<ChangeStreamStats>,
}

impl ChangeStreamSource {
    /// Creates a source called `name`, which is the key of its cursor. Connects nothing yet.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        name: impl Into<String>,
        config: ChangeStreamConfig,
        mapping: Mapping,
    ) -> Result<Self, ChangeStreamConfigError> {
        let scope = config.check()?;
        let (counters, stats) = (Arc::default(), Arc::default());
        Ok(Self { name: name.into(), config, scope, mapping, counters, stats })
    }

    /// The source's counters.
    #[must_use]
    pub fn counters(&self) -> Arc<SourceCounters> {
        Arc::clone(&self.counters)
    }

    /// The stream's stats, such as its lag.
    #[must_use]
    pub fn stats(&self) -> Arc<ChangeStreamStats> {
        Arc::clone(&self.stats)
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> SourceError {
        SourceError { source_name: self.name.clone(), reason: reason.into(), cause: None }
    }

    /// Creates a client, retrying until the connection string resolves. `None`: shutdown came first.
    async fn connect(&self, shutdown: &CancellationToken) -> Result<Option<Opener>, SourceError> {
        let mut backoff = backoff();
        loop {
            let failure = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                opener = Opener::new(&self.config, self.scope.clone()) => match opener {
                    Ok(opener) => return Ok(Some(opener)),
                    Err(error) => judge(&error),
                },
            };
            let (Failure::Passing(why) | Failure::HistoryLost(why)) = failure else {
                let Failure::NeedsPerson(why) = failure else { return Err(self.error("the uri cannot be used")) };
                return Err(self.error(why));
            };
            if !self.wait(&mut backoff, &why, shutdown).await {
                return Ok(None);
            }
        }
    }

    /// Logs the reason and waits before the next attempt. False: shutdown came first.
    pub(super) async fn wait(&self, backoff: &mut Backoff, why: &str, shutdown: &CancellationToken) -> bool {
        let delay = backoff.next_delay();
        tracing::warn!(source = %self.name, error = why, again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "the change stream is interrupted");
        tokio::select! {
            () = shutdown.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    /// Logs the stats once a minute.
    async fn report(&self, opener: &Opener) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(REPORT).await;
            let oldest = tokio::time::timeout(REPORT, opener.oldest_change()).await.ok().flatten();
            self.stats.oldest(oldest);
            let (lag, remaining) = (self.stats.lag(), self.stats.remaining_oplog());
            tracing::info!(
                source = %self.name,
                read = load(&self.counters.read),
                published = load(&self.counters.published),
                skipped = load(&self.counters.skipped),
                gaps = load(&self.stats.gaps),
                lag_s = lag.map(|lag| lag.as_secs()),
                remaining_oplog_s = remaining.map(|remaining| remaining.as_secs()),
                "change stream"
            );
            if let (Some(lag), Some(remaining)) = (lag, remaining)
                && lag > REPORT
                && remaining < LITTLE_OPLOG
            {
                tracing::warn!(source = %self.name, lag_s = lag.as_secs(), remaining_oplog_s = remaining.as_secs(), "the change stream lags, and MongoDB will soon drop unread changes: make the oplog larger, or the consumers faster");
            }
        }
    }
}

pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30))
}

#[async_trait]
impl Source for ChangeStreamSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError> {
        let publishing = Publishing::new(&self.name, publisher, Arc::clone(&self.counters), shutdown.clone());
        let Some(cursor) = publishing.cursor().await else { return Ok(()) };
        let position = cursor.filter(|cursor| !cursor.is_empty());
        let position = position.map(|cursor| Position::from_cursor(&cursor, &self.scope)).transpose();
        let position = position.map_err(|unusable| self.error(unusable.to_string()))?;
        let Some(opener) = self.connect(&shutdown).await? else { return Ok(()) };
        tracing::info!(
            source = %self.name,
            database = %self.scope.database,
            collections = ?self.scope.collections,
            after = position.as_ref().map(|position| position.token.text()),
            "source started"
        );
        let mut reader = Reader::new(&self, &opener, publishing, &shutdown, position);
        tokio::select! {
            done = reader.run() => done,
            () = self.report(&opener) => Ok(()),
        }
    }
}

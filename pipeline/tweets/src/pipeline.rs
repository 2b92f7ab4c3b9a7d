//! The assembled pipeline: how its stages connect, start and stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::source::Publisher;
use broker_core::{Backoff, error_chain};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::batcher::{Batcher, Position};
use super::config::PipelineConfig;
use super::console::{self, Screen};
use super::dead_letters::DeadLetters;
use super::hashtag_counts::HashtagCounts;
use super::logger::Logger;
use super::pool::{self, PoolSize, PoolStats};
use super::progress::Progress;
use super::statistics::Statistics;
use super::{aggregator, engagement, sentiment, stream};
use crate::sink::{SinkError, TweetSink};
use pipeline_sse::{SseClient, SseConfig};

/// The capacity between two stages, besides the workers' queues. Small, since all of these items are read again after a kill.
const BETWEEN: usize = 256;

/// The first and the longest backoff while the sink cannot be read at the start.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A pipeline that has not started.
pub struct TweetPipeline {
    config: PipelineConfig,
    sink: Arc<dyn TweetSink>,
    publisher: Arc<dyn Publisher>,
    console: Option<TcpListener>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    read: Arc<AtomicU64>,
    dead: Arc<AtomicU64>,
    forgotten: Arc<AtomicU64>,
    loggers: Arc<PoolStats>,
    sentiments: Arc<PoolStats>,
    engagements: Arc<PoolStats>,
}

/// Running totals of a pipeline since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipelineStats {
    /// Events read from the feeds.
    pub read: u64,
    /// Tweets sent to be scored, including those inside retweets.
    pub scored: u64,
    /// Workers that crashed, across all pools.
    pub crashes: u64,
    /// Documents sent to the dead letters.
    pub dead_letters: u64,
    /// Tweets given up because one of their scores never arrived.
    pub forgotten: u64,
    /// The current number of workers across all pools.
    pub workers: u64,
}

impl TweetPipeline {
    /// A pipeline that stores in `sink`, publishes its statistics and dead letters to `publisher`, and is controlled on
    /// `console`.
    #[must_use]
    pub fn new(
        config: PipelineConfig,
        sink: Arc<dyn TweetSink>,
        publisher: Arc<dyn Publisher>,
        console: Option<TcpListener>,
    ) -> Self {
        Self { config, sink, publisher, console, counters: Arc::default() }
    }

    /// A live view of its totals.
    pub fn stats(&self) -> impl Fn() -> PipelineStats + Send + Sync + 'static {
        let counters = Arc::clone(&self.counters);
        move || {
            let pools = [&counters.loggers, &counters.sentiments, &counters.engagements];
            PipelineStats {
                read: counters.read.load(Ordering::Relaxed),
                scored: counters.sentiments.items.load(Ordering::Relaxed),
                crashes: pools.iter().map(|pool| pool.crashes.load(Ordering::Relaxed)).sum(),
                dead_letters: counters.dead.load(Ordering::Relaxed),
                forgotten: counters.forgotten.load(Ordering::Relaxed),
                workers: pools.iter().map(|pool| pool.workers.load(Ordering::Relaxed) as u64).sum(),
            }
        }
    }

    /// Runs until `stop`: then reading ends, events already read are stored, and the pipeline ends. If the sink fails during
    /// this, the tweets that it did not store are read again after the next start.
    ///
    /// # Panics
    /// If a stage panics, which only a bug in it can cause.
    pub async fn run(self, stop: CancellationToken) {
        let start = CancellationToken::new();
        let screen = Screen::new();
        // These keep running while the rest drains, and end after it.
        let drained = CancellationToken::new();
        let mut around = JoinSet::new();
        if let Some(listener) = self.console {
            around.spawn(console::serve(listener, screen.clone(), start.clone(), drained.clone()));
        }
        if self.config.autostart {
            start.cancel();
        }
        tokio::select! {
            () = start.cancelled() => {}
            () = stop.cancelled() => {}
        }
        let names: Vec<String> = self.config.streams.iter().map(|url| cursor_name(url.reveal())).collect();
        let prepared = tokio::select! {
            () = stop.cancelled() => None,
            prepared = prepare(&*self.sink, &names) => Some(prepared),
        };
        let Some((hashtags, cursors)) = prepared else {
            self.sink.close().await;
            drained.cancel();
            return join(around).await;
        };

        let Self { config, sink, publisher, counters, .. } = self;
        let statistics = Arc::new(Statistics::default());
        let hashtags = Arc::new(HashtagCounts::new(hashtags));
        around.spawn(Arc::clone(&statistics).report(
            config.stats,
            Arc::clone(&counters.loggers),
            Arc::clone(&publisher),
            drained.clone(),
        ));
        around.spawn(Arc::clone(&hashtags).write_to(config.hashtags_file.clone(), drained.clone()));

        // Each stage ends once the previous one has ended and its queue is empty.
        let mut stages = JoinSet::new();
        let (to_loggers, for_loggers) = mpsc::channel(BETWEEN);
        let (to_sentiment, for_sentiment) = mpsc::channel(BETWEEN);
        let (to_engagement, for_engagement) = mpsc::channel(BETWEEN);
        let (to_aggregator, for_aggregator) = mpsc::channel(BETWEEN);
        let (to_batcher, for_batcher) = mpsc::channel(BETWEEN);

        let mut positions = Vec::new();
        for (at, ((url, name), cursor)) in config.streams.iter().zip(names).zip(cursors).enumerate() {
            let progress = Progress::new(&cursor);
            positions.push(Position { stream: name, progress: Arc::clone(&progress) });
            tracing::info!(stream = at + 1, last_event_id = %cursor, "a stream of the pipeline starts");
            match SseClient::new(SseConfig { last_event_id: cursor, ..SseConfig::new(url.reveal()) }) {
                Ok(client) => {
                    let (loggers, read) = (to_loggers.clone(), Arc::clone(&counters.read));
                    stages.spawn(stream::run(at + 1, client, progress, loggers, read, stop.clone()));
                }
                Err(error) => {
                    tracing::error!(stream = at + 1, error = %error_chain(&error), "a stream of the pipeline cannot be read");
                }
            }
        }
        let logger = Arc::new(Logger {
            simulated_work: config.simulated_work,
            screen,
            statistics: Arc::clone(&statistics),
            numbers: AtomicU64::new(0),
            sentiment: to_sentiment,
            engagement: to_engagement,
            rejected: to_batcher.clone(),
        });
        let size = PoolSize { workers: config.workers, max_workers: config.max_workers, autoscale: config.autoscale };
        let log = move |worker, incoming| Arc::clone(&logger).work(worker, incoming);
        stages.spawn(pool::run("logger", size, Arc::clone(&counters.loggers), for_loggers, log));
        let to_aggregator = Arc::new(to_aggregator);
        let aggregator = Arc::clone(&to_aggregator);
        let score = move |_, logged| sentiment::work(logged, Arc::clone(&aggregator));
        stages.spawn(pool::run("sentiment", size, Arc::clone(&counters.sentiments), for_sentiment, score));
        let score = move |_, logged| engagement::work(logged, Arc::clone(&to_aggregator));
        stages.spawn(pool::run("engagement", size, Arc::clone(&counters.engagements), for_engagement, score));
        stages.spawn(aggregator::run(for_aggregator, to_batcher, Arc::clone(&counters.forgotten)));
        let dead_letters =
            DeadLetters { topic: config.dead_letter.clone(), publisher, count: Arc::clone(&counters.dead) };
        let batcher = Batcher {
            sink,
            dead_letters,
            statistics,
            hashtags,
            positions,
            batch_size: config.batch_size,
            flush: config.flush,
            stop: stop.clone(),
        };
        stages.spawn(batcher.run(for_batcher));

        // A server without more events ends its stream; the pipeline still runs until `stop`.
        tokio::select! {
            () = stop.cancelled() => {}
            never = first_panic(&mut stages) => match never {},
        }
        drop(to_loggers);
        join(stages).await;
        drained.cancel();
        join(around).await;
    }
}

/// The name under which a stream's cursor is stored: its URL without the credentials, which must not reach the database.
fn cursor_name(url: &str) -> String {
    let Ok(mut name) = reqwest::Url::parse(url) else { return url.to_owned() };
    // Both fail only for URLs without a host, which have no credentials either.
    let _ = name.set_username("");
    let _ = name.set_password(None);
    name.into()
}

/// Reads the state that earlier runs left in the sink: the hashtags, and a cursor for each stream. Retries indefinitely.
async fn prepare(sink: &dyn TweetSink, streams: &[String]) -> (HashMap<String, u64>, Vec<String>) {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    loop {
        match read_back(sink, streams).await {
            Ok(read) => return read,
            Err(error) => tracing::warn!(error = %error_chain(&error), "reading from the sink failed, retrying"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn read_back(sink: &dyn TweetSink, streams: &[String]) -> Result<(HashMap<String, u64>, Vec<String>), SinkError> {
    let mut cursors = Vec::with_capacity(streams.len());
    for stream in streams {
        cursors.push(sink.cursor(stream).await?.unwrap_or_default());
    }
    Ok((sink.hashtags().await?, cursors))
}

/// Waits for a task to panic and propagates the panic. Never completes otherwise.
async fn first_panic(tasks: &mut JoinSet<()>) -> std::convert::Infallible {
    while let Some(ended) = tasks.join_next().await {
        pass_on(ended);
    }
    std::future::pending().await
}

async fn join(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        pass_on(ended);
    }
}

fn pass_on(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

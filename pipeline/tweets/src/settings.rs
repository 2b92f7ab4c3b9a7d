//! `[pipeline]`: its keys, the configuration built from them, and the seam for the configuration of its sink.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::error_chain;
use broker_core::name::TopicName;
use broker_core::settings::check::check_address;
use broker_core::settings::key::DAY_MS;
use broker_core::settings::text::quoted;
use broker_core::settings::{Key, Preset, Problem, Secret, SecretString, Shape, Values, read, values};
use pipeline_sse::{SseClient, SseConfig};
use serde::Deserialize;

use crate::PipelineConfig;
use crate::sink::{SinkError, TweetSink};

/// The configuration of a sink of the tweet pipeline.
#[async_trait]
pub trait TweetSinkConfig: Debug + Send + Sync {
    /// Opens the sink.
    ///
    /// # Errors
    /// [`SinkError`] if it cannot be opened; a server that is down is not an error.
    async fn open(&self) -> Result<Arc<dyn TweetSink>, SinkError>;
}

/// The keys of `[pipeline]`, except those of its sink.
pub const KEYS: &[Key] = &[
    Key::with_default(
        "streams",
        Shape::Texts,
        Preset::Texts(&["http://localhost:4000/tweets/1", "http://localhost:4000/tweets/2"]),
        "The feeds to read: URLs, http or https.",
    )
    .secret(Secret::InUrl),
    Key::with_default(
        "autostart",
        Shape::Bool,
        Preset::Bool(false),
        "true: start without waiting for the `twitter` command.",
    ),
    Key::with_default(
        "console",
        Shape::Text,
        Preset::Text("127.0.0.1:8080"),
        "Telnet here and type `twitter` to start and to see the tweets; \"\": no console.",
    ),
    Key::with_default("workers", Shape::Int(1, MAX_WORKERS), Preset::Int(5), "Each pool's size at the start."),
    Key::with_default(
        "max_workers",
        Shape::Int(1, MAX_WORKERS),
        Preset::Int(64),
        "The largest size of a pool. Workers that only compute need no more than there are cores; with simulated_work_ms they\n\
         sleep most of the time.",
    ),
    Key::with_default(
        "autoscale",
        Shape::Bool,
        Preset::Bool(true),
        "Resize each pool every second: a worker for 5 events of that second and one more, and twice as many where events\n\
         had to wait.",
    ),
    Key::with_default(
        "simulated_work_ms",
        // No real work takes a worker longer per tweet.
        Shape::Range(60_000),
        Preset::Ints(&[0, 0]),
        "Milliseconds to sleep for each tweet, at random between the two, at most a minute.",
    ),
    Key::with_default("batch_size", Shape::Int(1, 100_000), Preset::Int(200), "Tweets in a batch."),
    Key::with_default(
        "flush_ms",
        Shape::Int(1, DAY_MS),
        Preset::Int(3000),
        "Milliseconds after which a batch that is not full is written.",
    ),
    Key::with_default(
        "stats_ms",
        Shape::Int(1, DAY_MS),
        Preset::Int(5000),
        "Milliseconds between two statistics, which go to the log and to the topics logger_stats, tweets_stats and users_stats.",
    ),
    Key::with_default(
        "hashtags_file",
        Shape::Path("file"),
        Preset::Text("hashtag_stats.json"),
        "The file for the counts of hashtags: one JSON object, the highest count first.",
    ),
    Key::with_default(
        "dead_letter",
        Shape::Text,
        Preset::Text("pipeline.dead"),
        "The topic for documents that can never be stored, with the reason.",
    ),
];

/// The maximum number of workers in a pool.
const MAX_WORKERS: i64 = 10_000;

/// The values of [`KEYS`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    streams: Vec<SecretString>,
    autostart: bool,
    console: String,
    workers: usize,
    max_workers: usize,
    autoscale: bool,
    simulated_work_ms: [u64; 2],
    batch_size: usize,
    #[serde(rename = "flush_ms", deserialize_with = "values::milliseconds")]
    flush: Duration,
    #[serde(rename = "stats_ms", deserialize_with = "values::milliseconds")]
    stats: Duration,
    hashtags_file: PathBuf,
    dead_letter: String,
}

impl PipelineConfig {
    /// Builds the configuration from checked values of [`KEYS`].
    ///
    /// # Errors
    /// Every problem that the check of single keys cannot detect.
    pub fn configure(values: &Values) -> Result<Self, Vec<Problem>> {
        let written: Written = read(values)?;
        let mut problems = streams(&written.streams);
        let mut problem = |key: &str, text: String| problems.push(Problem::new(key, text));
        let console = (!written.console.is_empty()).then_some(written.console);
        match &console {
            Some(address) => {
                if let Err(why) = check_address(address) {
                    let expected = "expected host:port, such as 127.0.0.1:8080, or \"\" for no console";
                    problem("console", format!("{why}: {expected}"));
                }
            }
            None if !written.autostart => problem(
                "autostart",
                "nothing starts the pipeline without a console: set pipeline.autostart = true, or give the console an address"
                    .to_owned(),
            ),
            None => {}
        }
        let Written { workers, max_workers, .. } = written;
        if max_workers < workers {
            problem(
                "max_workers",
                format!("expected at least pipeline.workers, which is {workers}, found {max_workers}"),
            );
        }
        let dead_letter = TopicName::new(&written.dead_letter).map_err(|error| {
            problem("dead_letter", format!("{} is no name for a topic: {error}", quoted(&written.dead_letter)));
        });
        match dead_letter {
            Ok(dead_letter) if problems.is_empty() => Ok(Self {
                streams: written.streams,
                autostart: written.autostart,
                console,
                workers,
                max_workers,
                autoscale: written.autoscale,
                simulated_work: written.simulated_work_ms.map(Duration::from_millis).into(),
                batch_size: written.batch_size,
                flush: written.flush,
                stats: written.stats,
                hashtags_file: written.hashtags_file,
                dead_letter,
            }),
            _ => Err(problems),
        }
    }
}

fn streams(streams: &[SecretString]) -> Vec<Problem> {
    const KEY: &str = "streams";
    let mut problems = Vec::new();
    if streams.is_empty() {
        problems.push(Problem::new(KEY, "expected at least one URL"));
    }
    for (at, url) in streams.iter().enumerate() {
        if let Some(other) = streams[..at].iter().position(|other| other == url) {
            let text = format!("entries {} and {} are the same: each stream is read once", other + 1, at + 1);
            problems.push(Problem::new(KEY, text));
        }
        if let Err(error) = SseClient::new(SseConfig::new(url.reveal())) {
            // The URL is not quoted: it may hold a password.
            problems.push(Problem::new(KEY, format!("entry {}: {}", at + 1, error_chain(&error))));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use broker_core::settings::defaults;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = PipelineConfig::configure(&defaults(KEYS)).unwrap();
        assert_eq!((config.workers, config.max_workers, config.batch_size), (5, 64, 200));
        assert_eq!((config.console.as_deref(), config.streams.len()), (Some("127.0.0.1:8080"), 2));
        assert_eq!(config.dead_letter.as_str(), "pipeline.dead");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut values = defaults(KEYS);
        values.insert("console".to_owned(), json!(""));
        values.insert("workers".to_owned(), json!(70));
        values.insert("streams".to_owned(), json!(["ftp://u:s3cret@h/1"]));
        values.insert("dead_letter".to_owned(), json!("no topic"));
        let problems = PipelineConfig::configure(&values).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["streams", "autostart", "max_workers", "dead_letter"]);
        assert!(!format!("{problems:?}").contains("s3cret"), "{problems:?}");
    }
}

//! `[pipeline]`: what its values mean.

use std::path::PathBuf;
use std::time::Duration;

use broker_core::name::TopicName;

use super::{Validate, check_listen};
use crate::secret::SecretString;
use crate::settings::path::quoted;
use crate::settings::raw::{RawPipeline, RawSink};

/// The longest that a worker may sleep for a tweet: longer than anything it could stand for.
const MAX_SIMULATED_MS: u64 = 60_000;

/// `[pipeline]`.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// The feeds to read, by URL.
    pub streams: Vec<SecretString>,
    /// Whether to begin without being told.
    pub autostart: bool,
    /// `host:port` of the console, if there is one.
    pub console: Option<String>,
    /// Each pool's size at the start.
    pub workers: usize,
    /// The size that no pool grows beyond.
    pub max_workers: usize,
    /// Whether pools change their size.
    pub autoscale: bool,
    /// How long to sleep for each tweet, at random between the two.
    pub simulated_work: (Duration, Duration),
    /// Tweets in a batch.
    pub batch_size: usize,
    /// How long a batch that is not full waits.
    pub flush: Duration,
    /// The time between two statistics.
    pub stats: Duration,
    /// Where hashtags are counted.
    pub hashtags_file: PathBuf,
    /// The topic for what can never be stored.
    pub dead_letter: TopicName,
    /// Where it stores.
    pub sink: SinkSettings,
}

/// `[pipeline.sink]`.
#[derive(Debug, Clone)]
pub struct SinkSettings {
    /// Known to the registry.
    pub kind: String,
    /// The file, for sqlite.
    pub path: PathBuf,
    /// The server, for mongodb.
    pub uri: Option<SecretString>,
}

pub(super) fn pipeline(validate: &mut Validate<'_>, raw: RawPipeline) -> PipelineSettings {
    if cfg!(not(feature = "pipeline")) {
        let text = "this build has no tweet pipeline: rebuild with --features pipeline, or remove the table";
        validate.problem("pipeline", text.to_owned());
    }
    streams(validate, &raw.streams);
    if !raw.console.is_empty()
        && let Err(why) = check_listen(&raw.console)
    {
        let text = format!("{why}: expected host:port, such as 127.0.0.1:8080, or \"\" for no console");
        validate.problem("pipeline.console", text);
    }
    if raw.console.is_empty() && !raw.autostart {
        let text =
            "without a console nobody can start it: set pipeline.autostart = true, or give the console an address";
        validate.problem("pipeline.autostart", text.to_owned());
    }
    if raw.max_workers < raw.workers {
        let text = format!("expected at least pipeline.workers, which is {}, found {}", raw.workers, raw.max_workers);
        validate.problem("pipeline.max_workers", text);
    }
    let [least, most] = raw.simulated_work_ms;
    if most > MAX_SIMULATED_MS {
        let text = format!("expected at most {MAX_SIMULATED_MS} milliseconds, found {most}");
        validate.problem("pipeline.simulated_work_ms", text);
    }
    if raw.hashtags_file.is_empty() {
        validate.problem("pipeline.hashtags_file", "the path is empty: expected a file".to_owned());
    }
    let dead_letter = TopicName::new(&raw.dead_letter).unwrap_or_else(|error| {
        let text = format!("{} is no name for a topic: {error}", quoted(&raw.dead_letter));
        validate.problem("pipeline.dead_letter", text);
        TopicName::new("pipeline.dead").expect("the default is a topic's name")
    });
    let ms = Duration::from_millis;
    PipelineSettings {
        streams: raw.streams.into_iter().map(SecretString::new).collect(),
        autostart: raw.autostart,
        console: (!raw.console.is_empty()).then_some(raw.console),
        workers: raw.workers,
        max_workers: raw.max_workers,
        autoscale: raw.autoscale,
        simulated_work: (ms(least), ms(most)),
        batch_size: raw.batch_size,
        flush: ms(raw.flush_ms),
        stats: ms(raw.stats_ms),
        hashtags_file: PathBuf::from(raw.hashtags_file),
        dead_letter,
        sink: sink(validate, raw.sink),
    }
}

fn streams(validate: &mut Validate<'_>, streams: &[String]) {
    if streams.is_empty() {
        validate.problem("pipeline.streams", "expected at least one URL".to_owned());
    }
    for (at, url) in streams.iter().enumerate() {
        if let Some(other) = streams[..at].iter().position(|other| other == url) {
            let text = format!("entries {} and {} are the same: each stream is read once", other + 1, at + 1);
            validate.problem("pipeline.streams", text);
        }
        #[cfg(feature = "pipeline")]
        if let Err(why) = crate::registry::pipeline::stream_problem(url) {
            // Not the URL: it may hold a password.
            validate.problem("pipeline.streams", format!("entry {}: {why}", at + 1));
        }
    }
}

fn sink(validate: &mut Validate<'_>, raw: RawSink) -> SinkSettings {
    match &*raw.kind {
        "sqlite" if raw.path.is_empty() => {
            validate.problem("pipeline.sink.path", "the path is empty: expected a file".to_owned());
        }
        "sqlite" if raw.uri.is_some() => {
            let text = "kind = \"sqlite\" has no uri: remove the key, or set kind = \"mongodb\"";
            validate.problem("pipeline.sink.uri", text.to_owned());
        }
        "mongodb" if raw.uri.is_none() => {
            let text = "this key is missing: expected a URI such as \"mongodb://localhost:27017/rtp_sse_db\"";
            validate.problem("pipeline.sink.uri", text.to_owned());
        }
        #[cfg(feature = "pipeline")]
        "mongodb" => {
            if let Some(why) = raw.uri.as_deref().and_then(crate::registry::pipeline::uri_problem) {
                validate.problem("pipeline.sink.uri", why);
            }
        }
        _ => {}
    }
    SinkSettings { kind: raw.kind, path: PathBuf::from(raw.path), uri: raw.uri.map(SecretString::new) }
}

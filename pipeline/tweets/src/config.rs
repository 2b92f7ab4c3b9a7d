//! The settings of a pipeline.

use std::path::PathBuf;
use std::time::Duration;

use broker_core::name::TopicName;
use broker_core::settings::SecretString;
use pipeline_sse::{SseClient, SseConfig, SseConfigError};

/// The inputs and limits of a pipeline.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The feeds to read, by URL; each once.
    pub streams: Vec<SecretString>,
    /// Whether to start without a command from a console.
    pub autostart: bool,
    /// `host:port` of the console; `None` for no console. The creator of the pipeline binds it.
    pub console: Option<String>,
    /// Each pool's initial size, at least 1.
    pub workers: usize,
    /// The maximum size of a pool, at least `workers`.
    pub max_workers: usize,
    /// Whether pools grow and shrink with the load.
    pub autoscale: bool,
    /// The range of the random time a logger's worker sleeps for each tweet.
    pub simulated_work: (Duration, Duration),
    /// Tweets in a batch, at least 1.
    pub batch_size: usize,
    /// The time limit for a batch to fill.
    pub flush: Duration,
    /// The interval between two reports of statistics.
    pub stats: Duration,
    /// The path of the file with the hashtag counts.
    pub hashtags_file: PathBuf,
    /// The topic for documents that can never be stored.
    pub dead_letter: TopicName,
}

/// The reason a stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stream {number} cannot be read")]
pub struct PipelineConfigError {
    /// The index of the stream, from 1.
    pub number: usize,
    /// The problem with it.
    #[source]
    pub cause: SseConfigError,
}

impl PipelineConfig {
    /// Checks that the streams' URLs are usable.
    ///
    /// # Errors
    /// The first URL that is not.
    pub fn check_streams(&self) -> Result<(), PipelineConfigError> {
        for (at, url) in self.streams.iter().enumerate() {
            SseClient::new(SseConfig::new(url.reveal()))
                .map_err(|cause| PipelineConfigError { number: at + 1, cause })?;
        }
        Ok(())
    }
}

//! The settings of a pipeline.

use std::path::PathBuf;
use std::time::Duration;

use broker_core::name::TopicName;

use crate::sse::{SseClient, SseConfig, SseConfigError};

/// The most workers that a pool may have.
pub const MAX_WORKERS: usize = 10_000;

/// What a pipeline reads and how it works.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The feeds to read, by URL; each once.
    pub streams: Vec<String>,
    /// Whether to begin without being told by a console.
    pub autostart: bool,
    /// Each pool's size at the start, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// The size that no pool grows beyond, `workers` to [`MAX_WORKERS`].
    pub max_workers: usize,
    /// Whether pools grow and shrink with the load.
    pub autoscale: bool,
    /// How long a logger's worker sleeps for each tweet, at random between the two.
    pub simulated_work: (Duration, Duration),
    /// Tweets in a batch, at least 1.
    pub batch_size: usize,
    /// How long a batch that is not full waits for more.
    pub flush: Duration,
    /// The time between two statistics.
    pub stats: Duration,
    /// Where the counts of hashtags are written.
    pub hashtags_file: PathBuf,
    /// The topic for what can never be stored.
    pub dead_letter: TopicName,
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stream {number} cannot be read")]
pub struct PipelineConfigError {
    /// Which of the streams, from 1.
    pub number: usize,
    /// What is wrong with it.
    #[source]
    pub cause: SseConfigError,
}

impl PipelineConfig {
    /// Looks whether the streams' URLs can be used.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check_streams(&self) -> Result<(), PipelineConfigError> {
        for (at, url) in self.streams.iter().enumerate() {
            SseClient::new(SseConfig::new(url)).map_err(|cause| PipelineConfigError { number: at + 1, cause })?;
        }
        Ok(())
    }
}

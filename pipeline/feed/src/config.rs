//! The settings of a feed.

use std::path::PathBuf;
use std::time::Duration;

use super::FeedError;

/// The highest rate, in events per second and connection.
pub const MAX_RATE: f64 = 1_000_000.0;

/// The content and the pace of a feed. The default is what `herald feed` serves without options.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedConfig {
    /// Events per second on each connection, panics included; above 0 and at most [`MAX_RATE`]. Default 50.
    pub rate: f64,
    /// Every `panic_every`th event is `{"message": panic}`, which is not JSON. It is inserted between tweets and replaces none.
    /// 0, the default: never.
    pub panic_every: u64,
    /// Files of feed messages to serve instead of generated tweets, one JSON message per line, within
    /// [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES). Both streams serve all lines of all files in order, and then start over
    /// with new event ids, indefinitely. Default: none.
    pub files: Vec<PathBuf>,
    /// The seed of the generated tweets: the same seed gives the same tweets. Default 1.
    pub seed: u64,
    /// The number of the last event of each stream, panics included. After it the connection stays open and carries only
    /// heartbeats. A client that resumes there receives nothing again. Default: no limit.
    pub limit: Option<u64>,
    /// The idle time after which a connection gets a comment line; above 0. Default 15 s.
    pub heartbeat: Duration,
    /// The maximum number of connections, at least 1; further ones wait to be accepted. Default 1,024.
    pub max_connections: usize,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            rate: 50.0,
            panic_every: 0,
            files: Vec::new(),
            seed: 1,
            limit: None,
            heartbeat: Duration::from_secs(15),
            max_connections: 1_024,
        }
    }
}

impl FeedConfig {
    /// Checks the values; does not look at the files.
    /// # Errors
    /// [`FeedError::Config`] names every value that is out of its range.
    pub fn validate(&self) -> Result<(), FeedError> {
        let mut problems = Vec::new();
        // Phrased so that a NaN is refused too.
        if !(self.rate > 0.0 && self.rate <= MAX_RATE) {
            problems
                .push(format!("rate is {} events per second, but must be above 0 and at most {MAX_RATE}", self.rate));
        }
        if self.heartbeat.is_zero() {
            problems.push("heartbeat is 0, but must be longer".to_owned());
        }
        // The upper limit of a tokio semaphore.
        if !(1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&self.max_connections) {
            problems.push(format!(
                "max_connections is {}, but must be from 1 to {}",
                self.max_connections,
                tokio::sync::Semaphore::MAX_PERMITS
            ));
        }
        if problems.is_empty() { Ok(()) } else { Err(FeedError::Config { problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        FeedConfig::default().validate().unwrap();
    }

    #[test]
    fn every_problem_is_named_at_once() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, MAX_RATE * 2.0] {
            let config = FeedConfig { rate, heartbeat: Duration::ZERO, max_connections: 0, ..FeedConfig::default() };
            let got = config.validate();
            assert!(matches!(&got, Err(FeedError::Config { problems }) if problems.len() == 3), "{got:?}");
        }
    }
}

//! The errors of a feed, all of which occur before the first event.

use std::io;
use std::path::PathBuf;

/// The reason that a feed cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// Settings are out of range.
    #[error("the feed's settings: {}", problems.join("; "))]
    Config {
        /// Every problem, one sentence each.
        problems: Vec<String>,
    },
    /// A file of messages cannot be opened or read.
    #[error("cannot read the feed file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The files together are larger than the feed holds in memory.
    #[error("the feed files are too large: with {} they exceed {limit} bytes", path.display())]
    TooLarge {
        /// The file that exceeds the limit.
        path: PathBuf,
        /// The limit for all files together, in bytes.
        limit: usize,
    },
    /// A line of a file is not a message.
    #[error("{}:{line}: {problem} (a feed file has one JSON message on each line)", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The problem with it.
        problem: String,
    },
    /// The files have no message at all.
    #[error("the feed files have no message: {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoMessage {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// The HTTP server failed.
    #[error("the feed's server stopped")]
    Serve {
        /// The cause.
        source: io::Error,
    },
}

//! What can go wrong with a feed: all of it before the first event.

use std::io;
use std::path::PathBuf;

/// Why a feed cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The settings make no sense; every problem is named.
    #[error("the feed's settings: {}", problems.join("; "))]
    Config {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// A file of messages cannot be opened or read.
    #[error("cannot read the feed file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files together are larger than the feed holds in memory.
    #[error("the feed files are too large: with {} they exceed {limit} bytes", path.display())]
    TooLarge {
        /// The file with which the limit was passed.
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
        /// What is wrong with it.
        problem: String,
    },
    /// The files have no message at all.
    #[error("the feed files have no message: {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoMessage {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// The HTTP server gave up.
    #[error("the feed's server stopped")]
    Serve {
        /// Why.
        source: io::Error,
    },
}

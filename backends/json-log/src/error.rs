//! The errors of the JSON log, and their conversion to [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::{StorageError, StorageErrorKind};
use durable_files::FileError;

/// An error of the JSON log, split by what an operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonLogError {
    /// The operating system refused an operation on a file or directory, or another process has locked it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The log was written by a newer release.
    #[error(
        "{} has format version {found} and this release reads up to {known}: use the newer release, or `herald export` of that release and `herald import` of this one into another storage.path (nothing was changed)",
        path.display()
    )]
    NewerVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// The directory holds something that is not a JSON log.
    #[error(
        "{} is {what}, not a JSON log: set storage.kind to what it is, or storage.path to another directory (nothing was changed)",
        path.display()
    )]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Its apparent kind.
        what: String,
    },
    /// A record is damaged, and `storage.on_damage` is `stop`.
    #[error(
        "damage in {} at byte {offset}: {what}; storage.on_damage is \"stop\": repair it with `herald fsck --repair`, or set it to \"serve\" to continue without that record",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The record's first byte.
        offset: u64,
        /// The reason.
        what: String,
    },
    /// Damage is left after a repair.
    #[error(
        "{} still has damage after the repair, which is a bug in Herald; run `herald fsck` to see what is left (the records moved out are in {}/damaged)",
        path.display(),
        path.display()
    )]
    NotClean {
        /// The data directory.
        path: PathBuf,
    },
    /// A batch or event is longer than the format allows.
    #[error("{what} is too large for the log: {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The batch or event.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// An event's payload is not text. The caller is at fault, because payloads are JSON.
    #[error("the payload of event {seq} of topic {topic} is not UTF-8, so a JSON log cannot hold it")]
    NotText {
        /// The event's topic.
        topic: String,
        /// Its sequence.
        seq: u64,
    },
    /// The configuration is invalid.
    #[error("invalid json-log configuration: {}", problems.join("; "))]
    Config {
        /// All problems.
        problems: Vec<String>,
    },
}

impl JsonLogError {
    /// An error of the operating system, with the attempted action and its path.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::io(action, path, source).into()
    }

    /// Converts to the error of a read, which may be retried.
    pub(crate) fn into_read_error(self) -> StorageError {
        let context = self.to_string();
        StorageError::new(StorageErrorKind::Read, context).with_source(self)
    }
}

impl From<JsonLogError> for StorageError {
    fn from(error: JsonLogError) -> Self {
        let context = error.to_string();
        match error {
            JsonLogError::File(error) => error.into(),
            JsonLogError::TooLarge { .. } | JsonLogError::NotText { .. } | JsonLogError::NotClean { .. } => {
                Self::new(StorageErrorKind::Failed, context)
            }
            JsonLogError::NewerVersion { .. }
            | JsonLogError::Foreign { .. }
            | JsonLogError::Damaged { .. }
            | JsonLogError::Config { .. } => Self::new(StorageErrorKind::Unusable, context),
        }
    }
}

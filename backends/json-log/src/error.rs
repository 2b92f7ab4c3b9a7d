//! What can go wrong, and how it becomes the seam's [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::{StorageError, StorageErrorKind};

/// An error of the JSON log, split by what its operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonLogError {
    /// The operating system refused an operation on a file or directory.
    #[error("cannot {action} {}{}", path.display(), hint(source))]
    Io {
        /// What was tried, as a verb: `write to`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error("the data directory {} is in use by {holder}: stop that broker, or give this one a storage.path of its own", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who has it, as far as its lock file says: pid, host, start.
        holder: String,
    },
    /// Written by a later release.
    #[error(
        "{} has format version {found} and this release reads up to {known}: use the newer release, or another storage.path (nothing was changed)",
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
        /// What it seems to be.
        what: String,
    },
    /// A record does not check, and the configuration says to stop then.
    #[error(
        "damage in {} at byte {offset}: {what}; storage.on_damage is \"stop\": repair it with `herald fsck --repair`, or set it to \"serve\" to go on without that record",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Something is left after a repair.
    #[error(
        "{} is not clean after the repair: a mistake of Herald's; run `herald fsck` to see what is left (what was moved out is in {}/damaged)",
        path.display(),
        path.display()
    )]
    NotClean {
        /// The data directory.
        path: PathBuf,
    },
    /// A batch that this format cannot hold.
    #[error("{what} is beyond what the log can hold: {bytes} bytes, at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// An event whose payload is not text: the caller's mistake, since payloads are JSON.
    #[error("the payload of event {seq} of topic {topic} is not UTF-8 and cannot be a line of a JSON log")]
    NotText {
        /// The event's topic.
        topic: String,
        /// Its sequence.
        seq: u64,
    },
    /// The configuration is not usable.
    #[error("invalid json-log configuration: {}", problems.join("; "))]
    Config {
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
}

impl JsonLogError {
    /// An error of the operating system, with what was tried on what.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The error of an attempt to read: trying again can work.
    pub(crate) fn into_read_error(self) -> StorageError {
        let context = self.to_string();
        StorageError::new(StorageErrorKind::Read, context).with_source(self)
    }
}

/// What an operator can do about the commonest refusals.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": permission denied; the broker's user must own the data directory and its files"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": the file system is read-only",
        io::ErrorKind::StorageFull => ": no space left on the device",
        io::ErrorKind::QuotaExceeded => ": the disk quota is used up",
        _ => "",
    }
}

impl From<JsonLogError> for StorageError {
    fn from(error: JsonLogError) -> Self {
        let kind = match &error {
            JsonLogError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::Full,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StorageErrorKind::Unusable,
                _ => StorageErrorKind::Failed,
            },
            JsonLogError::TooLarge { .. } | JsonLogError::NotText { .. } | JsonLogError::NotClean { .. } => {
                StorageErrorKind::Failed
            }
            JsonLogError::Locked { .. } => StorageErrorKind::Locked,
            JsonLogError::NewerVersion { .. }
            | JsonLogError::Foreign { .. }
            | JsonLogError::Damaged { .. }
            | JsonLogError::Config { .. } => StorageErrorKind::Unusable,
        };
        let context = error.to_string();
        match error {
            JsonLogError::Io { source, .. } => Self::new(kind, context).with_source(source),
            _ => Self::new(kind, context),
        }
    }
}

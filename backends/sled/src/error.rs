//! The errors of the sled storage, and their conversion to [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::{StorageError, StorageErrorKind};
use durable_files::FileError;

/// An error of the sled storage, split by what an operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SledError {
    /// The operating system refused an operation on a file or directory, or another process has locked it.
    #[error(transparent)]
    File(#[from] FileError),
    /// sled found damage in its own file.
    #[error(
        "the sled database {} has damage that sled cannot skip: save what sled can read with `herald fsck --repair`, restore a copy of the directory, or move it away to start with an empty one (nothing was removed)",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// sled's error.
        source: sled::Error,
    },
    /// sled panicked, as it does on most damage in its file.
    #[error(
        "the sled database {} has damage that sled cannot skip (it panicked, see above): save what sled can read with `herald fsck --repair`, restore a copy of the directory, or move it away to start with an empty one (nothing was removed)",
        path.display()
    )]
    Panicked {
        /// The database.
        path: PathBuf,
    },
    /// sled failed in another way.
    #[error("sled cannot {action} in {}", path.display())]
    Sled {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// sled's error.
        source: sled::Error,
    },
    /// The database was written by a newer release.
    #[error(
        "{} has format version {found} and this release reads up to {known}: use the newer release, or `herald export` of that release and `herald import` of this one into another storage.path (nothing was changed)",
        path.display()
    )]
    NewerVersion {
        /// The file that states the version.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// The directory holds something other than this storage.
    #[error(
        "{} is {what}, not a sled storage of Herald: set storage.kind to what it is, or storage.path to another directory (nothing was changed)",
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
        "damage in {} at {place}: {what}; storage.on_damage is \"stop\": repair it with `herald fsck --repair`, or set it to \"serve\" to continue without that record",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The record.
        place: String,
        /// The reason.
        what: String,
    },
    /// Nothing of the database can be read.
    #[error(
        "sled cannot read any of the database {}, not even without its snapshots: restore a copy of the data directory, or move it away to start with an empty one (nothing was changed)",
        path.display()
    )]
    Hopeless {
        /// The database.
        path: PathBuf,
    },
    /// The configuration is invalid.
    #[error("invalid sled configuration: {}", problems.join("; "))]
    Config {
        /// All problems.
        problems: Vec<String>,
    },
}

impl SledError {
    /// An error of the operating system, with the attempted action and its path.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::io(action, path, source).into()
    }

    /// An error of sled, with the attempted action.
    pub(crate) fn sled(action: &'static str, path: &Path, source: sled::Error) -> Self {
        match source {
            sled::Error::Io(source) => Self::io(action, path, source),
            // sled returns `Unsupported` if its settings file differs, which only damage can cause.
            sled::Error::Corruption { .. } | sled::Error::Unsupported(_) => {
                Self::Corrupt { path: path.to_owned(), source }
            }
            source => Self::Sled { action, path: path.to_owned(), source },
        }
    }

    /// Converts to the error of a read, which may be retried.
    pub(crate) fn into_read_error(self) -> StorageError {
        let context = self.to_string();
        StorageError::new(StorageErrorKind::Read, context).with_source(self)
    }
}

impl From<SledError> for StorageError {
    fn from(error: SledError) -> Self {
        let context = error.to_string();
        match error {
            SledError::File(error) => error.into(),
            SledError::Sled { source, .. } => Self::new(StorageErrorKind::Failed, context).with_source(source),
            SledError::Corrupt { source, .. } => Self::new(StorageErrorKind::Unusable, context).with_source(source),
            SledError::Panicked { .. }
            | SledError::NewerVersion { .. }
            | SledError::Foreign { .. }
            | SledError::Damaged { .. }
            | SledError::Hopeless { .. }
            | SledError::Config { .. } => Self::new(StorageErrorKind::Unusable, context),
        }
    }
}

//! What can go wrong, and how it becomes the seam's [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use backend_embedded::FileError;
use broker_core::storage::{StorageError, StorageErrorKind};

/// An error of the sled storage, split by what its operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SledError {
    /// A file or directory: the operating system refused an operation, or another process has it.
    #[error(transparent)]
    File(#[from] FileError),
    /// sled found that its own file does not check.
    #[error(
        "the sled database {} is damaged where sled cannot go on without it: save what sled can read with `herald fsck --repair`, restore a copy of the directory, or move it away to begin with an empty one (nothing was removed)",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What sled says.
        source: sled::Error,
    },
    /// sled found damage in its file that it has no error for.
    #[error(
        "the sled database {} is damaged where sled cannot go on (it panicked, see above): save what sled can read with `herald fsck --repair`, restore a copy of the directory, or move it away to begin with an empty one (nothing was removed)",
        path.display()
    )]
    Panicked {
        /// The database.
        path: PathBuf,
    },
    /// sled failed in another way.
    #[error("sled cannot {action} in {}", path.display())]
    Sled {
        /// What was tried, as a verb.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What sled says.
        source: sled::Error,
    },
    /// Written by a later release.
    #[error(
        "{} has format version {found} and this release reads up to {known}: use the newer release, or another storage.path (nothing was changed)",
        path.display()
    )]
    NewerVersion {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// The directory holds something that is not this storage's.
    #[error(
        "{} is {what}, not a sled storage of Herald: set storage.kind to what it is, or storage.path to another directory (nothing was changed)",
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
        "damage in {} at {place}: {what}; storage.on_damage is \"stop\": repair it with `herald fsck --repair`, or set it to \"serve\" to go on without that record",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// Which record.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing of the database can be read.
    #[error(
        "sled can read nothing of the database {}, not even without its snapshots: restore a copy of the data directory, or move it away to begin with an empty one (nothing was changed)",
        path.display()
    )]
    Hopeless {
        /// The database.
        path: PathBuf,
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
    /// The configuration is not usable.
    #[error("invalid sled configuration: {}", problems.join("; "))]
    Config {
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
}

impl SledError {
    /// An error of the operating system, with what was tried on what.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::io(action, path, source).into()
    }

    /// An error of sled, with what was tried.
    pub(crate) fn sled(action: &'static str, path: &Path, source: sled::Error) -> Self {
        match source {
            sled::Error::Io(source) => Self::io(action, path, source),
            // Unsupported is what it says about its own settings file, which nobody but damage changes.
            sled::Error::Corruption { .. } | sled::Error::Unsupported(_) => {
                Self::Corrupt { path: path.to_owned(), source }
            }
            source => Self::Sled { action, path: path.to_owned(), source },
        }
    }

    /// The error of an attempt to read: trying again can work.
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
            | SledError::NotClean { .. }
            | SledError::Hopeless { .. }
            | SledError::Config { .. } => Self::new(StorageErrorKind::Unusable, context),
        }
    }
}

//! What can go wrong, and how it becomes the seam's [`StorageError`].

use std::path::{Path, PathBuf};
use std::{fs, io};

use backend_embedded::FileError;
use broker_core::storage::{StorageError, StorageErrorKind};
use rusqlite::ErrorCode;

/// An error of the SQLite storage, split by what its operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// A file or directory: the operating system refused an operation, or another process has it.
    #[error(transparent)]
    File(#[from] FileError),
    /// SQLite found that the structure of its file is damaged.
    #[error(
        "the database {} is damaged where SQLite cannot go on without it: save what is left with `herald fsck --repair`, restore a copy, or move it away to begin with an empty one (nothing was removed)",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// SQLite failed in another way.
    #[error("cannot {action} {}{}", path.display(), sqlite_hint(source))]
    Sqlite {
        /// What was tried, as a verb: `write to`.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A setting that the durability depends on is not what it was set to.
    #[error("SQLite does not do what {} needs: {pragma} is {found}, not {wanted}", path.display())]
    Pragma {
        /// The database.
        path: PathBuf,
        /// Which setting.
        pragma: &'static str,
        /// What it was set to.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// An event whose payload is not text: the caller's mistake, since payloads are JSON.
    #[error("the payload of event {seq} of topic {topic} is not UTF-8")]
    NotText {
        /// The event's topic.
        topic: String,
        /// Its sequence.
        seq: u64,
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
        "{} is {what}, not an SQLite storage of Herald: set storage.kind to what it is, or storage.path to another directory (nothing was changed)",
        path.display()
    )]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// What it seems to be.
        what: String,
    },
    /// The database's log is there, the database is not.
    #[error(
        "{} holds committed changes to a database that is missing: bring {} back from wherever it went, or move the log away to begin with an empty database (nothing was changed)",
        log.display(),
        database.display()
    )]
    Orphan {
        /// The log.
        log: PathBuf,
        /// What is missing.
        database: PathBuf,
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
    #[error("invalid sqlite configuration: {}", problems.join("; "))]
    Config {
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
}

impl SqliteError {
    /// An error of the operating system, with what was tried on what.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::io(action, path, source).into()
    }

    /// An error of SQLite, with what was tried.
    pub(crate) fn sqlite(action: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: path.to_owned(), source }
            }
            // SQLite says so of a full disk too, and of one that is read-only, and does not say which it was.
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => match path.parent().map(probe) {
                Some(Err(reason)) => Self::io(action, path, reason),
                _ => Self::Sqlite { action, path: path.to_owned(), source },
            },
            _ => Self::Sqlite { action, path: path.to_owned(), source },
        }
    }

    /// The error of an attempt to read: trying again can work.
    pub(crate) fn into_read_error(self) -> StorageError {
        let context = self.to_string();
        StorageError::new(StorageErrorKind::Read, context).with_source(self)
    }
}

/// Whether a file can be made in `dir` and written to.
fn probe(dir: &Path) -> io::Result<()> {
    /// A few pages.
    const BYTES: usize = 64 << 10;
    let path = dir.join("herald.db-probe");
    let made = fs::write(&path, vec![0; BYTES]);
    let removed = fs::remove_file(&path);
    made.and(removed)
}

/// What an operator can do about what SQLite says.
fn sqlite_hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": no space left on the device",
        Some(ErrorCode::ReadOnly) => ": it is read-only",
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ": the broker's user must own the data directory and its files"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ": another program has been writing to it; look with `sqlite3 -readonly` while the broker runs"
        }
        _ => "",
    }
}

impl From<SqliteError> for StorageError {
    fn from(error: SqliteError) -> Self {
        let context = error.to_string();
        match error {
            SqliteError::File(error) => error.into(),
            SqliteError::Sqlite { source, .. } => {
                let kind = match source.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => StorageErrorKind::Full,
                    Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StorageErrorKind::Unusable,
                    _ => StorageErrorKind::Failed,
                };
                Self::new(kind, context).with_source(source)
            }
            SqliteError::Corrupt { source, .. } => Self::new(StorageErrorKind::Unusable, context).with_source(source),
            SqliteError::NotText { .. } => Self::new(StorageErrorKind::Failed, context),
            SqliteError::Pragma { .. }
            | SqliteError::NewerVersion { .. }
            | SqliteError::Foreign { .. }
            | SqliteError::Orphan { .. }
            | SqliteError::Damaged { .. }
            | SqliteError::NotClean { .. }
            | SqliteError::Config { .. } => Self::new(StorageErrorKind::Unusable, context),
        }
    }
}

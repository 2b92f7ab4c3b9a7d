//! The errors of the SQLite storage, and the [`StorageError`] that each becomes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use broker_core::storage::{StorageError, StorageErrorKind};
use durable_files::FileError;
use rusqlite::ErrorCode;

/// An error of the SQLite storage, split by what its operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// A file or directory: the operating system refused an operation, or another process has it.
    #[error(transparent)]
    File(#[from] FileError),
    /// SQLite found damage in the structure of its file.
    #[error(
        "the database {} has damage that SQLite cannot skip: save what can be read with `herald fsck --repair`, restore a copy, or move it away to start with an empty one (nothing was removed)",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// SQLite failed in another way.
    #[error("cannot {action} {}{}", path.display(), sqlite_hint(source))]
    Sqlite {
        /// The attempted action, as a verb: `write to`.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A setting that the durability depends on did not take effect.
    #[error("SQLite did not apply a setting that {} needs: {pragma} is {found}, not {wanted}", path.display())]
    Pragma {
        /// The database.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// The value that was set.
        wanted: String,
        /// The value that was read back.
        found: String,
    },
    /// The payload of an event is not text. This is a bug in the caller, since payloads are JSON.
    #[error("the payload of event {seq} of topic {topic} is not UTF-8")]
    NotText {
        /// The event's topic.
        topic: String,
        /// Its sequence.
        seq: u64,
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
        "{} is {what}, not an SQLite storage of Herald: set storage.kind to what it is, or storage.path to another directory (nothing was changed)",
        path.display()
    )]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Its apparent kind.
        what: String,
    },
    /// The database's log exists, but the database does not.
    #[error(
        "{} holds committed changes to a database that is missing: restore {}, or move the log away to start with an empty database (nothing was changed)",
        log.display(),
        database.display()
    )]
    Orphan {
        /// The log.
        log: PathBuf,
        /// The missing database.
        database: PathBuf,
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
    /// The configuration is invalid.
    #[error("invalid sqlite configuration: {}", problems.join("; "))]
    Config {
        /// All problems.
        problems: Vec<String>,
    },
}

impl SqliteError {
    /// An error of the operating system, with the attempted action and its path.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError::io(action, path, source).into()
    }

    /// An error of SQLite, with the attempted action.
    pub(crate) fn sqlite(action: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: path.to_owned(), source }
            }
            // SQLite reports a full disk and a read-only one with the same code; a probe gets the operating system's own error.
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => match path.parent().map(probe) {
                Some(Err(reason)) => Self::io(action, path, reason),
                _ => Self::Sqlite { action, path: path.to_owned(), source },
            },
            _ => Self::Sqlite { action, path: path.to_owned(), source },
        }
    }

    /// The error of a failed read, which may be retried.
    pub(crate) fn into_read_error(self) -> StorageError {
        let context = self.to_string();
        StorageError::new(StorageErrorKind::Read, context).with_source(self)
    }
}

/// Tries to create a file in `dir` and to write to it.
fn probe(dir: &Path) -> io::Result<()> {
    /// A few pages.
    const BYTES: usize = 64 << 10;
    let path = dir.join("herald.db-probe");
    let made = fs::write(&path, vec![0; BYTES]);
    let removed = fs::remove_file(&path);
    made.and(removed)
}

/// Advice on the most common errors of SQLite.
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
            | SqliteError::Config { .. } => Self::new(StorageErrorKind::Unusable, context),
        }
    }
}

//! What can go wrong with files and directories, and how it becomes the seam's [`StorageError`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::{StorageError, StorageErrorKind};

/// An error of the data directory, split by what its operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
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
}

impl FileError {
    /// An error of the operating system, with what was tried on what.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
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

impl From<FileError> for StorageError {
    fn from(error: FileError) -> Self {
        let context = error.to_string();
        match error {
            FileError::Io { source, .. } => {
                let kind = match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::Full,
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StorageErrorKind::Unusable,
                    _ => StorageErrorKind::Failed,
                };
                Self::new(kind, context).with_source(source)
            }
            FileError::Locked { .. } => Self::new(StorageErrorKind::Locked, context),
        }
    }
}

/// Makes the names in `dir` durable: a new file is there after a power failure only when its directory was synced.
///
/// # Errors
/// The operating system's, with the directory.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| FileError::io("sync", dir, source))
}

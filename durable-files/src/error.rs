//! Errors of files and directories, and their conversion to [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use broker_core::storage::{StorageError, StorageErrorKind};

/// An error of a file or directory, split by what an operator does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused an operation on a file or directory.
    #[error("cannot {action} {}{}", path.display(), hint(source))]
    Io {
        /// The attempted action, as a verb: `write to`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Another process has locked the directory.
    #[error("the directory {} is in use by {holder}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The holder, as far as the lock file names it: pid, host, start.
        holder: String,
    },
}

impl FileError {
    /// An error of the operating system, with the attempted action and its path.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Advice on the most common refusals.
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
            FileError::Locked { path, holder } => {
                let context = format!(
                    "the data directory {} is in use by {holder}: stop that broker, or give this one a storage.path of its own",
                    path.display()
                );
                Self::new(StorageErrorKind::Locked, context)
            }
        }
    }
}

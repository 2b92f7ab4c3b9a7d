//! The seam to the disk: small traits, so that tests can inject faults and power cuts below any user of files.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How [`Files::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an error if it exists.
    CreateNew,
}

/// A file in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Its length in bytes.
    pub len: u64,
}

/// A held lock; dropping it releases the lock.
pub trait LockGuard: Send + Sync + fmt::Debug {
    /// Replaces the content of the lock file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn write(&mut self, note: &str) -> io::Result<()>;

    /// Whether taking this lock created the lock file.
    fn is_new(&self) -> bool;
}

/// The outcome of an attempt to lock.
#[derive(Debug)]
pub enum Locking {
    /// The lock is held.
    Held(Box<dyn LockGuard>),
    /// Another process holds it. Carries the content of the lock file, or an empty string if that cannot be read.
    Busy(String),
}

/// The operations on a file system that a storage needs.
pub trait Files: Send + Sync + fmt::Debug + 'static {
    /// Creates `dir` with its missing parents, and makes their entries durable.
    ///
    /// # Errors
    /// Those of the operating system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The files (not the directories) in `dir`, in no order.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` if the directory does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// The names of all entries of `dir`, of any type, in no order.
    ///
    /// # Errors
    /// Those of [`Files::list`].
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        // A seam that knows only files, such as a simulated disk, needs no implementation of its own.
        Ok(self.list(dir)?.into_iter().map(|entry| entry.name).collect())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>>;

    /// Renames a file, atomically replacing any file of the new name. Durable only after [`Files::sync_dir`].
    ///
    /// # Errors
    /// Those of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable only after [`Files::sync_dir`].
    ///
    /// # Errors
    /// Those of the operating system.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of `dir` durable.
    ///
    /// # Errors
    /// Those of the operating system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks the regular file `path`, creating it if it is missing. Does not wait and follows no symbolic link.
    ///
    /// # Errors
    /// Those of the operating system. A lock held by another process is an outcome, not an error.
    fn lock(&self, path: &Path) -> io::Result<Locking>;

    /// Locks the file `path` if it exists, without changing it; returns `None` if it does not exist. Does not wait.
    ///
    /// # Errors
    /// Those of the operating system. A lock held by another process is an outcome, not an error.
    fn lock_existing(&self, path: &Path) -> io::Result<Option<Locking>>;
}

/// The operations on an open file. Positions are explicit, so that readers and the writer share a handle.
pub trait DataFile: Send + Sync + fmt::Debug {
    /// Reads at `offset` and returns the number of bytes read, which may be less than `buffer` holds; 0 at the end of the file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    ///
    /// # Errors
    /// Those of the operating system.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable, including the length of the file.
    ///
    /// # Errors
    /// Those of the operating system. Afterwards all bytes not yet durable count as lost; a second sync proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file; durable only after [`DataFile::sync`].
    ///
    /// # Errors
    /// Those of the operating system.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// Reads at `offset` until `buffer` is full or the file ends, and returns the number of bytes read.
///
/// # Errors
/// Those of the operating system.
pub fn read_full(file: &dyn DataFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

//! The one way from this crate to the disk: a small trait, so that faults and power cuts can be put below the storage, and
//! its implementation over `std::fs`.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// What [`Files::open`] does about the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It exists; reads only.
    Read,
    /// It exists; reads and writes.
    Write,
    /// It does not exist; reads and writes.
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

/// Keeps a lock for as long as it lives.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// What came of an attempt to lock.
#[derive(Debug)]
pub enum Locking {
    /// The lock is held.
    Held(Box<dyn LockGuard>),
    /// Another process holds it; with what that one wrote into the file.
    Busy(String),
}

/// The operations on directories.
pub trait Files: Send + Sync + fmt::Debug + 'static {
    /// Makes `dir` with its missing parents, and makes their entries durable.
    ///
    /// # Errors
    /// Those of the operating system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The files (not the directories) in `dir`, in no order.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` where there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Opens a file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>>;

    /// Renames a file; another of the new name is replaced in the same step. Durable only after [`Files::sync_dir`].
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

    /// Locks the file `path`, which is made if it is missing, and writes `note` into it; does not wait.
    ///
    /// # Errors
    /// Those of the operating system; that another holds the lock is not one.
    fn lock(&self, path: &Path, note: &str) -> io::Result<Locking>;

    /// Locks the file `path` and leaves it as it is; does not wait. `None`: there is no such file.
    ///
    /// # Errors
    /// Those of the operating system; that another holds the lock is not one.
    fn lock_quietly(&self, path: &Path) -> io::Result<Option<Locking>>;
}

/// The operations on an open file. Positions are explicit, so that readers and the writer share a handle.
pub trait DataFile: Send + Sync + fmt::Debug {
    /// Reads at `offset`; 0 at the end of the file. May read less than asked.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    ///
    /// # Errors
    /// Those of the operating system.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, with the length of the file.
    ///
    /// # Errors
    /// Those of the operating system; what was not durable before may be lost then.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file; durable only after [`DataFile::sync`].
    ///
    /// # Errors
    /// Those of the operating system.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// Reads at `offset` until `buffer` is full or the file ends; returns how much it was.
pub(crate) fn read_full(file: &dyn DataFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.try_exists()? {
            missing.push(at);
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Follows a link, as opening the file would; one that leads nowhere is no file.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_file() => entries.push(Entry { name: entry.file_name(), len: data.len() }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).create_new(mode == OpenMode::CreateNew);
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // Windows has no handle of a directory to sync; there a file's own sync covers its entry.
        if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Locking> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut held = String::new();
                // A note that cannot be read costs the error its details, not its truth.
                let _unreadable = file.take(4096).read_to_string(&mut held);
                return Ok(Locking::Busy(held));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.write_all(note.as_bytes())?;
        Ok(Locking::Held(Box::new(SystemLock { _file: file })))
    }

    fn lock_quietly(&self, path: &Path) -> io::Result<Option<Locking>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Locking::Held(Box::new(SystemLock { _file: file })))),
            Err(TryLockError::WouldBlock) => {
                let mut held = String::new();
                let _unreadable = file.take(4096).read_to_string(&mut held);
                Ok(Some(Locking::Busy(held)))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct SystemLock {
    // Closing the file ends the lock; the file stays, because removing it would let two processes lock two files.
    _file: File,
}

impl LockGuard for SystemLock {}

#[derive(Debug)]
struct SystemFile(File);

#[cfg(unix)]
impl DataFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(windows)]
impl DataFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buffer, offset)
    }

    fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(&self.0, data, offset)?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[n..];
            offset += n as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

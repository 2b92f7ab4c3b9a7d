//! The seam's operations on the real disk, over `std::fs`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use crate::durable::parent_of;
use crate::files::{DataFile, Entry, Files, LockGuard, Locking, OpenMode};

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
            self.sync_dir(parent_of(dir))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Follows a link, as opening the file would. A dangling link is not a file.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_file() => entries.push(Entry { name: entry.file_name(), len: data.len() }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
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
        // Windows cannot sync a directory; there a file's own sync covers its entry.
        if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    fn lock(&self, path: &Path) -> io::Result<Locking> {
        let is_new = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let file = open_lock(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        try_lock(file, is_new)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Locking>> {
        match open_lock(path, OpenOptions::new().read(true)) {
            Ok(file) => try_lock(file, false).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens a lock file. It must be a regular file of the directory: through a link, writing the note would truncate the target.
fn open_lock(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let refused = || {
        let text = "it is a symbolic link, a directory or a device, and a lock file is a regular file: remove it";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(refused()),
        _ => {}
    }
    // The file may have been replaced since the check: never follow a link or wait for the other end of a pipe.
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

fn try_lock(file: File, is_new: bool) -> io::Result<Locking> {
    /// Longer than any note.
    const NOTE: u64 = 4096;
    match file.try_lock() {
        Ok(()) => Ok(Locking::Held(Box::new(SystemLock { file, is_new }))),
        Err(TryLockError::WouldBlock) => {
            let mut note = String::new();
            // Without the note, the error only lacks details.
            let _unreadable = file.take(NOTE).read_to_string(&mut note);
            Ok(Locking::Busy(note))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A held lock; closing the file releases it. The file stays: if it were removed, two processes could lock two files of one name.
#[derive(Debug)]
struct SystemLock {
    file: File,
    is_new: bool,
}

impl LockGuard for SystemLock {
    fn write(&mut self, note: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(note.as_bytes())
    }

    fn is_new(&self) -> bool {
        self.is_new
    }
}

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

//! A directory in memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durable_files::{DataFile, Entry, Files, LockGuard, Locking, OpenMode};

type Content = Arc<Mutex<Vec<u8>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directory; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
    locked: Arc<Mutex<bool>>,
}

impl Disk {
    /// One with these files.
    pub(super) fn of(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::default();
        *lock(&disk.files) =
            files.iter().map(|(path, bytes)| (path.clone(), Arc::new(Mutex::new(bytes.clone())))).collect();
        disk
    }

    /// All its files as they are now.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        lock(&self.files).iter().map(|(path, content)| (path.clone(), lock(content).clone())).collect()
    }
}

#[derive(Debug)]
struct Held(Disk);

impl LockGuard for Held {
    fn write(&mut self, _note: &str) -> io::Result<()> {
        Ok(())
    }

    fn is_new(&self) -> bool {
        false
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.0.locked) = false;
    }
}

impl Files for Disk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let files = lock(&self.files);
        let here = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, content): (&PathBuf, &Content)| Entry {
            name: path.file_name().map(OsString::from).unwrap_or_default(),
            len: lock(content).len() as u64,
        };
        Ok(here.map(entry).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        let mut files = lock(&self.files);
        match (files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => Ok(Arc::new(File(Arc::clone(content)))),
            (None, OpenMode::CreateNew) => {
                let content = Content::default();
                files.insert(path.to_owned(), Arc::clone(&content));
                Ok(Arc::new(File(content)))
            }
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.files);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        lock(&self.files).remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Locking> {
        if std::mem::replace(&mut *lock(&self.locked), true) {
            return Ok(Locking::Busy(String::new()));
        }
        Ok(Locking::Held(Box::new(Held(self.clone()))))
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Locking>> {
        self.lock(path).map(Some)
    }
}

#[derive(Debug)]
struct File(Content);

impl DataFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.0);
        let from = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let end = from + data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[from..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        lock(&self.0).resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }
}

//! The exclusive lock on the data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::file_error::FileError;

/// The file that is locked. What it holds is for people and error messages; the lock itself is the operating system's, and
/// ends with the process.
const LOCK_FILE: &str = "LOCK";

/// Who has the directory.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    /// Milliseconds since the epoch.
    started: u64,
}

/// The lock; given up when it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// Whether the file was not there before.
    is_new: bool,
}

impl Lock {
    /// Takes the lock of `dir`.
    ///
    /// # Errors
    /// [`FileError::Locked`] with who has it, or the operating system's.
    pub fn acquire(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(LOCK_FILE);
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| FileError::io("lock", &path, source))?;
        Self { file, path, is_new }.take(dir)
    }

    /// Takes the lock of `dir` without a trace of it. `None`: no broker has ever had the directory.
    ///
    /// # Errors
    /// [`FileError::Locked`] with who has it, or the operating system's.
    pub fn acquire_quietly(dir: &Path) -> Result<Option<Self>, FileError> {
        let path = dir.join(LOCK_FILE);
        match File::open(&path) {
            Ok(file) => Self { file, path, is_new: false }.take(dir).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::io("lock", &path, source)),
        }
    }

    fn take(mut self, dir: &Path) -> Result<Self, FileError> {
        match self.file.try_lock() {
            Ok(()) => Ok(self),
            Err(TryLockError::WouldBlock) => {
                let mut note = String::new();
                let _unreadable_is_empty = self.file.read_to_string(&mut note);
                Err(FileError::Locked { path: dir.to_owned(), holder: describe(&note, now()) })
            }
            Err(TryLockError::Error(source)) => Err(FileError::io("lock", &self.path, source)),
        }
    }

    /// Gives it up and leaves no trace of it, in a directory that turned out not to be ours.
    pub fn undo(self) {
        if self.is_new {
            let _what_is_left_is_an_empty_file = std::fs::remove_file(&self.path);
        }
    }

    /// Writes down who has it. Not done before the directory was found to be ours: until then nothing in it changes.
    ///
    /// # Errors
    /// When the note cannot be written: then nothing else could be, either.
    pub fn sign(&mut self) -> Result<(), FileError> {
        let holder = Holder { pid: std::process::id(), host: host(), started: now() };
        let mut note = serde_json::to_string(&holder).unwrap_or_default();
        note.push('\n');
        let signed = self.file.set_len(0).and_then(|()| self.file.rewind());
        let signed = signed.and_then(|()| self.file.write_all(note.as_bytes()));
        signed.map_err(|source| FileError::io("write to", &self.path, source))
    }
}

fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or_default()
}

fn describe(note: &str, now: u64) -> String {
    match serde_json::from_str::<Holder>(note) {
        Ok(Holder { pid, host, started }) => {
            let seconds = now.saturating_sub(started) / 1000;
            format!("process {pid} on {host}, which opened it {seconds} s ago")
        }
        // Between making the file and writing the note.
        Err(_) => "another process".to_owned(),
    }
}

/// The machine's name, for a directory that several share.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "an unnamed host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Lock::acquire_quietly(dir.path()).unwrap().is_none());
        let mut lock = Lock::acquire(dir.path()).unwrap();
        lock.sign().unwrap();
        for refused in [Lock::acquire(dir.path()).map(Some), Lock::acquire_quietly(dir.path())] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(&format!("process {} on", std::process::id())), "{text}");
        }
        drop(lock);
        assert!(Lock::acquire_quietly(dir.path()).unwrap().is_some());
    }

    #[test]
    fn undone_it_leaves_no_trace_but_where_one_was() {
        let dir = tempfile::tempdir().unwrap();
        Lock::acquire(dir.path()).unwrap().undo();
        assert!(!dir.path().join(LOCK_FILE).exists());
        drop(Lock::acquire(dir.path()).unwrap());
        Lock::acquire(dir.path()).unwrap().undo();
        assert!(dir.path().join(LOCK_FILE).exists());
    }
}

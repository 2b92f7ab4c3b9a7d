//! The exclusive lock on a directory.
//!
//! The operating system holds the lock, on the file `LOCK`, and releases it when the process ends, even by a crash. The content of
//! the file is a note for operators and error messages: a note left by a dead process means nothing.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::files::{Files, LockGuard, Locking};

/// The file that is locked.
pub(crate) const LOCK_FILE: &str = "LOCK";

/// The note in the lock file.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    /// Milliseconds since the epoch.
    started: u64,
}

/// The held lock of a directory; dropping it releases the directory.
#[derive(Debug)]
pub struct Lock {
    guard: Box<dyn LockGuard>,
    path: PathBuf,
}

impl Lock {
    /// Locks `dir`, creating the lock file if it is missing. Does not wait.
    ///
    /// # Errors
    /// [`FileError::Locked`] with the holder, or the operating system's.
    pub fn acquire(files: &dyn Files, dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(LOCK_FILE);
        let locking = files.lock(&path).map_err(|source| FileError::io("lock", &path, source))?;
        Self::held(locking, dir, path)
    }

    /// Locks `dir` without leaving a trace. `None`: there is no lock file, so no broker has ever used the directory.
    ///
    /// # Errors
    /// [`FileError::Locked`] with the holder, or the operating system's.
    pub fn acquire_existing(files: &dyn Files, dir: &Path) -> Result<Option<Self>, FileError> {
        let path = dir.join(LOCK_FILE);
        let locking = files.lock_existing(&path).map_err(|source| FileError::io("lock", &path, source))?;
        locking.map(|locking| Self::held(locking, dir, path)).transpose()
    }

    /// Locks `dir` if `look` accepts its content; the lock file is not signed yet. A refused directory stays unchanged.
    ///
    /// `look` runs under the lock wherever a lock file exists, and again after the lock file was created.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`] and of `look`.
    pub fn acquire_if<E: From<FileError>>(
        files: &dyn Files,
        dir: &Path,
        mut look: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        if Self::acquire_existing(files, dir)?.is_none() {
            look()?;
        }
        let lock = Self::acquire(files, dir)?;
        // Another process may have started to use the directory before the lock was taken.
        if let Err(error) = look() {
            lock.undo(files);
            return Err(error);
        }
        Ok(lock)
    }

    fn held(locking: Locking, dir: &Path, path: PathBuf) -> Result<Self, FileError> {
        match locking {
            Locking::Held(guard) => Ok(Self { guard, path }),
            Locking::Busy(note) => Err(FileError::Locked { path: dir.to_owned(), holder: describe(&note, now()) }),
        }
    }

    /// Records this process in the lock file. Call it only once the directory is known to be ours; until then nothing in it may
    /// change.
    ///
    /// # Errors
    /// When the note cannot be written; no other file in the directory could be written either.
    pub fn sign(&mut self) -> Result<(), FileError> {
        let holder = Holder { pid: std::process::id(), host: host(), started: now() };
        let mut note = serde_json::to_string(&holder).unwrap_or_default();
        note.push('\n');
        self.guard.write(&note).map_err(|source| FileError::io("write to", &self.path, source))
    }

    /// Releases the lock, and removes the lock file if taking the lock created it: the directory belongs to another program.
    pub fn undo(self, files: &dyn Files) {
        if self.guard.is_new() {
            let _an_empty_file_stays_behind = files.unlink(&self.path);
        }
    }
}

/// Whether a lock file that begins with `start` is Herald's: a note, a partial note, or the zeros that a power failure leaves.
pub(crate) fn is_note(start: &[u8]) -> bool {
    const START: &[u8] = br#"{"pid":"#;
    start.starts_with(START) || START.starts_with(start) || start.iter().all(|byte| *byte == 0)
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
        // The holder has created the file and not yet written the note.
        Err(_) => "another process".to_owned(),
    }
}

/// The machine's name, for a directory that several machines share.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "an unnamed host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemFiles;

    #[test]
    fn a_second_holder_is_refused_and_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Lock::acquire_existing(&SystemFiles, dir.path()).unwrap().is_none());
        let mut lock = Lock::acquire(&SystemFiles, dir.path()).unwrap();
        lock.sign().unwrap();
        for refused in
            [Lock::acquire(&SystemFiles, dir.path()).map(Some), Lock::acquire_existing(&SystemFiles, dir.path())]
        {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(&format!("process {} on", std::process::id())), "{text}");
        }
        drop(lock);
        assert!(Lock::acquire_existing(&SystemFiles, dir.path()).unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_that_is_not_a_regular_file_is_refused_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("precious"), dir.path().join(LOCK_FILE));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for refused in
            [Lock::acquire(&SystemFiles, dir.path()).map(Some), Lock::acquire_existing(&SystemFiles, dir.path())]
        {
            let error = refused.unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("symbolic link"), "{error}: {cause}");
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        // A dangling link creates no file.
        std::fs::remove_file(&target).unwrap();
        assert!(Lock::acquire(&SystemFiles, dir.path()).is_err());
        assert!(!target.exists());
        std::fs::remove_file(&link).unwrap();
        std::fs::create_dir(&link).unwrap();
        assert!(Lock::acquire(&SystemFiles, dir.path()).is_err());
    }

    #[test]
    fn a_directory_that_is_refused_gets_no_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let refuse = || Err(FileError::io("use", dir.path(), std::io::ErrorKind::Other.into()));
        assert!(Lock::acquire_if(&SystemFiles, dir.path(), refuse).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        Lock::acquire_if(&SystemFiles, dir.path(), || Ok::<_, FileError>(())).unwrap().sign().unwrap();
        let note = std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert!(Lock::acquire_if(&SystemFiles, dir.path(), refuse).is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap(), note);
    }

    #[test]
    fn undo_removes_the_lock_file_only_if_it_was_new() {
        let dir = tempfile::tempdir().unwrap();
        Lock::acquire(&SystemFiles, dir.path()).unwrap().undo(&SystemFiles);
        assert!(!dir.path().join(LOCK_FILE).exists());
        drop(Lock::acquire(&SystemFiles, dir.path()).unwrap());
        Lock::acquire(&SystemFiles, dir.path()).unwrap().undo(&SystemFiles);
        assert!(dir.path().join(LOCK_FILE).exists());
    }
}

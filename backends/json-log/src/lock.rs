//! The exclusive lock on the data directory.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::JsonLogError;
use crate::files::{Files, LockGuard, Locking};

/// The file that is locked. What it holds is for people and error messages; the lock itself is the operating system's, and
/// ends with the process.
pub(crate) const LOCK_FILE: &str = "LOCK";

/// Who has the directory.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    /// Milliseconds since the epoch.
    started: u64,
}

/// Takes the lock of `dir`.
pub(crate) fn acquire(files: &dyn Files, dir: &Path) -> Result<Box<dyn LockGuard>, JsonLogError> {
    let path = dir.join(LOCK_FILE);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let started = u64::try_from(started).unwrap_or_default();
    let holder = Holder { pid: std::process::id(), host: host(), started };
    let mut note = serde_json::to_string(&holder).unwrap_or_default();
    note.push('\n');
    match files.lock(&path, &note) {
        Ok(Locking::Held(guard)) => Ok(guard),
        Ok(Locking::Busy(note)) => Err(JsonLogError::Locked { path: dir.to_owned(), holder: describe(&note, started) }),
        Err(source) => Err(JsonLogError::io("lock", &path, source)),
    }
}

/// Takes the lock of `dir` without a trace of it. `None`: no broker has ever had the directory.
pub(crate) fn acquire_quietly(files: &dyn Files, dir: &Path) -> Result<Option<Box<dyn LockGuard>>, JsonLogError> {
    let path = dir.join(LOCK_FILE);
    match files.lock_quietly(&path) {
        Ok(None) => Ok(None),
        Ok(Some(Locking::Held(guard))) => Ok(Some(guard)),
        Ok(Some(Locking::Busy(note))) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let holder = describe(&note, u64::try_from(now).unwrap_or_default());
            Err(JsonLogError::Locked { path: dir.to_owned(), holder })
        }
        Err(source) => Err(JsonLogError::io("lock", &path, source)),
    }
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

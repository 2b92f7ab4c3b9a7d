//! How far the database is known to be synced, beside the database.
//!
//! sled takes the first spot of its log that does not check for the end of the log, wherever it is, and goes on from there: damage
//! takes it back to an earlier state without a word. Every group of batches has a number, which is stored with it. The largest
//! one known to be synced is written here now and then, so that going back is noticed, if not undone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is written while batches keep coming. It is not synced: an old one only notices less.
const EVERY: Duration = Duration::from_secs(1);

/// The file.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    written_at: Instant,
    written: u64,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("mark")
}

fn line(group: u64) -> String {
    let number = group.to_string();
    format!("{number} {:08x}\n", crc32fast::hash(number.as_bytes()))
}

/// The group that is known to be synced; `None` if nothing says so.
pub(crate) fn read(dir: &Path) -> Option<u64> {
    let text = fs::read_to_string(path(dir)).ok()?;
    let group = text.split(' ').next()?.parse().ok()?;
    (line(group) == text).then_some(group)
}

/// Forgets it, with the database that it is about.
pub(crate) fn remove(dir: &Path) {
    let _there_may_be_none = fs::remove_file(path(dir));
}

impl Mark {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: path(dir), written_at: Instant::now(), written: 0 }
    }

    /// Takes note that a group is synced; `now` if it is not to wait.
    pub(crate) fn synced(&mut self, group: u64, now: bool) {
        if group == self.written || (!now && self.written_at.elapsed() < EVERY) {
            return;
        }
        (self.written_at, self.written) = (Instant::now(), group);
        if let Err(error) = fs::write(&self.path, line(group)) {
            // It only helps to notice damage; what is stored is stored.
            tracing::warn!(path = %self.path.display(), %error, "cannot note how far the database is synced");
        }
    }
}

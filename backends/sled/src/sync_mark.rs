//! The file `mark`: how far the database is known to be synced.
//!
//! sled treats the first damage in its log as the end of the log, wherever it is, and continues from there. So damage silently
//! reverts the database to an earlier state:
//!
//! ```text
//!   sled's log   group 1  group 2  ▒▒▒  group 4  group 5
//!   sled opens   group 1  group 2  and nothing else
//!   mark         5                     so groups 3 to 5 are missing: reported as damage
//! ```
//!
//! Every group of batches is stored with its number. The largest number known to be synced is written to `mark` about once a second.
//! So the loss is noticed, even though it cannot be undone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time between two writes of the file while batches arrive. It is not synced, because an old mark merely notices less.
const EVERY: Duration = Duration::from_secs(1);

/// The file `mark`.
#[derive(Debug)]
pub(crate) struct SyncMark {
    path: PathBuf,
    written_at: Instant,
    written: u64,
}

/// The file's name.
pub(crate) const MARK: &str = "mark";

fn path(dir: &Path) -> PathBuf {
    dir.join(MARK)
}

fn line(group: u64) -> String {
    let number = group.to_string();
    format!("{number} {:08x}\n", crc32fast::hash(number.as_bytes()))
}

/// The latest group known to be synced; `None` if there is no valid mark.
pub(crate) fn read(dir: &Path) -> Option<u64> {
    let text = fs::read_to_string(path(dir)).ok()?;
    let group = text.split(' ').next()?.parse().ok()?;
    (line(group) == text).then_some(group)
}

/// Removes the file; called when its database is removed.
pub(crate) fn remove(dir: &Path) {
    let _there_may_be_none = fs::remove_file(path(dir));
}

impl SyncMark {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: path(dir), written_at: Instant::now(), written: 0 }
    }

    /// Notes that a group is synced. With `now` the mark is written at once, otherwise at most every [`EVERY`].
    pub(crate) fn synced(&mut self, group: u64, now: bool) {
        if group == self.written || (!now && self.written_at.elapsed() < EVERY) {
            return;
        }
        (self.written_at, self.written) = (Instant::now(), group);
        if let Err(error) = fs::write(&self.path, line(group)) {
            // The mark only helps to notice damage; stored events are safe without it.
            tracing::warn!(path = %self.path.display(), %error, "cannot write the sync mark");
        }
    }
}

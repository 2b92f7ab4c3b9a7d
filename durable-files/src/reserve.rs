//! The reserve: a file whose space is released when the disk is full, so that stored events can still be consumed.
//!
//! A storage needs space to delete, because its log grows before any space is freed. On a full disk it could neither be drained
//! nor reopened. So some space is reserved in advance:
//!
//! ```text
//!            ┌───────────── nearly full, or a write has failed for lack of space ─────────────┐
//!            │                                                                                ▼
//!   kept: events are accepted                                     spent: events are refused; consuming, expiry,
//!            ▲                                                    purging and starting use the released space
//!            └────────────────── the disk has room for it again, checked once a second ───────┘
//! ```
//!
//! The file holds no data, so a kill at any moment costs nothing: the next start allocates a missing or partial reserve anew, and
//! if it cannot, the reserve counts as spent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use broker_core::storage::{StorageError, StorageErrorKind};

use crate::error::FileError;
use crate::space::{allocate, space};

/// The name of the reserve's file in the data directory.
pub const RESERVE_FILE: &str = "reserve";

/// The bytes that a write is assumed to need besides its events: a few pages.
const WRITE: u64 = 64 << 10;

/// The reserve of a data directory.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    /// Its size; 0: this storage has none.
    bytes: u64,
    /// The bytes that a write must leave free besides the reserve.
    margin: u64,
    spent: AtomicBool,
    /// The estimated free space: the last measurement, less the bytes written since.
    free: AtomicU64,
}

impl Reserve {
    /// No reserve, for a storage that keeps none.
    #[must_use]
    pub fn none() -> Self {
        Self::of(PathBuf::new(), 0)
    }

    /// A reserve of `most` bytes in `dir`, or of a `part`-th of its file system if that is less. Allocates nothing yet.
    #[must_use]
    pub fn new(dir: &Path, most: u64, part: u64) -> Self {
        let total = space(dir).map_or(u64::MAX, |space| space.total);
        Self::of(dir.join(RESERVE_FILE), most.min(total / part.max(1)))
    }

    fn of(path: PathBuf, bytes: u64) -> Self {
        let (spent, free) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { path, bytes, margin: bytes / 16, spent, free }
    }

    /// The size in bytes, whether kept or spent; 0 if there is no reserve.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the space was released, so that no event may be accepted.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }

    /// The estimated free space: the last measurement, less the bytes written since.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Measures the free space; `u64::MAX` where the system does not report it.
    fn look(&self) -> u64 {
        let dir = self.path.parent().unwrap_or(&self.path);
        let free = space(dir).map_or(u64::MAX, |space| space.free);
        self.free.store(free, Ordering::Relaxed);
        free
    }

    /// Releases the reserve if the disk is full. Called with the lock held, before the first write.
    pub fn before_opening(&self) {
        if self.bytes > 0 && self.look() < self.margin {
            self.give_back();
        }
    }

    /// Allocates the reserve unless it is kept already. If the disk has no room for it, the reserve is spent.
    pub fn take(&self) {
        if self.bytes == 0 {
            return;
        }
        let kept = fs::metadata(&self.path).is_ok_and(|found| found.is_file() && found.len() == self.bytes);
        if kept && !self.is_spent() {
            return;
        }
        // With room left for some writes, or the reserve would be released again at once.
        let taken = if self.look() < self.bytes.saturating_add(2 * self.margin) {
            Err(None)
        } else {
            allocate(&self.path, self.bytes).map_err(Some)
        };
        self.look();
        match taken {
            Ok(()) => {
                if self.spent.swap(false, Ordering::AcqRel) {
                    tracing::info!(path = %self.path.display(), bytes = self.bytes, "disk has space again; events are accepted");
                }
            }
            Err(Some(error)) if !is_full(&error) => {
                // Not for lack of space: the storage works without a reserve as long as the disk is not full.
                tracing::warn!(error = %broker_core::error_chain(&error), "cannot reserve space for a full disk");
            }
            Err(_) => self.set_spent(),
        }
    }

    /// Releases the space; the reserve is spent afterwards.
    pub fn give_back(&self) {
        if self.bytes == 0 {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.path.display(), %error, "cannot release the space reserved for a full disk");
            }
            _ => {}
        }
        self.set_spent();
        self.look();
    }

    fn set_spent(&self) {
        if !self.spent.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                path = %self.path.display(),
                reserve_bytes = self.bytes,
                "disk full; events are refused until space is freed"
            );
        }
    }

    /// Checks the space before a write with `bytes` of events; 0 for a write that only consumes. On a nearly full disk this releases
    /// the reserve.
    ///
    /// # Errors
    /// `Full` for events that would use more than half of the released space, which is left for consuming. Nothing was written.
    pub fn before_writing(&self, bytes: u64) -> Result<(), StorageError> {
        if self.bytes == 0 {
            return Ok(());
        }
        // A database writes an event twice: to its log, and to its pages.
        let needs = bytes.saturating_mul(2).saturating_add(WRITE);
        let has_room = |free: u64| free >= needs.saturating_add(self.margin);
        let known = self.free.load(Ordering::Relaxed);
        if !self.is_spent() {
            if has_room(known) || has_room(self.look()) {
                self.free
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(free.saturating_sub(needs)))
                    .ok();
                return Ok(());
            }
            self.give_back();
        }
        if bytes > 0 && self.look() < needs.saturating_add(self.bytes / 2) {
            let dir = self.path.parent().unwrap_or(&self.path).display();
            let text = format!("cannot write to {dir}: no space left on the device except the reserve for consuming");
            return Err(StorageError::new(StorageErrorKind::Full, text));
        }
        Ok(())
    }

    /// Whether work that frees space may use `bytes` temporarily: half of the released space stays for consuming.
    #[must_use]
    pub fn lends(&self, bytes: u64) -> bool {
        !self.is_spent() || self.look() >= bytes.saturating_mul(2).saturating_add(WRITE + self.bytes / 2)
    }

    /// Measures the disk again, about once a second, and releases or re-allocates the reserve.
    pub fn look_again(&self) {
        if self.bytes == 0 {
            return;
        }
        if self.is_spent() {
            self.take();
        } else if self.look() < self.margin {
            self.give_back();
        }
    }
}

fn is_full(error: &FileError) -> bool {
    let FileError::Io { source, .. } = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(dir: &Path) -> Reserve {
        Reserve::of(dir.join(RESERVE_FILE), 1 << 20)
    }

    #[test]
    fn a_reserve_is_allocated_released_and_allocated_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE_FILE);
        let first = reserve(dir.path());
        first.take();
        assert_eq!((fs::metadata(&path).unwrap().len(), first.is_spent()), (1 << 20, false));
        first.give_back();
        assert!(!path.exists() && first.is_spent());
        first.look_again();
        assert!(path.exists() && !first.is_spent(), "there is room");
    }

    #[test]
    fn a_reserve_that_a_kill_left_partial_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE_FILE);
        fs::write(&path, "part").unwrap();
        reserve(dir.path()).take();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_reserve_that_does_not_fit_on_the_disk_is_spent() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path().join(RESERVE_FILE), 1 << 60);
        reserve.take();
        assert!(reserve.is_spent() && !dir.path().join(RESERVE_FILE).exists());
        let error = reserve.before_writing(1).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Full);
        reserve.before_writing(0).unwrap();
    }

    #[test]
    fn a_reserve_that_fails_for_a_reason_other_than_space_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path().join("missing").join(RESERVE_FILE), 0);
        reserve.take();
        reserve.give_back();
        reserve.before_writing(1).unwrap();
        assert!(!reserve.is_spent());
        let no_directory = Reserve::of(dir.path().join("missing").join(RESERVE_FILE), 1 << 20);
        no_directory.take();
        assert!(!no_directory.is_spent());
    }
}

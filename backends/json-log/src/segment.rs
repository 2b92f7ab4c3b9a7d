//! The table of segments: how much of each is still needed, and the files open for reading.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use broker_core::storage::Place;
use durable_files::{DataFile, Files, OpenMode};

use crate::place;

/// The most segment files kept open for reading.
const MAX_OPEN: usize = 64;

const DIGITS: usize = 16;
const ENDING: &str = ".jsonl";

/// The file name of a segment.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:016}{ENDING}")
}

/// The number in a segment's file name; `None` for any other file.
pub(crate) fn parse_file_name(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(ENDING)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().filter(|number| *number > 0)
}

/// A segment: one file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The number, counted from 1 and never reused.
    pub(crate) number: u64,
    /// The path of its file.
    pub(crate) path: PathBuf,
    bytes: AtomicU64,
    live: AtomicU64,
    live_bytes: AtomicU64,
    readers: AtomicUsize,
}

impl Segment {
    /// The length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// The number of live events, which the engine has not released yet.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// The total length of the live events' lines.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    /// Counts the event at `place` as live. The place must be in this segment.
    pub(crate) fn add_live(&self, place: Place) {
        self.live.fetch_add(1, Relaxed);
        self.live_bytes.fetch_add(place::unpack(place).size, Relaxed);
    }

    /// Subtracts the event at `place`; returns true if it was the last live one.
    fn release(&self, place: Place) -> bool {
        // Saturating, because a place released twice must not wrap around. Only the writer calls this.
        let size = place::unpack(place).size;
        let _was = self.live_bytes.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(size)));
        self.live.fetch_update(Relaxed, Relaxed, |live| live.checked_sub(1)) == Ok(1)
    }

    /// Whether a read of this segment is under way.
    pub(crate) fn is_being_read(&self) -> bool {
        // The caller has removed the segment from the table. Readers are counted under the table's lock, so no new one can appear.
        self.readers.load(Relaxed) > 0
    }
}

/// A read of a segment under way: its file is not removed until this is dropped.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Segment>);

impl std::ops::Deref for Reading {
    type Target = Segment;
    fn deref(&self) -> &Segment {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, std::sync::atomic::Ordering::Release);
    }
}

/// All segments of a directory.
#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    files: Arc<dyn Files>,
    table: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// The open files, most recently used last.
    open: Mutex<Vec<(u64, Arc<dyn DataFile>)>>,
    begin: AtomicU64,
}

impl Segments {
    /// The length of the active segment's header and catalogue.
    pub(crate) fn begin(&self) -> u64 {
        self.begin.load(Relaxed)
    }

    pub(crate) fn set_begin(&self, bytes: u64) {
        self.begin.store(bytes, Relaxed);
    }

    pub(crate) fn new(dir: &Path, files: Arc<dyn Files>) -> Self {
        Self { dir: dir.to_owned(), files, table: RwLock::default(), open: Mutex::default(), begin: AtomicU64::new(0) }
    }

    /// The path of a segment's file, which need not exist.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(file_name(number))
    }

    /// Creates the entry of a segment of this length, without adding it to the table.
    pub(crate) fn entry(&self, number: u64, bytes: u64) -> Arc<Segment> {
        Arc::new(Segment {
            number,
            path: self.path(number),
            bytes: AtomicU64::new(bytes),
            live: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
        })
    }

    /// Adds a segment to the table.
    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).insert(segment.number, segment);
    }

    /// Removes a segment from the table, so that new reads no longer find it.
    pub(crate) fn remove(&self, number: u64) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != number);
    }

    /// All segments, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The oldest segment's number.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).keys().next().copied()
    }

    /// The total length of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().map(|segment| segment.bytes()).sum()
    }

    /// Subtracts a released event; returns true if it was the last live event of the oldest segment.
    pub(crate) fn release(&self, place: Place) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some((oldest, _)) = table.first_key_value() else { return false };
        let number = place::full_number(place::unpack(place).segment, *oldest);
        table.get(&number).is_some_and(|segment| segment.release(place)) && number == *oldest
    }

    /// The segment of `place`, kept readable until the result is dropped; `None` if it is gone.
    pub(crate) fn reading(&self, place: Place) -> Option<Reading> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (oldest, _) = table.first_key_value()?;
        let segment = table.get(&place::full_number(place::unpack(place).segment, *oldest))?;
        segment.readers.fetch_add(1, Relaxed);
        Some(Reading(segment.clone()))
    }

    /// Opens a segment's file for reading; the [`MAX_OPEN`] most recently used files stay open.
    pub(crate) fn file(&self, segment: &Segment) -> io::Result<Arc<dyn DataFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().rposition(|(number, _)| *number == segment.number) {
            let entry = open.remove(at);
            let file = entry.1.clone();
            open.push(entry);
            return Ok(file);
        }
        let file = self.files.open(&segment.path, OpenMode::Read)?;
        if open.len() == MAX_OPEN {
            open.remove(0);
        }
        open.push((segment.number, file.clone()));
        Ok(file)
    }

    /// Closes all files.
    pub(crate) fn close(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sixteen_digits_name_a_segment() {
        assert_eq!(parse_file_name(OsStr::new(&file_name(42))), Some(42));
        for stray in ["1.jsonl", "0000000000000000.jsonl", "000000000000000a.jsonl", "0000000000000001.json", "LOCK"] {
            assert_eq!(parse_file_name(OsStr::new(stray)), None, "{stray}");
        }
    }
}

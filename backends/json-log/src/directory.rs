//! The data directory: what it may hold, what opening refuses, and emptying it.
//!
//! ```text
//! data/
//!   LOCK                          the process that uses the directory
//!   0000000000000007.jsonl        segments, by number; the last one is active
//!   0000000000000008.jsonl
//!   reserve                       space reserved for a full disk
//!   0000000000000007.jsonl.draft  a segment being rewritten by a repair, if any
//!   damaged/                      lines moved out by repairs
//! ```

use std::ffi::OsStr;
use std::path::Path;

use broker_core::storage::check::SIDE_FOLDER;
use durable_files::{Files, OpenMode, RESERVE_FILE, occupant, read_full};

use crate::error::JsonLogError;
use crate::format::{KIND, MAGIC, Names, Record, VERSION, check, decode};
use crate::line_reader::{LineReader, Piece};
use crate::segment::parse_file_name;

/// Checks that the directory is empty or holds a log, without changing it. Returns whether it holds a log.
pub(crate) fn look(files: &dyn Files, dir: &Path) -> Result<bool, JsonLogError> {
    let entries = files.list(dir).map_err(|source| JsonLogError::io("list", dir, source))?;
    let segments: Vec<_> = entries.iter().filter(|entry| parse_file_name(&entry.name).is_some()).collect();
    for entry in &entries {
        let is_stray = Path::new(&entry.name).extension() == Some(OsStr::new("jsonl"));
        if is_stray && parse_file_name(&entry.name).is_none() {
            let file = dir.join(&entry.name);
            tracing::warn!(file = %file.display(), "not a segment; the file is ignored");
        }
    }
    let mut own = false;
    for entry in &segments {
        let path = dir.join(&entry.name);
        let start = first_bytes(files, &path)?;
        let line = memchr::memchr(b'\n', &start).map_or(&start[..], |end| &start[..end]);
        if let Some(body) = check(line)
            && let Some((_, Record::Alien { kind, version })) = decode(body, &mut Names::default())
        {
            return Err(alien(&path, kind, version));
        }
        own = own || is_segment(files, &path, &start)?;
    }
    match segments.last() {
        _ if own => Ok(true),
        Some(segment) => Err(not_a_segment(&dir.join(&segment.name))),
        None => match occupant(files, dir, &[SIDE_FOLDER, RESERVE_FILE])? {
            Some(what) => Err(JsonLogError::Foreign { path: dir.to_owned(), what }),
            None => Ok(false),
        },
    }
}

/// Whether a file named like a segment is one: its start matches a segment's, or is the zeros that a power failure leaves, or one of
/// its lines is valid and only its start is damaged.
fn is_segment(files: &dyn Files, path: &Path, start: &[u8]) -> Result<bool, JsonLogError> {
    if !begins_otherwise(start) {
        return Ok(true);
    }
    let trouble = |source| JsonLogError::io("read", path, source);
    let file = files.open(path, OpenMode::Read).map_err(trouble)?;
    let mut reader = LineReader::new(&*file, u64::MAX);
    while let Some(piece) = reader.next().map_err(trouble)? {
        if matches!(piece, Piece::Record { .. }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `start` is the start of neither a segment nor an interrupted one.
pub(crate) fn begins_otherwise(start: &[u8]) -> bool {
    let start = start.get(..MAGIC.len()).unwrap_or(start);
    !MAGIC.starts_with(start) && start.iter().any(|byte| *byte != 0)
}

/// The error for a file that is named like a segment but is not one.
pub(crate) fn not_a_segment(path: &Path) -> JsonLogError {
    JsonLogError::Foreign { path: path.to_owned(), what: "a file of another kind".to_owned() }
}

fn first_bytes(files: &dyn Files, path: &Path) -> Result<Vec<u8>, JsonLogError> {
    /// Longer than any header.
    const ENOUGH: usize = 1024;
    let trouble = |source| JsonLogError::io("read", path, source);
    let file = files.open(path, OpenMode::Read).map_err(trouble)?;
    let mut start = vec![0; ENOUGH];
    let read = read_full(&*file, &mut start, 0).map_err(trouble)?;
    start.truncate(read);
    Ok(start)
}

/// Removes the segments and no other file.
pub(crate) fn clean(files: &dyn Files, dir: &Path) -> Result<(), JsonLogError> {
    let entries = files.list(dir).map_err(|source| JsonLogError::io("list", dir, source))?;
    let mut segments: Vec<_> = entries.iter().filter(|entry| parse_file_name(&entry.name).is_some()).collect();
    // Newest first: an interruption then leaves an older state, not a damaged one.
    segments.sort_by(|a, b| b.name.cmp(&a.name));
    for entry in &segments {
        let path = dir.join(&entry.name);
        durable_files::remove(files, &path)?;
    }
    if !segments.is_empty() {
        tracing::warn!(path = %dir.display(), segments = segments.len(), "removed the log, because storage.clean_on_start is set");
    }
    Ok(())
}

/// The error for a file whose header names another kind or version.
pub(crate) fn alien(path: &Path, kind: String, version: u64) -> JsonLogError {
    if kind == KIND {
        JsonLogError::NewerVersion { path: path.to_owned(), found: version, known: VERSION }
    } else {
        JsonLogError::Foreign { path: path.to_owned(), what: format!("a file of the kind \"{kind}\"") }
    }
}

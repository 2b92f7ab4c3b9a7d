//! Damage in SQLite's log: found, and put right before SQLite reads the log.
//!
//! SQLite takes a log up to the first frame whose checksum does not match, and drops the rest as what a power cut left. So one flipped bit
//! in the middle would cost every transaction behind it, confirmed ones too, without a word.
//!
//! ```text
//!   header | frame 1 | frame 2 | frame 3 C | frame 4 X | frame 5 C | frame 6 C | of an earlier round …
//!                                ^ commit    ^ damaged               ^ end
//!   SQLite: |--------- taken --------------| dropped …
//!   here:   |--------- taken ------------------------------------------------|
//! ```
//!
//! The checksum of a frame goes on from the one before. Each frame states its own, so the chain can be taken up again behind a damaged one.
//! The same checksum tells which bit is flipped, if it is only one ([`frame`]). What is damage and what is a torn end is decided in
//! [`scan`]; what counts is written anew by [`rewrite`], and takes the name of the log in one step.

mod frame;
mod page;
mod rewrite;
mod scan;

use std::fs;
use std::path::{Path, PathBuf};

use backend_embedded::SideFile;
use broker_core::settings::Durability;

use crate::error::SqliteError;
use crate::{directory, readers};
use scan::{Scan, State, Verdict, position};

/// The most damaged frames that are reported one by one.
const MOST_REPORTED: usize = 10;

/// A log in which something is wrong, or that ends with incomplete transactions.
#[derive(Debug)]
pub(crate) struct DamagedLog {
    path: PathBuf,
    scan: Scan,
    verdict: Verdict,
}

/// A damaged place of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The byte that it starts at.
    pub(crate) byte: u64,
    pub(crate) what: String,
    /// The data that is lost by it.
    pub(crate) loses: &'static str,
}

/// Reads the log in `dir`, if there is one. `None` if SQLite takes all of it.
///
/// No connection of this process is open, because closing a file would release its locks.
///
/// # Errors
/// When the log cannot be read.
pub(crate) fn look(dir: &Path, durability: Durability) -> Result<Option<DamagedLog>, SqliteError> {
    let (path, database) = (directory::log(dir), directory::database(dir));
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    // While another process has the database, SQLite goes on with its index of the log and checks nothing.
    if length(&path) == 0 || length(&database) == 0 || readers::has_other_processes(dir) {
        return Ok(None);
    }
    let scan = Scan::read(&path, &database).map_err(|source| SqliteError::io("read", &path, source))?;
    let Some(scan) = scan else { return Ok(None) };
    let verdict = scan.verdict(durability == Durability::Always);
    let log = DamagedLog { path, scan, verdict };
    Ok((log.is_damaged() || verdict.incomplete > 0).then_some(log))
}

impl DamagedLog {
    /// Whether the part that counts is damaged. Otherwise the log only ends with incomplete transactions.
    pub(crate) fn is_damaged(&self) -> bool {
        let frames = &self.scan.frames[..self.verdict.keep];
        self.verdict.keep > 0
            && (self.scan.is_header_damaged || frames.iter().any(|entry| entry.state != State::Intact))
    }

    /// Whole transactions that do not count, because one before them is incomplete.
    pub(crate) fn incomplete(&self) -> usize {
        self.verdict.incomplete
    }

    /// The log's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The damaged places of the part that counts: the first few, and one for the rest.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        const NOTHING: &str = "nothing";
        let page_size = self.scan.header.page_size;
        let frames = &self.scan.frames[..self.verdict.keep];
        let mut found = Vec::new();
        if self.scan.is_header_damaged && self.verdict.keep > 0 {
            let what = "the header of SQLite's log is damaged: SQLite would drop all of the log";
            found.push(Damage { byte: 0, what: what.to_owned(), loses: NOTHING });
        }
        let damaged = || frames.iter().enumerate().filter(|(_, entry)| entry.state != State::Intact);
        for (at, entry) in damaged().take(MOST_REPORTED) {
            // A later frame of the same page replaces what is wrong with it.
            let is_replaced =
                frames[at + 1..].iter().any(|later| later.page == entry.page && later.state != State::Broken);
            let (kind, loses) = match entry.state {
                State::Intact | State::Mended => ("has a flipped bit", NOTHING),
                State::Flipped => ("has a flipped bit, and which one is unknown", "at most the row that was hit"),
                State::Broken => ("does not match its checksum", "at most the rows that were hit"),
                State::Foreign => ("is unreadable", "rows that only this frame held"),
            };
            let loses = if is_replaced && entry.state != State::Foreign { NOTHING } else { loses };
            let what = format!("frame {} of SQLite's log {kind}: SQLite would drop everything behind it", at + 1);
            found.push(Damage { byte: position(page_size, at), what, loses });
        }
        if let Some(more) = damaged().count().checked_sub(MOST_REPORTED).filter(|more| *more > 0)
            && let Some((at, _)) = damaged().nth(MOST_REPORTED)
        {
            let what = format!("{more} more frames of SQLite's log are damaged");
            found.push(Damage { byte: position(page_size, at), what, loses: "at most the rows that were hit" });
        }
        found
    }

    /// Keeps the log below `damaged/` and puts one in its place that SQLite takes to its end. Returns the path of the kept one.
    ///
    /// # Errors
    /// The operating system's. The log is then as it was.
    pub(crate) fn mend(&self, dir: &Path) -> Result<PathBuf, SqliteError> {
        let kept = SideFile::new(dir)?.keep(&self.path, "herald.db-wal")?;
        let draft = directory::log_draft(dir);
        let written = self.scan.write(&self.path, &draft, self.verdict.keep);
        written.map_err(|source| SqliteError::io("write", &draft, source))?;
        durable_files::rename(&durable_files::SystemFiles, &draft, &self.path)?;
        Ok(kept)
    }
}

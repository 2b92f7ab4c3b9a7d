//! Keeps SQLite's log short: moves its contents into the database, so that its space can be reused.
//!
//! Normally a commit moves the log as soon as it is [a number of pages](crate::connection::checkpoint_pages) long. SQLite cannot
//! move pages that are newer than the snapshot of an open reader, so the log grows while a reader keeps its snapshot:
//!
//! ```text
//!          oldest snapshot
//!                 │
//!   ██████████████┼░░░░░░░░░░░░░░░░░
//!    can be moved   stays in the log until that reader ends
//! ```
//!
//! The rules are:
//!
//! - The writer never waits for a reader. `wal_checkpoint(truncate)` would hold the write lock while it waits, so it gives up at
//!   once.
//! - A separate thread moves a long log, while the writer continues. So when a reader ends after an hour, no commit has to move the
//!   pages of that hour. The writer moves only the last few pages, which were written while the thread ran.
//! - Under load, reads of this storage overlap, so there is no moment without a reader. They pause for the writer's last step.
//! - A reader that keeps the log long is reported, with its process if the system provides it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, InterruptHandle};

use crate::connection::{self, checkpoint_pages};
use crate::error::SqliteError;
use crate::read_pool::ReadPool;
use crate::{directory, readers};

/// A log longer than this, in bytes, is emptied when the writer is idle.
const SHORT: u64 = 1 << 20;

/// A log longer than this, in bytes, is long. Commits did not keep it short, so a reader kept a snapshot or reads never paused.
const LONG: u64 = 64 << 20;

/// The most pages of a long log that the writer moves (32 MiB).
const LAST_PAGES: i64 = 4096;

/// The writing thread's view of the log.
pub(crate) struct Log {
    dir: PathBuf,
    /// The length in pages at which a commit moves the log.
    pages: i64,
    /// Whether commits move the log.
    automatic: bool,
    mover: Option<Mover>,
    /// The size in bytes from which the log is reported next.
    report_at: u64,
}

/// The thread that moves a long log.
struct Mover {
    thread: JoinHandle<Result<Moved, SqliteError>>,
    interrupt: InterruptHandle,
}

/// The number of pages in the log, and how many of them are in the database.
#[derive(Debug, Clone, Copy)]
struct Moved {
    pages: i64,
    moved: i64,
}

impl Log {
    /// The log in `dir`, of a storage with a reserve of `reserve` bytes.
    pub(crate) fn new(dir: &Path, reserve: u64) -> Self {
        Self { dir: dir.to_owned(), pages: checkpoint_pages(reserve), automatic: true, mover: None, report_at: LONG }
    }

    /// The size of the file. It also shows the length of the log, because the file is cut after the log was long.
    fn bytes(&self) -> u64 {
        fs::metadata(directory::log(&self.dir)).map_or(0, |metadata| metadata.len())
    }

    /// Shortens the log if necessary; called about once a second. On a `full` disk it empties a log of any length.
    ///
    /// # Errors
    /// If moving the log fails. A log that cannot be moved at the moment is no error.
    pub(crate) fn shorten(
        &mut self,
        connection: &Connection,
        readers: &ReadPool,
        idle: bool,
        full: bool,
    ) -> Result<(), SqliteError> {
        let bytes = self.bytes();
        if bytes <= LONG {
            self.report_at = LONG;
            self.set_automatic(connection, true)?;
            if (idle && bytes > SHORT) || (full && bytes > 0) {
                self.empty(connection)?;
            }
            return Ok(());
        }
        self.set_automatic(connection, false)?;
        let Some(mover) = self.mover.take_if(|mover| mover.thread.is_finished()) else {
            if self.mover.is_none() {
                self.mover = Some(self.start_mover()?);
            }
            return Ok(());
        };
        let Moved { pages, moved } = join(mover.thread)?;
        if pages - moved <= LAST_PAGES && readers.alone(|| self.empty(connection))? {
            return Ok(());
        }
        self.report(bytes);
        self.mover = Some(self.start_mover()?);
        Ok(())
    }

    /// Sets whether commits move the log.
    fn set_automatic(&mut self, connection: &Connection, automatic: bool) -> Result<(), SqliteError> {
        if std::mem::replace(&mut self.automatic, automatic) != automatic {
            let pages = if automatic { self.pages } else { 0 };
            let path = directory::database(&self.dir);
            connection::set_number(connection, &path, "wal_autocheckpoint", pages)?;
        }
        Ok(())
    }

    /// Moves all of the log and truncates the file. Returns false, without waiting, if a reader or another writer is active.
    fn empty(&self, connection: &Connection) -> Result<bool, SqliteError> {
        let trouble = |source| SqliteError::sqlite("move the log into", &directory::database(&self.dir), source);
        // With a busy time-out SQLite would hold the write lock while it waits for readers.
        connection.busy_timeout(Duration::ZERO).map_err(trouble)?;
        let busy = connection.query_row("pragma wal_checkpoint(truncate)", (), |row| row.get::<_, i64>(0));
        connection.busy_timeout(connection::BUSY).map_err(trouble)?;
        let emptied = match busy {
            Ok(busy) => busy == 0,
            Err(error) if is_for_later(&error) => false,
            Err(error) => return Err(trouble(error)),
        };
        tracing::debug!(path = %self.dir.display(), emptied, "moved the log into the database");
        Ok(emptied)
    }

    fn start_mover(&self) -> Result<Mover, SqliteError> {
        let path = directory::database(&self.dir);
        let connection = connection::moving(&path)?;
        let interrupt = connection.get_interrupt_handle();
        let failed = |source| SqliteError::io("start a thread for", &self.dir, source);
        let thread = std::thread::Builder::new().name("sqlite-log".to_owned());
        let thread = thread.spawn(move || move_log(&connection, &path)).map_err(failed)?;
        Ok(Mover { thread, interrupt })
    }

    /// Reports a long log, and again at each doubling of its size.
    fn report(&mut self, bytes: u64) {
        if bytes < self.report_at {
            return;
        }
        self.report_at = bytes.saturating_mul(2);
        let holders = readers::of(&self.dir);
        let readers = if holders.is_empty() { "unknown".to_owned() } else { holders.join(", ") };
        tracing::warn!(
            path = %directory::log(&self.dir).display(),
            bytes,
            readers,
            "a reader with an open snapshot keeps the log from being emptied: it grows until the reader ends"
        );
    }
}

impl Drop for Log {
    /// Ends the thread. SQLite checks for an interruption between two pages.
    fn drop(&mut self) {
        if let Some(Mover { thread, interrupt }) = self.mover.take() {
            interrupt.interrupt();
            let _what_is_left_is_moved_later = thread.join();
        }
    }
}

/// Moves as much of the log as the readers allow, while the writer continues.
fn move_log(connection: &Connection, path: &Path) -> Result<Moved, SqliteError> {
    let moved = connection
        .query_row("pragma wal_checkpoint(passive)", (), |row| Ok(Moved { pages: row.get(1)?, moved: row.get(2)? }));
    match moved {
        Ok(moved) => Ok(moved),
        Err(error) if is_for_later(&error) => Ok(Moved { pages: i64::MAX, moved: 0 }),
        Err(source) => Err(SqliteError::sqlite("move the log into", path, source)),
    }
}

fn join(thread: JoinHandle<Result<Moved, SqliteError>>) -> Result<Moved, SqliteError> {
    // The panic hook has already reported a panic; the next round tries again.
    thread.join().unwrap_or(Ok(Moved { pages: i64::MAX, moved: 0 }))
}

/// Whether the log can be moved later instead. Nothing is lost; the log only stays longer. A full disk is such a case, because moving
/// the log can make the database grow.
pub(crate) fn is_for_later(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, OperationInterrupted};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | DiskFull | OperationInterrupted))
}

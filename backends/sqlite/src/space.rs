//! Giving space back: SQLite keeps the pages of what was deleted for later use; what is much is cut off, a little at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::directory;

/// Free pages are left alone up to this, in bytes: they are used again soon.
const KEEP: u64 = 8 << 20;

/// Pages moved in one transaction: a few milliseconds.
const STEP: u64 = 128;

/// How long it may take while batches keep coming.
const SHARE: Duration = Duration::from_millis(20);

/// A log that is longer than this is moved into the database when nothing else is to be done.
const LOG: u64 = 1 << 20;

/// Cuts off free pages until few are left, `hurry` says so, or, unless nothing waits, for a little while.
pub(crate) fn give_back(
    connection: &Connection,
    dir: &Path,
    idle: bool,
    hurry: impl Fn() -> bool,
) -> rusqlite::Result<()> {
    let began = Instant::now();
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page = pragma("page_size")?.unsigned_abs();
    let mut cutting = false;
    while pragma("freelist_count")?.unsigned_abs() * page > KEEP {
        if !std::mem::replace(&mut cutting, true) {
            tracing::debug!(path = %dir.display(), "the database has many free pages: cutting them off");
        }
        run(connection, &format!("pragma incremental_vacuum({STEP})"))?;
        if hurry() || (!idle && began.elapsed() > SHARE) {
            return Ok(());
        }
    }
    let log = std::fs::metadata(directory::log(dir)).map_or(0, |metadata| metadata.len());
    if idle && log > LOG {
        // It gives up at once if somebody reads; the next time will do.
        run(connection, "pragma wal_checkpoint(truncate)")?;
        tracing::debug!(path = %dir.display(), bytes = log, "moved the log into the database");
    }
    Ok(())
}

/// Runs a pragma to its end: it does its work row by row.
fn run(connection: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(())
}

//! Frees space. SQLite keeps the pages of deleted rows for reuse. If there are many, they are cut off the file, a few at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// The size of free pages, in bytes, that are kept, because they are soon reused.
const KEEP: u64 = 8 << 20;

/// The number of pages freed in one transaction, which takes a few milliseconds.
const STEP: u64 = 128;

/// The longest time spent in one call while batches arrive.
const SHARE: Duration = Duration::from_millis(20);

/// The number of pages freed in one transaction on a full disk, where the moved pages must fit into the log.
const STEP_WHEN_FULL: u64 = 16;

/// Cuts free pages off the file until [`KEEP`] is left, or none on a `full` disk. Ends early if `hurry` returns true, and after
/// [`SHARE`] unless the writer is `idle`.
pub(crate) fn give_back(
    connection: &Connection,
    dir: &Path,
    idle: bool,
    full: bool,
    hurry: impl Fn() -> bool,
) -> rusqlite::Result<()> {
    let began = Instant::now();
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page = pragma("page_size")?.unsigned_abs();
    let (keep, step) = if full { (0, STEP_WHEN_FULL) } else { (KEEP, STEP) };
    let mut cutting = false;
    while pragma("freelist_count")?.unsigned_abs() * page > keep {
        if !std::mem::replace(&mut cutting, true) {
            tracing::debug!(path = %dir.display(), "cutting off free pages of the database");
        }
        run(connection, &format!("pragma incremental_vacuum({step})"))?;
        if hurry() || (!idle && began.elapsed() > SHARE) {
            return Ok(());
        }
    }
    Ok(())
}

/// Runs a pragma to its last row. Each row frees one page.
fn run(connection: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(())
}

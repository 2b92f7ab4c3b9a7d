//! The data directory: its files, and what opening refuses.
//!
//! ```text
//! data/
//!   LOCK                 the process that uses the directory
//!   herald.db            the database
//!   herald.db-wal        the write-ahead log: commits that are not yet in the database; removed at an orderly stop
//!   herald.db-shm        SQLite's index of the log
//!   reserve              space reserved for a full disk
//!   herald.db.draft      the new database of a running or interrupted repair
//!   herald.db-wal.draft  the new log of a running or interrupted repair
//!   damaged/             rows moved out by repairs, and logs as they were before
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use broker_core::storage::check::SIDE_FOLDER;
use durable_files::{RESERVE_FILE, SystemFiles, occupant, remove, sync_dir};

use crate::error::SqliteError;
use crate::schema::{APPLICATION_ID, VERSION};

/// The first bytes of every SQLite file.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Offsets of two big-endian numbers in the header of an SQLite file.
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// The database in `dir`.
pub(crate) fn database(dir: &Path) -> PathBuf {
    dir.join("herald.db")
}

/// The database's log.
pub(crate) fn log(dir: &Path) -> PathBuf {
    dir.join("herald.db-wal")
}

/// The new database of a repair.
pub(crate) fn draft(dir: &Path) -> PathBuf {
    dir.join("herald.db.draft")
}

/// The new log of a repair.
pub(crate) fn log_draft(dir: &Path) -> PathBuf {
    dir.join("herald.db-wal.draft")
}

/// The files of the database.
pub(crate) fn files(dir: &Path) -> [PathBuf; 3] {
    [database(dir), log(dir), dir.join("herald.db-shm")]
}

/// Checks that the directory is empty or holds a database, without changing it. Returns whether it holds a database.
///
/// This process must have no open connection, because closing the file here would release that connection's locks.
pub(crate) fn look(dir: &Path) -> Result<bool, SqliteError> {
    fs::read_dir(dir).map_err(|source| SqliteError::io("list", dir, source))?;
    if look_at_database(dir)? {
        return Ok(true);
    }
    // An interrupted start, cleaning or repair can leave these without a database.
    let own = [
        "herald.db-wal",
        "herald.db-shm",
        "herald.db-journal",
        "herald.db.draft",
        "herald.db-wal.draft",
        SIDE_FOLDER,
        RESERVE_FILE,
    ];
    match occupant(&SystemFiles, dir, &own)? {
        Some(what) => Err(SqliteError::Foreign { path: dir.to_owned(), what }),
        None => Ok(false),
    }
}

/// Refuses a log without its database, because SQLite would create a new database and remove the log.
pub(crate) fn look_for_orphan(dir: &Path) -> Result<(), SqliteError> {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let (database, log) = (database(dir), log(dir));
    if bytes(&database) == 0 && bytes(&log) > 0 { Err(SqliteError::Orphan { log, database }) } else { Ok(()) }
}

/// Checks the header of the database. Returns false if there is no database.
fn look_at_database(dir: &Path) -> Result<bool, SqliteError> {
    let path = database(dir);
    if !path.is_file() {
        return Ok(false);
    }
    let start = first_bytes(&path)?;
    if start.is_empty() {
        // Its creation was interrupted.
        return Ok(true);
    }
    let foreign = |what: &str| Err(SqliteError::Foreign { path: path.clone(), what: what.to_owned() });
    let number = |at: usize| start.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match (start.starts_with(MAGIC), number(APPLICATION_ID_AT), number(USER_VERSION_AT)) {
        (true, Some(APPLICATION_ID), Some(found)) if i64::from(found) > VERSION => {
            let (found, known) = (u64::from(found.unsigned_abs()), VERSION.unsigned_abs());
            Err(SqliteError::NewerVersion { path, found, known })
        }
        (true, Some(APPLICATION_ID), Some(_)) => Ok(true),
        // The broker was killed before it created the tables. They are in the log, or were never written.
        (true, Some(0), Some(0)) if is_fresh(&start) => Ok(true),
        (true, Some(_), Some(_)) => foreign("an SQLite database of another program"),
        _ => foreign("a file that is not an SQLite database"),
    }
}

/// Whether a header belongs to a database without tables: its count of schema changes is 0.
fn is_fresh(start: &[u8]) -> bool {
    start.get(40..44) == Some(&[0; 4])
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, SqliteError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1024).read_to_end(&mut start));
    read.map(|_| start).map_err(|source| SqliteError::io("read", path, source))
}

/// Removes the database, and no other file.
pub(crate) fn clean(dir: &Path) -> Result<(), SqliteError> {
    let mut removed = false;
    // The database goes first: a log without a database is ignored, but a database without its log would be an older state.
    for path in files(dir) {
        removed |= remove(&SystemFiles, &path)?;
    }
    if removed {
        tracing::warn!(path = %dir.display(), "removed the database, because storage.clean_on_start is set");
    }
    Ok(())
}

/// Syncs the database's log, which holds the commits. Opening it here is safe, because SQLite's locks are on the other files.
pub(crate) fn sync_log(dir: &Path) -> Result<(), SqliteError> {
    let path = log(dir);
    match File::open(&path).and_then(|log| log.sync_data()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SqliteError::io("sync", &path, error)),
        // Without a log everything is in the database, and was synced when it was moved there. Syncing the directory makes the
        // name of a new log durable.
        _ => Ok(sync_dir(&SystemFiles, dir)?),
    }
}

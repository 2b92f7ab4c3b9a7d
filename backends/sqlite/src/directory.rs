//! What a data directory holds, and what opening it refuses.
//!
//! ```text
//! data/
//!   LOCK             who has it
//!   herald.db        the database
//!   herald.db-wal    what was committed and is not in the database yet; gone after an orderly stop
//!   herald.db-shm    an index of that, for SQLite
//!   herald.db.draft  the database that a repair is making, if there is one
//!   damaged/         what repairs have moved out
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use backend_embedded::sync_dir;

use crate::error::SqliteError;
use crate::schema::{APPLICATION_ID, VERSION};

/// What every SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Where the header of an SQLite file has the two numbers, big-endian.
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

/// Where a repair makes a new database.
pub(crate) fn draft(dir: &Path) -> PathBuf {
    dir.join("herald.db.draft")
}

/// The files of the database.
pub(crate) fn files(dir: &Path) -> [PathBuf; 3] {
    [database(dir), log(dir), dir.join("herald.db-shm")]
}

/// Looks whether the directory is of another kind, without touching it or the database. Returns whether there is one at all.
pub(crate) fn look(dir: &Path) -> Result<bool, SqliteError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(SqliteError::io("list", dir, source)),
    };
    let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|source| SqliteError::io("list", dir, source))?;
    if database(dir).exists() {
        return Ok(true);
    }
    // Someone who changes `storage.kind` must not find an empty broker where there was a full one.
    let has = |name: &str| entries.iter().any(|entry| entry.file_name() == name);
    if has("conf") && has("db") {
        return Err(SqliteError::Foreign { path: dir.to_owned(), what: "a sled storage".to_owned() });
    }
    for entry in entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        let path = entry.path();
        if first_bytes(&path)?.starts_with(b"{\"herald\":\"json-log\"") {
            return Err(SqliteError::Foreign { path, what: "a JSON log".to_owned() });
        }
    }
    Ok(true)
}

/// Refuses a log without its database: SQLite would take the database for a new one, and remove the log.
pub(crate) fn look_for_orphan(dir: &Path) -> Result<(), SqliteError> {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let (database, log) = (database(dir), log(dir));
    if bytes(&database) == 0 && bytes(&log) > 0 { Err(SqliteError::Orphan { log, database }) } else { Ok(()) }
}

/// Looks at the header of the database, which nobody has open: the directory is locked.
pub(crate) fn look_at_database(dir: &Path) -> Result<(), SqliteError> {
    let path = database(dir);
    if !path.exists() {
        return Ok(());
    }
    let start = first_bytes(&path)?;
    if start.is_empty() {
        // Its making was interrupted.
        return Ok(());
    }
    let foreign = |what: &str| Err(SqliteError::Foreign { path: path.clone(), what: what.to_owned() });
    let number = |at: usize| start.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match (start.starts_with(MAGIC), number(APPLICATION_ID_AT), number(USER_VERSION_AT)) {
        (true, Some(APPLICATION_ID), Some(found)) if i64::from(found) > VERSION => {
            let (found, known) = (u64::from(found.unsigned_abs()), VERSION.unsigned_abs());
            Err(SqliteError::NewerVersion { path, found, known })
        }
        (true, Some(APPLICATION_ID), Some(_)) => Ok(()),
        // A kill between the first pages and the tables: SQLite has the rest in its log, or nothing was there yet.
        (true, Some(0), Some(0)) if is_fresh(&start) => Ok(()),
        (true, Some(_), Some(_)) => foreign("an SQLite database of another program"),
        _ => foreign("a file that is not an SQLite database"),
    }
}

/// Whether a header has no table: the number of changes to the schema is 0.
fn is_fresh(start: &[u8]) -> bool {
    start.get(40..44) == Some(&[0; 4])
}

/// Makes the data directory with its missing parents. Their names are synced: a power failure must not take the directory away with
/// everything that was confirmed in it.
pub(crate) fn make(dir: &Path) -> Result<(), SqliteError> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<_> = dir.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(SqliteError::io("make the directory", dir, error));
            }
            _ => {}
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or_else(|| Path::new(".")))?;
    }
    Ok(())
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, SqliteError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1024).read_to_end(&mut start));
    read.map(|_| start).map_err(|source| SqliteError::io("read", path, source))
}

/// Removes the database, and nothing else.
pub(crate) fn clean(dir: &Path) -> Result<(), SqliteError> {
    let mut removed = false;
    // The database first: a log without one means nothing, a database without its log would be an older state.
    for path in files(dir) {
        match fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SqliteError::io("remove", &path, source)),
        }
        sync_dir(dir)?;
    }
    if removed {
        tracing::warn!(path = %dir.display(), "removed the database, as storage.clean_on_start says");
    }
    Ok(())
}

/// Syncs the database's log, which is where a commit is. Opening it is safe: SQLite has its locks on the other files.
pub(crate) fn sync_log(dir: &Path) -> Result<(), SqliteError> {
    let path = log(dir);
    match File::open(&path).and_then(|log| log.sync_data()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SqliteError::io("sync", &path, error)),
        // Without a log everything is in the database, and was synced when it was moved there.
        _ => Ok(sync_dir(dir)?),
    }
}

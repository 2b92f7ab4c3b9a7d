//! Sets up connections. Every setting that a guarantee depends on is set and read back.

use std::path::Path;
use std::time::Duration;

use broker_core::settings::Durability;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::{directory, schema};

/// For events of a few hundred bytes, this halves the depth of the trees, and needs fewer overflow pages than SQLite's default of
/// 4 KiB.
const PAGE_BYTES: i64 = 8192;

/// The length of the log, in pages, at which it is moved into the database (16 MiB). It is less if the reserve is small.
const CHECKPOINT_PAGES: i64 = 2048;

/// The space reserved for a full disk.
pub(crate) const RESERVE_BYTES: u64 = 2 * (CHECKPOINT_PAGES * PAGE_BYTES) as u64;

/// The length of the log, in pages, at which it is moved into the database: half the size of the reserve, if there is one. When the
/// disk is full and the reserve is released, one half lets the database grow by the log, and the other lets the log itself grow.
pub(crate) fn checkpoint_pages(reserve: u64) -> i64 {
    /// With a shorter log, SQLite would move the same pages again and again.
    const FEWEST: i64 = 16;
    if reserve == 0 {
        CHECKPOINT_PAGES
    } else {
        (reserve.cast_signed() / 2 / PAGE_BYTES).clamp(FEWEST, CHECKPOINT_PAGES)
    }
}

/// The length, in bytes, to which SQLite cuts a longer log.
const LOG_BYTES: i64 = 32 << 20;

/// The size of the cache of prepared statements, larger than the number of statements.
const STATEMENTS: usize = 32;

/// The longest wait for another writer, such as a person with a shell.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

const FLAGS: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_CREATE).union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// The writing connection of a storage with a reserve of `reserve` bytes. Upgrades the database to the current version.
pub(crate) fn writing(path: &Path, config: &SqliteConfig, reserve: u64) -> Result<Connection, SqliteError> {
    let trouble = |source| SqliteError::sqlite("open", path, source);
    let mut connection = Connection::open_with_flags(path, FLAGS).map_err(trouble)?;
    connection.busy_timeout(BUSY).map_err(trouble)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);

    // These two take effect only while the database has no table.
    connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(trouble)?;
    connection.pragma_update(None, "auto_vacuum", "incremental").map_err(trouble)?;

    set(&connection, path, "journal_mode", "wal", "wal")?;
    // FULL syncs the log at every commit. NORMAL syncs it only before it is moved into the database, so power loss takes the latest
    // transactions but never damages older ones. OFF would save little more and could lose everything.
    let synchronous = match config.durability {
        Durability::Always => "2",
        Durability::Interval | Durability::Never => "1",
    };
    set(&connection, path, "synchronous", synchronous, synchronous)?;
    set_number(&connection, path, "wal_autocheckpoint", checkpoint_pages(reserve))?;
    set_number(&connection, path, "journal_size_limit", LOG_BYTES)?;
    // A negative number means KiB instead of pages.
    let cache = format!("-{}", config.cache_bytes / 1024);
    set(&connection, path, "cache_size", &cache, &cache)?;
    // Detects damage to a page as soon as the page is read.
    set(&connection, path, "cell_size_check", "1", "1")?;

    schema::upgrade(&mut connection).map_err(trouble)?;
    Ok(connection)
}

/// A connection that moves the log into the database while the writing connection is in use. It never waits for a lock.
pub(crate) fn moving(path: &Path) -> Result<Connection, SqliteError> {
    let trouble = |source| SqliteError::sqlite("open", path, source);
    let connection =
        Connection::open_with_flags(path, FLAGS.difference(OpenFlags::SQLITE_OPEN_CREATE)).map_err(trouble)?;
    connection.busy_timeout(Duration::ZERO).map_err(trouble)?;
    // FULL syncs the log before moving it and the database after that, at any level of the writing connection.
    set(&connection, path, "synchronous", "2", "2")?;
    Ok(connection)
}

/// A connection that only reads.
pub(crate) fn reading(path: &Path) -> Result<Connection, SqliteError> {
    let trouble = |source| SqliteError::sqlite("open", path, source);
    let flags = FLAGS.difference(OpenFlags::SQLITE_OPEN_CREATE);
    let connection = Connection::open_with_flags(path, flags).map_err(trouble)?;
    connection.busy_timeout(BUSY).map_err(trouble)?;
    set(&connection, path, "query_only", "1", "1")?;
    set(&connection, path, "cell_size_check", "1", "1")?;
    Ok(connection)
}

/// A connection that changes no file in the directory. No other connection may be open.
///
/// Normally SQLite keeps an index of its log in a file, creates a missing log, and empties the log at the end. To prevent that:
///
/// - With a log, the index is kept in memory (`locking_mode = exclusive`), over a file layer without locks, because a file that is open
///   only for reading cannot be locked.
/// - Without a log, the file is declared immutable.
pub(crate) fn inspecting(dir: &Path) -> Result<Connection, SqliteError> {
    let path = directory::database(dir);
    let trouble = |source| SqliteError::sqlite("open", &path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let has_log = std::fs::metadata(directory::log(dir)).is_ok_and(|log| log.len() > 0);
    let connection = if has_log {
        let layer = if cfg!(windows) { c"win32-none" } else { c"unix-none" };
        let connection = Connection::open_with_flags_and_vfs(&path, flags, layer).map_err(trouble)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(trouble)?;
        connection.execute_batch("pragma locking_mode = exclusive").map_err(trouble)?;
        connection
    } else {
        let address = address(&path);
        Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI).map_err(trouble)?
    };
    // The checks that follow report a failure on a damaged file.
    let _checked_or_not = connection.execute_batch("pragma cell_size_check = 1");
    Ok(connection)
}

/// The URI of an immutable file.
fn address(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut address = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => address.push(char::from(*byte)),
            b'\\' if cfg!(windows) => address.push('/'),
            other => {
                let _a_string_takes_all = write!(address, "%{other:02x}");
            }
        }
    }
    address.push_str("?immutable=1");
    address
}

/// Sets a pragma to a number and reads it back.
pub(crate) fn set_number(
    connection: &Connection,
    path: &Path,
    pragma: &'static str,
    value: i64,
) -> Result<(), SqliteError> {
    let value = value.to_string();
    set(connection, path, pragma, &value, &value)
}

/// Sets a pragma and reads it back.
fn set(
    connection: &Connection,
    path: &Path,
    pragma: &'static str,
    value: &str,
    wanted: &str,
) -> Result<(), SqliteError> {
    let trouble = |source| SqliteError::sqlite("set up", path, source);
    connection.execute_batch(&format!("pragma {pragma} = {value}")).map_err(trouble)?;
    let text = |row: &rusqlite::Row<'_>| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().unwrap_or_default().to_owned(),
        })
    };
    let found = connection.pragma_query_value(None, pragma, text).map_err(trouble)?;
    if found == wanted {
        return Ok(());
    }
    Err(SqliteError::Pragma { path: path.to_owned(), pragma, wanted: wanted.to_owned(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragma(connection: &Connection, name: &str) -> i64 {
        connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_new_database_is_set_up_as_its_durability_needs() {
        for (durability, synchronous) in [(Durability::Always, 2), (Durability::Interval, 1), (Durability::Never, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("herald.db");
            let config = SqliteConfig { durability, ..SqliteConfig::new(dir.path()) };
            let connection = writing(&path, &config, RESERVE_BYTES).unwrap();
            assert_eq!(pragma(&connection, "synchronous"), synchronous, "{durability:?}");
            assert_eq!(pragma(&connection, "page_size"), PAGE_BYTES);
            assert_eq!(pragma(&connection, "wal_autocheckpoint"), CHECKPOINT_PAGES);
            assert_eq!(pragma(&connection, "auto_vacuum"), 2);
            assert_eq!(pragma(&connection, "user_version"), schema::VERSION);
            assert_eq!(pragma(&connection, "application_id"), i64::from(schema::APPLICATION_ID));
        }
    }

    #[test]
    fn a_reading_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("herald.db");
        let _writing = writing(&path, &SqliteConfig::new(dir.path()), 0).unwrap();
        let error = reading(&path).unwrap().execute("delete from events", ()).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
    }
}

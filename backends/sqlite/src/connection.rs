//! How connections are set up: every setting that a promise depends on is set and read back.

use std::path::Path;
use std::time::Duration;

use backend_embedded::Durability;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::{directory, schema};

/// Half the depth and fewer overflow pages than with SQLite's own 4 KiB, for events of a few hundred bytes.
const PAGE_BYTES: i64 = 8192;

/// The log is moved into the database when it has so many pages (16 MiB).
const CHECKPOINT_PAGES: i64 = 2048;

/// What a log that was longer is cut to.
const LOG_BYTES: i64 = 32 << 20;

/// Statements kept prepared; more than there are.
const STATEMENTS: usize = 32;

/// How long to wait for somebody else who writes, such as a person with a shell.
const BUSY: Duration = Duration::from_secs(10);

const FLAGS: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_CREATE).union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// The writing connection, to a database that is brought up to the current version.
pub(crate) fn writing(path: &Path, config: &SqliteConfig) -> Result<Connection, SqliteError> {
    let trouble = |source| SqliteError::sqlite("open", path, source);
    let mut connection = Connection::open_with_flags(path, FLAGS).map_err(trouble)?;
    connection.busy_timeout(BUSY).map_err(trouble)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);

    // These two take effect only while there is no table yet.
    connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(trouble)?;
    connection.pragma_update(None, "auto_vacuum", "incremental").map_err(trouble)?;

    set(&connection, path, "journal_mode", "wal", "wal")?;
    // FULL syncs the log at every commit. NORMAL syncs it before it is moved into the database, so that power loss takes the
    // latest transactions but never damages what is older. OFF would save little more and could lose everything.
    let synchronous = match config.durability {
        Durability::Always => "2",
        Durability::Interval | Durability::Never => "1",
    };
    set(&connection, path, "synchronous", synchronous, synchronous)?;
    set(&connection, path, "wal_autocheckpoint", &CHECKPOINT_PAGES.to_string(), &CHECKPOINT_PAGES.to_string())?;
    set(&connection, path, "journal_size_limit", &LOG_BYTES.to_string(), &LOG_BYTES.to_string())?;
    // Negative: KiB instead of pages.
    let cache = format!("-{}", config.cache_bytes / 1024);
    set(&connection, path, "cache_size", &cache, &cache)?;
    // Finds damage in a page when it is read rather than when it is used.
    set(&connection, path, "cell_size_check", "1", "1")?;

    schema::upgrade(&mut connection).map_err(trouble)?;
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

/// A connection that changes nothing on disk, not even beside the database. Nobody else has it open.
///
/// SQLite keeps an index of its log in a file of its own, makes a log that is not there, and empties it at the end. With a log, none
/// of that happens if the index is in memory (`locking_mode = exclusive`), which takes no lock on a file that is open for
/// reading only with a layer that has no locks. Without one, the file can be called immutable.
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
    // It may fail on a damaged file, which is to be found out elsewhere.
    let _checked_or_not = connection.execute_batch("pragma cell_size_check = 1");
    Ok(connection)
}

/// The address of a file that nobody changes.
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

/// Sets a pragma and checks that it is so.
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
            let connection = writing(&path, &config).unwrap();
            assert_eq!(pragma(&connection, "synchronous"), synchronous, "{durability:?}");
            assert_eq!(pragma(&connection, "page_size"), PAGE_BYTES);
            assert_eq!(pragma(&connection, "auto_vacuum"), 2);
            assert_eq!(pragma(&connection, "user_version"), schema::VERSION);
            assert_eq!(pragma(&connection, "application_id"), i64::from(schema::APPLICATION_ID));
        }
    }

    #[test]
    fn a_reading_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("herald.db");
        let _writing = writing(&path, &SqliteConfig::new(dir.path())).unwrap();
        let error = reading(&path).unwrap().execute("delete from events", ()).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
    }
}

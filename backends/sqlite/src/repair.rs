//! The repair: removes or corrects damaged rows in one transaction. If SQLite's own structure is damaged, it copies all readable
//! rows to a new database instead.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use backend_embedded::SideFile;
use broker_core::settings::Durability;
use broker_core::storage::StorageError;
use broker_core::storage::check::{Inspector, Repaired, SideRecord};
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};

use crate::check::order;
use crate::config::SqliteConfig;
use crate::damaged_table::DamagedTable;
use crate::error::SqliteError;
use crate::row_check::{RowChecker, TABLES, Table, Verdict, values};
use crate::wal::{self, DamagedLog};
use crate::{connection, directory};

/// The rows of one transaction.
const STEP: u64 = 8192;

/// Puts SQLite's log right, and keeps it as it was.
pub(crate) fn log(config: &SqliteConfig) -> Result<Repaired, StorageError> {
    let log = wal::look(&config.path, config.durability)?;
    let kept = log.filter(DamagedLog::is_damaged).map(|log| log.mend(&config.path)).transpose()?;
    Ok(Repaired { records: 0, side_files: kept.into_iter().collect() })
}

/// Removes or corrects damaged rows, all in one transaction. The side file is durable before the commit.
pub(crate) fn rows(config: &SqliteConfig, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
    let dir = &config.path;
    let path = directory::database(dir);
    let trouble = |source| SqliteError::sqlite("repair", &path, source);
    let config = SqliteConfig { durability: Durability::Always, ..config.clone() };
    let mut connection = connection::writing(&path, &config, 0)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(trouble)?;
    let mut side = SideFile::new(dir)?;
    let mut checker = RowChecker::default();
    for (done, table) in TABLES.iter().enumerate() {
        inspector.progress(done as u64, TABLES.len() as u64);
        let query = format!("select {} from {} order by {}", table.columns.join(", "), table.name, order(table));
        let mut statement = transaction.prepare(&query).map_err(trouble)?;
        let mut rows = statement.query(()).map_err(trouble)?;
        while let Some(row) = rows.next().map_err(trouble)? {
            let row = values(table, row).map_err(trouble)?;
            let verdict = checker.check(&transaction, table, &row);
            let (Verdict::Out(what) | Verdict::Mended(what, _)) = &verdict else { continue };
            set_aside(&mut side, &checker, table, &row, what)?;
            mend(&transaction, table, &row, &verdict).map_err(trouble)?;
        }
    }
    // Settlements and redeliveries of events that no longer exist have no meaning.
    for table in ["settled", "requeued"] {
        let orphans = format!(
            "delete from {table} where not exists
                (select 1 from events e where e.topic_id = {table}.topic_id and e.seq = {table}.seq)"
        );
        transaction.execute(&orphans, ()).map_err(trouble)?;
    }
    let side_files = side.finish()?.into_iter().collect();
    transaction.commit().map_err(trouble)?;
    Ok(Repaired { records: side.records(), side_files })
}

/// Deletes a row, or replaces it.
fn mend(connection: &Connection, table: &Table, row: &[Value], verdict: &Verdict) -> rusqlite::Result<()> {
    let key: Vec<String> = (0..table.key).map(|at| format!("{} is ?{}", table.columns[at], at + 1)).collect();
    let statement = format!("delete from {} where {}", table.name, key.join(" and "));
    let key = row.iter().take(table.key).map(|value| match value {
        // Text that is not UTF-8 was read as a blob.
        Value::Blob(bytes) => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
        value => value.clone(),
    });
    let key: Vec<Value> = key.collect();
    let mut gone = connection.prepare_cached(&statement)?.execute(params_from_iter(&key))?;
    if gone == 0
        && let [Value::Blob(bytes), ..] = row
    {
        let statement = format!("delete from {} where cast({} as blob) = ?1", table.name, table.columns[0]);
        gone = connection.execute(&statement, [bytes])?;
    }
    let _found_by_its_key = gone;
    if let Verdict::Mended(_, row) = verdict {
        insert(connection, table, row)?;
    }
    Ok(())
}

fn insert(connection: &Connection, table: &Table, row: &[Value]) -> rusqlite::Result<()> {
    let places: Vec<String> = (1..=table.columns.len()).map(|at| format!("?{at}")).collect();
    let (columns, places) = (table.columns.join(", "), places.join(", "));
    let statement = format!("insert or ignore into {} ({columns}) values ({places})", table.name);
    connection.prepare_cached(&statement)?.execute(params_from_iter(row)).map(drop)
}

/// Writes a row to the side file, as JSON.
fn set_aside(
    side: &mut SideFile,
    checker: &RowChecker,
    table: &Table,
    row: &[Value],
    what: &str,
) -> Result<(), SqliteError> {
    let columns = table.columns.iter().zip(row).map(|(name, value)| {
        let value = match value {
            Value::Null => serde_json::Value::Null,
            Value::Integer(number) => (*number).into(),
            Value::Real(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
            Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        };
        ((*name).to_owned(), value)
    });
    let text = serde_json::Value::Object(columns.collect()).to_string();
    let at = format!("{}: {}", table.name, checker.describe(table, row));
    Ok(side.take(SideRecord { file: "herald.db", at: &at, what, bytes: text.as_bytes() })?)
}

/// Copies readable rows to a new database, which then replaces the old one atomically. The old one is kept.
pub(crate) fn copy(config: &SqliteConfig, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
    let dir = &config.path;
    let (path, draft) = (directory::database(dir), directory::draft(dir));
    remove_draft(dir)?;
    // The log belongs to the old database, so it must be moved into that file before the new one takes the name.
    empty_log(&path)?;
    let mut side = SideFile::new(dir)?;
    let kept = side.keep(&path, "herald.db")?;
    let weak = SqliteConfig { durability: Durability::Never, ..config.clone() };
    fill(&path, &draft, &weak, &mut side, inspector)?;
    let mut side_files: Vec<_> = side.finish()?.into_iter().collect();
    side_files.push(kept);
    let synced = File::open(&draft).and_then(|file| file.sync_all());
    synced.map_err(|source| SqliteError::io("sync", &draft, source))?;
    durable_files::rename(&durable_files::SystemFiles, &draft, &path)?;
    Ok(Repaired { records: side.records(), side_files })
}

/// Reads the old database into the new one.
fn fill(
    path: &Path,
    draft: &Path,
    config: &SqliteConfig,
    side: &mut SideFile,
    inspector: &mut dyn Inspector,
) -> Result<(), StorageError> {
    let trouble = |source| SqliteError::sqlite("write to", draft, source);
    let old = connection::reading(path)?;
    let new = connection::writing(draft, config, 0)?;
    new.execute_batch("begin").map_err(trouble)?;
    let mut checker = RowChecker::default();
    let mut written = 0_u64;
    for table in &TABLES {
        let damaged = DamagedTable { connection: &old, path, table };
        // A row can be found both in its table and in an index.
        let mut seen = HashSet::new();
        let by_name = matches!(table.name, "topics" | "subscriptions");
        damaged.each(&mut |row| {
            if let (true, Some(Value::Integer(id))) = (by_name, row.first())
                && !seen.insert(*id)
            {
                return Ok(());
            }
            let verdict = checker.check(&old, table, &row);
            if let Verdict::Out(what) | Verdict::Mended(what, _) = &verdict {
                set_aside(side, &checker, table, &row, what)?;
            }
            match verdict {
                Verdict::Good => insert(&new, table, &row).map_err(trouble)?,
                Verdict::Mended(_, row) => insert(&new, table, &row).map_err(trouble)?,
                Verdict::Out(_) => {}
            }
            written += 1;
            if written.is_multiple_of(STEP) {
                new.execute_batch("commit; begin").map_err(trouble)?;
                inspector.progress(written, written);
            }
            Ok(())
        })?;
    }
    // Numbers of subscriptions are never reused, including those of removed ones.
    let query = "select seq from sqlite_sequence where name = 'subscriptions'";
    if let Ok(used) = old.query_row(query, (), |row| row.get::<_, i64>(0)) {
        let statement = "update sqlite_sequence set seq = max(seq, ?1) where name = 'subscriptions'";
        if new.execute(statement, [used]).map_err(trouble)? == 0 {
            let statement = "insert into sqlite_sequence (name, seq) values ('subscriptions', ?1)";
            new.execute(statement, [used]).map_err(trouble)?;
        }
    }
    for table in ["settled", "requeued"] {
        let orphans = format!(
            "delete from {table} where not exists
                (select 1 from events e where e.topic_id = {table}.topic_id and e.seq = {table}.seq)"
        );
        new.execute(&orphans, ()).map_err(trouble)?;
    }
    new.execute_batch("commit").map_err(trouble)?;
    // Closing moves the log into the database. `close` reports a failure, where dropping the connection would not.
    new.close().map_err(|(_, source)| trouble(source))?;
    old.close().map_err(|(_, source)| SqliteError::sqlite("close", path, source).into())
}

/// Moves the log into the database, page by page. This also works if the structure is damaged.
fn empty_log(path: &Path) -> Result<(), SqliteError> {
    let trouble = |source| SqliteError::sqlite("move the log into", path, source);
    let connection = Connection::open(path).map_err(trouble)?;
    connection.execute_batch("pragma synchronous = full").map_err(trouble)?;
    let busy = connection.query_row("pragma wal_checkpoint(truncate)", (), |row| row.get::<_, i64>(0));
    if busy.map_err(trouble)? != 0 {
        return Err(SqliteError::io("move the log into", path, io::ErrorKind::ResourceBusy.into()));
    }
    connection.close().map_err(|(_, source)| trouble(source))
}

fn remove_draft(dir: &Path) -> Result<(), SqliteError> {
    let draft = directory::draft(dir);
    for ending in ["", "-wal", "-shm"] {
        let mut path = draft.clone().into_os_string();
        path.push(ending);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SqliteError::io("remove", Path::new(&path), error));
            }
            _ => {}
        }
    }
    Ok(())
}

//! Reads payloads by key.

use broker_core::event::Payload;
use broker_core::name::TopicName;
use broker_core::storage::{ReadKey, StorageError, StoredEvent};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Row};

use crate::error::SqliteError;
use crate::row::{EventRow, integer};
use crate::storage::SqliteDatabase;

/// The columns of an event, in the order that [`event`] expects.
pub(crate) const COLUMNS: &str = "topic_id, seq, priority, published_at, expires_at, due_at, insert_at, payload, crc";

/// The reason why a row is damaged.
pub(crate) type Bad = &'static str;

/// The event in a row of [`COLUMNS`].
pub(crate) fn event(row: &Row<'_>, topic: &TopicName) -> rusqlite::Result<Result<StoredEvent, Bad>> {
    let Ok(payload) = row.get_ref(7)?.as_str() else { return Ok(Err("its payload is not text")) };
    let event = EventRow {
        topic_id: row.get(0)?,
        seq: row.get(1)?,
        priority: row.get(2)?,
        published_at: row.get(3)?,
        expires_at: row.get(4)?,
        due_at: row.get(5)?,
        insert_at: row.get(6)?,
        payload,
    };
    if event.crc() != row.get::<_, i64>(8)? {
        return Ok(Err("its checksum does not match"));
    }
    Ok(event.event(topic).ok_or("it is not an event"))
}

/// Reads payloads in the order of `keys`, all from one snapshot of the database. Blocks.
pub(crate) fn read(
    shared: &SqliteDatabase,
    connection: &Connection,
    keys: &[ReadKey],
) -> Result<Vec<Option<Payload>>, StorageError> {
    let trouble = |source| SqliteError::sqlite("read", &shared.readers.path, source).into_read_error();
    let transaction = connection.unchecked_transaction().map_err(trouble)?;
    let statement = format!("select {COLUMNS} from events where topic_id = ?1 and seq = ?2");
    let mut statement = transaction.prepare_cached(&statement).map_err(trouble)?;
    keys.iter().map(|key| read_one(shared, &mut statement, key).map_err(trouble)).collect()
}

fn read_one(
    shared: &SqliteDatabase,
    statement: &mut CachedStatement<'_>,
    wanted: &ReadKey,
) -> rusqlite::Result<Option<Payload>> {
    let Some(topic_id) = shared.topics.get(&wanted.topic) else { return Ok(None) };
    let of = [topic_id, integer(wanted.key.seq.0)];
    let found = statement.query_row(of, |row| event(row, &wanted.topic)).optional();
    let what = match found {
        Ok(None) => return Ok(None),
        Ok(Some(Ok(event))) if event.key == wanted.key => return Ok(Some(event.payload)),
        Ok(Some(Ok(_))) => "it has a different priority than the requested event",
        Ok(Some(Err(what))) => what,
        // A retry cannot help.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => "its page is damaged",
        Err(error) if is_bad_value(&error) => "one of its columns has the wrong type",
        Err(error) => return Err(error),
    };
    shared.state.damage(&describe(wanted.topic.as_str(), wanted.key.seq.0), what);
    Ok(None)
}

/// Whether a row was read but holds an impossible value. That is damage to the row, not a failed read.
pub(crate) fn is_bad_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Describes an event in a report.
pub(crate) fn describe(topic: &str, seq: u64) -> String {
    format!("event {seq} of topic {topic}")
}

//! Reading a table around pages that SQLite cannot read.
//!
//! A query ends at the first damaged page. So a table is read from its beginning to there, from its end to there, and between the
//! two wherever a search finds a row again.

use std::path::Path;

use broker_core::storage::StorageError;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::check::is_structure;
use crate::error::SqliteError;
use crate::verdict::{Table, values};

/// Searches in one table at most: each takes some microseconds.
const SEARCHES: u32 = 200_000;

/// Reads a table.
pub(crate) struct Salvage<'s> {
    pub(crate) connection: &'s Connection,
    pub(crate) path: &'s Path,
    pub(crate) table: &'s Table,
}

type Visit<'v> = &'v mut dyn FnMut(Vec<Value>) -> Result<(), StorageError>;

/// How reading a range has ended.
enum Ended {
    Well,
    /// At a damaged page, after the row with this key.
    Damaged(Option<i64>),
}

impl Salvage<'_> {
    /// Every row that can be read, those of the topics in `topics` with some effort. A row may come twice.
    pub(crate) fn each(&self, topics: &[i64], visit: Visit<'_>) -> Result<(), StorageError> {
        if let Ended::Well = self.read("", &[], "", 0, visit)? {
            return Ok(());
        }
        let mut searches = SEARCHES;
        match self.table.columns[0] {
            "topic_id" if self.table.key > 1 => {
                for topic in topics {
                    self.range(
                        "topic_id = ?3 and seq",
                        1,
                        &[Value::Integer(*topic)],
                        0,
                        i64::MAX,
                        &mut searches,
                        visit,
                    )?;
                }
            }
            "source" => {
                let _from_its_end = self.read("", &[], "desc", 0, visit)?;
            }
            key => self.range(key, 0, &[], 0, i64::MAX, &mut searches, visit)?,
        }
        if searches == 0 {
            tracing::warn!(
                table = self.table.name,
                "too much of the table is damaged to look behind every damaged page"
            );
        }
        Ok(())
    }

    /// The rows with a key between `above` and `below`, without both.
    #[expect(clippy::too_many_arguments, reason = "it calls itself with other bounds, and nobody else does")]
    fn range(
        &self,
        key: &str,
        column: usize,
        more: &[Value],
        above: i64,
        below: i64,
        searches: &mut u32,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        if below.saturating_sub(above) <= 1 || *searches == 0 {
            return Ok(());
        }
        *searches -= 1;
        let condition = format!("where {key} > ?1 and {} < ?2", key.rsplit(' ').next().unwrap_or(key));
        let bounds = |above: i64, below: i64| {
            [Value::Integer(above), Value::Integer(below)].into_iter().chain(more.iter().cloned()).collect::<Vec<_>>()
        };
        let Ended::Damaged(last) = self.read(&condition, &bounds(above, below), "", column, visit)? else {
            return Ok(());
        };
        let above = last.unwrap_or(above).max(above);
        let Ended::Damaged(first) = self.read(&condition, &bounds(above, below), "desc", column, visit)? else {
            return Ok(());
        };
        let below = first.unwrap_or(below).min(below);
        // A single key cannot be searched any closer.
        if below.saturating_sub(above) > 2 {
            let middle = above.midpoint(below);
            self.range(key, column, more, above, middle + 1, searches, visit)?;
            self.range(key, column, more, middle, below, searches, visit)?;
        }
        Ok(())
    }

    fn read(
        &self,
        condition: &str,
        bounds: &[Value],
        direction: &str,
        column: usize,
        visit: Visit<'_>,
    ) -> Result<Ended, StorageError> {
        let Table { name, columns, key } = self.table;
        let order: Vec<String> = columns[..*key].iter().map(|column| format!("{column} {direction}")).collect();
        let query = format!("select {} from {name} {condition} order by {}", columns.join(", "), order.join(", "));
        let mut last = None;
        let damaged = |error: rusqlite::Error, last| {
            if is_structure(&error) {
                return Ok(Ended::Damaged(last));
            }
            Err(SqliteError::sqlite("read", self.path, error).into())
        };
        let mut statement = match self.connection.prepare_cached(&query) {
            Ok(statement) => statement,
            Err(error) => return damaged(error, last),
        };
        let mut rows = match statement.query(params_from_iter(bounds)) {
            Ok(rows) => rows,
            Err(error) => return damaged(error, last),
        };
        loop {
            let row = match rows.next() {
                Ok(None) => return Ok(Ended::Well),
                Ok(Some(row)) => values(self.table, row),
                Err(error) => return damaged(error, last),
            };
            match row {
                Ok(row) => {
                    if let Some(Value::Integer(key)) = row.get(column) {
                        last = Some(*key);
                    }
                    visit(row)?;
                }
                Err(error) => return damaged(error, last),
            }
        }
    }
}

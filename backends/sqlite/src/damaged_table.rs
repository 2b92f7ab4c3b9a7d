//! Reads the rows of a table that has pages SQLite cannot read.
//!
//! A query ends at the first damaged page. The remaining rows are read directly from the leaf pages, whether or not an intact page
//! leads to them. Names are also in an index, but without the other columns of their rows.
//!
//! ```text
//!              ▒▒▒▒▒▒▒▒           damaged inner page: the query ends here
//!             ╱    │   ╲
//!        leaf 1  leaf 2  leaf 3   still readable: `raw_pages` finds them by their page type
//! ```

use std::path::Path;

use broker_core::storage::StorageError;
use rusqlite::types::Value;
use rusqlite::{Connection, Row};

use crate::check::{is_structure, order};
use crate::error::SqliteError;
use crate::raw_pages::Pages;
use crate::row_check::{Table, checksum, values};

/// A table with damaged pages.
pub(crate) struct DamagedTable<'s> {
    pub(crate) connection: &'s Connection,
    pub(crate) path: &'s Path,
    pub(crate) table: &'s Table,
}

/// Not a possible checksum, since checksums have 32 bits.
const NO_CHECKSUM: i64 = -1;

/// The reason why the scan of the pages ended.
enum Stopped {
    Read(std::io::Error),
    Visit(StorageError),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

type Visit<'v> = &'v mut dyn FnMut(Vec<Value>) -> Result<(), StorageError>;

/// How a query ended.
enum Ended {
    Well,
    /// It reached a damaged page.
    Damaged,
}

impl DamagedTable<'_> {
    /// Visits every row that can be read. A row may be visited twice.
    pub(crate) fn each(&self, visit: Visit<'_>) -> Result<(), StorageError> {
        match self.read(visit)? {
            Ended::Well => Ok(()),
            Ended::Damaged => {
                self.pages(visit)?;
                self.names(visit)
            }
        }
    }

    /// Visits rows from leaf pages. A row belongs to this table exactly if its checksum matches.
    fn pages(&self, visit: Visit<'_>) -> Result<(), StorageError> {
        let trouble = |source| SqliteError::io("read", self.path, source);
        let Some(mut pages) = Pages::open(self.path).map_err(trouble)? else { return Ok(()) };
        let is_table = matches!(self.table.name, "topics" | "subscriptions");
        let each = pages.each(self.table.columns.len(), is_table, |row| {
            if checksum(self.table, &row) { visit(row).map_err(Stopped::Visit) } else { Ok(()) }
        });
        each.map_err(|stopped| match stopped {
            Stopped::Read(source) => trouble(source).into(),
            Stopped::Visit(error) => error,
        })
    }

    /// Visits names from their index. Such a row has no checksum, so the check treats it as damaged and replaces it.
    fn names(&self, visit: Visit<'_>) -> Result<(), StorageError> {
        let query = match self.table.name {
            "topics" => "select topic_id, name from topics indexed by sqlite_autoindex_topics_1 order by name",
            "subscriptions" => {
                "select subscription_id, topic_id, name from subscriptions indexed by sqlite_autoindex_subscriptions_1
                    order by topic_id, name"
            }
            _ => return Ok(()),
        };
        let found = self.connection.prepare(query).and_then(|mut statement| {
            let count = statement.column_count();
            let row = |row: &Row<'_>| (0..count).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>();
            let rows = statement.query_map((), row)?;
            rows.collect::<Result<Vec<_>, _>>()
        });
        // The index may be damaged too.
        for mut row in found.unwrap_or_default() {
            row.resize(self.table.columns.len() - 1, Value::Integer(0));
            row.push(Value::Integer(NO_CHECKSUM));
            visit(row)?;
        }
        Ok(())
    }

    /// Visits the rows that SQLite reads, up to the first damaged page.
    fn read(&self, visit: Visit<'_>) -> Result<Ended, StorageError> {
        let Table { name, columns, .. } = self.table;
        let query = format!("select {} from {name} order by {}", columns.join(", "), order(self.table));
        let damaged = |error: rusqlite::Error| {
            if is_structure(&error) {
                return Ok(Ended::Damaged);
            }
            Err(SqliteError::sqlite("read", self.path, error).into())
        };
        let mut statement = match self.connection.prepare_cached(&query) {
            Ok(statement) => statement,
            Err(error) => return damaged(error),
        };
        let mut rows = match statement.query(()) {
            Ok(rows) => rows,
            Err(error) => return damaged(error),
        };
        loop {
            let row = match rows.next() {
                Ok(None) => return Ok(Ended::Well),
                Ok(Some(row)) => values(self.table, row),
                Err(error) => Err(error),
            };
            match row {
                Ok(row) => visit(row)?,
                Err(error) => return damaged(error),
            }
        }
    }
}

//! `herald fsck`: finds damage in a database that no broker uses, without changing it.

use std::path::{Path, PathBuf};

use backend_embedded::{EmbeddedCheck, Examine};
use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Checked, Finding, Findings, Inspector, Repaired, SIDE_FOLDER, Severity};
use rusqlite::{Connection, ErrorCode};

use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::row_check::{RowChecker, TABLES, Table, Verdict, loss, values};
use crate::storage::SqliteDatabase;
use crate::wal::{self, DamagedLog};
use crate::{connection, directory, repair, schema};

/// The most messages of `integrity_check`.
const MAX_STRUCTURE: u32 = 100;

/// The number of rows between two reports of progress.
const TELL_EVERY: u64 = 4096;

/// Checks and repairs a database that no broker uses.
pub type SqliteCheck = EmbeddedCheck<SqliteDatabase>;

impl Examine for SqliteDatabase {
    type Method = Method;

    fn dir(config: &SqliteConfig) -> &Path {
        &config.path
    }

    fn look(config: &SqliteConfig) -> Result<(), StorageError> {
        config.validate()?;
        directory::look_for_orphan(&config.path)?;
        directory::look(&config.path)?;
        Ok(())
    }

    fn examine(config: &SqliteConfig, inspector: &mut dyn Inspector) -> Result<(Checked, Method), StorageError> {
        examine(config, inspector)
    }

    fn repair(config: &SqliteConfig, method: Method, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        match method {
            Method::Log => repair::log(config),
            Method::Copy => repair::copy(config, inspector),
            Method::Rows => repair::rows(config, inspector),
        }
    }
}

/// What a repair does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It puts SQLite's log right. That comes first: what else is damaged shows when all of the log is read.
    Log,
    /// It copies rows to a new database, because SQLite's own structure is damaged.
    Copy,
    /// It removes and corrects rows.
    Rows,
}

fn examine(config: &SqliteConfig, inspector: &mut dyn Inspector) -> Result<(Checked, Method), StorageError> {
    let dir = &config.path;
    let path = directory::database(dir);
    let mut finder = Finder {
        path: path.clone(),
        findings: Findings::new(inspector),
        method: Method::Rows,
        is_structure_reported: false,
    };
    for draft in [directory::draft(dir), directory::log_draft(dir)].into_iter().filter(|draft| draft.exists()) {
        finder.findings.add(Finding {
            severity: Severity::Note,
            file: draft,
            at: At::Whole,
            what: "a draft of an interrupted repair; it is ignored".to_owned(),
            repair: "removes it".to_owned(),
            loses: "nothing: the original database still exists".to_owned(),
        });
    }
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if bytes == 0 {
        // There is no database, or its creation was interrupted.
        return Ok(finder.result());
    }
    let log = std::fs::metadata(directory::log(dir)).map_or(0, |metadata| metadata.len());
    finder.findings.checked.bytes = bytes + log;
    if let Some(log) = wal::look(dir, config.durability)? {
        finder.log(&log);
    }
    let connection = connection::inspecting(dir)?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    match version {
        Ok(0) => return Ok(finder.result()),
        Ok(schema::VERSION) => {}
        Ok(older) => {
            finder.findings.add(Finding {
                severity: Severity::Note,
                file: path,
                at: At::Whole,
                what: format!("its format has version {older}: the next start upgrades it to {}", schema::VERSION),
                repair: "nothing; check it again after a start".to_owned(),
                loses: "nothing".to_owned(),
            });
            return Ok(finder.result());
        }
        Err(error) => finder.structure(&error.to_string()),
    }
    finder.integrity(&connection);
    let mut checker = RowChecker::default();
    for table in &TABLES {
        finder.table(&connection, &mut checker, table)?;
    }
    Ok(finder.result())
}

struct Finder<'i> {
    path: PathBuf,
    findings: Findings<'i>,
    method: Method,
    is_structure_reported: bool,
}

impl Finder<'_> {
    fn result(&self) -> (Checked, Method) {
        (self.findings.checked, self.method)
    }

    fn log(&mut self, log: &DamagedLog) {
        let repair = format!("puts the log right, and keeps it as it was below {SIDE_FOLDER}/");
        if log.is_damaged() {
            self.method = Method::Log;
            for wal::Damage { byte, what, loses } in log.damages() {
                let (severity, file) = (Severity::Damage, log.path().to_owned());
                let (at, repair, loses) = (At::Byte(byte), repair.clone(), loses.to_owned());
                self.findings.add(Finding { severity, file, at, what, repair, loses });
            }
        }
        if log.incomplete() > 0 {
            let count = log.incomplete();
            self.findings.add(Finding {
                severity: Severity::Note,
                file: log.path().to_owned(),
                at: At::Whole,
                what: format!("{count} transactions at its end follow one that is not complete, as after a power cut"),
                repair: "nothing; the next start leaves them out".to_owned(),
                loses: "nothing that was reported as synced, unless the end is damaged".to_owned(),
            });
        }
    }

    fn damage(&mut self, at: At, what: String, repair: String, loses: &str) {
        let (severity, file, loses) = (Severity::Damage, self.path.clone(), loses.to_owned());
        self.findings.add(Finding { severity, file, at, what, repair, loses });
    }

    fn structure(&mut self, what: &str) {
        if self.method == Method::Rows {
            self.method = Method::Copy;
        }
        self.is_structure_reported = true;
        let repair =
            format!("copies every row that can be read to a new database, and keeps the old one in {SIDE_FOLDER}/");
        let what = format!("SQLite's structure is damaged: {what}");
        let loses = "rows on damaged pages; the others are kept";
        self.damage(At::Whole, what, repair, loses);
    }

    /// Runs SQLite's own check of its structure.
    fn integrity(&mut self, connection: &Connection) {
        let lines =
            connection.prepare(&format!("pragma integrity_check({MAX_STRUCTURE})")).and_then(|mut statement| {
                let rows = statement.query_map((), |row| row.get::<_, String>(0))?;
                rows.collect::<Result<Vec<_>, _>>()
            });
        match lines {
            Ok(lines) => {
                // One row of the result can have several lines.
                let lines = lines.iter().flat_map(|line| line.lines()).filter(|line| *line != "ok");
                lines.filter(|line| !line.starts_with("***")).for_each(|line| self.structure(line));
            }
            Err(error) => self.structure(&error.to_string()),
        }
    }

    fn table(&mut self, connection: &Connection, checker: &mut RowChecker, table: &Table) -> Result<(), StorageError> {
        let query = format!("select {} from {} order by {}", table.columns.join(", "), table.name, order(table));
        let read = connection.prepare(&query).and_then(|mut statement| {
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let row = values(table, row)?;
                let verdict = checker.check(connection, table, &row);
                self.row(checker, table, &row, &verdict);
            }
            Ok(())
        });
        match read {
            Ok(()) => Ok(()),
            // The structure check has already reported it, unless that check failed.
            Err(error) if is_structure(&error) => {
                if !self.is_structure_reported {
                    self.structure(&format!("table {} cannot be read to its end: {error}", table.name));
                }
                Ok(())
            }
            Err(source) => Err(SqliteError::sqlite("read", &self.path, source).into()),
        }
    }

    fn row(&mut self, checker: &RowChecker, table: &Table, row: &[rusqlite::types::Value], verdict: &Verdict) {
        let (what, repair) = match verdict {
            Verdict::Good => {
                self.findings.checked.records += 1;
                if self.findings.checked.records.is_multiple_of(TELL_EVERY) {
                    self.findings.progress(0, self.findings.checked.bytes);
                }
                return;
            }
            Verdict::Out(what) => (what, format!("moves the row to {SIDE_FOLDER}/")),
            Verdict::Mended(what, _) => (what, format!("copies the row to {SIDE_FOLDER}/ and corrects it")),
        };
        let at = At::Key(checker.describe(table, row));
        let loses = loss(table, verdict);
        self.damage(at, (*what).to_owned(), repair, loses);
    }
}

/// The columns of the key, for `order by`.
pub(crate) fn order(table: &Table) -> String {
    table.columns[..table.key].join(", ")
}

/// Whether an error says that SQLite's own structure is damaged.
pub(crate) fn is_structure(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        // A table or column is missing from SQLite's schema.
        || matches!(error.sqlite_error_code(), Some(ErrorCode::Unknown))
        || matches!(error, rusqlite::Error::FromSqlConversionFailure(..))
}

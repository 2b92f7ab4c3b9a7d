//! What is wrong with a database that no broker has, found without changing a byte of it.

use std::path::{Path, PathBuf};

use backend_embedded::Lock;
use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Check, Checked, Finding, Inspector, Repaired, SIDE_FOLDER, Severity};
use rusqlite::{Connection, ErrorCode};

use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::verdict::{Judge, TABLES, Table, Verdict, loss, values};
use crate::{connection, directory, repair, schema};

/// The most that `integrity_check` says.
const MAX_STRUCTURE: u32 = 100;

/// How often progress is told, in rows.
const TELL_EVERY: u64 = 4096;

/// Checks and repairs a database that no broker has.
#[derive(Debug)]
pub struct SqliteCheck {
    config: SqliteConfig,
    /// `None` where no broker has ever been: then there is nothing to lock.
    lock: Option<Lock>,
}

impl SqliteCheck {
    /// Takes the directory, without a trace of it.
    ///
    /// # Errors
    /// `Locked`: a broker has it. `Unusable`: it is of another kind, or a newer release's. `Failed`: it cannot be read, or is
    /// not there.
    pub fn open(config: SqliteConfig) -> Result<Self, StorageError> {
        config.validate()?;
        let dir = &config.path;
        if !directory::look(dir)? {
            return Err(SqliteError::io("list", dir, std::io::ErrorKind::NotFound.into()).into());
        }
        let lock = Lock::acquire_quietly(dir)?;
        directory::look_at_database(dir)?;
        Ok(Self { config, lock })
    }
}

impl Check for SqliteCheck {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
        examine(&self.config.path, inspector).map(|found| found.checked)
    }

    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        /// Taking one damage away can bring another to light.
        const ROUNDS: u32 = 3;
        let dir = self.config.path.clone();
        // The lock for writing is another one, with a note of who has it.
        drop(self.lock.take());
        let mut lock = Lock::acquire(&dir)?;
        lock.sign()?;
        let mut repaired = Repaired::default();
        for _round in 0..ROUNDS {
            let found = examine(&dir, &mut Unheard)?;
            if found.checked.damage == 0 {
                self.lock = Some(lock);
                return Ok(repaired);
            }
            let round = if found.structure {
                repair::copy(&self.config, inspector)?
            } else {
                repair::rows(&self.config, inspector)?
            };
            repaired.records += round.records;
            repaired.side_files.extend(round.side_files);
        }
        Err(SqliteError::NotClean { path: dir }.into())
    }
}

/// Nobody hears of what is found between two rounds.
struct Unheard;

impl Inspector for Unheard {
    fn finding(&mut self, _finding: Finding) {}
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    checked: Checked,
    /// SQLite's own structure is damaged.
    structure: bool,
}

fn examine(dir: &Path, inspector: &mut dyn Inspector) -> Result<Found, StorageError> {
    let path = directory::database(dir);
    let mut finder = Finder { path: path.clone(), inspector, found: Found::default() };
    let draft = directory::draft(dir);
    if draft.exists() {
        let what = "the draft of a repair that was interrupted: it is not read".to_owned();
        finder.report(Severity::Note, draft, At::Whole, what, "removes it", "nothing: what it was made of is there");
    }
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if bytes == 0 {
        // There is none, or its making was interrupted.
        return Ok(finder.found);
    }
    let log = std::fs::metadata(directory::log(dir)).map_or(0, |metadata| metadata.len());
    finder.found.checked.bytes = bytes + log;
    let connection = connection::inspecting(dir)?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    match version {
        Ok(0) => return Ok(finder.found),
        Ok(schema::VERSION) => {}
        Ok(older) => {
            let what = format!("its format has version {older}: the next start brings it to {}", schema::VERSION);
            finder.report(Severity::Note, path, At::Whole, what, "nothing; check it again after a start", "nothing");
            return Ok(finder.found);
        }
        Err(error) => finder.structure(&error.to_string()),
    }
    finder.integrity(&connection);
    let mut judge = Judge::default();
    for table in &TABLES {
        finder.table(&connection, &mut judge, table)?;
    }
    Ok(finder.found)
}

struct Finder<'i> {
    path: PathBuf,
    inspector: &'i mut dyn Inspector,
    found: Found,
}

impl Finder<'_> {
    fn report(&mut self, severity: Severity, file: PathBuf, at: At, what: String, repair: &str, loses: &str) {
        match severity {
            Severity::Damage => self.found.checked.damage += 1,
            Severity::Note => self.found.checked.notes += 1,
        }
        let (repair, loses) = (repair.to_owned(), loses.to_owned());
        self.inspector.finding(Finding { severity, file, at, what, repair, loses });
    }

    fn structure(&mut self, what: &str) {
        self.found.structure = true;
        let repair =
            format!("copies every row that can be read to a new database, and keeps the old one below {SIDE_FOLDER}/");
        let what = format!("SQLite's structure is damaged: {what}");
        let loses = "rows on damaged pages; the others stay";
        self.report(Severity::Damage, self.path.clone(), At::Whole, what, &repair, loses);
    }

    /// What SQLite itself has to say.
    fn integrity(&mut self, connection: &Connection) {
        let lines =
            connection.prepare(&format!("pragma integrity_check({MAX_STRUCTURE})")).and_then(|mut statement| {
                let rows = statement.query_map((), |row| row.get::<_, String>(0))?;
                rows.collect::<Result<Vec<_>, _>>()
            });
        match lines {
            Ok(lines) => {
                // One answer can have several lines.
                let lines = lines.iter().flat_map(|line| line.lines()).filter(|line| *line != "ok");
                lines.filter(|line| !line.starts_with("***")).for_each(|line| self.structure(line));
            }
            Err(error) => self.structure(&error.to_string()),
        }
    }

    fn table(&mut self, connection: &Connection, judge: &mut Judge, table: &Table) -> Result<(), StorageError> {
        let query = format!("select {} from {} order by {}", table.columns.join(", "), table.name, order(table));
        let read = connection.prepare(&query).and_then(|mut statement| {
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let row = values(table, row)?;
                let verdict = judge.judge(connection, table, &row);
                self.row(judge, table, &row, &verdict);
            }
            Ok(())
        });
        match read {
            Ok(()) => Ok(()),
            // The check of the structure has said so, unless it could not.
            Err(error) if is_structure(&error) => {
                if !self.found.structure {
                    self.structure(&format!("table {} cannot be read to its end: {error}", table.name));
                }
                Ok(())
            }
            Err(source) => Err(SqliteError::sqlite("read", &self.path, source).into()),
        }
    }

    fn row(&mut self, judge: &Judge, table: &Table, row: &[rusqlite::types::Value], verdict: &Verdict) {
        let (what, repair) = match verdict {
            Verdict::Good => {
                self.found.checked.records += 1;
                if self.found.checked.records.is_multiple_of(TELL_EVERY) {
                    self.inspector.progress(0, self.found.checked.bytes);
                }
                return;
            }
            Verdict::Out(what) => (what, format!("moves the row to {SIDE_FOLDER}/")),
            Verdict::Mended(what, _) => (what, format!("copies the row to {SIDE_FOLDER}/ and puts it right")),
        };
        let at = At::Key(judge.describe(table, row));
        let loses = loss(table, verdict);
        self.report(Severity::Damage, self.path.clone(), at, (*what).to_owned(), &repair, loses);
    }
}

/// The columns of the key.
pub(crate) fn order(table: &Table) -> String {
    table.columns[..table.key].join(", ")
}

/// Whether an error says that SQLite's own structure is damaged.
pub(crate) fn is_structure(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        // A table or column that its own catalogue does not know any more.
        || matches!(error.sqlite_error_code(), Some(ErrorCode::Unknown))
        || matches!(error, rusqlite::Error::FromSqlConversionFailure(..))
}

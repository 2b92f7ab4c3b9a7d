//! `herald fsck`: finds damage in a database that no broker uses, without changing it.
//!
//! sled cannot open a database without writing to it, and it overwrites damage that it skips. So the check opens a copy.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use backend_embedded::{EmbeddedCheck, Examine};
use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Checked, Finding, Findings, Inspector, Repaired, SIDE_FOLDER, Severity};
use tempfile::TempDir;

use crate::config::SledConfig;
use crate::database::Database;
use crate::error::SledError;
use crate::record_check::{RecordChecker, Verdict, loss};
use crate::storage::SledDatabase;
use crate::{directory, repair, sync_mark};

/// Checks and repairs a database that no broker uses.
pub type SledCheck = EmbeddedCheck<SledDatabase>;

impl Examine for SledDatabase {
    type Method = ();

    fn dir(config: &SledConfig) -> &Path {
        &config.path
    }

    fn look(config: &SledConfig) -> Result<(), StorageError> {
        config.validate()?;
        directory::look(&config.path)?;
        Ok(())
    }

    fn examine(config: &SledConfig, inspector: &mut dyn Inspector) -> Result<(Checked, ()), StorageError> {
        examine(config, inspector).map(|checked| (checked, ()))
    }

    fn repair(config: &SledConfig, (): (), inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        repair::repair(config, inspector)
    }
}

fn examine(config: &SledConfig, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
    let dir = &config.path;
    let mut finder = Finder { path: dir.clone(), findings: Findings::new(inspector) };
    let Some(found) = directory::find(dir)? else { return Ok(finder.findings.checked) };
    for other in found.others {
        finder.findings.add(Finding {
            severity: Severity::Note,
            file: other,
            at: At::Whole,
            what: "left by an interrupted compaction or repair; it is ignored".to_owned(),
            repair: "removes it, as the next start does".to_owned(),
            loses: "nothing".to_owned(),
        });
    }
    if !found.has_conf {
        finder.findings.add(Finding {
            severity: Severity::Note,
            file: dir.join("conf"),
            at: At::Whole,
            what: "missing, but there is only one database, which is therefore the current one".to_owned(),
            repair: "writes it, as the next start does".to_owned(),
            loses: "nothing".to_owned(),
        });
    }
    finder.path.clone_from(&found.path);
    finder.findings.checked.bytes = directory::bytes_below(&found.path);
    let copy = Copy::of(&found.path)?;
    let synced = found.has_conf.then(|| sync_mark::read(dir)).flatten();
    let examined = copy.with_database(config.cache_bytes, |database| {
        let checker = RecordChecker::new(database, synced)?;
        checker.each(&mut |key, _value, verdict| {
            finder.record(&checker, key, &verdict);
            Ok(())
        })
    });
    if let Err(error) = examined {
        finder.findings.add(Finding {
            severity: Severity::Damage,
            file: found.path,
            at: At::Whole,
            what: format!("sled cannot read its own file: {error}"),
            repair: format!(
                "copies what sled can read, if necessary without its snapshots, to a new database, and keeps the old one in \
                 {SIDE_FOLDER}/"
            ),
            loses: "everything committed after the damage; if you have a copy of the directory, restore that instead"
                .to_owned(),
        });
    }
    Ok(finder.findings.checked)
}

struct Finder<'i> {
    path: PathBuf,
    findings: Findings<'i>,
}

impl Finder<'_> {
    fn record(&mut self, checker: &RecordChecker<'_>, key: &[u8], verdict: &Verdict) {
        let (what, repair) = match verdict {
            Verdict::Good => {
                self.findings.checked.records += 1;
                return;
            }
            Verdict::Out(what) => ((*what).to_owned(), format!("moves the record to {SIDE_FOLDER}/")),
            Verdict::Mended(what, _) => (what.clone(), format!("copies the record to {SIDE_FOLDER}/ and corrects it")),
        };
        let (at, loses) = (At::Key(checker.describe(key)), loss(key, verdict).to_owned());
        let (severity, file) = (Severity::Damage, self.path.clone());
        self.findings.add(Finding { severity, file, at, what, repair, loses });
    }
}

/// A copy of a database, which sled may change.
pub(crate) struct Copy {
    of: PathBuf,
    dir: TempDir,
}

impl Copy {
    /// Copies the database in `path` to the system's folder for temporary files.
    pub(crate) fn of(path: &Path) -> Result<Self, SledError> {
        let dir = tempfile::Builder::new().prefix("herald-fsck-").tempdir();
        let dir = dir.map_err(|source| SledError::io("create a folder in", &std::env::temp_dir(), source))?;
        copy_folder(path, dir.path())?;
        Ok(Self { of: path.to_owned(), dir })
    }

    /// Removes sled's snapshots, so that it reads all of its log.
    pub(crate) fn remove_snapshots(&self) -> Result<(), SledError> {
        let trouble = |source| SledError::io("remove snapshots from", self.dir.path(), source);
        for entry in fs::read_dir(self.dir.path()).map_err(trouble)? {
            let entry = entry.map_err(trouble)?;
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                fs::remove_file(entry.path()).map_err(trouble)?;
            }
        }
        Ok(())
    }

    /// Opens the copy and runs `f` on it. sled panics on most damage; the panic becomes an error.
    pub(crate) fn with_database<T>(
        &self,
        cache_bytes: u64,
        f: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut database = Database::open(self.dir.path(), cache_bytes)?;
            // Messages must name the original, not the copy.
            database.path.clone_from(&self.of);
            f(&database)
        }));
        done.unwrap_or_else(|_panic| Err(SledError::Panicked { path: self.of.clone() }.into()))
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), SledError> {
    for entry in fs::read_dir(from).map_err(|source| SledError::io("list", from, source))? {
        let entry = entry.map_err(|source| SledError::io("list", from, source))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let trouble = |source| SledError::io("copy", &path, source);
        if entry.file_type().map_err(trouble)?.is_dir() {
            fs::create_dir_all(&target).map_err(trouble)?;
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(trouble)?;
        }
    }
    Ok(())
}

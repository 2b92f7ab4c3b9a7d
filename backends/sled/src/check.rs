//! What is wrong with a database that no broker has, found without changing a byte of it.
//!
//! sled cannot open a database without writing to it, and what it makes of damage it writes as well. So it gets a copy.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use backend_embedded::Lock;
use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Check, Checked, Finding, Inspector, Repaired, SIDE_FOLDER, Severity};
use tempfile::TempDir;

use crate::config::SledConfig;
use crate::database::Database;
use crate::error::SledError;
use crate::shared::bytes_below;
use crate::verdict::{Judge, Verdict, loss};
use crate::{directory, mark, repair};

/// Checks and repairs a database that no broker has.
#[derive(Debug)]
pub struct SledCheck {
    config: SledConfig,
    /// `None` where no broker has ever been: then there is nothing to lock.
    lock: Option<Lock>,
}

impl SledCheck {
    /// Takes the directory, without a trace of it.
    ///
    /// # Errors
    /// `Locked`: a broker has it. `Unusable`: it is of another kind, or a newer release's. `Failed`: it cannot be read, or is
    /// not there.
    pub fn open(config: SledConfig) -> Result<Self, StorageError> {
        config.validate()?;
        let dir = &config.path;
        if !directory::look(dir)? {
            return Err(SledError::io("list", dir, std::io::ErrorKind::NotFound.into()).into());
        }
        let lock = Lock::acquire_quietly(dir)?;
        Ok(Self { config, lock })
    }
}

impl Check for SledCheck {
    fn kind(&self) -> &'static str {
        "sled"
    }

    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
        examine(&self.config, inspector)
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
            if examine(&self.config, &mut Unheard)?.damage == 0 {
                self.lock = Some(lock);
                return Ok(repaired);
            }
            let round = repair::repair(&self.config, inspector)?;
            repaired.records += round.records;
            repaired.side_files.extend(round.side_files);
        }
        Err(SledError::NotClean { path: dir }.into())
    }
}

/// Nobody hears of what is found between two rounds.
struct Unheard;

impl Inspector for Unheard {
    fn finding(&mut self, _finding: Finding) {}
}

fn examine(config: &SledConfig, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
    let dir = &config.path;
    let mut finder = Finder { path: dir.clone(), inspector, checked: Checked::default() };
    let Some(found) = directory::find(dir)? else { return Ok(finder.checked) };
    for other in found.others {
        let what = "what an interrupted rebuild or repair has left: it is not read".to_owned();
        finder.report(Severity::Note, other, At::Whole, what, "removes it, as the next start does", "nothing");
    }
    if !found.has_conf {
        let what = "missing; there is only one database, so there is no doubt about which one it is about".to_owned();
        finder.report(
            Severity::Note,
            dir.join("conf"),
            At::Whole,
            what,
            "writes it, as the next start does",
            "nothing",
        );
    }
    finder.path.clone_from(&found.path);
    finder.checked.bytes = bytes_below(&found.path);
    let copy = Copy::of(&found.path)?;
    let synced = found.has_conf.then(|| mark::read(dir)).flatten();
    let examined = copy.with_database(config.cache_bytes, |database| {
        let judge = Judge::new(database, synced)?;
        judge.each(&mut |key, _value, verdict| {
            finder.record(&judge, key, &verdict);
            Ok(())
        })
    });
    if let Err(error) = examined {
        finder.report(
            Severity::Damage,
            found.path,
            At::Whole,
            format!("sled cannot read its own file: {error}"),
            &format!(
                "copies what sled can read, without its snapshots if need be, to a new database, and keeps the old one below \
                 {SIDE_FOLDER}/"
            ),
            "whatever was committed after the damaged spot; restore a copy of the directory instead, if there is one",
        );
    }
    Ok(finder.checked)
}

struct Finder<'i> {
    path: PathBuf,
    inspector: &'i mut dyn Inspector,
    checked: Checked,
}

impl Finder<'_> {
    fn report(&mut self, severity: Severity, file: PathBuf, at: At, what: String, repair: &str, loses: &str) {
        match severity {
            Severity::Damage => self.checked.damage += 1,
            Severity::Note => self.checked.notes += 1,
        }
        let (repair, loses) = (repair.to_owned(), loses.to_owned());
        self.inspector.finding(Finding { severity, file, at, what, repair, loses });
    }

    fn record(&mut self, judge: &Judge<'_>, key: &[u8], verdict: &Verdict) {
        let (what, repair) = match verdict {
            Verdict::Good => {
                self.checked.records += 1;
                return;
            }
            Verdict::Out(what) => ((*what).to_owned(), format!("moves the record to {SIDE_FOLDER}/")),
            Verdict::Mended(what, _) => {
                (what.clone(), format!("copies the record to {SIDE_FOLDER}/ and puts it right"))
            }
        };
        let (at, loses) = (At::Key(judge.describe(key)), loss(key, verdict));
        self.report(Severity::Damage, self.path.clone(), at, what, &repair, loses);
    }
}

/// A copy of a database, which sled may do with what it likes.
pub(crate) struct Copy {
    of: PathBuf,
    dir: TempDir,
}

impl Copy {
    /// Copies the database in `path` to the system's folder for temporary files.
    pub(crate) fn of(path: &Path) -> Result<Self, SledError> {
        let dir = tempfile::Builder::new().prefix("herald-fsck-").tempdir();
        let dir = dir.map_err(|source| SledError::io("make a folder in", &std::env::temp_dir(), source))?;
        copy_folder(path, dir.path())?;
        Ok(Self { of: path.to_owned(), dir })
    }

    /// Takes sled's snapshots out: then it reads all of its log.
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

    /// Opens it and does something with it. sled panics about most damage; that is an error here.
    pub(crate) fn with_database<T>(
        &self,
        cache_bytes: u64,
        f: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut database = Database::open(self.dir.path(), cache_bytes)?;
            // What is said of it is said of the original.
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

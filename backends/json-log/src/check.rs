//! What is wrong with a log that no broker has, found without changing a byte of it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Check, Checked, Finding, Inspector, Repaired, SIDE_FOLDER, Severity};

use crate::config::{JsonLogConfig, OnDamage};
use crate::error::JsonLogError;
use crate::files::{DataFile, Entry, Files, LockGuard, SystemFiles, read_full};
use crate::recovery::examine;
use crate::repair::{self, DRAFT_ENDING};
use crate::segment::parse_file_name;
use crate::shared::Shared;
use crate::witness::{Seen, Witness};
use crate::{lock, storage};

/// Checks and repairs a log that no broker has.
#[derive(Debug)]
pub struct JsonLogCheck {
    config: JsonLogConfig,
    files: Arc<dyn Files>,
    /// `None` where no broker has ever been: then there is nothing to lock.
    lock: Option<Box<dyn LockGuard>>,
}

impl JsonLogCheck {
    /// Takes the directory, without a trace of it.
    ///
    /// # Errors
    /// `Locked`: a broker has it. `Unusable`: it is of another kind, or a newer release's. `Failed`: it cannot be read, or is
    /// not there.
    pub fn open(config: JsonLogConfig) -> Result<Self, StorageError> {
        Self::open_with(config, Arc::new(SystemFiles))
    }

    /// The same over other files than the operating system's.
    ///
    /// # Errors
    /// Those of [`JsonLogCheck::open`].
    pub fn open_with(mut config: JsonLogConfig, files: Arc<dyn Files>) -> Result<Self, StorageError> {
        config.validate()?;
        // Every finding is wanted, and nothing is to be removed.
        config.on_damage = OnDamage::Serve;
        config.clean_on_start = false;
        let entries = files.list(&config.path).map_err(|source| JsonLogError::io("list", &config.path, source))?;
        storage::look(&*files, &config.path, &entries)?;
        let lock = lock::acquire_quietly(&*files, &config.path)?;
        Ok(Self { config, files, lock })
    }

    fn list(&self) -> Result<Vec<Entry>, JsonLogError> {
        let dir = &self.config.path;
        self.files.list(dir).map_err(|source| JsonLogError::io("list", dir, source))
    }
}

impl Check for JsonLogCheck {
    fn kind(&self) -> &'static str {
        crate::format::KIND
    }

    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
        let mut finder = Finder::new(&self.config.path, inspector);
        let mut entries = self.list()?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for entry in &entries {
            finder.stray(entry);
        }
        finder.total =
            entries.iter().filter(|entry| parse_file_name(&entry.name).is_some()).map(|entry| entry.len).sum();
        let shared = Shared::new(self.config.clone(), self.files.clone());
        examine(&shared, &mut finder)?;
        let mut checked = finder.checked;
        checked.bytes = finder.total;
        Ok(checked)
    }

    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        /// Taking one damage away can bring another to light, such as the batches that a lost segment held.
        const ROUNDS: u32 = 4;
        let dir = self.config.path.clone();
        let mut repaired = Repaired::default();
        for _round in 0..ROUNDS {
            // The lock for writing is another one, with a note of who has it.
            drop(self.lock.take());
            let guard = lock::acquire(&*self.files, &dir)?;
            let round = repair::repair(&self.config, &self.files, guard, inspector)?;
            self.lock = lock::acquire_quietly(&*self.files, &dir)?;
            repaired.records += round.records;
            repaired.side_files.extend(round.side_files);
            let mut nobody = Unheard;
            let mut left = Finder::new(&dir, &mut nobody);
            examine(&Shared::new(self.config.clone(), self.files.clone()), &mut left)?;
            if left.checked.damage == 0 {
                return Ok(repaired);
            }
        }
        Err(JsonLogError::NotClean { path: dir }.into())
    }
}

/// Nobody hears of what is left between two rounds.
struct Unheard;

impl Inspector for Unheard {
    fn finding(&mut self, _finding: Finding) {}
}

/// Turns what reading makes of a log into findings.
struct Finder<'i> {
    dir: &'i Path,
    inspector: &'i mut dyn Inspector,
    checked: Checked,
    total: u64,
    /// The segment that is being read.
    path: PathBuf,
    file: Option<Arc<dyn DataFile>>,
    end: u64,
    /// Where its records begin is not known yet.
    in_names: bool,
    bad_names: bool,
    done: u64,
}

/// The beginning of a bad line that a finding shows.
const EXCERPT: usize = 72;

impl<'i> Finder<'i> {
    fn new(dir: &'i Path, inspector: &'i mut dyn Inspector) -> Self {
        Self {
            dir,
            inspector,
            checked: Checked::default(),
            total: 0,
            path: PathBuf::new(),
            file: None,
            end: 0,
            in_names: false,
            bad_names: false,
            done: 0,
        }
    }

    fn report(&mut self, severity: Severity, file: PathBuf, at: At, what: String, repair: &str, loses: &str) {
        match severity {
            Severity::Damage => self.checked.damage += 1,
            Severity::Note => self.checked.notes += 1,
        }
        let (repair, loses) = (repair.to_owned(), loses.to_owned());
        self.inspector.finding(Finding { severity, file, at, what, repair, loses });
    }

    fn damage(&mut self, offset: u64, what: String, repair: &str, loses: &str) {
        self.report(Severity::Damage, self.path.clone(), At::Byte(offset), what, repair, loses);
    }

    fn stray(&mut self, entry: &Entry) {
        if parse_file_name(&entry.name).is_some() {
            return;
        }
        let (path, ending) = (self.dir.join(&entry.name), Path::new(&entry.name).extension());
        if ending == Some(OsStr::new("jsonl")) {
            let what = "not a file of the log, although it ends in .jsonl: it is not read".to_owned();
            self.report(Severity::Note, path, At::Whole, what, "leaves it", "nothing");
        } else if ending == Some(OsStr::new(DRAFT_ENDING)) {
            let what = "the draft of a repair that was interrupted: it is not read".to_owned();
            self.report(Severity::Note, path, At::Whole, what, "removes it", "nothing: what it was made of is there");
        }
    }

    fn bad(&mut self, offset: u64, len: u64, what: &str) {
        let excerpt = self.excerpt(offset, len);
        let what = format!("{what} ({len} bytes: {excerpt})");
        if self.in_names {
            self.bad_names = true;
            return self.damage(
                offset,
                what,
                &format!("moves the line to {SIDE_FOLDER}/ and writes the segment's header and names anew, as far as they are known"),
                "nothing, if the segment before it is there; else what no other line says: a subscription, a topic's last sequence, \
                 or a source's place",
            );
        }
        let is_event = memchr::memmem::find(excerpt.as_bytes(), br#""seq":"#).is_some();
        let loses = if is_event {
            "this event, for all who wait for it"
        } else {
            "this record: an event, or, if it says what was done with events, these are delivered again"
        };
        let repair = format!("moves the line to {SIDE_FOLDER}/ and notes in the log that it is gone");
        self.damage(offset, what, &repair, loses);
    }

    /// The beginning of a line, for people.
    fn excerpt(&self, offset: u64, len: u64) -> String {
        let mut start = vec![0; EXCERPT.min(usize::try_from(len).unwrap_or(EXCERPT))];
        let read = self.file.as_ref().and_then(|file| read_full(&**file, &mut start, offset).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&start[..read]);
        let text: String = text.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if len > EXCERPT as u64 { format!("{text}…") } else { text }
    }
}

impl Witness for Finder<'_> {
    fn see(&mut self, seen: Seen<'_>) -> Result<(), StorageError> {
        match seen {
            Seen::Segment { segment, file, end, .. } => {
                self.path.clone_from(&segment.path);
                (self.file, self.end) = (Some(file.clone()), end);
                (self.in_names, self.bad_names) = (true, false);
            }
            Seen::Header(_) => self.checked.records += 1,
            Seen::Catalogue { whole, .. } => {
                self.in_names = false;
                if !whole && !self.bad_names && self.end > 0 {
                    self.damage(
                        0,
                        "the header, or lines of the names that a segment begins with, are missing".to_owned(),
                        "writes the segment's header and names anew, as far as they are known",
                        "nothing more: the lines are not there",
                    );
                }
            }
            Seen::Kept { .. } => self.checked.records += 1,
            Seen::Bad { offset, len, what } => self.bad(offset, len, what),
            Seen::Missing { offset, what } => self.damage(
                offset,
                what.to_owned(),
                "notes in the log that they are gone",
                "nothing more: they are not there; what they said of events is undone, these are delivered again",
            ),
            Seen::Ending { offset } => self.damage(
                offset,
                "a line does not end as it should, and is good besides".to_owned(),
                "writes the line again with its ending",
                "nothing",
            ),
            Seen::End => {
                self.done += self.end;
                self.inspector.progress(self.done, self.total.max(self.done));
            }
            Seen::Gone { first, last } => {
                let which = if first == last { format!("segment {first} is") } else { format!("segments {first} to {last} are") };
                self.report(
                    Severity::Damage,
                    self.dir.join(crate::segment::file_name(first)),
                    At::Whole,
                    format!("{which} missing, and no note says that it was freed"),
                    "notes in the log that it is gone; put it back before, if you have it",
                    "nothing more: it is not there; what it said of older events is undone, these are delivered again",
                );
            }
            Seen::Torn { segment, offset, len, .. } => self.report(
                Severity::Damage,
                segment.path.clone(),
                At::Byte(offset),
                format!("a torn tail of {len} bytes, as a crash leaves it: no whole batch follows"),
                &format!("moves it to {SIDE_FOLDER}/ and cuts it off, as the next start of the broker does without keeping it"),
                "nothing that was confirmed, unless storage.durability was weaker than \"always\"",
            ),
        }
        Ok(())
    }
}

/// An error about something that should be there.
pub(crate) fn trouble(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| JsonLogError::io(action, &path, source).into()
}

//! `herald fsck`: finds damage in a log that no broker uses, without changing it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_core::storage::StorageError;
use broker_core::storage::check::{At, Check, Checked, Finding, Findings, Inspector, Repaired, SIDE_FOLDER, Severity};
use durable_files::{DataFile, Entry, Files, Lock, SystemFiles, read_full};

use crate::config::JsonLogConfig;
use crate::directory;
use crate::error::JsonLogError;
use crate::observer::{Observed, Observer};
use crate::recovery::examine;
use crate::repair::{self, DRAFT_ENDING};
use crate::segment::parse_file_name;
use crate::shared::Shared;
use broker_core::settings::OnDamage;

/// Checks and repairs a log that no broker uses.
#[derive(Debug)]
pub struct JsonLogCheck {
    config: JsonLogConfig,
    files: Arc<dyn Files>,
    /// `None` if no broker has ever used the directory: there is no lock file.
    lock: Option<Lock>,
}

impl JsonLogCheck {
    /// Locks the directory without leaving a trace in it.
    ///
    /// # Errors
    /// `Locked`: a broker uses it. `Unusable`: it belongs to another kind of storage or a newer release. `Failed`: it is missing or
    /// cannot be read.
    pub fn open(config: JsonLogConfig) -> Result<Self, StorageError> {
        Self::open_with(config, Arc::new(SystemFiles))
    }

    /// The same over another implementation of [`Files`].
    ///
    /// # Errors
    /// Those of [`JsonLogCheck::open`].
    pub fn open_with(mut config: JsonLogConfig, files: Arc<dyn Files>) -> Result<Self, StorageError> {
        config.validate()?;
        // A check goes on past damage, and removes nothing.
        config.on_damage = OnDamage::Serve;
        config.clean_on_start = false;
        let lock = Lock::acquire_existing(&*files, &config.path)?;
        directory::look(&*files, &config.path)?;
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
        let mut checked = finder.findings.checked;
        checked.bytes = finder.total;
        Ok(checked)
    }

    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        /// Removing one damage can reveal another, such as the batches of a lost segment.
        const ROUNDS: u32 = 4;
        let dir = self.config.path.clone();
        let mut repaired = Repaired::default();
        for _round in 0..ROUNDS {
            // The check's lock leaves no trace; a repair creates and signs the lock file, like a broker.
            drop(self.lock.take());
            let mut lock = Lock::acquire(&*self.files, &dir)?;
            lock.sign()?;
            let round = repair::repair(&self.config, &self.files, lock, inspector)?;
            self.lock = Lock::acquire_existing(&*self.files, &dir)?;
            repaired.records += round.records;
            repaired.side_files.extend(round.side_files);
            let mut unheard = Unheard;
            let mut left = Finder::new(&dir, &mut unheard);
            examine(&Shared::new(self.config.clone(), self.files.clone()), &mut left)?;
            if left.findings.checked.damage == 0 {
                return Ok(repaired);
            }
        }
        Err(JsonLogError::NotClean { path: dir }.into())
    }
}

/// Drops the findings of a repair's own checks: the check before the repair reported them.
struct Unheard;

impl Inspector for Unheard {
    fn finding(&mut self, _finding: Finding) {}
}

/// Turns observations about a log into findings.
struct Finder<'i> {
    dir: &'i Path,
    findings: Findings<'i>,
    total: u64,
    /// The segment being read.
    path: PathBuf,
    file: Option<Arc<dyn DataFile>>,
    end: u64,
    /// Whether the segment's header or catalogue is being read.
    in_names: bool,
    bad_names: bool,
    done: u64,
}

/// The bytes of a bad line that a finding shows.
const EXCERPT: usize = 72;

impl<'i> Finder<'i> {
    fn new(dir: &'i Path, inspector: &'i mut dyn Inspector) -> Self {
        Self {
            dir,
            findings: Findings::new(inspector),
            total: 0,
            path: PathBuf::new(),
            file: None,
            end: 0,
            in_names: false,
            bad_names: false,
            done: 0,
        }
    }

    fn note(&mut self, file: PathBuf, what: &str, repair: &str, loses: &str) {
        let (severity, at, what) = (Severity::Note, At::Whole, what.to_owned());
        let (repair, loses) = (repair.to_owned(), loses.to_owned());
        self.findings.add(Finding { severity, file, at, what, repair, loses });
    }

    fn damage(&mut self, offset: u64, what: String, repair: &str, loses: &str) {
        let (severity, file, at) = (Severity::Damage, self.path.clone(), At::Byte(offset));
        let (repair, loses) = (repair.to_owned(), loses.to_owned());
        self.findings.add(Finding { severity, file, at, what, repair, loses });
    }

    fn stray(&mut self, entry: &Entry) {
        if parse_file_name(&entry.name).is_some() {
            return;
        }
        let (path, ending) = (self.dir.join(&entry.name), Path::new(&entry.name).extension());
        if ending == Some(OsStr::new("jsonl")) {
            self.note(path, "a .jsonl file that is not a segment; it is ignored", "leaves it", "nothing");
        } else if ending == Some(OsStr::new(DRAFT_ENDING)) {
            let what = "a draft of an interrupted repair; it is ignored";
            self.note(path, what, "removes it", "nothing: the original segment still exists");
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
                &format!("moves the line to {SIDE_FOLDER}/ and rewrites the segment's header and catalogue from what is known"),
                "nothing if the previous segment exists; otherwise whatever only this line holds: a subscription, a topic's last \
                 sequence, or a source's position",
            );
        }
        let is_event = memchr::memmem::find(excerpt.as_bytes(), br#""seq":"#).is_some();
        let loses = if is_event {
            "this event, for every subscription that holds it"
        } else {
            "this record: an event, or the settlement of events, which are then delivered again"
        };
        let repair = format!("moves the line to {SIDE_FOLDER}/ and notes in the log that it is gone");
        self.damage(offset, what, &repair, loses);
    }

    /// The beginning of a line in printable form.
    fn excerpt(&self, offset: u64, len: u64) -> String {
        let mut start = vec![0; EXCERPT.min(usize::try_from(len).unwrap_or(EXCERPT))];
        let read = self.file.as_ref().and_then(|file| read_full(&**file, &mut start, offset).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&start[..read]);
        let text: String = text.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if len > EXCERPT as u64 { format!("{text}…") } else { text }
    }
}

impl Observer for Finder<'_> {
    fn observe(&mut self, observed: Observed<'_>) -> Result<(), StorageError> {
        match observed {
            Observed::Segment { segment, file, end, .. } => {
                self.path.clone_from(&segment.path);
                (self.file, self.end) = (Some(file.clone()), end);
                (self.in_names, self.bad_names) = (true, false);
            }
            Observed::Header(_) => self.findings.checked.records += 1,
            Observed::Catalogue { whole, .. } => {
                self.in_names = false;
                if !whole && !self.bad_names && self.end > 0 {
                    self.damage(
                        0,
                        "the segment's header, or lines of its catalogue, are missing".to_owned(),
                        "rewrites the segment's header and catalogue from what is known",
                        "nothing more: the lines are already missing",
                    );
                }
            }
            Observed::Kept { .. } => self.findings.checked.records += 1,
            Observed::Bad { offset, len, what } => self.bad(offset, len, what),
            Observed::Missing { offset, what } => self.damage(
                offset,
                what.to_owned(),
                "notes in the log that they are gone",
                "nothing more: the lines are already missing; events that they settled are delivered again",
            ),
            Observed::Ending { offset } => self.damage(
                offset,
                "a valid record whose line ending is damaged".to_owned(),
                "writes the record again with its line ending",
                "nothing",
            ),
            Observed::End => {
                self.done += self.end;
                self.findings.progress(self.done, self.total.max(self.done));
            }
            Observed::Gone { first, last } => {
                let which = if first == last {
                    format!("segment {first} is")
                } else {
                    format!("segments {first} to {last} are")
                };
                self.findings.add(Finding {
                    severity: Severity::Damage,
                    file: self.dir.join(crate::segment::file_name(first)),
                    at: At::Whole,
                    what: format!("{which} missing without having been freed"),
                    repair: "notes in the log that it is gone; if you have a copy, restore it first".to_owned(),
                    loses: "nothing more: it is already missing; events that it settled are delivered again".to_owned(),
                });
            }
            Observed::Torn { segment, offset, len, .. } => self.findings.add(Finding {
                severity: Severity::Damage,
                file: segment.path.clone(),
                at: At::Byte(offset),
                what: format!("a torn tail of {len} bytes, left by a crash: no whole batch follows"),
                repair: format!(
                    "moves it to {SIDE_FOLDER}/ and cuts it off; the next start of the broker cuts it without a copy"
                ),
                loses: "nothing that was confirmed, unless storage.durability was weaker than \"always\"".to_owned(),
            }),
        }
        Ok(())
    }
}

/// Adds the action and path to an I/O error.
pub(crate) fn trouble(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| JsonLogError::io(action, &path, source).into()
}

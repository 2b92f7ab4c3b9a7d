//! Making a log clean: segments with damage are written anew, without what does not check.
//!
//! First what goes is written to a file below `damaged/` and synced, then each new segment beside the old one; only when all of that
//! is synced, the new ones are renamed over the old ones, the oldest first. A segment that was written anew says the same as the old
//! one, so whatever an interruption leaves is as good as before; repairing again goes on.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use broker_core::event::Millis;
use broker_core::storage::check::{Inspector, Repaired, SIDE_ENDING, SIDE_FOLDER, SideRecord};
use broker_core::storage::{Storage as _, StorageError};

use crate::catalogue::Catalogue;
use crate::check::trouble;
use crate::config::JsonLogConfig;
use crate::error::JsonLogError;
use crate::files::{DataFile, Files, LockGuard, OpenMode, read_full};
use crate::format::{Frame, Header, encode_again, encode_header, encode_repaired};
use crate::recovery::examine;
use crate::segment::parse_file_name;
use crate::shared::Shared;
use crate::storage::JsonLogStorage;
use crate::witness::{Nobody, Seen, Witness};

/// What the name of a draft ends in: not read by anybody.
pub(crate) const DRAFT_ENDING: &str = "draft";

/// What is gathered before it is written, and the most of a bad line that becomes one record of the side file.
const CHUNK: usize = 256 << 10;

/// Repairs the log and lets go of the directory.
pub(crate) fn repair(
    config: &JsonLogConfig,
    files: &Arc<dyn Files>,
    guard: Box<dyn LockGuard>,
    inspector: &mut dyn Inspector,
) -> Result<Repaired, StorageError> {
    let dir = &config.path;
    remove_drafts(&**files, dir)?;
    let shared = || Shared::new(config.clone(), files.clone());
    let mut plan = Plan::default();
    examine(&shared(), &mut plan)?;

    let mut repaired = Repaired::default();
    if !plan.damaged.is_empty() || plan.torn {
        let side = Side::create(&**files, dir)?;
        let mut rewriter = Rewriter::new(&**files, dir, &plan.damaged, side, inspector);
        examine(&shared(), &mut rewriter)?;
        repaired.records = rewriter.side.records;
        let drafts = std::mem::take(&mut rewriter.drafts);
        repaired.side_files.extend(rewriter.side.finish()?);
        files.sync_dir(dir).map_err(trouble("sync", dir))?;
        for (draft, segment) in drafts {
            files.rename(&draft, &segment).map_err(trouble("replace", &segment))?;
            // Each before the next, so that what power loss leaves has no later segment without an earlier one.
            files.sync_dir(dir).map_err(trouble("sync", dir))?;
        }
    }
    // What is left is what every start does, the cut of a torn tail, and the note of missing segments.
    let storage = JsonLogStorage::with_lock(config.clone(), files.clone(), guard);
    storage.recover(&mut Nobody)?;
    if let Some(through) = plan.gone_through {
        storage.note_gone(through)?;
    }
    storage.close_now()?;
    Ok(repaired)
}

fn remove_drafts(files: &dyn Files, dir: &Path) -> Result<(), StorageError> {
    for entry in files.list(dir).map_err(trouble("list", dir))? {
        let path = dir.join(&entry.name);
        let is_draft = path.extension().is_some_and(|ending| ending == DRAFT_ENDING)
            && path.file_stem().is_some_and(|segment| parse_file_name(segment).is_some());
        if is_draft {
            files.unlink(&path).map_err(trouble("remove", &path))?;
        }
    }
    Ok(())
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    segment: u64,
    in_segment: bool,
    /// Segments to be written anew.
    damaged: BTreeSet<u64>,
    /// The latest segment that is missing.
    gone_through: Option<u64>,
    torn: bool,
}

impl Witness for Plan {
    fn see(&mut self, seen: Seen<'_>) -> Result<(), StorageError> {
        match seen {
            Seen::Segment { segment, end, .. } => (self.segment, self.in_segment) = (segment.number, end > 0),
            Seen::Catalogue { whole: false, .. } if self.in_segment => drop(self.damaged.insert(self.segment)),
            Seen::Bad { .. } | Seen::Missing { .. } | Seen::Ending { .. } => drop(self.damaged.insert(self.segment)),
            Seen::Gone { last, .. } => self.gone_through = self.gone_through.max(Some(last)),
            Seen::Torn { .. } => self.torn = true,
            Seen::Header(_) | Seen::Catalogue { .. } | Seen::Kept { .. } | Seen::End => {}
        }
        Ok(())
    }
}

/// Writes what is gathered to the end of a file.
struct Output {
    path: PathBuf,
    file: Arc<dyn DataFile>,
    buffer: Vec<u8>,
    written: u64,
}

impl Output {
    fn create(files: &dyn Files, path: PathBuf) -> Result<Self, StorageError> {
        let file = files.open(&path, OpenMode::CreateNew).map_err(trouble("make", &path))?;
        Ok(Self { path, file, buffer: Vec::new(), written: 0 })
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.file.write_all_at(&self.buffer, self.written).map_err(trouble("write to", &self.path))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn flush_if_full(&mut self) -> Result<(), StorageError> {
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        self.file.sync().map_err(trouble("sync", &self.path))
    }
}

/// The file of what is moved out; made when there is something.
struct Side<'r> {
    files: &'r dyn Files,
    folder: PathBuf,
    /// Its name, for the notes in the log.
    name: String,
    path: PathBuf,
    output: Option<Output>,
    records: u64,
}

impl<'r> Side<'r> {
    fn create(files: &'r dyn Files, dir: &Path) -> Result<Self, StorageError> {
        let folder = dir.join(SIDE_FOLDER);
        let taken = match files.list(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(JsonLogError::io("list", &folder, source).into()),
        };
        let number = |name: &std::ffi::OsStr| name.to_str()?.strip_suffix(SIDE_ENDING)?.parse::<u64>().ok();
        let next = taken.iter().filter_map(|entry| number(&entry.name)).max().map_or(1, |last| last.saturating_add(1));
        let name = format!("{next:06}{SIDE_ENDING}");
        let path = folder.join(&name);
        Ok(Self { files, folder, name: format!("{SIDE_FOLDER}/{name}"), path, output: None, records: 0 })
    }

    /// Copies bytes of a file.
    fn take(
        &mut self,
        from: &Path,
        file: &dyn DataFile,
        offset: u64,
        len: u64,
        what: &str,
    ) -> Result<(), StorageError> {
        if self.output.is_none() {
            self.files.create_dir(&self.folder).map_err(trouble("make", &self.folder))?;
            self.output = Some(Output::create(self.files, self.path.clone())?);
        }
        let Some(output) = &mut self.output else { return Ok(()) };
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut bytes = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < len {
            let room = bytes.len().min(usize::try_from(len - done).unwrap_or(CHUNK));
            let read = read_full(file, &mut bytes[..room], offset + done).map_err(trouble("read", from))?;
            if read == 0 {
                break;
            }
            let at = (offset + done).to_string();
            SideRecord { file: &name, at: &at, what, bytes: &bytes[..read] }.encode(&mut output.buffer);
            output.flush_if_full()?;
            done += read as u64;
        }
        self.records += 1;
        Ok(())
    }

    /// Makes it durable; its path, if there was anything.
    fn finish(mut self) -> Result<Option<PathBuf>, StorageError> {
        let Some(mut output) = self.output.take() else { return Ok(None) };
        output.finish()?;
        self.files.sync_dir(&self.folder).map_err(trouble("sync", &self.folder))?;
        Ok(Some(self.path))
    }
}

/// A segment that is written anew.
struct Draft {
    output: Output,
    target: PathBuf,
    number: u64,
    /// The old header, if it was good.
    header: Option<Header>,
    names: Vec<u8>,
    lines: u64,
    begun: bool,
    /// The last line written.
    last: Frame,
    /// Lines moved out since then.
    moved: u64,
}

/// Writes the damaged segments anew.
struct Rewriter<'r> {
    files: &'r dyn Files,
    dir: &'r Path,
    damaged: &'r BTreeSet<u64>,
    side: Side<'r>,
    inspector: &'r mut dyn Inspector,
    draft: Option<Draft>,
    /// Drafts that are done and synced, with the segments that they replace.
    drafts: Vec<(PathBuf, PathBuf)>,
    segment: Option<(PathBuf, Arc<dyn DataFile>)>,
    oldest: Option<u64>,
    /// The batch of the last record before the segment, if the segment before is there.
    before: Option<u64>,
    /// The batch of the last record so far.
    latest: Option<u64>,
    done: u64,
}

impl<'r> Rewriter<'r> {
    fn new(
        files: &'r dyn Files,
        dir: &'r Path,
        damaged: &'r BTreeSet<u64>,
        side: Side<'r>,
        inspector: &'r mut dyn Inspector,
    ) -> Self {
        Self {
            files,
            dir,
            damaged,
            side,
            inspector,
            draft: None,
            drafts: Vec::new(),
            segment: None,
            oldest: None,
            before: None,
            latest: None,
            done: 0,
        }
    }

    fn begin(&mut self, number: u64, target: &Path) -> Result<(), StorageError> {
        if !self.damaged.contains(&number) {
            return Ok(());
        }
        let path = self.dir.join(format!("{}.{DRAFT_ENDING}", crate::segment::file_name(number)));
        self.draft = Some(Draft {
            output: Output::create(self.files, path)?,
            target: target.to_owned(),
            number,
            header: None,
            names: Vec::new(),
            lines: 0,
            begun: false,
            last: Frame { batch: 0, left: 0 },
            moved: 0,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), StorageError> {
        let Some(mut draft) = self.draft.take() else { return Ok(()) };
        let next_batch = draft.header.as_ref().map(|header| header.next_batch);
        // Without header and records nothing but the segment before says where it began.
        draft.begin(if self.before.is_some() { u64::MAX } else { 1 }, self.before, self.oldest);
        if draft.last.left > 0 {
            draft.note(Frame { batch: draft.last.batch, left: 0 }, &self.side.name);
        } else if let Some(last_batch) = next_batch.map(|next| next.saturating_sub(1))
            && last_batch > draft.last.batch
        {
            // Batches between this segment's and the one's before are gone: their numbers are not to be used again.
            draft.note(Frame { batch: last_batch, left: 0 }, &self.side.name);
        }
        self.latest = Some(draft.last.batch);
        draft.output.finish()?;
        self.drafts.push((draft.output.path, draft.target));
        Ok(())
    }
}

impl Draft {
    /// Writes header and names, once it is known which batch comes first.
    fn begin(&mut self, first_batch: u64, before: Option<u64>, oldest: Option<u64>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let known = self.header.as_ref();
        let header = Header {
            segment: self.number,
            created: known.map_or(Millis(u64::try_from(now).unwrap_or_default()), |header| header.created),
            oldest: known.map_or(oldest.unwrap_or(self.number), |header| header.oldest),
            // Where the segment before has ended, if that has lost its end: a note here says so.
            next_batch: known
                .map_or(first_batch, |header| header.next_batch)
                .min(before.map_or(u64::MAX, |before| before.saturating_add(1))),
        };
        encode_header(&mut self.output.buffer, &header, self.lines);
        self.output.buffer.append(&mut self.names);
        self.last = Frame { batch: header.next_batch.saturating_sub(1), left: 0 };
    }

    fn note(&mut self, frame: Frame, side: &str) {
        encode_repaired(&mut self.output.buffer, frame, std::mem::take(&mut self.moved), side);
        self.last = frame;
    }

    fn keep(&mut self, frame: Frame, body: &[u8], side: &str) -> Result<(), StorageError> {
        let last = self.last;
        let next_in_batch = frame.batch == last.batch && frame.left.checked_add(1) == Some(last.left);
        let next_batch = last.left == 0 && last.batch.checked_add(1) == Some(frame.batch);
        if !next_in_batch && !next_batch {
            self.note(Frame { batch: frame.batch, left: frame.left.saturating_add(1) }, side);
        }
        encode_again(&mut self.output.buffer, body);
        self.last = frame;
        self.output.flush_if_full()
    }
}

impl Witness for Rewriter<'_> {
    fn see(&mut self, seen: Seen<'_>) -> Result<(), StorageError> {
        match seen {
            Seen::Segment { segment, file, end, follows } => {
                self.oldest.get_or_insert(segment.number);
                self.before = self.latest.take().filter(|_| follows);
                self.latest = self.before;
                self.segment = Some((segment.path.clone(), file.clone()));
                self.begin(segment.number, &segment.path)?;
                self.done += end;
                self.inspector.progress(self.done, self.done);
            }
            Seen::Header(header) => {
                // As reading has it, even where the segment before had gone further.
                self.latest = Some(header.next_batch.saturating_sub(1));
                if let Some(draft) = &mut self.draft {
                    draft.header = Some(header.clone());
                }
            }
            Seen::Catalogue { catalogue, .. } => {
                if let Some(draft) = &mut self.draft {
                    (draft.lines, draft.names) = encode(catalogue);
                }
            }
            Seen::Kept { frame, body } => {
                self.latest = Some(frame.batch);
                if let Some(draft) = &mut self.draft {
                    draft.begin(frame.batch, self.before, self.oldest);
                    draft.keep(frame, body, &self.side.name)?;
                }
            }
            Seen::Bad { offset, len, what } => {
                if let Some((path, file)) = &self.segment {
                    self.side.take(path, &**file, offset, len, what)?;
                }
                if let Some(draft) = &mut self.draft {
                    draft.moved += 1;
                }
            }
            Seen::End => self.end()?,
            Seen::Torn { segment, file, offset, len } => {
                self.side.take(&segment.path, file, offset, len, "a torn tail")?;
            }
            Seen::Missing { .. } | Seen::Ending { .. } | Seen::Gone { .. } => {}
        }
        Ok(())
    }
}

fn encode(catalogue: &Catalogue) -> (u64, Vec<u8>) {
    let mut names = Vec::new();
    catalogue.encode(&mut names);
    (catalogue.lines(), names)
}

//! The repair: rewrites damaged segments without their bad lines.
//!
//! ```text
//!   1  bad lines   ─▶ damaged/000001.ndjson          synced
//!   2  good lines  ─▶ 0000000000000007.jsonl.draft   beside each damaged segment, synced
//!   3  rename each draft over its segment            oldest first, each durable before the next
//! ```
//!
//! A rewritten segment means the same as the old one. So an interrupted repair leaves the log no worse than before, and the next
//! repair completes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use broker_core::event::Millis;
use broker_core::storage::check::{Inspector, Repaired};
use broker_core::storage::{Storage as _, StorageError};
use durable_files::{DataFile, Files, Lock};

use crate::catalogue::Catalogue;
use crate::check::trouble;
use crate::config::JsonLogConfig;
use crate::format::{Frame, Header, encode_again, encode_header, encode_repaired};
use crate::observer::{DiscardMutations, Observed, Observer};
use crate::recovery::examine;
use crate::segment::parse_file_name;
use crate::shared::Shared;
use crate::side_file::{Output, SideFile};
use crate::storage::JsonLogStorage;

/// The ending of a draft's file name, which nothing reads.
pub(crate) const DRAFT_ENDING: &str = "draft";

/// Repairs the log and releases the directory.
pub(crate) fn repair(
    config: &JsonLogConfig,
    files: &Arc<dyn Files>,
    lock: Lock,
    inspector: &mut dyn Inspector,
) -> Result<Repaired, StorageError> {
    let dir = &config.path;
    remove_drafts(&**files, dir)?;
    let shared = || Shared::new(config.clone(), files.clone());
    let mut plan = Plan::default();
    examine(&shared(), &mut plan)?;

    let mut repaired = Repaired::default();
    if !plan.damaged.is_empty() || plan.torn {
        let side = SideFile::create(&**files, dir)?;
        let mut rewriter = Rewriter::new(&**files, dir, &plan.damaged, side, inspector);
        examine(&shared(), &mut rewriter)?;
        repaired.records = rewriter.side.records;
        let drafts = std::mem::take(&mut rewriter.drafts);
        repaired.side_files.extend(rewriter.side.finish()?);
        files.sync_dir(dir).map_err(trouble("sync", dir))?;
        for (draft, segment) in drafts {
            // Each is durable before the next, so that power loss never leaves a later segment rewritten without an earlier one.
            durable_files::rename(&**files, &draft, &segment)?;
        }
    }
    // An ordinary recovery cuts the torn tail. After it, missing segments are recorded as freed.
    let storage = JsonLogStorage::with_lock(config.clone(), files.clone(), lock);
    storage.recover(&mut DiscardMutations)?;
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

/// The extent of a repair, determined by a first pass over the log.
#[derive(Debug, Default)]
struct Plan {
    segment: u64,
    in_segment: bool,
    /// Segments to rewrite.
    damaged: BTreeSet<u64>,
    /// The latest missing segment.
    gone_through: Option<u64>,
    torn: bool,
}

impl Observer for Plan {
    fn observe(&mut self, observed: Observed<'_>) -> Result<(), StorageError> {
        match observed {
            Observed::Segment { segment, end, .. } => (self.segment, self.in_segment) = (segment.number, end > 0),
            Observed::Catalogue { whole: false, .. } if self.in_segment => {
                self.damaged.insert(self.segment);
            }
            Observed::Bad { .. } | Observed::Missing { .. } | Observed::Ending { .. } => {
                self.damaged.insert(self.segment);
            }
            Observed::Gone { last, .. } => self.gone_through = self.gone_through.max(Some(last)),
            Observed::Torn { .. } => self.torn = true,
            Observed::Header(_) | Observed::Catalogue { .. } | Observed::Kept { .. } | Observed::End => {}
        }
        Ok(())
    }
}

/// A segment being rewritten.
struct Draft {
    output: Output,
    target: PathBuf,
    number: u64,
    /// The old header, if it was valid.
    header: Option<Header>,
    names: Vec<u8>,
    lines: u64,
    begun: bool,
    /// The last line written.
    last: Frame,
    /// Lines moved out since `last`.
    moved: u64,
}

/// Rewrites the damaged segments.
struct Rewriter<'r> {
    files: &'r dyn Files,
    dir: &'r Path,
    damaged: &'r BTreeSet<u64>,
    side: SideFile<'r>,
    inspector: &'r mut dyn Inspector,
    draft: Option<Draft>,
    /// Complete and synced drafts, with the segments they replace.
    drafts: Vec<(PathBuf, PathBuf)>,
    segment: Option<(PathBuf, Arc<dyn DataFile>)>,
    oldest: Option<u64>,
    /// The batch of the last record before the segment; `None` if the segment before it is missing.
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
        side: SideFile<'r>,
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
        // Without a header or records, only the previous segment shows which batch this one began with.
        draft.begin(if self.before.is_some() { u64::MAX } else { 1 }, self.before, self.oldest);
        if draft.last.left > 0 {
            draft.note(Frame { batch: draft.last.batch, left: 0 }, &self.side.name);
        } else if let Some(last_batch) = next_batch.map(|next| next.saturating_sub(1))
            && last_batch > draft.last.batch
        {
            // The batches between the two segments are gone, but their numbers must not be reused.
            draft.note(Frame { batch: last_batch, left: 0 }, &self.side.name);
        }
        self.latest = Some(draft.last.batch);
        draft.output.finish()?;
        self.drafts.push((draft.output.path, draft.target));
        Ok(())
    }
}

impl Draft {
    /// Writes the header and the catalogue, once the first batch is known.
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
            // The previous segment may have lost its end: this one then begins there, with a note about the gap.
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

impl Observer for Rewriter<'_> {
    fn observe(&mut self, observed: Observed<'_>) -> Result<(), StorageError> {
        match observed {
            Observed::Segment { segment, file, end, follows } => {
                self.oldest.get_or_insert(segment.number);
                self.before = self.latest.take().filter(|_| follows);
                self.latest = self.before;
                self.segment = Some((segment.path.clone(), file.clone()));
                self.begin(segment.number, &segment.path)?;
                self.done += end;
                self.inspector.progress(self.done, self.done);
            }
            Observed::Header(header) => {
                // Like recovery, the header counts even if the previous segment went further.
                self.latest = Some(header.next_batch.saturating_sub(1));
                if let Some(draft) = &mut self.draft {
                    draft.header = Some(header.clone());
                }
            }
            Observed::Catalogue { catalogue, .. } => {
                if let Some(draft) = &mut self.draft {
                    (draft.lines, draft.names) = encode(catalogue);
                }
            }
            Observed::Kept { frame, body } => {
                self.latest = Some(frame.batch);
                if let Some(draft) = &mut self.draft {
                    draft.begin(frame.batch, self.before, self.oldest);
                    draft.keep(frame, body, &self.side.name)?;
                }
            }
            Observed::Bad { offset, len, what } => {
                if let Some((path, file)) = &self.segment {
                    self.side.take(path, &**file, offset, len, what)?;
                }
                if let Some(draft) = &mut self.draft {
                    draft.moved += 1;
                }
            }
            Observed::End => self.end()?,
            Observed::Torn { segment, file, offset, len } => {
                self.side.take(&segment.path, file, offset, len, "a torn tail")?;
            }
            Observed::Missing { .. } | Observed::Ending { .. } | Observed::Gone { .. } => {}
        }
        Ok(())
    }
}

fn encode(catalogue: &Catalogue) -> (u64, Vec<u8>) {
    let mut names = Vec::new();
    catalogue.encode(&mut names);
    (catalogue.lines(), names)
}

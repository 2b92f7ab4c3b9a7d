//! What opening does with what it finds: replays it, reports what is missing or damaged, cuts a torn tail.
//!
//! Nothing is changed before everything was read, and what is changed then can be interrupted anywhere: the next recovery
//! finds the same torn tail, or none.
//!
//! Only the last segment can have a torn tail, see [`crate::tail`]. Anything else that does not check is damage: it is left where
//! it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use broker_core::event::Seq;
use broker_core::name::TopicName;
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, StorageError};

use crate::catalogue::Catalogue;
use crate::config::OnDamage;
use crate::error::JsonLogError;
use crate::files::{DataFile, OpenMode};
use crate::format::{Frame, KIND, Names, Record, VERSION, decode};
use crate::lines::{LineReader, Piece};
use crate::place::{self, MAX_OFFSET};
use crate::segment::{Segment, parse_file_name};
use crate::shared::Shared;
use crate::tail::{Tail, find_tail, is_foreign};
use crate::witness::{Nobody, Seen, Witness};
use crate::writer::Active;

/// Lines after which the engine is asked what it does not need: often enough to keep that list short.
const ASK_EVERY: usize = 4096;

/// Where writing goes on.
pub(crate) type Start = (Active, Catalogue, u64);

/// Replays the log into `recovery` and makes it ready for writing.
pub(crate) fn recover(shared: &Shared, recovery: &mut dyn Recovery) -> Result<(RecoveryReport, Start), StorageError> {
    let mut replay = Replay::new(shared, recovery, None);
    let segments = list(shared)?;
    let Some(Last { segment, file, tail }) = read_all(&mut replay, &segments, OpenMode::Write)? else {
        let active = Active::create(shared, 1, &replay.catalogue, replay.next_batch)?;
        return Ok((replay.report, (active, replay.catalogue, replay.next_batch)));
    };
    Ok(begin_writing(replay, &segment, file, &tail)?)
}

/// Reads the log as [`recover`] does and changes nothing: `witness` sees what would be made of each piece of it.
pub(crate) fn examine(shared: &Shared, witness: &mut dyn Witness) -> Result<RecoveryReport, StorageError> {
    let mut nobody = Nobody;
    let mut replay = Replay::new(shared, &mut nobody, Some(witness));
    let segments = list(shared)?;
    let last = read_all(&mut replay, &segments, OpenMode::Read)?;
    if let Some(Last { segment, file, tail }) = last {
        let torn = segment.bytes() - tail.end;
        if torn > 0 {
            replay.report.torn_bytes = torn;
            replay.see(Seen::Torn { segment: &segment, file: &*file, offset: tail.end, len: torn })?;
        }
    }
    Ok(replay.report)
}

/// The segment that is written to.
struct Last {
    segment: Arc<Segment>,
    file: Arc<dyn DataFile>,
    tail: Tail,
}

/// Replays all segments; the last one is opened with `mode`.
fn read_all(replay: &mut Replay<'_>, segments: &[Arc<Segment>], mode: OpenMode) -> Result<Option<Last>, StorageError> {
    let shared = replay.shared;
    for segment in segments {
        shared.segments.insert(segment.clone());
    }
    let Some((last, full)) = segments.split_last() else { return Ok(None) };
    let mut previous = None;
    for segment in full {
        let file = open(shared, segment, OpenMode::Read)?;
        replay.follows(previous, segment.number);
        replay.segment(segment, &file, segment.bytes())?;
        previous = Some(segment.number);
    }
    let file = open(shared, last, mode)?;
    let mut tail = find_tail(&*file, last.bytes()).map_err(|source| JsonLogError::io("read", &last.path, source))?;
    if !tail.has_records && is_foreign(&*file, last)? {
        if full.is_empty() {
            let what = "a file of another kind".to_owned();
            return Err(JsonLogError::Foreign { path: last.path.clone(), what }.into());
        }
        // Not cut, but left as it is; a new segment goes after it.
        tail.end = last.bytes();
    }
    replay.follows(previous, last.number);
    replay.segment(last, &file, tail.end)?;
    replay.report_missing(segments)?;
    Ok(Some(Last { segment: last.clone(), file, tail }))
}

/// The segments of the directory, in order.
fn list(shared: &Shared) -> Result<Vec<Arc<Segment>>, JsonLogError> {
    let dir = &shared.config.path;
    let entries = shared.files.list(dir).map_err(|source| JsonLogError::io("list", dir, source))?;
    let mut segments: Vec<_> = entries
        .iter()
        .filter_map(|entry| parse_file_name(&entry.name).map(|number| shared.segments.entry(number, entry.len)))
        .collect();
    segments.sort_unstable_by_key(|segment| segment.number);
    Ok(segments)
}

fn open(shared: &Shared, segment: &Segment, mode: OpenMode) -> Result<Arc<dyn DataFile>, JsonLogError> {
    shared.files.open(&segment.path, mode).map_err(|source| JsonLogError::io("open", &segment.path, source))
}

/// Cuts the torn tail and opens the log for writing.
fn begin_writing(
    replay: Replay<'_>,
    last: &Arc<Segment>,
    file: Arc<dyn DataFile>,
    tail: &Tail,
) -> Result<(RecoveryReport, Start), JsonLogError> {
    let Replay { shared, catalogue, next_batch, mut report, .. } = replay;
    let dir = &shared.config.path;
    let sync = || {
        // What was read may never have been synced; it is about to be built upon.
        file.sync().map_err(|source| JsonLogError::io("sync", &last.path, source))?;
        shared.files.sync_dir(dir).map_err(|source| JsonLogError::io("sync", dir, source))
    };
    // Without the torn tail what is left would be taken for one by the next start. So a segment follows it before it is cut.
    let next = if tail.ends_in_batch {
        sync()?;
        Some(Active::create(shared, last.number + 1, &catalogue, next_batch)?)
    } else {
        None
    };
    let torn = last.bytes() - tail.end;
    if torn > 0 {
        report.torn_bytes = torn;
        tracing::warn!(
            file = %last.path.display(),
            offset = tail.end,
            bytes = torn,
            "cut a torn tail: what was written last before a crash and never confirmed"
        );
        file.truncate(tail.end).map_err(|source| JsonLogError::io("truncate", &last.path, source))?;
        last.set_bytes(tail.end);
    }
    sync()?;
    let active = match (next, tail.begin) {
        (Some(next), _) => next,
        // It was cut off while it was begun.
        _ if tail.end == 0 => Active::begin(shared, file, last.number, &catalogue, next_batch)?,
        (None, Some(begin)) => Active::resume(shared, last.clone(), file, begin),
        (None, None) => Active::create(shared, last.number + 1, &catalogue, next_batch)?,
    };
    Ok((report, (active, catalogue, next_batch)))
}

/// The catalogue of the segment that is being read.
#[derive(Debug)]
struct Recorded {
    catalogue: Catalogue,
    /// How many of its lines follow.
    left: u64,
    /// Whether it has all lines so far.
    complete: bool,
    /// Whether it has a header.
    headed: bool,
}

/// What is known while the log is read.
struct Replay<'r> {
    shared: &'r Shared,
    recovery: &'r mut dyn Recovery,
    names: Names,
    catalogue: Catalogue,
    report: RecoveryReport,
    recorded: Option<Recorded>,
    /// The last valid line; `None` at the beginning and after a missing segment.
    last: Option<Frame>,
    /// Bad lines since that one.
    bad: u64,
    freed_through: u64,
    next_batch: u64,
    /// Whether the names that a segment begins with are being read.
    in_names: bool,
    follows: bool,
    /// Who checks or repairs, and is told instead of the log.
    witness: Option<&'r mut dyn Witness>,
}

impl<'r> Replay<'r> {
    fn new(shared: &'r Shared, recovery: &'r mut dyn Recovery, witness: Option<&'r mut dyn Witness>) -> Self {
        Self {
            shared,
            recovery,
            names: Names::default(),
            catalogue: Catalogue::default(),
            report: RecoveryReport::default(),
            recorded: None,
            last: None,
            bad: 0,
            freed_through: 0,
            next_batch: 1,
            in_names: false,
            follows: false,
            witness,
        }
    }

    fn see(&mut self, seen: Seen<'_>) -> Result<(), StorageError> {
        self.witness.as_mut().map_or(Ok(()), |witness| witness.see(seen))
    }

    /// Replays a segment up to `end`.
    fn segment(&mut self, segment: &Arc<Segment>, file: &Arc<dyn DataFile>, end: u64) -> Result<(), StorageError> {
        let trouble = |source: io::Error| JsonLogError::io("read", &segment.path, source);
        self.see(Seen::Segment { segment, file, end, follows: self.follows })?;
        self.in_names = true;
        let mut reader = LineReader::new(&**file, end);
        let mut lines = 0_usize;
        while let Some(piece) = reader.next().map_err(trouble)? {
            lines += 1;
            if lines.is_multiple_of(ASK_EVERY) {
                self.take_released();
            }
            match piece {
                Piece::Record { offset, len, body, .. } => self.line(segment, offset, len, body)?,
                Piece::Bad { offset, len, what, .. } => self.bad_line(segment, offset, len, what)?,
                Piece::Ending { offset } => {
                    self.see(Seen::Ending { offset })?;
                    self.damage(&segment.path, offset, "a line ending that is none")?;
                }
            }
        }
        self.end_catalogue()?;
        if let Some(last) = &mut self.last
            && last.left > 0
        {
            let missing = last.left > self.bad;
            last.left = 0;
            if missing {
                self.missing(segment, end, "the segment ends inside a batch")?;
            }
        }
        self.see(Seen::End)?;
        self.bad = 0;
        self.report.bytes += end;
        self.take_released();
        Ok(())
    }

    /// Stops counting as live what the engine does not need.
    fn take_released(&mut self) {
        for place in self.recovery.take_released() {
            self.shared.segments.release(place);
        }
    }

    fn line(&mut self, segment: &Segment, offset: u64, len: u64, body: &[u8]) -> Result<(), StorageError> {
        let Some((frame, record)) = decode(body, &mut self.names) else {
            return self.bad_line(segment, offset, len, "a record that this release does not understand");
        };
        match record {
            Record::Alien { kind, version } => Err(alien(&segment.path, kind, version).into()),
            Record::Header(header) => {
                if header.segment != segment.number || offset != 0 {
                    return self.bad_line(segment, offset, len, "the header of another segment");
                }
                let lost = self.last.is_some_and(|last| header.next_batch > last.batch.saturating_add(1));
                if lost {
                    self.missing(segment, offset, "the last batches of the segment before it are missing")?;
                }
                self.last = Some(Frame { batch: header.next_batch.saturating_sub(1), left: 0 });
                self.bad = 0;
                self.next_batch = self.next_batch.max(header.next_batch);
                self.freed_through = self.freed_through.max(header.oldest.saturating_sub(1));
                let (catalogue, left) = (Catalogue::default(), frame.left);
                self.recorded = Some(Recorded { catalogue, left, complete: true, headed: true });
                self.see(Seen::Header(&header))
            }
            Record::Mutation(_) if frame.batch == 0 && !self.in_names => {
                // Whoever begins to read at this segment would not find it.
                self.bad_line(segment, offset, len, "a line of the names that a segment begins with, behind records")
            }
            Record::Mutation(mutation) if frame.batch == 0 => {
                let headless = || Recorded { catalogue: Catalogue::default(), left: 0, complete: false, headed: false };
                let recorded = self.recorded.get_or_insert_with(headless);
                recorded.complete &= frame.left.checked_add(1) == Some(recorded.left);
                recorded.left = frame.left;
                recorded.catalogue.apply(&mutation);
                Ok(())
            }
            record => {
                self.end_catalogue()?;
                let excused = matches!(record, Record::Repaired);
                if !self.in_order(segment, offset, len, frame, excused)? {
                    return Ok(());
                }
                let is_event = matches!(record, Record::Mutation(Mutation::Publish(_) | Mutation::Rewrite { .. }));
                if is_event && offset > MAX_OFFSET {
                    return self.bad_line(segment, offset, len, "an event beyond what a segment can hold");
                }
                self.see(Seen::Kept { frame, body })?;
                match record {
                    Record::Freed { through } => {
                        self.freed_through = self.freed_through.max(through);
                        self.report.records += 1;
                        Ok(())
                    }
                    Record::Mutation(mutation) => self.mutation(segment, offset, len, mutation),
                    Record::Header(_) | Record::Alien { .. } | Record::Repaired => Ok(()),
                }
            }
        }
    }

    /// Checks a record's place among the others: lines that somebody took out are as much damage as ones that were changed.
    /// `excused`: a repair has taken note that lines before it are gone.
    fn in_order(
        &mut self,
        segment: &Segment,
        offset: u64,
        len: u64,
        frame: Frame,
        excused: bool,
    ) -> Result<bool, StorageError> {
        let missing = match self.last {
            None => Some(0),
            Some(last) if frame.batch > last.batch => Some(last.left.saturating_add(frame.batch - last.batch - 1)),
            Some(last) if frame.batch == last.batch && frame.left < last.left => Some(last.left - frame.left - 1),
            Some(_) => None,
        };
        let Some(missing) = missing else {
            self.bad_line(segment, offset, len, "a record that is out of order")?;
            return Ok(false);
        };
        let bad = std::mem::take(&mut self.bad);
        self.last = Some(frame);
        self.next_batch = self.next_batch.max(frame.batch.saturating_add(1));
        if missing > bad && !excused {
            self.missing(segment, offset, "lines before this record are missing")?;
        }
        Ok(true)
    }

    fn mutation(&mut self, segment: &Segment, offset: u64, len: u64, mutation: Mutation) -> Result<(), StorageError> {
        let mut at = Place::default();
        match &mutation {
            Mutation::Publish(_) | Mutation::Rewrite { .. } => {
                at = place::pack(segment.number, offset, len);
                segment.add_live(at);
            }
            // The record of an event may be damaged, and what was done with it not: its sequence must not be used again.
            Mutation::Settle { topic, events, .. } | Mutation::Forget { topic, events } => {
                self.used(topic, events.iter().map(|key| key.seq).max())?;
            }
            Mutation::Requeue { topic, events, .. } => {
                self.used(topic, events.iter().map(|event| event.key.seq).max())?;
            }
            _ => {}
        }
        self.hand_back(mutation, at)
    }

    fn used(&mut self, topic: &TopicName, last_seq: Option<Seq>) -> Result<(), StorageError> {
        match last_seq {
            Some(last_seq) if last_seq > self.catalogue.last_seq(topic) => {
                self.hand_back(Mutation::Topic { topic: topic.clone(), last_seq }, Place::default())
            }
            _ => Ok(()),
        }
    }

    fn hand_back(&mut self, mutation: Mutation, at: Place) -> Result<(), StorageError> {
        self.catalogue.apply(&mutation);
        self.report.records += 1;
        self.recovery.replay(mutation, at)
    }

    /// Takes over what the segment's catalogue knows and the records before it did not say: everything in the oldest segment,
    /// and in others what was lost with damaged records or missing segments.
    fn end_catalogue(&mut self) -> Result<(), StorageError> {
        let mut whole = false;
        if let Some(recorded) = self.recorded.take() {
            let complete = recorded.complete && recorded.left == 0;
            whole = complete && recorded.headed;
            for mutation in self.catalogue.differences(&recorded.catalogue, complete) {
                self.hand_back(mutation, Place::default())?;
            }
        }
        if std::mem::replace(&mut self.in_names, false)
            && let Some(witness) = &mut self.witness
        {
            witness.see(Seen::Catalogue { catalogue: &self.catalogue, whole })?;
        }
        Ok(())
    }

    /// Says which segment comes next.
    fn follows(&mut self, previous: Option<u64>, number: u64) {
        self.follows = previous.is_some_and(|previous| number == previous + 1);
        if !self.follows {
            self.last = None;
        }
    }

    /// Reports segments that are gone without a note of it.
    fn report_missing(&mut self, segments: &[Arc<Segment>]) -> Result<(), StorageError> {
        let mut expected = self.freed_through.saturating_add(1);
        let freed = expected;
        for segment in segments {
            // Removed ones before the note's end are gone on purpose, even if one of them came back.
            if segment.number > expected.max(freed) {
                let path = self.shared.segments.path(expected);
                let what = format!("segments {expected} to {} are missing", segment.number - 1);
                self.see(Seen::Gone { first: expected, last: segment.number - 1 })?;
                self.damage(&path, 0, &what)?;
            }
            expected = expected.max(segment.number + 1);
        }
        Ok(())
    }

    fn bad_line(&mut self, segment: &Segment, offset: u64, len: u64, what: &str) -> Result<(), StorageError> {
        self.bad += 1;
        self.see(Seen::Bad { offset, len, what })?;
        self.damage(&segment.path, offset, what)
    }

    fn missing(&mut self, segment: &Segment, offset: u64, what: &str) -> Result<(), StorageError> {
        self.see(Seen::Missing { offset, what })?;
        self.damage(&segment.path, offset, what)
    }

    fn damage(&mut self, path: &Path, offset: u64, what: &str) -> Result<(), StorageError> {
        self.report.damaged += 1;
        if self.witness.is_some() {
            return Ok(());
        }
        self.shared.damage(path, offset, what);
        match self.shared.config.on_damage {
            OnDamage::Serve => Ok(()),
            OnDamage::Stop => {
                Err(JsonLogError::Damaged { path: path.to_owned(), offset, what: what.to_owned() }.into())
            }
        }
    }
}

/// The error about a file whose header says something else.
pub(crate) fn alien(path: &Path, kind: String, version: u64) -> JsonLogError {
    if kind == KIND {
        JsonLogError::NewerVersion { path: path.to_owned(), found: version, known: VERSION }
    } else {
        JsonLogError::Foreign { path: path.to_owned(), what: format!("a file of the kind \"{kind}\"") }
    }
}

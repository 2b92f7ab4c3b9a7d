//! Replays the log from its start: each line becomes a mutation for the engine, or a report of damage.

use std::io;
use std::path::Path;
use std::sync::Arc;

use broker_core::event::Seq;
use broker_core::name::TopicName;
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, StorageError};
use durable_files::DataFile;

use crate::catalogue::Catalogue;
use crate::directory::alien;
use crate::error::JsonLogError;
use crate::format::{Frame, Names, Record, decode};
use crate::line_reader::{LineReader, Piece};
use crate::observer::{Observed, Observer};
use crate::place::{self, MAX_OFFSET};
use crate::segment::Segment;
use crate::shared::Shared;
use broker_core::settings::OnDamage;

/// The number of lines between two requests for the events that the engine has released, which keeps that list short.
const ASK_EVERY: usize = 4096;

/// The position of a line.
#[derive(Debug, Clone, Copy)]
struct LineAt<'s> {
    segment: &'s Segment,
    /// The offset in the segment's file.
    offset: u64,
    /// The length, line ending included.
    len: u64,
}

/// The catalogue at the start of the segment being read.
#[derive(Debug)]
struct Recorded {
    catalogue: Catalogue,
    /// The number of catalogue lines still to come.
    left: u64,
    /// Whether no line has been missing so far.
    complete: bool,
    /// Whether the segment's header was valid.
    headed: bool,
}

/// The state of a pass over the log.
///
/// A line counts as damage if it fails its checksum, is out of order, or is missing. Each line's frame shows the order: `batch` grows
/// by one from batch to batch, and `left` counts down to 0 within a batch:
///
/// ```text
///   batch 7  left 1  ─┐
///   batch 7  left 0  ─┘ whole
///   batch 8  left 2  ─┐
///   ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒  │ one bad line: it explains the jump from 2 to 0, so nothing else is reported
///   batch 8  left 0  ─┘
///   batch 10 left 0    batch 9 is missing, and no bad line explains it: damage
/// ```
///
/// Where damage makes an event's state ambiguous, the event is delivered again rather than skipped.
pub(crate) struct Replay<'r> {
    pub(crate) shared: &'r Shared,
    recovery: &'r mut dyn Recovery,
    names: Names,
    pub(crate) catalogue: Catalogue,
    pub(crate) report: RecoveryReport,
    recorded: Option<Recorded>,
    /// The last valid line; `None` at the beginning and after a missing segment.
    last: Option<Frame>,
    /// The bad lines since the last valid one. They account for the same number of missing lines.
    bad: u64,
    freed_through: u64,
    pub(crate) next_batch: u64,
    /// Whether a segment's catalogue is being read.
    in_names: bool,
    follows: bool,
    /// A check or a repair. Damage is reported to it instead of being logged.
    observer: Option<&'r mut dyn Observer>,
}

impl<'r> Replay<'r> {
    pub(crate) fn new(
        shared: &'r Shared,
        recovery: &'r mut dyn Recovery,
        observer: Option<&'r mut dyn Observer>,
    ) -> Self {
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
            observer,
        }
    }

    pub(crate) fn observe(&mut self, observed: Observed<'_>) -> Result<(), StorageError> {
        self.observer.as_mut().map_or(Ok(()), |observer| observer.observe(observed))
    }

    /// Replays a segment up to `end`.
    pub(crate) fn segment(
        &mut self,
        segment: &Arc<Segment>,
        file: &Arc<dyn DataFile>,
        end: u64,
    ) -> Result<(), StorageError> {
        let trouble = |source: io::Error| JsonLogError::io("read", &segment.path, source);
        self.observe(Observed::Segment { segment, file, end, follows: self.follows })?;
        self.in_names = true;
        let mut reader = LineReader::new(&**file, end);
        let mut lines = 0_usize;
        while let Some(piece) = reader.next().map_err(trouble)? {
            lines += 1;
            if lines.is_multiple_of(ASK_EVERY) {
                self.take_released();
            }
            match piece {
                Piece::Record { offset, len, body, .. } => self.line(LineAt { segment, offset, len }, body)?,
                Piece::Bad { offset, len, what, .. } => self.bad_line(LineAt { segment, offset, len }, what)?,
                Piece::Ending { offset } => {
                    self.observe(Observed::Ending { offset })?;
                    self.damage(&segment.path, offset, "a damaged line ending")?;
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
        self.observe(Observed::End)?;
        self.bad = 0;
        self.report.bytes += end;
        self.take_released();
        Ok(())
    }

    /// Subtracts the events that the engine released during recovery from the live events of their segments.
    fn take_released(&mut self) {
        for place in self.recovery.take_released() {
            self.shared.segments.release(place);
        }
    }

    fn line(&mut self, at: LineAt<'_>, body: &[u8]) -> Result<(), StorageError> {
        let Some((frame, record)) = decode(body, &mut self.names) else {
            return self.bad_line(at, "a record unknown to this release");
        };
        match record {
            Record::Alien { kind, version } => Err(alien(&at.segment.path, kind, version).into()),
            Record::Header(header) => {
                if header.segment != at.segment.number || at.offset != 0 {
                    return self.bad_line(at, "the header of another segment");
                }
                let lost = self.last.is_some_and(|last| header.next_batch > last.batch.saturating_add(1));
                if lost {
                    self.missing(at.segment, at.offset, "the last batches of the previous segment are missing")?;
                }
                self.last = Some(Frame { batch: header.next_batch.saturating_sub(1), left: 0 });
                self.bad = 0;
                self.next_batch = self.next_batch.max(header.next_batch);
                self.freed_through = self.freed_through.max(header.oldest.saturating_sub(1));
                let (catalogue, left) = (Catalogue::default(), frame.left);
                self.recorded = Some(Recorded { catalogue, left, complete: true, headed: true });
                self.observe(Observed::Header(&header))
            }
            Record::Mutation(_) if frame.batch == 0 && !self.in_names => {
                // A catalogue line counts only at the start of a segment; anywhere else, a later repair would drop its effect.
                self.bad_line(at, "a catalogue line after the first record")
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
                if !self.in_order(at, frame, excused)? {
                    return Ok(());
                }
                let is_event = matches!(record, Record::Mutation(Mutation::Publish(_) | Mutation::Rewrite { .. }));
                if is_event && at.offset > MAX_OFFSET {
                    return self.bad_line(at, "an event beyond the largest offset of a segment");
                }
                self.observe(Observed::Kept { frame, body })?;
                match record {
                    Record::Freed { through } => {
                        self.freed_through = self.freed_through.max(through);
                        self.report.records += 1;
                        Ok(())
                    }
                    Record::Mutation(mutation) => self.mutation(at, mutation),
                    Record::Header(_) | Record::Alien { .. } | Record::Repaired => Ok(()),
                }
            }
        }
    }

    /// Checks a record's position in the order; a removed line is damage, just like a changed one. `excused`: the record is a
    /// repair's note that the lines before it are gone.
    fn in_order(&mut self, at: LineAt<'_>, frame: Frame, excused: bool) -> Result<bool, StorageError> {
        let missing = match self.last {
            None => Some(0),
            Some(last) if frame.batch > last.batch => Some(last.left.saturating_add(frame.batch - last.batch - 1)),
            Some(last) if frame.batch == last.batch && frame.left < last.left => Some(last.left - frame.left - 1),
            Some(_) => None,
        };
        let Some(missing) = missing else {
            self.bad_line(at, "a record that is out of order")?;
            return Ok(false);
        };
        let bad = std::mem::take(&mut self.bad);
        self.last = Some(frame);
        self.next_batch = self.next_batch.max(frame.batch.saturating_add(1));
        if missing > bad && !excused {
            self.missing(at.segment, at.offset, "lines before this record are missing")?;
        }
        Ok(true)
    }

    fn mutation(&mut self, at: LineAt<'_>, mutation: Mutation) -> Result<(), StorageError> {
        let mut place = Place::default();
        match &mutation {
            Mutation::Publish(_) | Mutation::Rewrite { .. } => {
                place = place::pack(at.segment.number, at.offset, at.len);
                at.segment.add_live(place);
            }
            // The event's own record may be damaged while its settlement is intact. Its sequence must not be reused.
            Mutation::Settle { topic, events, .. } | Mutation::Forget { topic, events } => {
                self.used(topic, events.iter().map(|key| key.seq).max())?;
            }
            Mutation::Redeliver { topic, events, .. } => {
                self.used(topic, events.iter().map(|event| event.key.seq).max())?;
            }
            _ => {}
        }
        self.hand_back(mutation, place)
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
        self.report.records += 1;
        if let Mutation::Subscribe { topic, subscription, since } = &mutation
            && self.catalogue.has(topic, subscription, *since)
        {
            // The second copy of its record.
            return Ok(());
        }
        self.catalogue.apply(&mutation);
        self.recovery.replay(mutation, at)
    }

    /// Adopts the state in the segment's catalogue that the records before it lack: all of it in the oldest segment, and in later
    /// ones whatever was lost with damaged records or missing segments.
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
            && let Some(observer) = &mut self.observer
        {
            observer.observe(Observed::Catalogue { catalogue: &self.catalogue, whole })?;
        }
        Ok(())
    }

    /// Announces the next segment. After a missing segment, the order of batches restarts.
    pub(crate) fn follows(&mut self, previous: Option<u64>, number: u64) {
        self.follows = previous.is_some_and(|previous| number == previous + 1);
        if !self.follows {
            self.last = None;
        }
    }

    /// Reports segments that are missing without a `freed` record.
    pub(crate) fn report_missing(&mut self, segments: &[Arc<Segment>]) -> Result<(), StorageError> {
        let mut expected = self.freed_through.saturating_add(1);
        let freed = expected;
        for segment in segments {
            // Segments covered by a `freed` record are gone on purpose, even if power loss undid a removal.
            if segment.number > expected.max(freed) {
                let path = self.shared.segments.path(expected);
                let what = format!("segments {expected} to {} are missing", segment.number - 1);
                self.observe(Observed::Gone { first: expected, last: segment.number - 1 })?;
                self.damage(&path, 0, &what)?;
            }
            expected = expected.max(segment.number + 1);
        }
        Ok(())
    }

    fn bad_line(&mut self, at: LineAt<'_>, what: &str) -> Result<(), StorageError> {
        self.bad += 1;
        self.observe(Observed::Bad { offset: at.offset, len: at.len, what })?;
        self.damage(&at.segment.path, at.offset, what)
    }

    fn missing(&mut self, segment: &Segment, offset: u64, what: &str) -> Result<(), StorageError> {
        self.observe(Observed::Missing { offset, what })?;
        self.damage(&segment.path, offset, what)
    }

    fn damage(&mut self, path: &Path, offset: u64, what: &str) -> Result<(), StorageError> {
        self.report.damaged += 1;
        if self.observer.is_some() {
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

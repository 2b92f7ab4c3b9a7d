//! Recovery: replays the log, reports missing and damaged records, cuts a torn tail, and makes the log ready for writing.
//!
//! Nothing changes before the whole log has been read. The later changes can be interrupted at any point: the next recovery finds
//! the same torn tail, or none.
//!
//! ```text
//!   list segments ─▶ replay all but the last ─▶ find the end of the last ─▶ replay it up to there
//!                                                                                   │
//!        nothing follows that end ◀─────────────────────────────────────────────────┤
//!        resume writing there                                                       │
//!                                              bytes follow: a torn tail, cut it ◀──┘
//! ```
//!
//! [`crate::torn_tail`] distinguishes a torn tail from damage. Damage is left in place.

use std::sync::Arc;

use broker_core::storage::{Recovery, RecoveryReport, StorageError};
use durable_files::{DataFile, OpenMode};

use crate::active_segment::ActiveSegment;
use crate::catalogue::Catalogue;
use crate::directory::not_a_segment;
use crate::error::JsonLogError;
use crate::observer::{DiscardMutations, Observed, Observer};
use crate::replay::Replay;
use crate::segment::{Segment, parse_file_name};
use crate::shared::Shared;
use crate::torn_tail::{Tail, find_tail, is_foreign};

/// The end of a recovered log, where writing continues.
pub(crate) struct LogEnd {
    /// The segment to write to.
    pub(crate) active: ActiveSegment,
    /// The state that the next segment begins with.
    pub(crate) catalogue: Catalogue,
    /// The number of the next batch.
    pub(crate) next_batch: u64,
}

/// Replays the log into `recovery` and makes it ready for writing.
pub(crate) fn recover(shared: &Shared, recovery: &mut dyn Recovery) -> Result<(RecoveryReport, LogEnd), StorageError> {
    let mut replay = Replay::new(shared, recovery, None);
    let segments = list(shared)?;
    let Some(Last { segment, file, tail }) = read_all(&mut replay, &segments, OpenMode::Write)? else {
        let Replay { report, catalogue, next_batch, .. } = replay;
        let active = ActiveSegment::create(shared, 1, &catalogue, next_batch)?;
        return Ok((report, LogEnd { active, catalogue, next_batch }));
    };
    Ok(begin_writing(replay, &segment, file, &tail)?)
}

/// Reads the log exactly as [`recover`] does, but changes nothing. `observer` sees how recovery would take each piece.
pub(crate) fn examine(shared: &Shared, observer: &mut dyn Observer) -> Result<RecoveryReport, StorageError> {
    let mut discard = DiscardMutations;
    let mut replay = Replay::new(shared, &mut discard, Some(observer));
    let segments = list(shared)?;
    let last = read_all(&mut replay, &segments, OpenMode::Read)?;
    if let Some(Last { segment, file, tail }) = last {
        let torn = segment.bytes() - tail.end;
        if torn > 0 {
            replay.report.torn_bytes = torn;
            replay.observe(Observed::Torn { segment: &segment, file: &*file, offset: tail.end, len: torn })?;
        }
    }
    Ok(replay.report)
}

/// The last segment, where writing continues.
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
            return Err(not_a_segment(&last.path).into());
        }
        // A foreign file is left as it is, not cut; a new segment follows it.
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
) -> Result<(RecoveryReport, LogEnd), JsonLogError> {
    let Replay { shared, catalogue, next_batch, mut report, .. } = replay;
    let dir = &shared.config.path;
    let sync = || -> Result<(), JsonLogError> {
        // The previous process may have ended before a sync, and later records depend on these.
        file.sync().map_err(|source| JsonLogError::io("sync", &last.path, source))?;
        Ok(durable_files::sync_dir(&*shared.files, dir)?)
    };
    // The last batch has lost lines to damage, and only the torn bytes after it show that it is not a torn tail itself. Once they
    // are cut, the next start would cut the batch as well. So a new segment is created after it first.
    let next = if tail.ends_in_batch {
        sync()?;
        Some(ActiveSegment::create(shared, last.number + 1, &catalogue, next_batch)?)
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
            "cut a torn tail: unconfirmed writes from before a crash"
        );
        file.truncate(tail.end).map_err(|source| JsonLogError::io("truncate", &last.path, source))?;
        last.set_bytes(tail.end);
    }
    sync()?;
    let active = match (next, tail.begin) {
        (Some(next), _) => next,
        // A crash interrupted the writing of its header and catalogue.
        _ if tail.end == 0 => ActiveSegment::begin(shared, file, last.number, &catalogue, next_batch)?,
        (None, Some(begin)) => ActiveSegment::resume(shared, last.clone(), file, begin),
        (None, None) => ActiveSegment::create(shared, last.number + 1, &catalogue, next_batch)?,
    };
    Ok((report, LogEnd { active, catalogue, next_batch }))
}

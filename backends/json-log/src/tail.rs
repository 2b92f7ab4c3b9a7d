//! Where the last segment ends.
//!
//! Only that one can have a torn tail, because a segment is synced before the next is begun. What comes after its last whole
//! batch is cut; anything else that does not check is damage.

use std::io;

use crate::error::JsonLogError;
use crate::files::{DataFile, read_full};
use crate::format::{MAGIC, frame};
use crate::lines::{LineReader, Piece};
use crate::segment::Segment;

/// How the last segment ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where its last whole batch ends; what follows is torn.
    pub(crate) end: u64,
    /// The batch that ends there has lost its last lines to damage: only what follows says that it is no torn tail itself.
    pub(crate) ends_in_batch: bool,
    /// Where its catalogue ends; `None` if that or the header is not whole, so that it cannot be the oldest one day.
    pub(crate) begin: Option<u64>,
    /// Whether any of its lines checks.
    pub(crate) has_records: bool,
}

/// Finds the end of the last whole batch.
///
/// A batch whose last lines are all there, but damaged, is whole; one that ends early is not. A line without a line ending,
/// or with zeros, was cut off: it does not count as there.
pub(crate) fn find_tail(file: &dyn DataFile, len: u64) -> io::Result<Tail> {
    let mut reader = LineReader::new(file, len);
    let mut tail = Tail::default();
    // The batch that is being read, and how many lines of it are owed.
    let mut batch = None;
    let mut owed = 0_u64;
    let mut all_good = true;
    let mut in_names = true;
    while let Some(piece) = reader.next()? {
        let (offset, end, frame) = match piece {
            Piece::Record { offset, len, body, ended: true } => {
                tail.has_records = true;
                all_good &= offset > 0 || body.starts_with(MAGIC);
                (offset, offset + len, frame(body))
            }
            Piece::Bad { offset, len, whole: true, .. } => (offset, offset + len, None),
            Piece::Record { .. } | Piece::Bad { .. } => {
                all_good = false;
                continue;
            }
            Piece::Ending { .. } => continue,
        };
        in_names &= frame.is_none_or(|frame| frame.batch == 0);
        // Names behind records are not taken for any.
        let Some(frame) = frame.filter(|frame| in_names || frame.batch > 0) else {
            all_good = false;
            if owed > 0 {
                owed -= 1;
                if owed == 0 {
                    tail.end = end;
                    tail.ends_in_batch = false;
                }
            }
            continue;
        };
        if batch == Some(frame.batch) {
            all_good &= frame.left.checked_add(1) == Some(owed);
        } else if owed > 0 {
            // Lines of the batch before are missing in front of valid ones: damage, not a torn tail.
            tail.end = offset;
            tail.ends_in_batch = true;
        }
        batch = Some(frame.batch);
        owed = frame.left;
        if owed == 0 {
            tail.end = end;
            tail.ends_in_batch = false;
            if frame.batch == 0 && all_good {
                tail.begin = Some(end);
            }
        }
    }
    Ok(tail)
}

/// Whether a file without a valid line was not written by this storage: it does not begin as a segment does, as far as it goes,
/// nor with the zeros of a power failure.
pub(crate) fn is_foreign(file: &dyn DataFile, segment: &Segment) -> Result<bool, JsonLogError> {
    let mut start = [0; MAGIC.len()];
    let read = read_full(file, &mut start, 0).map_err(|source| JsonLogError::io("read", &segment.path, source))?;
    let start = &start[..read];
    Ok(!MAGIC.starts_with(start) && start.iter().any(|byte| *byte != 0))
}

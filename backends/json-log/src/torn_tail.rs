//! The end of the last segment: where its last whole batch ends, and whether the bytes after it are a torn tail.
//!
//! A torn tail is a write that a crash interrupted. It was never confirmed, so it is cut. Only the last segment can have one, because
//! every other segment was synced before its successor was created. Bytes are torn if no whole batch follows them. A bad line that
//! is followed by a whole batch was written completely and changed later, which is damage.
//!
//! ```text
//!   │ batch 7 │ batch 8 │ batch 9, left 1 │ half a li            cut after batch 8: batch 9 ends early
//!   │ batch 7 │ batch 8 │ 000000000000000000000                  cut after batch 8: the length survived, the bytes did not
//!   │ batch 7 │ ▒▒▒▒▒▒▒ │ batch 9 │                              damage: batch 8 is skipped and reported
//!   │ batch 7 │ batch 8, left 1 │ batch 9 │ half a li            damage in batch 8; cut after batch 9
//! ```

use std::io;

use durable_files::{DataFile, read_full};

use crate::directory::begins_otherwise;
use crate::error::JsonLogError;
use crate::format::{MAGIC, frame};
use crate::line_reader::{LineReader, Piece};
use crate::segment::Segment;

/// The end of the last segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The offset after its last whole batch; bytes from there on are torn.
    pub(crate) end: u64,
    /// Whether the batch that ends there has lost its last lines to damage. Only the bytes after it show that it is not torn itself.
    pub(crate) ends_in_batch: bool,
    /// The offset after its catalogue. `None` if the header or the catalogue is incomplete: such a segment must not become the
    /// oldest, so writing continues in a new one.
    pub(crate) begin: Option<u64>,
    /// Whether at least one of its lines is valid.
    pub(crate) has_records: bool,
}

/// Finds the end of the last whole batch.
///
/// A batch whose last lines exist but are damaged is whole; a batch that ends early is not. A line without a line ending, or with
/// zeros in it, was cut off and does not count as existing.
pub(crate) fn find_tail(file: &dyn DataFile, len: u64) -> io::Result<Tail> {
    let mut reader = LineReader::new(file, len);
    let mut tail = Tail::default();
    // The batch being read, and the number of its lines still to come.
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
        // Catalogue lines count only before the first record.
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
            // The previous batch lacks lines, but valid ones follow: damage, not a torn tail.
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

/// Whether a file without a valid line was written by another program: its start is neither a segment's nor the zeros that a power
/// failure leaves.
pub(crate) fn is_foreign(file: &dyn DataFile, segment: &Segment) -> Result<bool, JsonLogError> {
    let mut start = [0; MAGIC.len()];
    let read = read_full(file, &mut start, 0).map_err(|source| JsonLogError::io("read", &segment.path, source))?;
    Ok(begins_otherwise(&start[..read]))
}

//! Reading payloads by place: in the order of the disk, neighbours with one read.

use std::io;

use broker_core::event::Payload;
use broker_core::storage::{ReadKey, StorageError};

use crate::error::JsonLogError;
use crate::files::read_full;
use crate::format::{check, decode_event, leading_record};
use crate::place::{self, At};
use crate::segment::Reading;
use crate::shared::Shared;

/// The most that one read brings, unless a single record is longer: payloads share the memory of their read.
const RUN_BYTES: u64 = 256 << 10;

/// A gap that is cheaper to read than a second read would be.
const GAP_BYTES: u64 = 4 << 10;

/// Something to be read.
#[derive(Debug)]
pub(crate) struct Wanted {
    key: ReadKey,
    at: At,
    /// Where it goes in the answer.
    answer: usize,
    segment: Reading,
}

/// Finds the segments of `keys` and keeps them; what is gone is left out.
pub(crate) fn resolve(shared: &Shared, keys: Vec<ReadKey>) -> Vec<Wanted> {
    let resolve = |(answer, key): (usize, ReadKey)| {
        let segment = shared.segments.reading(key.place)?;
        Some(Wanted { at: place::unpack(key.place), key, answer, segment })
    };
    keys.into_iter().enumerate().filter_map(resolve).collect()
}

/// Reads what was resolved into an answer of `count` payloads. Blocking.
pub(crate) fn read(
    shared: &Shared,
    mut wanted: Vec<Wanted>,
    count: usize,
) -> Result<Vec<Option<Payload>>, StorageError> {
    let mut answer = vec![None; count];
    wanted.sort_unstable_by_key(|wanted| (wanted.segment.number, wanted.at.offset));
    let mut rest = &wanted[..];
    while let Some(first) = rest.first() {
        let from = first.at.offset;
        let mut to = from + first.at.size;
        let run = rest[1..].iter().take_while(|next| {
            let end = to.max(next.at.offset + next.at.size);
            let near = next.segment.number == first.segment.number
                && next.at.offset <= to + GAP_BYTES
                && end - from <= RUN_BYTES;
            if near {
                to = end;
            }
            near
        });
        let (run, others) = rest.split_at(1 + run.count());
        rest = others;
        read_run(shared, run, to - from, &mut answer)
            .map_err(|source| JsonLogError::io("read", &first.segment.path, source).into_read_error())?;
    }
    Ok(answer)
}

fn read_run(shared: &Shared, run: &[Wanted], len: u64, answer: &mut [Option<Payload>]) -> io::Result<()> {
    let (Some(first), Ok(len)) = (run.first(), usize::try_from(len)) else { return Ok(()) };
    let file = match shared.segments.file(&first.segment) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut buffer = vec![0; len];
    let filled = read_full(&*file, &mut buffer, first.at.offset)?;
    buffer.truncate(filled);

    for wanted in run {
        let start = usize::try_from(wanted.at.offset - first.at.offset).unwrap_or(usize::MAX);
        let payload = buffer.get(start..).map(|bytes| extract(bytes, wanted));
        match payload {
            Some(Ok(payload)) => answer[wanted.answer] = Some(payload),
            Some(Err(what)) => shared.damage(&wanted.segment.path, wanted.at.offset, what),
            None => shared.damage(&wanted.segment.path, wanted.at.offset, "the file ends before the record"),
        }
    }
    Ok(())
}

/// The payload of the record that `bytes` begin with.
fn extract(bytes: &[u8], wanted: &Wanted) -> Result<Payload, &'static str> {
    let line = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..end]);
    let body = check(line)
        // Its line ending is damaged, or beyond what was read.
        .or_else(|| leading_record(line).and_then(|len| check(&line[..len])))
        .ok_or("a line whose checksum does not match")?;
    let event = decode_event(body).ok_or("a record that is not an event")?;
    if event.key != wanted.key.key || event.topic != wanted.key.topic.as_str() {
        return Err("another event than the one that was asked for");
    }
    event.payload().ok_or("an event that contradicts itself")
}

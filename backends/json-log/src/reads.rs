//! Reads payloads by place, in disk order, with one read for neighbouring records.

use std::io;

use broker_core::event::Payload;
use broker_core::storage::{ReadKey, StorageError};
use durable_files::read_full;

use crate::error::JsonLogError;
use crate::format::{check, decode_event, leading_record};
use crate::place::{self, At};
use crate::segment::Reading;
use crate::shared::Shared;

/// The most bytes of one read, unless a single record is longer.
const RUN_BYTES: u64 = 256 << 10;

/// The longest gap between two records that is cheaper to read than to skip.
const GAP_BYTES: u64 = 4 << 10;

/// A resolved key.
#[derive(Debug)]
pub(crate) struct Wanted {
    key: ReadKey,
    at: At,
    /// Its index in the answer.
    answer: usize,
    segment: Reading,
}

/// Finds the segments of `keys` and keeps them readable. Keys whose segment is gone are omitted.
pub(crate) fn resolve(shared: &Shared, keys: Vec<ReadKey>) -> Vec<Wanted> {
    let resolve = |(answer, key): (usize, ReadKey)| {
        let segment = shared.segments.reading(key.place)?;
        Some(Wanted { at: place::unpack(key.place), key, answer, segment })
    };
    keys.into_iter().enumerate().filter_map(resolve).collect()
}

/// Reads resolved keys into an answer of `count` payloads. Blocking.
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
            None => shared.damage(&wanted.segment.path, wanted.at.offset, "a record beyond the end of the file"),
        }
    }
    Ok(())
}

/// The payload of the record at the start of `bytes`.
fn extract(bytes: &[u8], wanted: &Wanted) -> Result<Payload, &'static str> {
    let line = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..end]);
    let body = check(line)
        // Its line ending is damaged, or lies beyond the bytes read.
        .or_else(|| leading_record(line).and_then(|len| check(&line[..len])))
        .ok_or("a line whose checksum does not match")?;
    let event = decode_event(body).ok_or("a record that is not an event")?;
    if event.key != wanted.key.key || event.topic != wanted.key.topic.as_str() {
        return Err("a different event than the requested one");
    }
    event.payload().ok_or("an event with inconsistent fields")
}

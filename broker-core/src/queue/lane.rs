//! A lane: a topic's events of one priority, in the order of their sequence.
//!
//! Entries are stored in chunks of at most [`CHUNK`]. So memory is freed in pieces anywhere in the lane, and a long-lived event
//! pins no more than its chunk. The size of an entry does not depend on its payload: payloads are kept beside the entries while the
//! budget allows, and dropped a chunk at a time.
//!
//! ```text
//!           chunk          chunk          chunk
//! entries   1 . 4 5 . 9    12 13 . . 17   21 23 24      `.` is freed: its place stays empty until the whole chunk goes
//! payloads  p   p p   p    -              p  p  -       all dropped; one not read back yet
//! ```

use std::collections::VecDeque;

use crate::event::{Millis, Payload, Seq};
use crate::name::IdKey;
use crate::storage::Place;

/// Counts a step of a search, so that tests can bound them. Costs nothing outside of tests.
#[inline(always)]
pub(super) fn step() {
    #[cfg(test)]
    super::tests::STEPS.set(super::tests::STEPS.get() + 1);
}

/// The entries of a chunk: enough to keep the table of chunks small, few enough that dropping a chunk causes no pause.
const CHUNK: usize = 512;

/// The memory of a lane beyond its entries: its node in the topic's map, the table of its chunks, its place among the lanes with new events,
/// and the position of one subscription. It matters where priorities are nearly all distinct.
pub(super) const LANE_BYTES: usize = 240;

/// The memory of a payload beyond its bytes: its handle, its allocation, its reference count.
const PAYLOAD_OVERHEAD: usize = 96;

/// The topic's record of an event: 48 bytes per waiting event.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: IdKey,
    pub(super) seq: Seq,
    place: Place,
    /// The number of subscriptions that have not settled it.
    pub(super) holders: u32,
    /// Length of the payload in bytes.
    pub(super) len: u32,
    /// The time of publication in milliseconds, above eight bits of flags.
    stamp: u64,
}

const FLAG_BITS: u32 = 8;
/// No subscription needs the event; its place in the chunk stays empty.
const FREED: u64 = 1;
/// The event is withdrawn from all subscriptions that do not have it in flight.
const WITHDRAWN: u64 = 2;
/// The event's `place` is known.
const WRITTEN: u64 = 4;
/// The event has an expiry or a due time in the topic's side table.
const TIMED: u64 = 8;

impl Entry {
    pub(super) fn new(id: IdKey, seq: Seq, holders: u32, len: usize, at: Millis, timed: bool) -> Self {
        let len = u32::try_from(len).expect("an event is shorter than the line it arrived on");
        Self { id, seq, place: Place(0), holders, len, stamp: at.0 << FLAG_BITS | if timed { TIMED } else { 0 } }
    }

    fn has(&self, flag: u64) -> bool {
        self.stamp & flag != 0
    }

    /// Whether the event was withdrawn from all subscriptions that did not have it in flight; the others keep it.
    pub(super) fn withdrawn(&self) -> bool {
        self.has(WITHDRAWN)
    }

    pub(super) fn withdraw(&mut self) {
        self.stamp |= WITHDRAWN;
    }

    pub(super) fn timed(&self) -> bool {
        self.has(TIMED)
    }

    /// The event's place in the storage, once it is written.
    pub(super) fn place(&self) -> Option<Place> {
        self.has(WRITTEN).then_some(self.place)
    }

    pub(super) fn set_place(&mut self, place: Place) {
        self.place = place;
        self.stamp |= WRITTEN;
    }

    pub(super) fn published_at(&self) -> Millis {
        Millis(self.stamp >> FLAG_BITS)
    }
}

#[derive(Debug, Default)]
struct Chunk {
    entries: Vec<Entry>,
    /// Parallel to `entries`, or shorter: payloads beyond its end are not in memory.
    payloads: Vec<Option<Payload>>,
    /// The number of entries that are not freed.
    live: usize,
    /// The memory that the payloads cost, in bytes.
    cached: usize,
}

pub(super) fn cost(payload: &Payload) -> usize {
    payload.len() + PAYLOAD_OVERHEAD
}

impl Chunk {
    fn first(&self) -> Seq {
        self.entries.first().map_or(Seq(0), |entry| entry.seq)
    }

    fn last(&self) -> Seq {
        self.entries.last().map_or(Seq(0), |entry| entry.seq)
    }

    fn set_payload(&mut self, index: usize, payload: Payload) {
        if self.payloads.len() <= index {
            if index == 0 && self.entries.capacity() == 1 {
                self.payloads.reserve_exact(1);
            }
            self.payloads.resize(index + 1, None);
        }
        self.cached += cost(&payload);
        if let Some(old) = self.payloads[index].replace(payload) {
            self.cached -= cost(&old);
        }
    }

    fn take_payload(&mut self, index: usize) {
        if let Some(payload) = self.payloads.get_mut(index).and_then(Option::take) {
            self.cached -= cost(&payload);
        }
    }
}

/// A topic's events of one priority.
#[derive(Debug, Default)]
pub(super) struct Lane {
    chunks: VecDeque<Chunk>,
    live: usize,
    cached: usize,
    /// The memory of the entries, in bytes, including spare capacity.
    index: usize,
    /// No chunk from this index on has payloads in memory. It may be too high, but never too low.
    cached_to: usize,
}

impl Lane {
    /// Events that are not freed.
    #[inline]
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// The memory that the payloads cost, in bytes.
    #[inline]
    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// The memory that the entries cost, in bytes.
    #[inline]
    pub(super) fn index_bytes(&self) -> usize {
        self.index
    }

    /// The latest event.
    pub(super) fn last(&self) -> Option<Seq> {
        self.chunks.back().map(Chunk::last)
    }

    /// Adds an event at its position, which outside recovery is the end. With `payload` as `None`, the payload stays in the storage.
    pub(super) fn insert(&mut self, entry: Entry, payload: Option<Payload>) {
        let seq = entry.seq;
        let at_end = self.chunks.back().is_none_or(|chunk| chunk.last() < seq);
        let chunk_index = if at_end {
            if self.chunks.back().is_none_or(|chunk| chunk.entries.len() >= CHUNK) {
                self.begin_chunk();
            }
            self.chunks.len() - 1
        } else {
            // Only recovery inserts elsewhere, because a log replays moved events late.
            self.chunk_for_insert(seq)
        };
        let chunk = &mut self.chunks[chunk_index];
        let index = if at_end { chunk.entries.len() } else { chunk.entries.partition_point(|e| e.seq < seq) };
        let room = chunk.entries.capacity();
        chunk.entries.insert(index, entry);
        self.index += (chunk.entries.capacity() - room) * size_of::<Entry>();
        if index < chunk.payloads.len() {
            chunk.payloads.insert(index, None);
        }
        chunk.live += 1;
        self.live += 1;
        if let Some(payload) = payload {
            let before = chunk.cached;
            chunk.set_payload(index, payload);
            self.cached += chunk.cached - before;
        }
        self.cached_to = self.chunks.len();
    }

    /// Adds a chunk at the end. The first one of a lane begins with room for a single event, because a lane may never have more.
    fn begin_chunk(&mut self) {
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
            self.chunks.push_back(Chunk { entries: Vec::with_capacity(1), ..Chunk::default() });
            self.index += size_of::<Entry>();
        } else {
            self.chunks.push_back(Chunk::default());
        }
    }

    /// The chunk for `seq`, which is not the highest sequence. A full chunk is split.
    fn chunk_for_insert(&mut self, seq: Seq) -> usize {
        let index = self.chunks.partition_point(|chunk| chunk.first() <= seq).saturating_sub(1);
        let chunk = &mut self.chunks[index];
        if chunk.entries.len() < CHUNK {
            return index;
        }
        let half = chunk.entries.len() / 2;
        let entries = chunk.entries.split_off(half);
        self.index += entries.capacity() * size_of::<Entry>();
        let payloads = if chunk.payloads.len() > half { chunk.payloads.split_off(half) } else { Vec::new() };
        let live = entries.iter().filter(|entry| !entry.has(FREED)).count();
        let cached = payloads.iter().flatten().map(cost).sum();
        chunk.live -= live;
        chunk.cached -= cached;
        let goes_right = entries.first().is_some_and(|entry| entry.seq <= seq);
        self.chunks.insert(index + 1, Chunk { entries, payloads, live, cached });
        index + usize::from(goes_right)
    }

    #[inline]
    fn find(&self, seq: Seq) -> Option<(usize, usize)> {
        // The common lookups are at the ends: the event just published, and the oldest.
        let chunk_index = match self.chunks.len() {
            0 => return None,
            1 => 0,
            n if self.chunks[n - 1].first() <= seq => n - 1,
            _ if self.chunks[0].last() >= seq => 0,
            _ => self.chunks.partition_point(|chunk| chunk.last() < seq),
        };
        let chunk = self.chunks.get(chunk_index)?;
        let index = chunk.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        (!chunk.entries[index].has(FREED)).then_some((chunk_index, index))
    }

    /// The event `seq`, unless it is freed.
    #[inline]
    pub(super) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.find(seq).map(|(chunk, index)| &self.chunks[chunk].entries[index])
    }

    /// The event `seq` for changes, unless it is freed.
    #[inline]
    pub(super) fn get_mut(&mut self, seq: Seq) -> Option<&mut Entry> {
        let (chunk, index) = self.find(seq)?;
        Some(&mut self.chunks[chunk].entries[index])
    }

    /// The payload of `seq`, if it is in memory.
    #[inline]
    pub(super) fn payload(&self, seq: Seq) -> Option<&Payload> {
        let (chunk, index) = self.find(seq)?;
        self.chunks[chunk].payloads.get(index)?.as_ref()
    }

    /// Keeps the payload of `seq` in memory.
    pub(super) fn set_payload(&mut self, seq: Seq, payload: Payload) {
        if let Some((chunk, index)) = self.find(seq) {
            self.cached_to = self.cached_to.max(chunk + 1);
            let chunk = &mut self.chunks[chunk];
            let before = chunk.cached;
            chunk.set_payload(index, payload);
            self.cached = self.cached + chunk.cached - before;
        }
    }

    /// The first event after `seq` that is neither freed nor withdrawn.
    #[inline] // The calls of a search, one per event, would be measurable.
    pub(super) fn first_after(&self, seq: Seq) -> Option<&Entry> {
        self.iter_after(seq).next()
    }

    /// The events after `seq` that are neither freed nor withdrawn, in order.
    #[inline] // As for `first_after`.
    pub(super) fn iter_after(&self, seq: Seq) -> impl Iterator<Item = &Entry> {
        let first_chunk = match self.chunks.front() {
            Some(chunk) if chunk.last() > seq => 0,
            _ => self.chunks.partition_point(|chunk| chunk.last() <= seq),
        };
        let skip = self.chunks.get(first_chunk).map_or(0, |chunk| chunk.entries.partition_point(|e| e.seq <= seq));
        self.chunks
            .iter()
            .skip(first_chunk)
            .enumerate()
            .flat_map(move |(n, chunk)| chunk.entries[if n == 0 { skip } else { 0 }..].iter())
            .filter(|entry| {
                step();
                !entry.has(FREED | WITHDRAWN)
            })
    }

    /// Frees the event `seq` and returns its entry. The last event of a chunk also frees the chunk.
    pub(super) fn free(&mut self, seq: Seq) -> Option<Entry> {
        let (chunk_index, index) = self.find(seq)?;
        let chunk = &mut self.chunks[chunk_index];
        let before = chunk.cached;
        chunk.take_payload(index);
        self.cached = self.cached + chunk.cached - before;
        let entry = chunk.entries[index].clone();
        chunk.entries[index].stamp |= FREED;
        chunk.live -= 1;
        self.live -= 1;
        if chunk.live == 0 {
            self.index -= chunk.entries.capacity() * size_of::<Entry>();
            self.chunks.remove(chunk_index);
        }
        Some(entry)
    }

    /// Drops the payloads of the last chunk whose payloads can all be read back. Returns the bytes freed.
    pub(super) fn evict(&mut self) -> usize {
        self.cached_to = self.cached_to.min(self.chunks.len());
        let mut unwritten = false;
        for index in (0..self.cached_to).rev() {
            let chunk = &mut self.chunks[index];
            // Events are written in the order of their sequence, so the last live one shows that all are. An event freed before it was
            // written never gets a place.
            let last = chunk.entries.iter().rev().find(|entry| !entry.has(FREED));
            if chunk.cached > 0 && last.is_some_and(|entry| entry.has(WRITTEN)) {
                let freed = chunk.cached;
                chunk.payloads = Vec::new();
                chunk.cached = 0;
                self.cached -= freed;
                return freed;
            }
            unwritten |= chunk.cached > 0;
            if !unwritten {
                self.cached_to = index;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Priority;

    fn entry(seq: u64) -> Entry {
        Entry::new(IdKey::of(&seq.to_string()), Seq(seq), 1, 10, Millis(seq), false)
    }

    fn payload() -> Payload {
        Payload::encode("t", Priority(0), "1", "a")
    }

    #[test]
    fn an_entry_costs_48_bytes() {
        assert_eq!(size_of::<Entry>(), 48);
    }

    #[test]
    fn inserting_in_any_order_and_freeing_in_any_order_keeps_the_rest_in_order() {
        let mut lane = Lane::default();
        // 1 mod 7919 times 5 visits every residue: a fixed, thorough shuffle.
        let order: Vec<u64> = (0..7919_u64).map(|n| n * 5 % 7919 + 1).collect();
        for seq in &order {
            lane.insert(entry(*seq), (*seq % 3 == 0).then(payload));
        }
        let seqs = |lane: &Lane, after| lane.iter_after(Seq(after)).map(|e| e.seq.0).collect::<Vec<_>>();
        assert_eq!(seqs(&lane, 0), (1..=7919).collect::<Vec<_>>());
        assert_eq!(seqs(&lane, 7000), (7001..=7919).collect::<Vec<_>>());
        for seq in order.iter().filter(|seq| *seq % 2 == 0) {
            lane.free(Seq(*seq));
            assert!(lane.get(Seq(*seq)).is_none());
        }
        assert_eq!(seqs(&lane, 0), (1..=7919).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        assert_eq!(lane.live(), 3960);
        let room: usize = lane.chunks.iter().map(|chunk| chunk.entries.capacity() * 48).sum();
        assert_eq!(lane.index_bytes(), room);
        let expected: usize = (1..=7919).filter(|n| n % 6 == 3).map(|_| cost(&payload())).sum();
        assert_eq!(lane.cached(), expected);
        for seq in 1..=7919 {
            assert_eq!(lane.payload(Seq(seq)).is_some(), seq % 6 == 3);
            lane.free(Seq(seq));
        }
        assert_eq!((lane.live(), lane.cached(), lane.index_bytes(), lane.chunks.len()), (0, 0, 0, 0));
    }

    #[test]
    fn only_payloads_that_can_be_read_back_are_evicted_latest_first() {
        let mut lane = Lane::default();
        for seq in 1..=1024 {
            lane.insert(entry(seq), Some(payload()));
        }
        assert_eq!(lane.evict(), 0, "nothing is written yet");
        for seq in 1..=1024 {
            lane.get_mut(Seq(seq)).expect("it is there").set_place(Place(seq));
        }
        let all = lane.cached();
        assert_eq!(lane.evict(), all / 2);
        assert!(lane.payload(Seq(512)).is_some());
        assert!(lane.payload(Seq(513)).is_none());
        lane.set_payload(Seq(600), payload());
        assert!(lane.payload(Seq(600)).is_some());
        assert!(lane.payload(Seq(599)).is_none());
        assert_eq!(lane.get(Seq(600)).and_then(Entry::place), Some(Place(600)));
    }
}

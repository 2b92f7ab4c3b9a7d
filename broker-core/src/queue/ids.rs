//! The index from ids to events: a little over 16 bytes for each waiting event.
//!
//! A table that doubles blocks the shard while it grows, and temporarily needs half as much memory again. So a large index consists of
//! many small tables, which grow one at a time. Tables enlarged by a backlog shrink once the backlog is gone.

use hashbrown::HashTable;

use crate::event::{EventKey, Priority, Seq};
use crate::name::IdKey;

/// The number of rows beyond which the index is split into [`PARTS`] tables.
const SPLIT: usize = 1 << 15;
const PARTS: usize = 64;
/// The bytes of a table per row of capacity: the row and one control byte.
const ROW: usize = size_of::<Row>() + 1;

/// A row of 16 bytes, which can move to another table without accessing the event.
#[derive(Debug, Clone, Copy)]
struct Row {
    hash: u32,
    priority: Priority,
    seq_high: u32,
    seq_low: u32,
}

impl Row {
    fn new(id: IdKey, key: EventKey) -> Self {
        let seq = key.seq.0;
        Self { hash: hash_of(id), priority: key.priority, seq_high: (seq >> 32) as u32, seq_low: seq as u32 }
    }

    fn key(&self) -> EventKey {
        EventKey { priority: self.priority, seq: Seq(u64::from(self.seq_high) << 32 | u64::from(self.seq_low)) }
    }

    /// The hash spread over 64 bits. A table picks the bucket by the low bits and compares the highest ones.
    fn spread(&self) -> u64 {
        spread(self.hash)
    }
}

fn hash_of(id: IdKey) -> u32 {
    id.short() as u32
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The events of each id.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// One table, or [`PARTS`] tables selected by high bits of the hash, which do not select buckets within a table.
    parts: Vec<HashTable<Row>>,
    len: usize,
    /// The memory of the tables, in bytes.
    bytes: usize,
}

impl Ids {
    fn part(&self, hash: u32) -> usize {
        if self.parts.len() == PARTS { (hash >> (u32::BITS - PARTS.trailing_zeros())) as usize } else { 0 }
    }

    pub(super) fn insert(&mut self, id: IdKey, key: EventKey) {
        if self.parts.is_empty() {
            self.parts.push(HashTable::new());
        } else if self.len == SPLIT && self.parts.len() == 1 {
            self.split();
        }
        let row = Row::new(id, key);
        let at = self.part(row.hash);
        let part = &mut self.parts[at];
        let before = part.allocation_size();
        part.insert_unique(row.spread(), row, Row::spread);
        self.bytes = self.bytes + part.allocation_size() - before;
        self.len += 1;
    }

    fn split(&mut self) {
        let whole = std::mem::replace(&mut self.parts, vec![HashTable::new(); PARTS]);
        for row in whole.into_iter().flatten() {
            let at = self.part(row.hash);
            self.parts[at].insert_unique(row.spread(), row, Row::spread);
        }
        self.bytes = self.parts.iter().map(HashTable::allocation_size).sum();
    }

    /// The events that may have this id: those whose id has the same 32 bits of hash.
    pub(super) fn candidates(&self, id: IdKey) -> impl Iterator<Item = EventKey> {
        let hash = hash_of(id);
        let rows = self.parts.get(self.part(hash)).map(|part| part.iter_hash(spread(hash)));
        rows.into_iter().flatten().filter(move |row| row.hash == hash).map(Row::key)
    }

    pub(super) fn remove(&mut self, id: IdKey, key: EventKey) {
        let hash = hash_of(id);
        let at = self.part(hash);
        let Some(part) = self.parts.get_mut(at) else { return };
        let before = part.allocation_size();
        let Ok(row) = part.find_entry(spread(hash), |row| row.key() == key) else { return };
        row.remove();
        // A table with capacity for over eight times its rows shrinks, but not so far that it would soon grow again.
        if part.len() * 8 * ROW < before && before > 64 * ROW {
            part.shrink_to(part.len() * 2, Row::spread);
        }
        self.bytes = self.bytes + part.allocation_size() - before;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
    }

    /// The memory of the index, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> EventKey {
        EventKey { priority: Priority((n % 7) as i32 - 3), seq: Seq(n << 20 | n) }
    }

    #[test]
    fn inserted_rows_are_found_until_removed_at_every_size() {
        let mut ids = Ids::default();
        let most = 3 * SPLIT as u64;
        let id = |n: u64| IdKey::of(&n.to_string());
        for n in 0..most {
            ids.insert(id(n), key(n));
        }
        let large = ids.bytes();
        assert!((most as usize * 17..most as usize * 40).contains(&large), "{large}");
        for n in 0..most {
            assert!(ids.candidates(id(n)).any(|found| found == key(n)), "{n}");
        }
        for n in (0..most).filter(|n| n % 50 > 0) {
            ids.remove(id(n), key(n));
        }
        assert!(ids.bytes() < large / 10, "{} of {large}", ids.bytes());
        for n in 0..most {
            assert_eq!(ids.candidates(id(n)).any(|found| found == key(n)), n % 50 == 0, "{n}");
        }
        for n in (0..most).step_by(50) {
            ids.remove(id(n), key(n));
        }
        assert_eq!((ids.len(), ids.bytes()), (0, 0));
    }

    #[test]
    fn events_of_one_id_are_distinguished_by_their_keys() {
        let mut ids = Ids::default();
        let id = IdKey::of("same");
        for n in 0..10 {
            ids.insert(id, key(n));
        }
        ids.remove(id, key(3));
        ids.remove(id, key(3));
        let mut left: Vec<EventKey> = ids.candidates(id).collect();
        left.sort_unstable_by_key(|key| key.seq);
        assert_eq!(left, (0..10).filter(|n| *n != 3).map(key).collect::<Vec<_>>());
    }
}

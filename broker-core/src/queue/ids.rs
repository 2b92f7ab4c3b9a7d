//! Which events stand for an id: 16 bytes and a little for each event that waits.
//!
//! A table that doubles holds everybody up while it does, and for that moment takes half as much again. So a large index is many
//! small tables, which grow one at a time; and what a backlog has made large gets small again when the backlog has gone.

use hashbrown::HashTable;

use crate::event::{EventKey, Priority, Seq};
use crate::name::IdKey;

/// Rows above which the index is in [`PARTS`] tables.
const SPLIT: usize = 1 << 15;
const PARTS: usize = 64;
/// What a table takes for a row, whether it is there or not: the row and a byte beside it.
const ROW: usize = size_of::<Row>() + 1;

/// 16 bytes, and its hash without a look at the event.
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

    /// Spreads 32 bits over the 64 that a table looks at: it picks the bucket by the low ones and compares the highest.
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

/// From ids to the events that have them.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// One table, or [`PARTS`] by the high bits of the hash, which the tables do not pick their buckets by.
    parts: Vec<HashTable<Row>>,
    len: usize,
    /// Bytes that the tables take.
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

    /// The events that may have this id: those with the same 32 bits of its hash.
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
        // A table with room for more than eight times what is in it shrinks, and not so far that it grows again at once.
        if part.len() * 8 * ROW < before && before > 64 * ROW {
            part.shrink_to(part.len() * 2, Row::spread);
        }
        self.bytes = self.bytes + part.allocation_size() - before;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
    }

    /// What it costs in memory, in bytes.
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
    fn what_is_inserted_is_found_until_it_is_removed_whatever_the_size() {
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
    fn events_of_one_id_are_told_apart_by_their_keys() {
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

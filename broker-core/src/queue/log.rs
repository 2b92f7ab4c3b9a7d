//! A topic's log: its events by lane and by id, and which of them are visible. All subscriptions share it.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::Ids;
use super::lane::{Entry, LANE_BYTES, Lane};
use super::memory::Memory;
use super::pending::Pending;
use super::times::{Delays, Expiries, Times};
use crate::event::{EventKey, Millis, Payload, Priority, Seq};
use crate::name::IdKey;
use crate::storage::Place;

/// A stored copy of an event that is no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The event.
    pub key: EventKey,
    /// The copy's place in the storage.
    pub place: Place,
}

/// An event to be added to the log.
#[derive(Debug)]
pub(super) struct NewEntry {
    pub(super) key: EventKey,
    pub(super) id: IdKey,
    /// The number of subscriptions that hold it.
    pub(super) holders: u32,
    pub(super) published_at: Millis,
    pub(super) times: Option<Times>,
    /// The length of its payload in bytes.
    pub(super) len: usize,
    /// The payload; `None` leaves it in the storage.
    pub(super) payload: Option<Payload>,
}

#[derive(Debug, Default)]
struct Slot {
    lane: Lane,
    /// The latest visible event of the lane.
    visible: Seq,
}

/// The events of a topic.
///
/// Invariants:
/// - An event is in the log as long as a subscription holds it: its entry counts the holders, and the last holder frees it.
/// - `changed` has each lane once, under the `visible` of its slot, so that a subscription finds the lanes with new events.
/// - A stored copy enters `released` exactly once: when its event is freed, or when a later copy replaces it. A copy that is written
///   after its event was freed is released at that time.
#[derive(Debug, Default)]
pub(super) struct Log {
    lanes: BTreeMap<Priority, Slot>,
    changed: BTreeSet<(Seq, Priority)>,
    pub(super) last_seq: Seq,
    /// Events up to this sequence may be delivered, because they are as durable as their confirmation promises.
    pub(super) visible: Seq,
    pending: Pending,
    ids: Ids,
    expiries: Expiries,
    delays: Delays,
    /// The copies released since the last drain.
    pub(super) released: Vec<Released>,
    /// The memory that the payloads cost, in bytes.
    cached: usize,
    /// The memory that the entries of all lanes cost, in bytes.
    entries: usize,
    /// Events that are not freed.
    pub(super) live: usize,
    /// The number of copies that the storage has yet to write, for live or freed events.
    pub(super) unplaced: usize,
}

impl Log {
    #[inline]
    fn lane(&self, priority: Priority) -> Option<&Lane> {
        self.lanes.get(&priority).map(|slot| &slot.lane)
    }

    #[inline]
    pub(super) fn get(&self, key: EventKey) -> Option<&Entry> {
        self.lane(key.priority)?.get(key.seq)
    }

    #[inline]
    fn get_mut(&mut self, key: EventKey) -> Option<&mut Entry> {
        self.lanes.get_mut(&key.priority)?.lane.get_mut(key.seq)
    }

    #[inline]
    pub(super) fn times(&self, seq: Seq) -> Option<Times> {
        Times::new(self.expiries.get(seq), self.delays.get(seq))
    }

    #[inline]
    pub(super) fn payload(&self, key: EventKey) -> Option<&Payload> {
        self.lane(key.priority)?.payload(key.seq)
    }

    pub(super) fn set_payload(&mut self, key: EventKey, payload: Payload) {
        if let Some(slot) = self.lanes.get_mut(&key.priority) {
            let before = slot.lane.cached();
            slot.lane.set_payload(key.seq, payload);
            self.cached = self.cached + slot.lane.cached() - before;
        }
    }

    /// Events with this id that have not been withdrawn, in delivery order.
    pub(super) fn find_id(&self, id: IdKey) -> Vec<EventKey> {
        let candidates = self.ids.candidates(id);
        let mut keys: Vec<EventKey> =
            candidates.filter(|key| self.get(*key).is_some_and(|entry| entry.id == id)).collect();
        keys.sort_unstable();
        keys
    }

    // ---- Lanes ----

    /// The first event of a lane after `seq` that has not been withdrawn. It may not be visible yet.
    #[inline]
    pub(super) fn first_after(&self, priority: Priority, seq: Seq) -> Option<&Entry> {
        self.lane(priority)?.first_after(seq)
    }

    /// The events of a lane after `seq` that have not been withdrawn, in order.
    pub(super) fn iter_after(&self, priority: Priority, seq: Seq) -> impl Iterator<Item = &Entry> {
        self.lane(priority).into_iter().flat_map(move |lane| lane.iter_after(seq))
    }

    /// The lanes in use, the most urgent first.
    pub(super) fn priorities(&self) -> impl Iterator<Item = Priority> {
        self.lanes.keys().rev().copied()
    }

    /// The number of lanes in use.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The latest event of a lane.
    pub(super) fn last_of(&self, priority: Priority) -> Option<Seq> {
        self.lane(priority)?.last()
    }

    /// The next less urgent lane in use.
    pub(super) fn priority_below(&self, priority: Priority) -> Option<Priority> {
        self.lanes.range(..priority).next_back().map(|(priority, _)| *priority)
    }

    // ---- Adding and freeing events ----

    /// Adds an event. It is not visible yet.
    #[inline]
    pub(super) fn insert(&mut self, new: NewEntry) {
        let NewEntry { key, id, holders, published_at, times, len, payload } = new;
        let entry = Entry::new(id, key.seq, holders, len, published_at, times.is_some());
        if let Some(Times { expires_at, due_at }) = times {
            if let Some(at) = expires_at {
                self.expiries.insert(key, at);
            }
            if let Some(at) = due_at {
                self.delays.insert(key, at);
            }
        }
        let lane = &mut self.lanes.entry(key.priority).or_default().lane;
        let before = (lane.cached(), lane.index_bytes());
        lane.insert(entry, payload);
        self.cached = self.cached + lane.cached() - before.0;
        self.entries = self.entries + lane.index_bytes() - before.1;
        self.live += 1;
        self.unplaced += 1;
        self.ids.insert(id, key);
        self.last_seq = self.last_seq.max(key.seq);
    }

    /// Settles the event in one subscription. Returns the length of its payload.
    #[inline]
    pub(super) fn settle(&mut self, key: EventKey) -> u64 {
        let Some(entry) = self.get_mut(key) else { return 0 };
        let len = u64::from(entry.len);
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders == 0 {
            self.free(key);
        }
        len
    }

    /// Withdraws an event from all subscriptions that do not have it in flight; `holders` of them do.
    pub(super) fn withdraw(&mut self, key: EventKey, holders: u32) {
        let Some(entry) = self.get_mut(key) else { return };
        entry.holders = holders;
        entry.withdraw();
        let (id, timed) = (entry.id, entry.timed());
        self.ids.remove(id, key);
        if timed {
            self.delays.remove(key);
        }
        if holders == 0 {
            self.free(key);
        }
    }

    fn free(&mut self, key: EventKey) {
        let Some(slot) = self.lanes.get_mut(&key.priority) else { return };
        let before = (slot.lane.cached(), slot.lane.index_bytes());
        let Some(entry) = slot.lane.free(key.seq) else { return };
        // If the event is not written yet, `set_place` releases the copy.
        if let Some(place) = entry.place() {
            self.released.push(Released { key, place });
        }
        self.cached = self.cached + slot.lane.cached() - before.0;
        self.entries = self.entries + slot.lane.index_bytes() - before.1;
        self.live -= 1;
        if slot.lane.live() == 0 {
            self.changed.remove(&(slot.visible, key.priority));
            self.lanes.remove(&key.priority);
        }
        if !entry.withdrawn() {
            self.ids.remove(entry.id, key);
        }
        if entry.timed() {
            self.delays.remove(key);
            self.expiries.remove(key);
        }
    }

    /// Records that the storage has written the event at `place`. Releases an older copy, or this one if the event is gone.
    #[inline]
    pub(super) fn set_place(&mut self, key: EventKey, place: Place) {
        self.unplaced = self.unplaced.saturating_sub(1);
        match self.get_mut(key) {
            Some(entry) => {
                let old = entry.place();
                entry.set_place(place);
                if let Some(old) = old.filter(|old| *old != place) {
                    self.released.push(Released { key, place: old });
                }
            }
            None => self.released.push(Released { key, place }),
        }
    }

    // ---- Visibility ----

    /// Registers `key` to become visible with the events up to its sequence.
    #[inline]
    pub(super) fn await_visibility(&mut self, key: EventKey) {
        self.pending.push(key);
    }

    /// Makes events up to `seq` visible.
    #[inline]
    pub(super) fn set_visible(&mut self, seq: Seq) {
        while let Some(key) = self.pending.pop_until(seq) {
            self.show(key);
        }
        self.visible = self.visible.max(seq);
    }

    /// Makes one event visible.
    #[inline]
    pub(super) fn show(&mut self, key: EventKey) {
        // The lane is gone if its last event was freed before it became visible.
        let Some(slot) = self.lanes.get_mut(&key.priority) else { return };
        if slot.visible < key.seq {
            self.changed.remove(&(slot.visible, key.priority));
            slot.visible = key.seq;
            self.changed.insert((key.seq, key.priority));
        }
    }

    /// The lanes in which an event after `seen` has become visible.
    pub(super) fn changed_after(&self, seen: Seq) -> impl Iterator<Item = Priority> {
        self.changed.range((Seq(seen.0 + 1), Priority(i32::MIN))..).map(|(_, priority)| *priority)
    }

    /// The events that are not visible yet.
    #[inline]
    pub(super) fn pending(&self) -> &Pending {
        &self.pending
    }

    // ---- Expiry and delays ----

    /// Schedules an expiry check for an event, no later than `at`.
    pub(super) fn check_expiry(&mut self, key: EventKey, at: Millis) {
        self.expiries.check(key, at);
    }

    /// Schedules an expiry check for an event that was in flight for `grace_ms`, which does not count towards its time to live.
    /// Returns whether it expires at all.
    pub(super) fn recheck_expiry(&mut self, key: EventKey, grace_ms: u64) -> bool {
        let Some(at) = self.expiries.get(key.seq) else { return false };
        self.expiries.check(key, at.plus(grace_ms));
        true
    }

    /// Takes the next event whose expiry check is due.
    pub(super) fn pop_expiry(&mut self, now: Millis) -> Option<EventKey> {
        self.expiries.pop(now)
    }

    /// The time of the next expiry check.
    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.expiries.next()
    }

    /// Whether the event was published with a delay that is not over.
    pub(super) fn is_delayed(&self, key: EventKey) -> bool {
        self.delays.contains(key)
    }

    /// Takes the next event whose delay has ended.
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<EventKey> {
        self.delays.pop(now)
    }

    /// The time at which the next delay ends.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.delays.next()
    }

    /// The events whose delays are not over.
    pub(super) fn delayed(&self) -> impl Iterator<Item = EventKey> {
        self.delays.iter()
    }

    // ---- Memory ----

    /// Frees the memory of an empty log, which continues with the next sequence.
    pub(super) fn shrink(&mut self) {
        if self.live == 0 && self.unplaced == 0 && self.released.is_empty() && self.pending.first().is_none() {
            *self = Self { last_seq: self.last_seq, visible: self.visible, ..Self::default() };
        }
    }

    /// The memory that the events cost.
    pub(super) fn memory(&self) -> Memory {
        let times = self.expiries.bytes() + self.delays.bytes();
        let lanes = self.lanes.len() * LANE_BYTES;
        Memory { payloads: self.cached, index: self.entries + lanes + self.ids.bytes() + times }
    }

    /// Drops payloads that can be read back, in reverse delivery order, until `bytes` are free or none is left.
    pub(super) fn evict(&mut self, bytes: usize) -> usize {
        let mut freed = 0;
        for slot in self.lanes.values_mut() {
            while freed < bytes {
                match slot.lane.evict() {
                    0 => break,
                    more => freed += more,
                }
            }
        }
        self.cached -= freed;
        freed
    }
}

#[cfg(test)]
impl Log {
    /// The number of entries in all its collections.
    pub(super) fn remembered(&self) -> usize {
        self.lanes.len()
            + self.changed.len()
            + self.pending.entries()
            + self.ids.len()
            + self.expiries.entries()
            + self.delays.entries()
            + self.released.len()
    }
}

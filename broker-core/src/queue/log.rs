//! A topic's log: its lanes, what is visible in them, and which event an id stands for. Shared by all its subscriptions.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::ids::Ids;
use super::lane::{Entry, Lane};
use super::memory::Memory;
use crate::event::{EventKey, Millis, Payload, Priority, Seq};
use crate::name::IdKey;
use crate::storage::Place;

/// When an event may be delivered; only for those that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) expires_at: Option<Millis>,
    pub(super) due_at: Option<Millis>,
}

impl Times {
    /// `None` for an event without any.
    pub(super) fn new(expires_at: Option<Millis>, due_at: Option<Millis>) -> Option<Self> {
        (expires_at.is_some() || due_at.is_some()).then_some(Self { expires_at, due_at })
    }
}

/// When an event expires.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Millis,
    /// When it is to be looked at whether it has expired.
    look_at: Option<Millis>,
}

/// What an expiry costs in memory, in bytes: a row of the table, and one of the order by time.
const EXPIRY_BYTES: usize = 96;

/// What a delay costs, likewise.
const DUE_BYTES: usize = 72;

/// An event that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The event.
    pub key: EventKey,
    /// Where the storage keeps it.
    pub place: Place,
}

#[derive(Debug, Default)]
struct Slot {
    lane: Lane,
    /// The latest event of the lane that may be delivered.
    visible: Seq,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    lanes: BTreeMap<Priority, Slot>,
    /// Lanes by the latest event in them that may be delivered, so that a subscription finds those that have something new.
    changed: BTreeSet<(Seq, Priority)>,
    pub(super) last_seq: Seq,
    /// Events up to here may be delivered: they are as safe as their confirmation promises.
    pub(super) visible: Seq,
    /// Published and not yet visible.
    pending: VecDeque<EventKey>,
    /// How many of those each lane has.
    pending_lanes: BTreeMap<Priority, usize>,
    ids: Ids,
    expiry_of: HashMap<Seq, Expiry>,
    /// When events may be delivered that were published with a delay. Beside the other table, so that either costs only itself.
    due_of: HashMap<Seq, Millis>,
    /// Events by when they are to be looked at, because they may have waited for too long. One hint for each: who still waits
    /// then, and has had it in flight meanwhile, has it looked at again later.
    expiries: BTreeSet<(Millis, EventKey)>,
    /// Events that were published with a delay, by when they are due; without those that have come due.
    dues: BTreeSet<(Millis, EventKey)>,
    /// What has been freed since it was last drained.
    pub(super) released: Vec<Released>,
    /// What the payloads in memory cost, in bytes.
    pub(super) cached: usize,
    /// What the entries of all lanes take, in bytes.
    entries: usize,
    pub(super) live: usize,
}

impl Log {
    fn lane(&self, priority: Priority) -> Option<&Lane> {
        self.lanes.get(&priority).map(|slot| &slot.lane)
    }

    pub(super) fn get(&self, key: EventKey) -> Option<&Entry> {
        self.lane(key.priority)?.get(key.seq)
    }

    pub(super) fn get_mut(&mut self, key: EventKey) -> Option<&mut Entry> {
        self.lanes.get_mut(&key.priority)?.lane.get_mut(key.seq)
    }

    pub(super) fn times(&self, seq: Seq) -> Option<Times> {
        let expires_at = self.expiry_of.get(&seq).map(|expiry| expiry.at);
        Times::new(expires_at, self.due_of.get(&seq).copied())
    }

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

    /// The first event of a lane after `seq` that has not been taken out; it may not be visible yet.
    pub(super) fn first_after(&self, priority: Priority, seq: Seq) -> Option<&Entry> {
        self.lane(priority)?.first_after(seq)
    }

    /// Events of a lane after `seq`, in order.
    pub(super) fn iter_after(&self, priority: Priority, seq: Seq) -> impl Iterator<Item = &Entry> {
        self.lane(priority).into_iter().flat_map(move |lane| lane.iter_after(seq))
    }

    /// The lanes in use, the most urgent first.
    pub(super) fn priorities(&self) -> impl Iterator<Item = Priority> {
        self.lanes.keys().rev().copied()
    }

    /// The latest event of a lane.
    pub(super) fn last_of(&self, priority: Priority) -> Option<Seq> {
        self.lane(priority)?.last()
    }

    /// The next less urgent lane in use.
    pub(super) fn priority_below(&self, priority: Priority) -> Option<Priority> {
        self.lanes.range(..priority).next_back().map(|(priority, _)| *priority)
    }

    /// Lanes in which an event after `seen` has become visible.
    pub(super) fn changed_after(&self, seen: Seq) -> impl Iterator<Item = Priority> {
        self.changed.range((Seq(seen.0 + 1), Priority(i32::MIN))..).map(|(_, priority)| *priority)
    }

    /// Adds an event; it is not visible yet.
    #[expect(clippy::too_many_arguments, reason = "each is one property of the event")]
    pub(super) fn insert(
        &mut self,
        key: EventKey,
        id: IdKey,
        holders: u32,
        at: Millis,
        times: Option<Times>,
        len: usize,
        payload: Option<Payload>,
    ) {
        let entry = Entry::new(id, key.seq, holders, len, at, times.is_some());
        if let Some(times) = times {
            if let Some(at) = times.expires_at {
                self.expiry_of.insert(key.seq, Expiry { at, look_at: None });
                self.look_at_again(key, at);
            }
            if let Some(at) = times.due_at {
                self.due_of.insert(key.seq, at);
                self.dues.insert((at, key));
            }
        }
        let lane = &mut self.lanes.entry(key.priority).or_default().lane;
        let before = (lane.cached(), lane.index_bytes());
        lane.insert(entry, payload);
        self.cached = self.cached + lane.cached() - before.0;
        self.entries = self.entries + lane.index_bytes() - before.1;
        self.live += 1;
        self.ids.insert(id, key);
        self.last_seq = self.last_seq.max(key.seq);
    }

    /// Remembers that `key` becomes visible with the events up to its sequence.
    pub(super) fn await_visibility(&mut self, key: EventKey) {
        self.pending.push_back(key);
        *self.pending_lanes.entry(key.priority).or_default() += 1;
    }

    /// The oldest event that is not visible yet.
    pub(super) fn next_pending(&self) -> Option<Seq> {
        self.pending.front().map(|key| key.seq)
    }

    /// The latest event that is not visible yet.
    pub(super) fn last_pending(&self) -> Option<Seq> {
        self.pending.back().map(|key| key.seq)
    }

    /// The least urgent lane above `priority` that has something which is not visible yet; `None`: of all.
    pub(super) fn lane_with_invisible_above(&self, priority: Option<Priority>) -> Option<Priority> {
        let mut above = self.pending_lanes.range(priority.unwrap_or(Priority(i32::MIN))..).map(|(lane, _)| *lane);
        above.find(|lane| Some(*lane) != priority)
    }

    // ---- Expiry ----

    /// Has an event looked at not later than at this time.
    pub(super) fn look_at_again(&mut self, key: EventKey, at: Millis) {
        let Some(expiry) = self.expiry_of.get_mut(&key.seq) else { return };
        if let Some(earlier) = expiry.look_at {
            if earlier <= at {
                return;
            }
            self.expiries.remove(&(earlier, key));
        }
        expiry.look_at = Some(at);
        self.expiries.insert((at, key));
    }

    /// The next event that is to be looked at by now.
    pub(super) fn pop_expiry(&mut self, now: Millis) -> Option<EventKey> {
        let (_, key) = self.expiries.first().copied().filter(|(at, _)| *at <= now)?;
        self.expiries.pop_first();
        if let Some(expiry) = self.expiry_of.get_mut(&key.seq) {
            expiry.look_at = None;
        }
        Some(key)
    }

    /// When the next event is to be looked at.
    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.expiries.first().map(|(at, _)| *at)
    }

    // ---- Delays ----

    /// Whether the event was published with a delay that has not come to its end.
    pub(super) fn is_undue(&self, key: EventKey) -> bool {
        self.due_of.get(&key.seq).is_some_and(|at| self.dues.contains(&(*at, key)))
    }

    /// The next event whose delay has come to its end by now.
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<EventKey> {
        let (_, key) = self.dues.first().copied().filter(|(at, _)| *at <= now)?;
        self.dues.pop_first();
        Some(key)
    }

    /// When the next event's delay comes to its end.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.dues.first().map(|(at, _)| *at)
    }

    /// The events whose delays have not come to their ends.
    pub(super) fn undue(&self) -> impl Iterator<Item = EventKey> {
        self.dues.iter().map(|(_, key)| *key)
    }

    fn forget_due(&mut self, key: EventKey) {
        if let Some(at) = self.due_of.remove(&key.seq) {
            self.dues.remove(&(at, key));
        }
    }

    /// Makes events up to `seq` visible.
    pub(super) fn set_visible(&mut self, seq: Seq) {
        while let Some(key) = self.pending.front().copied().filter(|key| key.seq <= seq) {
            self.pending.pop_front();
            if let Some(count) = self.pending_lanes.get_mut(&key.priority) {
                *count -= 1;
                if *count == 0 {
                    self.pending_lanes.remove(&key.priority);
                }
            }
            self.show(key);
        }
        self.visible = self.visible.max(seq);
    }

    /// Makes one event visible.
    pub(super) fn show(&mut self, key: EventKey) {
        // A lane whose last event was freed meanwhile is gone.
        let Some(slot) = self.lanes.get_mut(&key.priority) else { return };
        if slot.visible < key.seq {
            self.changed.remove(&(slot.visible, key.priority));
            slot.visible = key.seq;
            self.changed.insert((key.seq, key.priority));
        }
    }

    /// Events with this id that have not been taken out, in delivery order.
    pub(super) fn find_id(&self, id: IdKey) -> Vec<EventKey> {
        let candidates = self.ids.candidates(id);
        let mut keys: Vec<EventKey> =
            candidates.filter(|key| self.get(*key).is_some_and(|entry| entry.id == id)).collect();
        keys.sort_unstable();
        keys
    }

    /// Takes an event out for all to whom it has not been delivered; `holders` have it in flight.
    pub(super) fn withdraw(&mut self, key: EventKey, holders: u32) {
        let Some(entry) = self.get_mut(key) else { return };
        entry.holders = holders;
        entry.withdraw();
        let (id, timed) = (entry.id, entry.timed());
        self.ids.remove(id, key);
        if timed {
            self.forget_due(key);
        }
        if holders == 0 {
            self.free(key);
        }
    }

    /// One subscription is done with the event. Returns the length of its payload.
    pub(super) fn settle(&mut self, key: EventKey) -> u64 {
        let Some(entry) = self.get_mut(key) else { return 0 };
        let len = u64::from(entry.len);
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders == 0 {
            self.free(key);
        }
        len
    }

    fn free(&mut self, key: EventKey) {
        let Some(slot) = self.lanes.get_mut(&key.priority) else { return };
        let before = (slot.lane.cached(), slot.lane.index_bytes());
        let Some(entry) = slot.lane.free(key.seq) else { return };
        // An event that is not written yet is released when its place is known.
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
            self.forget_due(key);
            if let Some(at) = self.expiry_of.remove(&key.seq).and_then(|expiry| expiry.look_at) {
                self.expiries.remove(&(at, key));
            }
        }
    }

    /// The storage has written the event at `place`. Returns the place that this one stands for instead, if there was one.
    pub(super) fn set_place(&mut self, key: EventKey, place: Place) {
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

    /// What it costs in memory.
    pub(super) fn memory(&self) -> Memory {
        let times = self.expiry_of.len() * EXPIRY_BYTES + self.due_of.len() * DUE_BYTES;
        Memory { payloads: self.cached, index: self.entries + self.ids.bytes() + times }
    }

    /// Drops payloads that can be read back, those that will be needed last first, until `bytes` are free or none is left.
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
    /// How many entries its collections have.
    pub(super) fn remembered(&self) -> usize {
        self.lanes.len()
            + self.changed.len()
            + self.pending.len()
            + self.pending_lanes.len()
            + self.expiries.len()
            + self.dues.len()
            + self.ids.len()
            + self.expiry_of.len()
            + self.due_of.len()
            + self.released.len()
    }
}

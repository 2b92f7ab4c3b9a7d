//! The waiting events that have left the order of the lanes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::event::{EventKey, Millis, Priority, Seq};
use crate::name::IdKey;
use crate::queue::history::History;

/// The reason why an event waits outside its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The event came back and can be delivered.
    Ready,
    /// The event is not due before this time.
    Delayed(Millis),
    /// Another event of its id is in flight.
    Blocked(IdKey),
}

/// An event that waits outside its lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exception {
    pub(super) history: History,
    pub(super) standing: Standing,
}

impl Exception {
    /// The time at which the event is due, if it is delayed.
    pub(super) fn due_at(&self) -> Option<Millis> {
        if let Standing::Delayed(due) = self.standing { Some(due) } else { None }
    }
}

/// All exceptions, by event.
pub(super) type Exceptions = BTreeMap<EventKey, Exception>;

/// The most events made deliverable at once. A million may be due in the same millisecond; the others follow in later turns.
const PROMOTE: usize = 1024;

/// The waiting events that have left the order of the lanes: they were returned, are not yet due, or wait for another event of
/// their id.
///
/// Invariants:
/// - Each exception is in exactly one of `ready`, `delayed` and `blocked`, as its standing requires, and these contain nothing else.
///   So all three can be searched in order without a look at the exceptions.
/// - `by_age` contains exactly the exceptions, and `blocked` contains no empty set.
///
/// Every operation on one event takes time logarithmic in the number of exceptions.
#[derive(Debug, Default)]
pub(super) struct Aside {
    exceptions: Exceptions,
    /// All exceptions in the order of their publication, so that figures need no search.
    by_age: BTreeSet<(Seq, Priority)>,
    /// The ready events, in delivery order.
    ready: BTreeSet<EventKey>,
    delayed: BTreeSet<(Millis, EventKey)>,
    /// By the id that they wait for.
    blocked: HashMap<IdKey, BTreeSet<EventKey>>,
}

impl Aside {
    #[inline]
    pub(super) fn contains(&self, key: EventKey) -> bool {
        !self.exceptions.is_empty() && self.exceptions.contains_key(&key)
    }

    #[inline]
    pub(super) fn get(&self, key: EventKey) -> Option<&Exception> {
        self.exceptions.get(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = EventKey> {
        self.exceptions.keys().copied()
    }

    /// Sets an event aside until `due_at`, or as ready. It must not be here already.
    pub(super) fn insert(&mut self, key: EventKey, history: History, due_at: Option<Millis>) {
        let standing = match due_at {
            None => {
                self.ready.insert(key);
                Standing::Ready
            }
            Some(due) => {
                self.delayed.insert((due, key));
                Standing::Delayed(due)
            }
        };
        self.by_age.insert((key.seq, key.priority));
        self.exceptions.insert(key, Exception { history, standing });
    }

    /// Sets an event aside until no other event of its `id` is in flight. It may be here as ready.
    pub(super) fn block(&mut self, key: EventKey, id: IdKey, history: History) {
        self.ready.remove(&key);
        self.by_age.insert((key.seq, key.priority));
        self.exceptions.insert(key, Exception { history, standing: Standing::Blocked(id) });
        self.blocked.entry(id).or_default().insert(key);
    }

    #[inline]
    pub(super) fn remove(&mut self, key: EventKey) -> Option<Exception> {
        let exception = self.exceptions.remove(&key)?;
        self.by_age.remove(&(key.seq, key.priority));
        match exception.standing {
            Standing::Ready => {
                self.ready.remove(&key);
            }
            Standing::Delayed(due) => {
                self.delayed.remove(&(due, key));
            }
            Standing::Blocked(id) => {
                if let Some(keys) = self.blocked.get_mut(&id) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.blocked.remove(&id);
                    }
                }
            }
        }
        Some(exception)
    }

    /// Removes the events for which `gone` returns true.
    pub(super) fn remove_where(&mut self, gone: impl Fn(EventKey) -> bool) {
        let keys: Vec<EventKey> = self.keys().filter(|key| gone(*key)).collect();
        for key in keys {
            self.remove(key);
        }
    }

    /// Takes everything in constant time.
    pub(super) fn take(&mut self) -> Exceptions {
        std::mem::take(self).exceptions
    }

    /// Examines up to `most` events from `start` on, in delivery order. Returns the last one examined, if there are more, and those for whose
    /// history `wanted` returns true.
    pub(super) fn examine(
        &self,
        start: Bound<EventKey>,
        most: usize,
        wanted: impl Fn(History) -> bool,
    ) -> (Option<EventKey>, Vec<EventKey>) {
        let mut last = None;
        let mut found = Vec::new();
        for (at, (key, exception)) in self.exceptions.range((start, Bound::Unbounded)).enumerate() {
            if at == most {
                return (last, found);
            }
            last = Some(*key);
            if wanted(exception.history) {
                found.push(*key);
            }
        }
        (None, found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exceptions.is_empty()
    }

    /// The first event in delivery order that is ready.
    #[inline]
    pub(super) fn first_ready(&self) -> Option<EventKey> {
        self.ready.first().copied()
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = EventKey> {
        self.ready.iter().copied()
    }

    /// The event that was published first.
    pub(super) fn oldest(&self) -> Option<EventKey> {
        self.by_age.first().map(|(seq, priority)| EventKey { priority: *priority, seq: *seq })
    }

    /// Makes at most [`PROMOTE`] due events ready. Returns whether more are due.
    #[inline]
    pub(super) fn promote(&mut self, now: Millis) -> bool {
        for _ in 0..PROMOTE {
            let Some((_, key)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) else { return false };
            self.delayed.pop_first();
            self.set_ready(key);
        }
        self.next_due().is_some_and(|due| due <= now)
    }

    /// The time at which the next delayed event is due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.delayed.first().map(|(due, _)| *due)
    }

    /// The number of events that are not yet due.
    pub(super) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Makes the events ready that waited for an event of `id`, of which none is in flight any more.
    #[inline]
    pub(super) fn unblock(&mut self, id: IdKey) {
        if self.blocked.is_empty() {
            return;
        }
        for key in self.blocked.remove(&id).unwrap_or_default() {
            self.set_ready(key);
        }
    }

    /// Makes all blocked events ready.
    pub(super) fn unblock_all(&mut self) {
        for (_, keys) in std::mem::take(&mut self.blocked) {
            for key in keys {
                self.set_ready(key);
            }
        }
    }

    fn set_ready(&mut self, key: EventKey) {
        if let Some(exception) = self.exceptions.get_mut(&key) {
            exception.standing = Standing::Ready;
            self.ready.insert(key);
        }
    }

    /// The events that are ready or blocked, in delivery order.
    pub(super) fn due(&self) -> impl Iterator<Item = EventKey> + '_ {
        let mut blocked: Vec<EventKey> = self.blocked.values().flatten().copied().collect();
        blocked.sort_unstable();
        let mut blocked = blocked.into_iter().peekable();
        let mut ready = self.ready().peekable();
        std::iter::from_fn(move || match (ready.peek(), blocked.peek()) {
            (Some(first), Some(second)) if second < first => blocked.next(),
            (Some(_), _) => ready.next(),
            (None, _) => blocked.next(),
        })
    }

    /// The oldest of the least urgent events, except those in `skip`.
    pub(super) fn lowest(&self, skip: &[EventKey]) -> Option<EventKey> {
        let mut lane = self.exceptions.keys().next_back()?.priority;
        loop {
            // In delivery order the least urgent events come last, and among these the oldest first.
            let start = EventKey { priority: lane, seq: Seq(0) };
            let mut of_lane =
                self.exceptions.range(start..).map(|(key, _)| *key).take_while(|key| key.priority == lane);
            if let Some(key) = of_lane.find(|key| !skip.contains(key)) {
                return Some(key);
            }
            lane = self.more_urgent_than(lane)?;
        }
    }

    fn more_urgent_than(&self, lane: Priority) -> Option<Priority> {
        self.exceptions.range(..EventKey { priority: lane, seq: Seq(0) }).next_back().map(|(key, _)| key.priority)
    }
}

#[cfg(test)]
impl Aside {
    /// The number of entries in all its collections.
    pub(super) fn entries(&self) -> usize {
        self.exceptions.len() + self.ready.len() + self.delayed.len() + self.blocked.len()
    }

    /// Panics if the invariant does not hold.
    pub(super) fn check(&self) {
        let blocked: BTreeSet<EventKey> = self.blocked.values().flatten().copied().collect();
        for (key, exception) in &self.exceptions {
            let (ready, blocked) = (self.ready.contains(key), blocked.contains(key));
            let expected = match exception.standing {
                Standing::Ready => (true, false),
                Standing::Delayed(due) => {
                    assert!(self.delayed.contains(&(due, *key)), "{key:?} is delayed until {due:?}");
                    (false, false)
                }
                Standing::Blocked(_) => (false, true),
            };
            assert_eq!((ready, blocked), expected, "{key:?} is {:?}", exception.standing);
        }
        assert_eq!(self.ready.len() + self.delayed.len() + blocked.len(), self.exceptions.len());
        assert_eq!(self.oldest(), self.exceptions.keys().copied().min_by_key(|key| key.seq));
        assert_eq!(self.by_age.len(), self.exceptions.len());
        assert_eq!(self.blocked.values().map(BTreeSet::len).sum::<usize>(), blocked.len());
        assert!(self.blocked.values().all(|keys| !keys.is_empty()), "{self:?}");
    }
}

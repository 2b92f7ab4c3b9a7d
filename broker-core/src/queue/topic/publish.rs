//! Publishing: which events an event replaces, how it enters the log, and when it becomes visible.

use super::Topic;
use crate::engine::Refusal;
use crate::event::{EventKey, Millis, NewEvent, Seq};
use crate::name::IdKey;
use crate::policy::DuplicateId;
use crate::queue::log::NewEntry;
use crate::queue::subscription::Hold;
use crate::queue::times::Times;
use crate::storage::{Place, StoredEvent};
use crate::tally::Tally;

/// The outcome of [`Topic::publish`].
#[derive(Debug)]
pub struct Publication {
    /// The event to store; `None` if no subscription holds it.
    pub stored: Option<StoredEvent>,
    /// The events it replaced, to be forgotten in the same batch.
    pub replaces: Vec<EventKey>,
    /// Whether it replaced a waiting event in any subscription.
    pub replaced: bool,
    /// Whether it is dropped at once, and not stored, because no subscription has room for it.
    pub dropped: bool,
}

impl Publication {
    fn not_stored(dropped: bool) -> Self {
        Self { stored: None, replaces: Vec::new(), replaced: false, dropped }
    }
}

impl Topic {
    /// Accepts an event. It is not delivered before [`Topic::set_visible`].
    ///
    /// # Errors
    /// [`Refusal::DuplicateId`], [`Refusal::Full`] and [`Refusal::NeverFits`] by the topic's policy. Nothing has changed.
    pub fn publish(&mut self, event: &NewEvent, now: Millis) -> Result<Publication, Refusal> {
        if self.subscriptions.is_empty() {
            self.published += 1;
            return Ok(Publication::not_stored(false));
        }
        let duplicates = match self.policy.duplicate_id {
            DuplicateId::Keep => Vec::new(),
            DuplicateId::Replace => self.log.find_id(event.id),
            DuplicateId::Reject => {
                let held = |key| self.subscriptions.values().any(|sub| sub.hold(key, event.id) != Hold::None);
                if self.log.find_id(event.id).into_iter().any(held) {
                    return Err(Refusal::DuplicateId);
                }
                Vec::new()
            }
        };
        let rooms = self.plan_room(event, &duplicates, now)?;
        if self.is_dropped_everywhere(&rooms) {
            // As if it had never been published; events it would have replaced stay.
            self.published += 1;
            self.subscriptions.values_mut().for_each(|sub| sub.count_dropped());
            return Ok(Publication::not_stored(true));
        }
        let mut replaced = false;
        for key in &duplicates {
            replaced |= self.withdraw(*key, event.id);
        }
        self.published += 1;
        let stored = self.insert(event, now);
        for (sub, room) in rooms {
            self.make_room(sub, room, stored.key);
        }
        Ok(Publication { stored: Some(stored), replaces: duplicates, replaced, dropped: false })
    }

    /// Accepts a dead letter, or an event that was one. Others of its id stay, because they are letters of other subscriptions.
    ///
    /// # Errors
    /// [`Refusal::Full`] if the topic's own limits leave no room.
    pub fn publish_letter(&mut self, event: &NewEvent, now: Millis) -> Result<StoredEvent, Refusal> {
        for sub in self.subscriptions.values() {
            if let Some(limit) = self.limit_reached(sub, event, &[]) {
                return Err(Refusal::Full { topic: self.name.clone(), limit });
            }
        }
        self.published += 1;
        Ok(self.insert(event, now))
    }

    /// Gives an event the next sequence. Every subscription holds it.
    pub(super) fn insert(&mut self, event: &NewEvent, now: Millis) -> StoredEvent {
        let key = EventKey { priority: event.priority, seq: Seq(self.log.last_seq.0 + 1) };
        let ttl = [event.ttl_ms, self.policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let expires_at = ttl.map(|ttl| now.plus(ttl));
        let due_at = (event.delay_ms > 0).then(|| now.after_delay(event.delay_ms));
        let payload = event.payload.clone();
        self.log.insert(NewEntry {
            key,
            id: event.id,
            holders: u32::try_from(self.subscriptions.len()).expect("subscriptions are far fewer than 2^32"),
            published_at: now,
            times: Times::new(expires_at, due_at),
            len: payload.len(),
            payload: Some(payload.clone()),
        });
        self.log.await_visibility(key);
        if due_at.is_some() {
            self.subscriptions.values_mut().for_each(|sub| sub.enter_delayed());
        }
        self.stored += Tally::one(payload.len() as u64);
        StoredEvent { topic: self.name.clone(), key, published_at: now, expires_at, due_at, payload }
    }

    /// Withdraws an event from all subscriptions that do not have it in flight. Returns whether it waited in any.
    fn withdraw(&mut self, key: EventKey, id: IdKey) -> bool {
        let len = self.log.get(key).map_or(0, |entry| u64::from(entry.len));
        let mut in_flight = 0;
        let mut waited = false;
        for sub in self.subscriptions.values_mut() {
            match sub.hold(key, id) {
                Hold::InFlight | Hold::Moving => in_flight += 1,
                Hold::Waiting => {
                    sub.withdraw_waiting(&self.log, key, len);
                    waited = true;
                }
                Hold::None => {}
            }
        }
        self.log.withdraw(key, in_flight);
        waited
    }

    /// Records that the storage has written the event at `place`.
    pub fn set_place(&mut self, key: EventKey, place: Place) {
        self.log.set_place(key, place);
    }

    /// Makes events up to `seq` deliverable, because they are as durable as their confirmation promises.
    pub fn set_visible(&mut self, seq: Seq) {
        self.log.set_visible(seq);
    }

    /// The sequence of the oldest event that is not visible yet.
    #[must_use]
    pub fn next_invisible(&self) -> Option<Seq> {
        self.log.pending().first()
    }

    /// The sequence of the latest event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.log.last_seq
    }

    /// The sequence of the latest event that is not visible yet.
    #[must_use]
    pub fn last_invisible(&self) -> Option<Seq> {
        self.log.pending().last()
    }

    /// Drops payloads that can be read back from memory, least urgent first, until `bytes` are free. Returns the bytes freed.
    pub fn evict(&mut self, bytes: usize) -> usize {
        self.log.evict(bytes)
    }
}

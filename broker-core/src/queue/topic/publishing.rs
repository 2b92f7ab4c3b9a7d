//! Events on their way in: which they replace, and what becomes of those for which there is no room.

use super::Topic;
use crate::engine::Refusal;
use crate::event::{EventKey, Millis, NewEvent, Seq};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName};
use crate::policy::{DuplicateId, Overflow};
use crate::queue::log::Times;
use crate::queue::subscription::{Hold, Subscription};
use crate::storage::{Place, StoredEvent};

/// What [`Topic::publish`] did.
#[derive(Debug)]
pub struct Publication {
    /// What is to be stored; `None` where no subscription is there to hold the event.
    pub stored: Option<StoredEvent>,
    /// Events that it replaced, to be forgotten in the same batch.
    pub replaces: Vec<EventKey>,
    /// Whether it replaced a waiting event in any subscription.
    pub replaced: bool,
    /// Whether it is dropped at once, because no subscription has room for it: then it is not stored.
    pub dropped: bool,
}

/// Letters of one topic that may stand for an overflow at a time; beyond it a publish is refused until some have gone.
const OVERFLOWING: u64 = 4096;

/// Events that one publish makes room by, in one subscription. One is enough, unless the policy has just become stricter.
const DROPS: usize = 64;

/// What a full subscription does about a new event.
enum Room {
    /// Something less urgent makes room.
    Makes,
    /// The new event is the least urgent itself.
    HasNone,
}

impl Topic {
    /// Takes an event in. It is not delivered before [`Topic::set_visible`] says so.
    ///
    /// # Errors
    /// [`Refusal::DuplicateId`] and [`Refusal::Full`] by the topic's policy; nothing has changed then.
    pub fn publish(&mut self, event: &NewEvent, now: Millis) -> Result<Publication, Refusal> {
        if self.subscriptions.is_empty() {
            self.published += 1;
            return Ok(Publication { stored: None, replaces: Vec::new(), replaced: false, dropped: false });
        }
        let duplicates = match self.policy.duplicate_id {
            DuplicateId::Keep => Vec::new(),
            DuplicateId::Replace => self.log.find_id(event.id),
            DuplicateId::Reject => {
                let held = |key| self.subscriptions.iter().any(|(_, sub)| sub.hold(key, event.id) != Hold::None);
                if self.log.find_id(event.id).into_iter().any(held) {
                    return Err(Refusal::DuplicateId);
                }
                Vec::new()
            }
        };
        let rooms = self.make_plan(event, &duplicates, (0, 0), now)?;
        if !rooms.is_empty()
            && self.policy.overflow == Overflow::DropLowest
            && rooms.len() == self.subscriptions.len()
            && rooms.iter().all(|(_, room)| matches!(room, Room::HasNone))
        {
            // Nobody keeps it: it never was there, and what it would have replaced stays.
            self.published += 1;
            for (_, sub) in &mut self.subscriptions {
                sub.counters.dropped += 1;
            }
            return Ok(Publication { stored: None, replaces: Vec::new(), replaced: false, dropped: true });
        }
        let mut replaced = false;
        for key in &duplicates {
            replaced |= self.withdraw(*key, event.id);
        }
        self.published += 1;
        let stored = self.insert(event, now);
        for (at, room) in rooms {
            self.make_room(at, &room, stored.key);
        }
        Ok(Publication { stored: Some(stored), replaces: duplicates, replaced, dropped: false })
    }

    /// Takes in a dead letter, or an event that was one. Others of its id stay: those of other subscriptions are other letters.
    ///
    /// # Errors
    /// [`Refusal::Full`] if the topic's own limits leave no room.
    pub fn publish_letter(&mut self, event: &NewEvent, now: Millis) -> Result<StoredEvent, Refusal> {
        for (_, sub) in &self.subscriptions {
            if let Some(limit) = self.limit_reached(sub, event, &[], (0, 0)) {
                return Err(Refusal::Full { topic: self.name.clone(), limit });
            }
        }
        self.published += 1;
        Ok(self.insert(event, now))
    }

    /// Puts an event back into the one subscription that it came from; the others have nothing to do with it. `None` if there is
    /// no such subscription, or no room in it, or an event of this id is there already.
    pub fn revive(&mut self, event: &NewEvent, name: &SubscriptionName, now: Millis) -> Option<StoredEvent> {
        let at = *self.named.get(name)?;
        let sub = &self.subscriptions[at];
        let is_there = |key: EventKey| sub.hold(key, event.id) != Hold::None;
        if self.policy.duplicate_id != DuplicateId::Keep && self.log.find_id(event.id).into_iter().any(is_there)
            || self.limit_reached(sub, event, &[], (0, 0)).is_some()
        {
            return None;
        }
        let stored = self.insert(event, now);
        for (other, sub) in &mut self.subscriptions {
            if other != at {
                sub.drop_waiting(&mut self.log, stored.key);
                self.dirty.push(other);
            }
        }
        Some(stored)
    }

    /// Gives an event the next sequence; every subscription holds it.
    fn insert(&mut self, event: &NewEvent, now: Millis) -> StoredEvent {
        let key = EventKey { priority: event.priority, seq: Seq(self.log.last_seq.0 + 1) };
        let ttl = [event.ttl_ms, self.policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let expires_at = ttl.map(|ttl| now.plus(ttl));
        let due_at = (event.delay_ms > 0).then(|| now.after_delay(event.delay_ms));
        let times = Times::new(expires_at, due_at);
        let holders = u32::try_from(self.subscriptions.len()).expect("subscriptions are far fewer than 2^32");
        let payload = event.payload.clone();
        self.log.insert(key, event.id, holders, now, times, payload.len(), Some(payload.clone()));
        self.log.await_visibility(key);
        if due_at.is_some() {
            self.subscriptions.iter_mut().for_each(|(_, sub)| sub.enter_undue());
        }
        self.stored.0 += 1;
        self.stored.1 += payload.len() as u64;
        StoredEvent { topic: self.name.clone(), key, published_at: now, expires_at, due_at, payload }
    }

    /// Whether there would be room for `event` after `count` others of `bytes` bytes.
    ///
    /// # Errors
    /// [`Refusal::Full`] if there would not.
    pub fn check_room(&mut self, event: &NewEvent, count: u64, bytes: u64, now: Millis) -> Result<(), Refusal> {
        let duplicates = match self.policy.duplicate_id {
            DuplicateId::Replace => self.log.find_id(event.id),
            DuplicateId::Reject | DuplicateId::Keep => Vec::new(),
        };
        self.make_plan(event, &duplicates, (count, bytes), now).map(drop)
    }

    /// Which subscriptions have to make room for the event, and whether they can; or why it is refused. Nothing changes.
    fn make_plan(
        &mut self,
        event: &NewEvent,
        duplicates: &[EventKey],
        ahead: (u64, u64),
        now: Millis,
    ) -> Result<Vec<(usize, Room)>, Refusal> {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let mut rooms = Vec::new();
        if most == 0 && most_bytes == 0 {
            return Ok(rooms);
        }
        let full = |limit| Err(Refusal::Full { topic: self.name.clone(), limit });
        let len = event.payload.len() as u64;
        if most_bytes > 0 && len > most_bytes && self.policy.overflow != Overflow::Reject {
            return full(format!("an event of {len} bytes never fits into {most_bytes}"));
        }
        let mut reached = Vec::new();
        let mut asked_for_letters = false;
        for (at, sub) in &self.subscriptions {
            if let Some(limit) = self.limit_reached(sub, event, duplicates, ahead) {
                match self.policy.overflow {
                    Overflow::Reject => return full(limit),
                    Overflow::DropLowest => {}
                    Overflow::DeadLetter if asked_for_letters => {}
                    Overflow::DeadLetter => {
                        if let Some(why) = self.no_room_for_letters(now) {
                            return full(format!("{limit}, and {why}"));
                        }
                        asked_for_letters = true;
                    }
                }
                reached.push(at);
            }
        }
        for at in reached {
            let lowest = self.subscriptions[at].lowest(&self.log, duplicates);
            let has_none = lowest.is_none_or(|lowest| lowest.priority > event.priority);
            rooms.push((at, if has_none { Room::HasNone } else { Room::Makes }));
        }
        Ok(rooms)
    }

    /// Which limit of a subscription leaves no room for the event, in words.
    fn limit_reached(
        &self,
        sub: &Subscription,
        event: &NewEvent,
        duplicates: &[EventKey],
        ahead: (u64, u64),
    ) -> Option<String> {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let unsettled = self.counts_against_the_limit(sub);
        let (mut count, mut bytes) = (unsettled.0 + ahead.0, unsettled.1 + ahead.1);
        let goes = |key: &&EventKey| sub.hold(**key, event.id) == Hold::Waiting && !sub.is_overflow(**key);
        for key in duplicates.iter().filter(goes) {
            count = count.saturating_sub(1);
            bytes = bytes.saturating_sub(self.log.get(*key).map_or(0, |entry| u64::from(entry.len)));
        }
        let name = || sub.name.as_ref().map_or_else(|| "of a connection".to_owned(), |name| format!("\"{name}\""));
        if most > 0 && count >= most {
            Some(format!("{most} events wait in subscription {}", name()))
        } else if most_bytes > 0 && bytes + event.payload.len() as u64 > most_bytes {
            Some(format!("{bytes} of {most_bytes} bytes wait in subscription {}", name()))
        } else {
            None
        }
    }

    /// What a subscription has not settled, without what an overflow has put on its way to the dead letters.
    fn counts_against_the_limit(&self, sub: &Subscription) -> (u64, u64) {
        let (unsettled, leaving) = (self.unsettled(sub), sub.overflowing());
        (unsettled.0.saturating_sub(leaving.0), unsettled.1.saturating_sub(leaving.1))
    }

    fn no_room_for_letters(&self, now: Millis) -> Option<String> {
        if self.dead_letter.is_none() {
            return Some("it can have no dead-letter topic: the name would not be valid".to_owned());
        }
        if let Some((_, why)) = self.dead_full.as_ref().filter(|(until, _)| *until > now) {
            return Some(why.clone());
        }
        let overflowing: u64 = self.subscriptions.iter().map(|(_, sub)| sub.overflowing().0).sum();
        (overflowing >= OVERFLOWING).then(|| format!("{overflowing} events are on their way to the dead letters"))
    }

    /// Lets a full subscription make room, after the new event has been taken in.
    fn make_room(&mut self, at: usize, room: &Room, new: EventKey) {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let mut victim = if let Room::HasNone = room { Some(new) } else { None };
        for _ in 0..DROPS {
            let (count, bytes) = self.counts_against_the_limit(&self.subscriptions[at]);
            if !(most > 0 && count > most || most_bytes > 0 && bytes > most_bytes) {
                break;
            }
            let sub = &mut self.subscriptions[at];
            let Some(key) = victim.take().or_else(|| sub.lowest(&self.log, &[])) else { break };
            if self.policy.overflow == Overflow::DeadLetter {
                sub.bury(&self.log, key, Reason::Overflow);
            } else {
                sub.drop_waiting(&mut self.log, key);
                sub.counters.dropped += 1;
            }
        }
        self.changed(at);
    }

    /// Takes an event out for all who do not have it in flight. Returns whether it waited anywhere.
    pub(super) fn withdraw(&mut self, key: EventKey, id: IdKey) -> bool {
        let len = self.log.get(key).map_or(0, |entry| u64::from(entry.len));
        let mut in_flight = 0;
        let mut waited = false;
        for (_, sub) in &mut self.subscriptions {
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

    /// The storage has written the event at `place`.
    pub fn set_place(&mut self, key: EventKey, place: Place) {
        self.log.set_place(key, place);
    }

    /// Events up to `seq` are as safe as their confirmation promises, and can be delivered.
    pub fn set_visible(&mut self, seq: Seq) {
        self.log.set_visible(seq);
    }

    /// The sequence of the oldest event that is not visible yet.
    #[must_use]
    pub fn next_invisible(&self) -> Option<Seq> {
        self.log.next_pending()
    }

    /// The sequence of the latest event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.log.last_seq
    }

    /// The sequence of the latest event that is not visible yet.
    #[must_use]
    pub fn last_invisible(&self) -> Option<Seq> {
        self.log.last_pending()
    }

    /// Drops payloads from memory that can be read back, least urgent first, until `bytes` are free. Returns what it freed.
    pub fn evict(&mut self, bytes: usize) -> usize {
        self.log.evict(bytes)
    }
}

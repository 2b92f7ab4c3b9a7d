//! The limits of subscriptions, and how a publish that reaches them is handled.

use super::{SubscriptionId, Topic};
use crate::engine::Refusal;
use crate::event::{EventKey, Millis, NewEvent};
use crate::letter::Reason;
use crate::name::SubscriptionName;
use crate::policy::Overflow;
use crate::queue::subscription::{Hold, Subscription};
use crate::tally::Tally;

/// The most letters of one topic that make room. Beyond them a publish is refused until some have left.
const OVERFLOWING: u64 = 4096;

/// The most events that one publish removes from one subscription. One is enough, unless the policy has just become stricter.
const DROPS: usize = 64;

/// How a full subscription makes room for a new event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// It removes an event that is not more urgent.
    Makes,
    /// It makes none: the new event itself is the least urgent and is dropped.
    HasNone,
}

impl Topic {
    /// The subscriptions that must make room for an event, and how. An error if the event is refused;
    /// nothing changes in either case.
    pub(super) fn plan_room(
        &mut self,
        event: &NewEvent,
        duplicates: &[EventKey],
        now: Millis,
    ) -> Result<Vec<(SubscriptionId, Room)>, Refusal> {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let mut rooms = Vec::new();
        if most == 0 && most_bytes == 0 {
            return Ok(rooms);
        }
        let full = |limit| Err(Refusal::Full { topic: self.name.clone(), limit });
        let len = event.payload.len() as u64;
        if most_bytes > 0 && len > most_bytes {
            return Err(Refusal::NeverFits { topic: self.name.clone(), bytes: len, limit: most_bytes });
        }
        let mut reached = Vec::new();
        let mut asked_for_letters = false;
        for (id, sub) in self.subscriptions.iter() {
            let Some(limit) = self.limit_reached(sub, event, duplicates) else { continue };
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
            reached.push(id);
        }
        for id in reached {
            let lowest = self.subscriptions[id].lowest(&self.log, duplicates);
            let has_none = lowest.is_none_or(|lowest| lowest.priority > event.priority);
            rooms.push((id, if has_none { Room::HasNone } else { Room::Makes }));
        }
        Ok(rooms)
    }

    /// Whether every subscription would drop the new event itself.
    pub(super) fn is_dropped_everywhere(&self, rooms: &[(SubscriptionId, Room)]) -> bool {
        !rooms.is_empty()
            && self.policy.overflow == Overflow::DropLowest
            && rooms.len() == self.subscriptions.len()
            && rooms.iter().all(|(_, room)| matches!(room, Room::HasNone))
    }

    /// Describes the limit of a subscription that leaves no room for the event.
    pub(super) fn limit_reached(
        &self,
        sub: &Subscription,
        event: &NewEvent,
        duplicates: &[EventKey],
    ) -> Option<String> {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let mut waiting = self.counts_against_the_limit(sub);
        let goes = |key: &&EventKey| sub.hold(**key, event.id) == Hold::Waiting && !sub.is_overflow(**key);
        for key in duplicates.iter().filter(goes) {
            let len = self.log.get(*key).map_or(0, |entry| u64::from(entry.len));
            waiting = waiting.saturating_sub(Tally::one(len));
        }
        let quoted = |name: &SubscriptionName| format!("\"{name}\"");
        let name = || sub.name().map_or_else(|| "of a connection".to_owned(), quoted);
        if most > 0 && waiting.events >= most {
            Some(format!("{most} events wait in subscription {}", name()))
        } else if most_bytes > 0 && waiting.bytes + event.payload.len() as u64 > most_bytes {
            Some(format!("{} of {most_bytes} bytes wait in subscription {}", waiting.bytes, name()))
        } else {
            None
        }
    }

    /// The unsettled events of a subscription, without the letters that make room.
    fn counts_against_the_limit(&self, sub: &Subscription) -> Tally {
        sub.unsettled(self.stored).saturating_sub(sub.overflow())
    }

    fn no_room_for_letters(&self, now: Millis) -> Option<String> {
        if self.outbox.address().is_none() {
            return Some("it can have no dead-letter topic: the name would not be valid".to_owned());
        }
        if let Some(why) = self.outbox.why_full(now) {
            return Some(why.to_owned());
        }
        let overflowing: u64 = self.subscriptions.values().map(|sub| sub.overflow().events).sum();
        (overflowing >= OVERFLOWING).then(|| format!("{overflowing} events are on their way to the dead letters"))
    }

    /// Makes room in a full subscription for the event `new`, which it already holds.
    pub(super) fn make_room(&mut self, id: SubscriptionId, room: Room, new: EventKey) {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let mut victim = if let Room::HasNone = room { Some(new) } else { None };
        for _ in 0..DROPS {
            let waiting = self.counts_against_the_limit(&self.subscriptions[id]);
            if !(most > 0 && waiting.events > most || most_bytes > 0 && waiting.bytes > most_bytes) {
                break;
            }
            let sub = &mut self.subscriptions[id];
            let Some(key) = victim.take().or_else(|| sub.lowest(&self.log, &[])) else { break };
            if self.policy.overflow == Overflow::DeadLetter {
                sub.bury(&self.log, key, Reason::Overflow);
            } else {
                sub.drop_for_room(&mut self.log, key);
            }
        }
        self.note_changed(id);
    }
}

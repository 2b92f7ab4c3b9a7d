//! What waits in a subscription: who holds what, settling it in the queue, and what is least urgent.

use super::super::lane::{Entry, step};
use super::super::log::Log;
use super::{Exception, Rules, Standing, Subscription};
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::letter::Reason;
use crate::name::IdKey;

/// What a subscription has to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Hold {
    /// Nothing: it is older than the subscription, or settled.
    None,
    Waiting,
    InFlight,
    /// On its way to another topic.
    Moving,
}

impl Subscription {
    pub(in crate::queue) fn hold(&self, key: EventKey, id: IdKey) -> Hold {
        if key.seq <= self.since {
            return Hold::None;
        }
        if self.exceptions.contains_key(&key) {
            return Hold::Waiting;
        }
        if !self.letters.is_empty() && self.letters.contains_key(&key) {
            return if self.unsent.contains(&key) { Hold::Waiting } else { Hold::Moving };
        }
        if self.flights.holds(id, key) {
            return Hold::InFlight;
        }
        if key.seq <= self.position(key.priority) || self.settled_ahead.contains(&key) {
            Hold::None
        } else {
            Hold::Waiting
        }
    }

    /// The latest event taken from a lane.
    pub(super) fn position(&self, priority: Priority) -> Seq {
        self.lanes.get(&priority).copied().unwrap_or(self.seen)
    }

    /// Settles an event that waits.
    pub(in crate::queue) fn settle_waiting(&mut self, log: &mut Log, key: EventKey) {
        self.leave_undue(log, key);
        self.leave_queue(key);
        self.count_settled(log, key);
        if log.get(key).is_none() {
            self.settled_ahead.remove(&key);
        } else if self.settled_ahead.len() > 2 * log.live + 1024 {
            // Others freed what this subscription had settled ahead, in lanes that it has not come to since.
            self.settled_ahead.retain(|key| log.get(*key).is_some());
        }
    }

    /// The same for what goes without having been asked for. That is mostly what is first in its lane: so the position moves past
    /// it, and nothing is remembered of however many.
    pub(in crate::queue) fn drop_waiting(&mut self, log: &mut Log, key: EventKey) {
        self.leave_undue(log, key);
        self.pass_first(log, key);
        self.settle_waiting(log, key);
    }

    /// Moves the position past an event that is the first after it.
    pub(super) fn pass_first(&mut self, log: &Log, key: EventKey) {
        let position = self.position(key.priority).max(self.since);
        if key.seq > position && log.first_after(key.priority, position).is_some_and(|first| first.seq == key.seq) {
            self.advance(key);
        }
    }

    /// An event has waited for too long.
    pub(in crate::queue) fn expire(&mut self, log: &mut Log, key: EventKey, rules: Rules) {
        self.counters.expired += 1;
        if rules.expired_to_dead_letter {
            self.bury(log, key, Reason::Expired);
        } else {
            self.drop_waiting(log, key);
        }
    }

    /// Until when an event that waits may wait, if it expires at `expires_at` by itself.
    pub(in crate::queue) fn waits_until(&self, key: EventKey, expires_at: Millis) -> Millis {
        expires_at.plus(self.exceptions.get(&key).map_or(0, |exception| exception.grace_ms))
    }

    /// The event has been taken out of the topic: what waits here waits no more. The log counts its holders itself, and the
    /// storage is told once for all subscriptions.
    pub(in crate::queue) fn withdraw_waiting(&mut self, log: &Log, key: EventKey, len: u64) {
        self.leave_undue(log, key);
        self.drop_exception(key);
        self.drop_letter(key);
        self.settled.0 += 1;
        self.settled.1 += len;
    }

    pub(super) fn leave_queue(&mut self, key: EventKey) {
        self.drop_exception(key);
        self.drop_letter(key);
        if key.seq > self.position(key.priority) {
            self.settled_ahead.insert(key);
        }
    }

    /// What is to be remembered of an event that is held: how often it has been delivered, a delivery under way not counted; when
    /// it is due; and how long it was in flight.
    pub(in crate::queue) fn held_state(&self, key: EventKey, id: IdKey) -> (u32, Option<Millis>, u64) {
        if let Some(Exception { deliveries, grace_ms, standing, .. }) = self.exceptions.get(&key) {
            let due = if let Standing::Delayed(due) = standing { Some(*due) } else { None };
            return (*deliveries, due, *grace_ms);
        }
        if let Some(letter) = self.letters.get(&key) {
            return (letter.deliveries, Self::due_of(letter), letter.grace_ms);
        }
        let state = self.flights.state(id, key);
        state.map_or((0, None, 0), |(deliveries, grace_ms)| (deliveries - 1, None, grace_ms))
    }

    /// Among those of one id that wait, the least is what a late acknowledgement means: the one that was delivered first, else
    /// the one that will be next.
    pub(in crate::queue) fn late_order(&self, key: EventKey) -> (bool, u64, EventKey) {
        let exception = self.exceptions.get(&key).map(|exception| (exception.deliveries, exception.order));
        let letter = || self.letters.get(&key).map(|letter| (letter.deliveries, letter.order));
        let delivered = exception.or_else(letter).filter(|(deliveries, _)| *deliveries > 0);
        (delivered.is_none(), delivered.map_or(0, |(_, order)| order), key)
    }

    /// Events that are not due yet.
    pub(in crate::queue) fn delayed_len(&self) -> u64 {
        self.delayed.len() as u64 + self.undue
    }

    /// An event that is published with a delay begins to wait here.
    pub(in crate::queue) fn enter_undue(&mut self) {
        self.undue += 1;
    }

    /// An event comes due, or leaves its lane before: it counts as delayed there no more. To be called before it leaves.
    pub(in crate::queue) fn leave_undue(&mut self, log: &Log, key: EventKey) {
        if self.undue > 0 && log.is_undue(key) {
            self.come_due(key);
        }
    }

    /// The same for an event of which it is known that it has been undue until now.
    pub(in crate::queue) fn come_due(&mut self, key: EventKey) {
        self.undue -= u64::from(self.undue > 0 && self.is_in_lane(key));
    }

    /// Events that count as delayed in their lanes, by the counter and counted anew.
    #[cfg(test)]
    pub(in crate::queue) fn undue(&self, log: &Log) -> (u64, u64) {
        (self.undue, log.undue().filter(|key| self.is_in_lane(*key)).count() as u64)
    }

    /// Whether an event that the topic has is still where it was published to.
    pub(in crate::queue) fn is_in_lane(&self, key: EventKey) -> bool {
        key.seq > self.position(key.priority).max(self.since) && !self.passes_over(key)
    }

    /// Whether the last search for what is next ended before it had looked at everything.
    pub(in crate::queue) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// When something changes by the passing of time alone.
    pub(in crate::queue) fn next_change(&self) -> Option<Millis> {
        if self.unfinished && self.is_hungry() {
            return Some(Millis(0));
        }
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let flight = self.flights.next_deadline().map(|(at, _)| at);
        delayed.into_iter().chain(flight).min()
    }

    /// Up to `most` events that will be next after `key`, itself included: what is worth reading together.
    pub(in crate::queue) fn upcoming(&self, log: &Log, key: EventKey, most: usize) -> Vec<EventKey> {
        let mut keys = vec![key];
        keys.extend(self.ready.iter().copied().filter(|other| *other != key).take(most / 2));
        let position = self.position(key.priority).max(Seq(key.seq.0.saturating_sub(1)));
        let fresh = log.iter_after(key.priority, position).take_while(|entry| entry.seq <= log.visible);
        let fresh = fresh.map(|entry| EventKey { priority: key.priority, seq: entry.seq });
        keys.extend(fresh.filter(|other| *other != key).take(most));
        keys.truncate(most);
        keys
    }

    /// What waits beside the lanes, in delivery order: what came back and is due, and what waits for another of its id.
    pub(in crate::queue) fn aside(&self) -> impl Iterator<Item = EventKey> + '_ {
        let mut blocked: Vec<EventKey> = self.blocked.values().flatten().copied().collect();
        blocked.sort_unstable();
        let mut blocked = blocked.into_iter().peekable();
        let mut ready = self.ready.iter().copied().peekable();
        std::iter::from_fn(move || match (ready.peek(), blocked.peek()) {
            (Some(first), Some(second)) if second < first => blocked.next(),
            (Some(_), _) => ready.next(),
            (None, _) => blocked.next(),
        })
    }

    /// After which event of a lane those begin that have not been taken from it.
    pub(in crate::queue) fn start_of(&self, priority: Priority) -> Seq {
        self.position(priority).max(self.since)
    }

    /// Whether an event that has not been taken from its lane is not delivered from there either.
    pub(in crate::queue) fn is_passed_over(&self, key: EventKey) -> bool {
        self.passes_over(key)
    }

    /// The oldest event that is not settled.
    pub(in crate::queue) fn oldest(&self, log: &Log) -> Option<Millis> {
        let flights = self.flights.iter().map(|flight| flight.key);
        let aside = self.exceptions.keys().chain(self.letters.keys()).copied();
        let lanes = log.priorities().filter_map(|priority| {
            let mut entries = log.iter_after(priority, self.position(priority).max(self.since));
            entries
                .find(|entry| !self.settled_ahead.contains(&EventKey { priority, seq: entry.seq }))
                .map(|entry| EventKey { priority, seq: entry.seq })
        });
        let oldest = flights.chain(aside).chain(lanes).min_by_key(|key| key.seq)?;
        log.get(oldest).map(Entry::published_at)
    }

    // ---- What is least urgent ----

    /// The least urgent event that waits, the oldest of several; visible or not, but none of `skip`.
    pub(in crate::queue) fn lowest(&mut self, log: &Log, skip: &[EventKey]) -> Option<EventKey> {
        self.look_at_new_lanes(log);
        let fresh = self.lowest_fresh(log, skip);
        let aside = self.lowest_aside(skip);
        fresh.into_iter().chain(aside).min_by_key(|key| (key.priority, key.seq))
    }

    fn lowest_aside(&self, skip: &[EventKey]) -> Option<EventKey> {
        let mut last = self.exceptions.keys().next_back()?.priority;
        loop {
            // Delivery order: the least urgent come last, and among them the oldest first.
            let first = EventKey { priority: last, seq: Seq(0) };
            let mut of_lane =
                self.exceptions.range(first..).map(|(key, _)| *key).take_while(|key| key.priority == last);
            if let Some(key) = of_lane.find(|key| !skip.contains(key)) {
                return Some(key);
            }
            last = self.exceptions.range(..first).next_back()?.0.priority;
        }
    }

    fn lowest_fresh(&mut self, log: &Log, skip: &[EventKey]) -> Option<EventKey> {
        let mut above = None;
        loop {
            let beyond =
                (above.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded), std::ops::Bound::Unbounded);
            let known = self.lanes.range(beyond).next().map(|(priority, _)| *priority);
            let priority = known.into_iter().chain(log.lane_with_invisible_above(above)).min()?;
            above = Some(priority);
            let position = self.position(priority).max(self.since);
            let mut passed = None;
            let mut nothing = true;
            for entry in log.iter_after(priority, position) {
                step();
                let key = EventKey { priority, seq: entry.seq };
                nothing = false;
                if !self.passes_over(key) {
                    if let Some(passed) = passed {
                        self.advance(passed);
                    }
                    if skip.contains(&key) {
                        // Rare, and few: what follows it is looked at without remembering how far.
                        let rest = log.iter_after(priority, key.seq);
                        let mut rest = rest.map(|entry| EventKey { priority, seq: entry.seq });
                        match rest.find(|key| !self.passes_over(*key) && !skip.contains(key)) {
                            Some(key) => return Some(key),
                            None => break,
                        }
                    }
                    return Some(key);
                }
                passed = Some(key);
            }
            if let Some(passed) = passed {
                self.advance(passed);
            }
            if nothing && position <= log.visible && self.lanes.remove(&priority).is_some() {
                self.prune(priority, Seq(u64::MAX));
            }
        }
    }
}

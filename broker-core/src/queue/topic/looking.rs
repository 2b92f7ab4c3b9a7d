//! A look at what waits, which changes nothing.

use super::{SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::storage::Place;

/// Events that one look passes at the most, to find those that could be delivered.
const STEPS: usize = 100_000;

/// An event that waits.
#[derive(Debug)]
pub struct Peeked {
    /// The event.
    pub key: EventKey,
    /// Its encoding, if it is in memory.
    pub payload: Option<Payload>,
    /// Where the storage keeps it, if it is written.
    pub place: Option<Place>,
    /// The number of earlier deliveries.
    pub redelivered: u32,
}

impl Topic {
    /// Up to `most` events of a subscription in the order in which they will be delivered, of `most_bytes` together or a little
    /// more. What is not due, or has waited for too long, is not among them.
    pub fn peek(&mut self, sub: SubscriptionId, most: usize, most_bytes: usize, now: Millis) -> Vec<Peeked> {
        let rules = self.rules();
        let Some(sub) = self.subscriptions.get_mut(sub.0) else { return Vec::new() };
        sub.promote(now);
        let log = &self.log;
        let mut aside = sub.aside().peekable();
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut take = |key: EventKey| {
            let Some(entry) = log.get(key) else { return true };
            let times = entry.timed().then(|| log.times(key.seq)).flatten();
            let is_late = |at: Millis| sub.waits_until(key, at) <= now;
            let (deliveries, ..) = sub.held_state(key, entry.id);
            if times.and_then(|times| times.expires_at).is_some_and(is_late)
                || rules.max_deliveries > 0 && deliveries >= rules.max_deliveries
            {
                return true;
            }
            bytes += entry.len as usize;
            let (payload, place) = (log.payload(key).cloned(), entry.place());
            found.push(Peeked { key, payload, place, redelivered: deliveries });
            found.len() < most && bytes < most_bytes
        };
        let mut steps = 0;
        'all: for priority in log.priorities() {
            for entry in log.iter_after(priority, sub.start_of(priority)).take_while(|entry| entry.seq <= log.visible) {
                let key = EventKey { priority, seq: entry.seq };
                steps += 1;
                if steps > STEPS {
                    break 'all;
                }
                let due = entry.timed().then(|| log.times(key.seq)).flatten().and_then(|times| times.due_at);
                if due.is_some_and(|due| due > now) || sub.is_passed_over(key) {
                    continue;
                }
                while let Some(before) = aside.next_if(|other| *other < key) {
                    if !take(before) {
                        return found;
                    }
                }
                if !take(key) {
                    return found;
                }
            }
            while let Some(before) = aside.next_if(|other| *other < EventKey { priority, seq: Seq(u64::MAX) }) {
                if !take(before) {
                    return found;
                }
            }
        }
        found
    }

    /// The only subscription, if there is one.
    #[must_use]
    pub fn only_subscription(&self) -> Option<SubscriptionId> {
        let mut all = self.subscriptions.iter();
        all.next().filter(|_| all.next().is_none()).map(|(at, _)| SubscriptionId(at))
    }

    /// The names of its durable subscriptions, in order.
    #[must_use]
    pub fn subscription_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.named.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

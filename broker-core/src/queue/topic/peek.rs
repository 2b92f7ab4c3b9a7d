//! Shows waiting events in delivery order without delivering them.

use super::{SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::storage::Place;

/// The most events that one peek skips on its way to deliverable ones.
const STEPS: usize = 100_000;

/// A waiting event.
#[derive(Debug)]
pub struct Peeked {
    /// The event.
    pub key: EventKey,
    /// The event's payload, if it is in memory.
    pub payload: Option<Payload>,
    /// The event's place in the storage, if it is written.
    pub place: Option<Place>,
    /// The size of the event, in bytes.
    pub len: usize,
    /// The number of earlier deliveries.
    pub redelivered: u32,
}

/// Waiting events, and where reading them stopped.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, in delivery order.
    pub events: Vec<Peeked>,
    /// The key to continue after; `None` if there are no more.
    pub next: Option<EventKey>,
}

impl Topic {
    /// Up to `most` events of a subscription in the order in which they will be delivered, of `most_bytes` together or a little more.
    /// Omits events that are not yet due or have expired, and those up to `after` in delivery order.
    pub fn peek(
        &mut self,
        sub: SubscriptionId,
        most: usize,
        most_bytes: usize,
        now: Millis,
        after: Option<EventKey>,
    ) -> Page {
        let is_later = |key: EventKey| after.is_none_or(|after| key > after);
        let rules = self.rules();
        let Some(sub) = self.subscriptions.get_mut(sub) else { return Page::default() };
        sub.promote(now);
        let log = &self.log;
        let mut aside = sub.due_aside().skip_while(|key| !is_later(*key)).peekable();
        let mut found = Vec::new();
        let mut bytes = 0;
        // Returns whether there is room for more.
        let mut take = |key: EventKey| {
            let Some(entry) = log.get(key) else { return true };
            let times = entry.timed().then(|| log.times(key.seq)).flatten();
            let has_expired = |at: Millis| sub.waits_until(key, at) <= now;
            let (history, _) = sub.state_to_store(key, entry.id, rules);
            if times.and_then(|times| times.expires_at).is_some_and(has_expired) || rules.is_exhausted(history) {
                return true;
            }
            let len = entry.len as usize;
            bytes += len;
            let (payload, place) = (log.payload(key).cloned(), entry.place());
            found.push(Peeked { key, payload, place, len, redelivered: history.deliveries });
            found.len() < most && bytes < most_bytes
        };
        let mut steps = 0;
        for priority in log.priorities() {
            let mut position = sub.position(priority);
            match after {
                Some(after) if priority > after.priority => continue,
                Some(after) if priority == after.priority => position = position.max(after.seq),
                _ => {}
            }
            for entry in log.iter_after(priority, position).take_while(|entry| entry.seq <= log.visible) {
                let key = EventKey { priority, seq: entry.seq };
                steps += 1;
                if steps > STEPS {
                    // Everything before this event has been looked at, except what stands aside.
                    while let Some(before) = aside.next_if(|other| *other < key) {
                        if !take(before) {
                            return Page::ended_by(found);
                        }
                    }
                    return Page { events: found, next: Some(EventKey { priority, seq: Seq(key.seq.0 - 1) }) };
                }
                let due = entry.timed().then(|| log.times(key.seq)).flatten().and_then(|times| times.due_at);
                if due.is_some_and(|due| due > now) || sub.has_left_its_lane(key) {
                    continue;
                }
                while let Some(before) = aside.next_if(|other| *other < key) {
                    if !take(before) {
                        return Page::ended_by(found);
                    }
                }
                if !take(key) {
                    return Page::ended_by(found);
                }
            }
            while let Some(before) = aside.next_if(|other| *other < EventKey { priority, seq: Seq(u64::MAX) }) {
                if !take(before) {
                    return Page::ended_by(found);
                }
            }
        }
        Page { events: found, next: None }
    }
}

impl Page {
    /// A page that its last event has filled.
    fn ended_by(events: Vec<Peeked>) -> Self {
        let next = events.last().map(|event| event.key);
        Self { events, next }
    }
}

//! The search for the next event to deliver.
//!
//! The events of a subscription, in the order of the search:
//!
//! ```text
//!                        position          visible
//!                           |                 |
//!   lane 9   . . . . . . .  |  a   x   b   c  |  d          `.` has left its lane: settled, in flight, aside, a letter
//!   lane 3   . . . .  |  e       f            |  g   h      `x` was settled, or put aside, ahead of the position
//!
//!   aside    ready    k  l     came back and can be delivered, in delivery order
//!            delayed  m  n     not yet due, in the order of time
//!            blocked  o        another event of its id is in flight
//! ```
//!
//! The candidate is the first in delivery order of two events: the first event beyond the positions (`a`), and the first ready event
//! (`k`). The search relies on these invariants and maintains them:
//!
//! - Every waiting event up to a position is in `aside`, so no event is missed behind the positions.
//! - An event beyond a position may have left its lane already (`x`). The search skips it; whichever collection holds it decides its
//!   fate.
//! - No event after `visible` is delivered, because it is not durable and not confirmed yet.
//! - Once `promote` has run, everything in `delayed` is not yet due, unless the search ends as unfinished.
//!
//! Each round of the loop returns, moves a position forward, or takes an event out of `ready`. So the loop ends, and the cost of a round
//! is amortized over its event. Long runs of events that are not yet due or have expired, possibly millions, are
//! limited by [`SET_ASIDE`].

use super::{Rules, Subscription};
use crate::event::{EventKey, Millis, Seq};
use crate::letter::Reason;
use crate::name::IdKey;
use crate::queue::history::History;
use crate::queue::log::Log;

/// Events that one search sets aside, at most, because they are not yet due, are blocked or have expired. A million of them would hold up
/// the shard; [`Subscription::next_change`] says that there is more.
const SET_ASIDE: usize = 4096;

/// The next event. It still waits in its place until [`Subscription::deliver`] takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) struct Candidate {
    pub(in crate::queue) key: EventKey,
    pub(super) id: IdKey,
    pub(super) history: History,
    /// Whether it is delivered from its lane.
    pub(super) fresh: bool,
}

impl Subscription {
    /// The next event that can be delivered now. Events before it that cannot be delivered are set aside or removed.
    pub(in crate::queue) fn candidate(&mut self, log: &mut Log, now: Millis, rules: Rules) -> Option<Candidate> {
        self.positions.open_changed(log);
        let more_due = self.aside.promote(now);
        let mut left = SET_ASIDE;
        self.unfinished = false;
        loop {
            if left == 0 {
                self.unfinished = true;
                return None;
            }
            let first_in_lanes = self.positions.first(log);
            let key = match (self.aside.first_ready(), first_in_lanes) {
                (Some(ready), Some(first)) => ready.min(first),
                (Some(key), None) | (None, Some(key)) => key,
                (None, None) => {
                    self.unfinished = more_due;
                    return None;
                }
            };
            let fresh = first_in_lanes == Some(key);
            if fresh && self.has_left_its_lane(key) {
                self.positions.advance(key);
                continue;
            }
            let Some(entry) = log.get(key) else {
                // The log frees an event only after every subscription has settled it. If one is missing anyway, it cannot be delivered.
                debug_assert!(false, "a waiting event is in the log");
                self.aside.remove(key);
                continue;
            };
            let id = entry.id;
            let times = entry.timed().then(|| log.times(key.seq)).flatten();
            let history = self.aside.get(key).map_or(History::default(), |exception| exception.history);
            // The delay is checked before the expiry, and only the first time. Otherwise the fate of an event that is both expired and
            // delayed would depend on how often it was examined, and on restarts.
            if let Some(due) = times.and_then(|times| times.due_at).filter(|due| fresh && *due > now) {
                left -= 1;
                self.leave_lane(log, key);
                self.aside.insert(key, history, Some(due));
                continue;
            }
            if rules.one_flight_an_id && self.flights.contains(id) {
                left -= 1;
                if fresh {
                    self.leave_lane(log, key);
                }
                self.aside.block(key, id, history);
                continue;
            }
            if times.and_then(|times| times.expires_at).is_some_and(|at| at.plus(history.grace_ms) <= now) {
                left -= 1;
                self.expire(log, key, rules);
                continue;
            }
            if rules.is_exhausted(history) {
                // The broker was restarted or the policy has changed, and the review of the subscription has not come this far.
                self.bury(log, key, Reason::MaxDeliveries);
                continue;
            }
            return Some(Candidate { key, id, history, fresh });
        }
    }

    /// Takes the first event beyond a position out of its lane.
    #[inline]
    pub(super) fn leave_lane(&mut self, log: &Log, key: EventKey) {
        self.leave_delayed(log, key);
        self.positions.advance(key);
    }

    /// Whether the last search ended before it had examined all events.
    pub(in crate::queue) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Up to `most` events that probably follow, beginning with `key`: payloads worth reading together.
    pub(in crate::queue) fn upcoming(&self, log: &Log, key: EventKey, most: usize) -> Vec<EventKey> {
        let mut keys = vec![key];
        keys.extend(self.aside.ready().filter(|other| *other != key).take(most / 2));
        let position = self.positions.of(key.priority).max(Seq(key.seq.0.saturating_sub(1)));
        let fresh = log.iter_after(key.priority, position).take_while(|entry| entry.seq <= log.visible);
        let fresh = fresh.map(|entry| EventKey { priority: key.priority, seq: entry.seq });
        keys.extend(fresh.filter(|other| *other != key).take(most));
        keys.truncate(most);
        keys
    }
}

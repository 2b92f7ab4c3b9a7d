//! Whether and how a subscription holds an event.

use super::{Rules, Subscription};
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::name::IdKey;
use crate::queue::history::History;

/// How a subscription holds an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Hold {
    /// The event is not held: it is older than the subscription, or settled.
    None,
    Waiting,
    InFlight,
    /// Another topic has been asked to take the event.
    Moving,
}

impl Subscription {
    /// How the subscription holds an event that is in the log.
    pub(in crate::queue) fn hold(&self, key: EventKey, id: IdKey) -> Hold {
        if key.seq <= self.since() {
            return Hold::None;
        }
        if self.aside.contains(key) {
            return Hold::Waiting;
        }
        if self.letters.contains(key) {
            return if self.letters.is_unsent(key) { Hold::Waiting } else { Hold::Moving };
        }
        if self.flights.of(id, key).is_some() {
            return Hold::InFlight;
        }
        if self.positions.has_passed(key) || self.positions.is_settled_ahead(key) { Hold::None } else { Hold::Waiting }
    }

    /// Whether an event beyond the position must not be delivered from its lane, because it was settled, set aside, or made a letter.
    #[inline]
    pub(in crate::queue) fn has_left_its_lane(&self, key: EventKey) -> bool {
        self.positions.is_settled_ahead(key) || self.aside.contains(key) || self.letters.contains(key)
    }

    /// Whether an event of the log waits in its lane.
    pub(super) fn is_in_lane(&self, key: EventKey) -> bool {
        !self.positions.has_passed(key) && !self.has_left_its_lane(key)
    }

    /// The position in a lane. Later events have not been taken from the lane.
    pub(in crate::queue) fn position(&self, priority: Priority) -> Seq {
        self.positions.of(priority)
    }

    /// The due events outside the lanes, in delivery order.
    pub(in crate::queue) fn due_aside(&self) -> impl Iterator<Item = EventKey> + '_ {
        self.aside.due()
    }

    /// The time until which an event that expires at `expires_at` may wait, with its time in flight added.
    pub(in crate::queue) fn waits_until(&self, key: EventKey, expires_at: Millis) -> Millis {
        expires_at.plus(self.aside.get(key).map_or(0, |exception| exception.history.grace_ms))
    }

    /// The stored state of a held event: its deliveries, and its due time.
    ///
    /// A delivery under way counts where deliveries are recorded ([`counts`](super::counts)). Elsewhere only its end is stored, so a restart
    /// before that undoes it.
    pub(in crate::queue) fn state_to_store(&self, key: EventKey, id: IdKey, rules: Rules) -> (History, Option<Millis>) {
        if let Some(exception) = self.aside.get(key) {
            return (exception.history, exception.due_at());
        }
        if let Some(letter) = self.letters.get(key) {
            return (letter.history, letter.due_at());
        }
        let history = self.flights.of(id, key).map_or(History::default(), |flight| {
            let history = flight.history;
            History { deliveries: history.deliveries - u32::from(rules.max_deliveries == 0), ..history }
        });
        (history, None)
    }

    /// Orders the waiting events of one id: a late acknowledgement means the least, which was delivered first. `None` for
    /// an undelivered event, which no acknowledgement can mean.
    pub(in crate::queue) fn late_order(&self, key: EventKey) -> Option<(u64, EventKey)> {
        let exception = self.aside.get(key).map(|exception| exception.history);
        let history = exception.or_else(|| self.letters.get(key).map(|letter| letter.history))?;
        (history.deliveries > 0).then_some((history.order, key))
    }
}

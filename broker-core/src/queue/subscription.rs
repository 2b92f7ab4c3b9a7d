//! A subscription: positions in the lanes of its topic, and the exceptions to them.
//!
//! An event waiting in its lane costs a subscription nothing. Only events that have left the order of the lanes are remembered, each
//! kind in a type with its own invariants:
//!
//! | to find | look in |
//! | --- | --- |
//! | the choice of the next event | [`candidate`] |
//! | deliveries, acknowledgements, nacks, timeouts | [`delivery`] |
//! | whether and how an event is held | [`hold`] |
//! | the position in each lane | [`positions`] |
//! | events that came back, are not yet due, or wait for another event of their id | [`aside`] |
//! | events that move to another topic | [`letters`], and the phases of a move in [`moving`] |
//! | the consumers and whose turn it is | [`consumers`] |
//! | acknowledgements that are late or settle nothing | [`late`] |
//! | the delivery counts that outlive a kill, and events that have used theirs up | [`counts`] |
//! | counts of unsettled events | [`account`] |
//! | changes not yet stored | [`unstored`] |
//! | the least urgent event, which makes room | [`lowest`] |
//! | a backlog that is removed or purged in slices | [`backlog`] |
//! | recovery after a restart | [`recovery`] |

mod account;
mod aside;
mod backlog;
mod candidate;
mod consumers;
mod counts;
mod delivery;
mod hold;
mod late;
mod letters;
mod lowest;
mod moving;
mod positions;
mod recovery;
mod unstored;

use super::flights::Flights;
use super::history::History;
use super::log::Log;
use crate::event::{EventKey, Millis, Seq};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName};
use crate::tally::Tally;
use account::Account;
use aside::Aside;
pub(super) use backlog::Backlog;
pub(super) use candidate::Candidate;
use consumers::Consumers;
pub use consumers::{ClientId, ConsumerId};
use counts::Review;
pub(super) use hold::Hold;
use letters::Letters;
use positions::Positions;
use unstored::Unstored;

/// The delivery rules of the topic's policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whether an event waits while another event of its id is in flight.
    pub(super) one_flight_an_id: bool,
    /// The number of deliveries after which a returning event becomes a dead letter; 0: no limit.
    pub(super) max_deliveries: u32,
    /// Whether expired events become dead letters.
    pub(super) expired_to_dead_letter: bool,
    /// Milliseconds after which an unsettled delivery is taken back; 0: never.
    pub(super) ack_timeout_ms: u64,
}

impl Rules {
    /// Whether an event with this history must not be delivered again.
    #[inline]
    pub(super) fn is_exhausted(&self, history: History) -> bool {
        self.max_deliveries > 0 && history.deliveries >= self.max_deliveries
    }

    /// The deadline of a delivery that starts now; `None` for no deadline.
    fn deadline(&self, now: Millis) -> Option<Millis> {
        (self.ack_timeout_ms > 0).then(|| now.plus(self.ack_timeout_ms))
    }
}

/// Counters since the start of the broker.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counters {
    pub(super) delivered: u64,
    pub(super) acknowledged: u64,
    pub(super) redelivered: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    pub(super) dead_lettered: u64,
}

/// A subscription of a topic.
///
/// Invariant: an event held by the subscription is in exactly one of four places. It waits in its lane beyond the position, or in
/// `aside`; it is in `flights`; or it is one of the `letters`. [`Subscription::hold`] tells which.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The name; `None` for a subscription that belongs to its connection and is not stored.
    name: Option<SubscriptionName>,
    /// Distinguishes it from earlier and later subscriptions at the same place in the topic.
    birth: u64,
    positions: Positions,
    aside: Aside,
    /// The number of delayed events still in their lanes and not yet due. Those in `aside` are counted there.
    delayed_in_lanes: u64,
    letters: Letters,
    flights: Flights,
    consumers: Consumers,
    account: Account,
    counters: Counters,
    unstored: Unstored,
    /// Whether a payload is being read for it. Until then nothing is delivered, which keeps the order.
    loading: bool,
    /// Whether the last search for a candidate ended early; see [`candidate`].
    unfinished: bool,
    /// The search for events that have used up their deliveries; see [`counts`].
    review: Review,
}

impl Subscription {
    /// A subscription that holds the events after `since`, of a topic that has stored `stored` so far.
    pub(super) fn new(name: Option<SubscriptionName>, birth: u64, since: Seq, stored: Tally) -> Self {
        Self {
            unstored: Unstored::new(name.is_some()),
            name,
            birth,
            positions: Positions::new(since),
            aside: Aside::default(),
            delayed_in_lanes: 0,
            letters: Letters::default(),
            flights: Flights::default(),
            consumers: Consumers::default(),
            account: Account::open(stored),
            counters: Counters::default(),
            loading: false,
            unfinished: false,
            review: Review::Done,
        }
    }

    pub(super) fn name(&self) -> Option<&SubscriptionName> {
        self.name.as_ref()
    }

    pub(super) fn birth(&self) -> u64 {
        self.birth
    }

    /// The sequence after which the subscription holds events.
    pub(super) fn since(&self) -> Seq {
        self.positions.since()
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts an event that is dropped before the subscription ever held it.
    pub(super) fn count_dropped(&mut self) {
        self.counters.dropped += 1;
    }

    /// The unsettled part of the `stored` so far.
    pub(super) fn unsettled(&self, stored: Tally) -> Tally {
        self.account.unsettled(stored)
    }

    /// The changes not yet handed to the storage, and the name under which it knows the subscription.
    pub(super) fn unstored_mut(&mut self) -> (Option<&SubscriptionName>, &mut Unstored) {
        (self.name.as_ref(), &mut self.unstored)
    }

    /// Whether there are settlements to store or letters to send.
    #[inline]
    pub(super) fn has_changes(&self) -> bool {
        self.unstored.has_settled() || self.letters.has_unsent()
    }

    // ---- Settling waiting events ----

    /// Settles a waiting event.
    pub(super) fn settle_waiting(&mut self, log: &mut Log, key: EventKey) {
        self.leave_delayed(log, key);
        self.settle_counted(log, key);
    }

    /// Settles an event that waits and is not counted as delayed in its lane any more.
    fn settle_counted(&mut self, log: &mut Log, key: EventKey) {
        self.aside.remove(key);
        self.letters.remove(key);
        self.positions.settle(key);
        self.settle(log, key);
        self.positions.forget_freed(log, key);
    }

    /// Settles a waiting event that came back, because its consumer acknowledged it late.
    pub(super) fn acknowledge_waiting(&mut self, log: &mut Log, consumer: ConsumerId, id: IdKey, key: EventKey) {
        self.settle_waiting(log, key);
        self.counters.acknowledged += 1;
        self.consumers.event_is_acknowledged(key);
        self.consumers.forget_late(consumer, id, key);
    }

    /// Settles a waiting event whose payload is lost.
    pub(super) fn drop_unreadable(&mut self, log: &mut Log, key: EventKey) {
        self.settle_waiting(log, key);
        self.counters.dropped += 1;
    }

    /// Settles a waiting event to make room for others.
    pub(super) fn drop_for_room(&mut self, log: &mut Log, key: EventKey) {
        self.drop_waiting(log, key);
        self.counters.dropped += 1;
    }

    /// Settles a waiting event without a consumer's request. Such an event is usually the first of its lane, so the position moves past
    /// it, and nothing is remembered however many there are.
    pub(super) fn drop_waiting(&mut self, log: &mut Log, key: EventKey) {
        self.leave_delayed(log, key);
        self.positions.advance_if_first(log, key);
        // An event that is not the first still counts as in its lane: counted down twice, it would stand for another delayed one.
        self.settle_counted(log, key);
    }

    /// Removes an expired event, or makes a dead letter of it.
    pub(super) fn expire(&mut self, log: &mut Log, key: EventKey, rules: Rules) {
        self.counters.expired += 1;
        if rules.expired_to_dead_letter {
            self.bury(log, key, Reason::Expired);
        } else {
            self.drop_waiting(log, key);
        }
    }

    /// Forgets a waiting event that is withdrawn from the topic. The caller updates the log and the storage once for all
    /// subscriptions.
    pub(super) fn withdraw_waiting(&mut self, log: &Log, key: EventKey, len: u64) {
        self.leave_delayed(log, key);
        self.aside.remove(key);
        self.letters.remove(key);
        self.account.settle(Tally::one(len));
    }

    /// Settles an event in the log, in the account, and for the storage.
    #[inline]
    fn settle(&mut self, log: &mut Log, key: EventKey) {
        self.account.settle(Tally::one(log.settle(key)));
        self.unstored.settle(key);
    }

    // ---- Delays ----

    /// The number of events that are not yet due.
    pub(super) fn delayed(&self) -> u64 {
        self.aside.delayed() as u64 + self.delayed_in_lanes
    }

    /// Counts an event that is published with a delay.
    pub(super) fn enter_delayed(&mut self) {
        self.delayed_in_lanes += 1;
    }

    /// Stops counting an event as delayed in its lane, if it was. Must be called before the event leaves its lane.
    #[inline]
    fn leave_delayed(&mut self, log: &Log, key: EventKey) {
        if self.delayed_in_lanes > 0 && log.is_delayed(key) {
            self.come_due(key);
        }
    }

    /// Stops counting an event as delayed once it is due, if it is still in its lane.
    pub(super) fn come_due(&mut self, key: EventKey) {
        self.delayed_in_lanes -= u64::from(self.delayed_in_lanes > 0 && self.is_in_lane(key));
    }

    /// Makes due events ready. Returns whether more are due.
    pub(super) fn promote(&mut self, now: Millis) -> bool {
        self.aside.promote(now)
    }

    /// Makes events ready that wait for another event of their id.
    pub(super) fn unblock_all(&mut self) {
        self.aside.unblock_all();
    }

    /// The time of the next change that depends on time alone.
    pub(super) fn next_change(&self) -> Option<Millis> {
        if self.unfinished && self.is_hungry() || self.review != Review::Done {
            return Some(Millis(0));
        }
        let deadline = self.flights.next_deadline().map(|(at, _)| at);
        self.aside.next_due().into_iter().chain(deadline).min()
    }

    // ---- Leaving a backlog ----

    /// Takes all waiting events from the subscription as a backlog. Events in flight or sent to another topic stay. `last`
    /// is the latest event of the topic, which has stored `stored` in all. Also returns the backlog's size.
    pub(super) fn purge(&mut self, log: &Log, last: Seq, stored: Tally) -> (Backlog, Tally) {
        let mut size = self.unsettled(stored);
        let aside = self.aside.take();
        let unsent = self.letters.take_unsent();
        let mut positions = self.positions.leave(last);
        // Events that stay do not belong to the backlog, even beyond the old positions.
        for key in self.flights.iter().map(|flight| flight.key).chain(self.letters.sent()) {
            size = size.saturating_sub(Tally::one(log.get(key).map_or(0, |entry| u64::from(entry.len))));
            positions.settle(key);
        }
        self.delayed_in_lanes = 0;
        self.unfinished = false;
        self.account.settle(size);
        (Backlog::new(positions, aside, unsent, last), size)
    }

    /// Ends the subscription, which has no consumers, and leaves its events as a backlog. Letters that were sent are
    /// settled at once, because their answer will find no subscription.
    pub(super) fn end(mut self, log: &mut Log, last: Seq) -> Backlog {
        let unsent = self.letters.take_unsent();
        for key in self.letters.sent() {
            log.settle(key);
            self.positions.settle(key);
        }
        Backlog::new(self.positions, self.aside.take(), unsent, last)
    }
}

#[cfg(test)]
impl Subscription {
    /// The number of entries in all its collections.
    pub(super) fn remembered(&self) -> usize {
        self.positions.entries() + self.aside.entries() + self.letters.entries() + self.flights.len()
    }

    /// Panics if an invariant does not hold.
    pub(super) fn check(&self, log: &Log) {
        self.positions.check(log);
        self.aside.check();
        self.letters.check();
        self.consumers.check();
        let delayed = log.delayed().filter(|key| self.is_in_lane(*key)).count() as u64;
        assert_eq!(self.delayed_in_lanes, delayed, "the count of delayed events matches the lanes");
        for key in self.aside.keys() {
            assert!(!self.letters.contains(key), "{key:?} is aside and a letter");
            assert!(!self.positions.is_settled_ahead(key), "{key:?} is aside and settled");
        }
        for flight in self.flights.iter() {
            assert!(!self.letters.contains(flight.key) && !self.aside.contains(flight.key), "{flight:?}");
        }
    }
}

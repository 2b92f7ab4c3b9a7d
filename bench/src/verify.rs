//! Checks that every event arrives exactly once and in order.

use crate::event::Events;
use crate::target::{Delivered, Order};

/// The order that a consumer can be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Events are published while it consumes: events of equal priority arrive in the order of publication.
    WhilePublishing(Order),
    /// All events were published before it started: the order is exact.
    Waiting(Order),
}

/// The result of the checks; everything but `deliveries` is 0 in a correct run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Deliveries of events of the run, each counted once for each subscription.
    pub deliveries: u64,
    /// Events that a subscription did not receive.
    pub missing: u64,
    /// Deliveries of events that the subscription had already received.
    pub duplicates: u64,
    /// Deliveries that arrived ahead of one that should have preceded them.
    pub out_of_order: u64,
    /// Deliveries of events that were never published, or whose bytes differ from those published.
    pub damaged: u64,
    /// Confirmations that were not expected.
    pub wrong_confirmations: u64,
}

impl Verdict {
    /// Whether every check passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Self { deliveries: _, missing, duplicates, out_of_order, damaged, wrong_confirmations } = *self;
        [missing, duplicates, out_of_order, damaged, wrong_confirmations] == [0; 5]
    }

    /// The sum of both results.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            deliveries: self.deliveries + other.deliveries,
            missing: self.missing + other.missing,
            duplicates: self.duplicates + other.duplicates,
            out_of_order: self.out_of_order + other.out_of_order,
            damaged: self.damaged + other.damaged,
            wrong_confirmations: self.wrong_confirmations + other.wrong_confirmations,
        }
    }
}

/// A set of numbers below a limit.
#[derive(Debug, Clone)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    pub(crate) fn new(limit: u64) -> Self {
        Self(vec![0; usize::try_from(limit.div_ceil(64)).unwrap_or(usize::MAX)])
    }

    /// Adds a number and returns whether it was new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let bit = 1 << (number % 64);
        let word = usize::try_from(number / 64).ok().and_then(|at| self.0.get_mut(at));
        let Some(word) = word else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// The events one subscription has received, over all its consumers.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    seen: Seen,
    count: u64,
    pub(crate) got: u64,
    duplicates: u64,
    damaged: u64,
}

impl Subscription {
    /// Creates the record of a subscription that expects `count` events.
    pub(crate) fn new(count: u64) -> Self {
        Self { seen: Seen::new(count), count, got: 0, duplicates: 0, damaged: 0 }
    }

    /// Counts a delivery. Returns the event's number if it belongs to the run and is new to the subscription.
    pub(crate) fn count(&mut self, delivered: &Delivered) -> Option<u64> {
        let Some(event) = delivered.event.filter(|event| event.index < self.count) else {
            self.damaged += 1;
            return None;
        };
        if !self.seen.insert(event.index) || delivered.again {
            self.duplicates += 1;
            return None;
        }
        self.got += 1;
        Some(event.index)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.got >= self.count
    }

    pub(crate) fn expected(&self) -> u64 {
        self.count
    }

    pub(crate) fn verdict(&self) -> Verdict {
        Verdict {
            deliveries: self.got,
            missing: self.count - self.got,
            duplicates: self.duplicates,
            damaged: self.damaged,
            ..Verdict::default()
        }
    }
}

/// Checks the order of one consumer's deliveries.
#[derive(Debug)]
pub(crate) struct OrderCheck {
    expected: Expected,
    /// The number of events per publisher; events are numbered one publisher after the other.
    share: u64,
    publishers: usize,
    /// Event n is in topic n modulo this.
    topics: usize,
    /// For each priority, publisher and topic: the event after the last one.
    next: Vec<u64>,
    /// The rank of each topic's last delivery.
    rank: Vec<usize>,
    pub(crate) out_of_order: u64,
}

impl OrderCheck {
    pub(crate) fn new(events: &Events, expected: Expected, share: u64, publishers: usize, topics: usize) -> Self {
        // With very many priorities, each has hardly any events; only the cheap checks run then.
        let ranks = events.priorities().min(MOST_RANKS);
        let (next, rank) = (vec![0; ranks * publishers * topics], vec![usize::MAX; topics]);
        Self { expected, share, publishers, topics, next, rank, out_of_order: 0 }
    }

    /// Checks a delivery that was counted.
    pub(crate) fn take(&mut self, events: &Events, index: u64, priority: i32) {
        let (Expected::WhilePublishing(order) | Expected::Waiting(order)) = self.expected;
        let rank = match order {
            Order::Priority => events.rank(priority).unwrap_or(0),
            Order::Fifo => 0,
        };
        let publisher = usize::try_from(index / self.share.max(1)).unwrap_or(usize::MAX).min(self.publishers - 1);
        let topic = usize::try_from(index % self.topics as u64).unwrap_or(0);
        let mut wrong = false;
        if let Some(next) = self.next.get_mut((rank * self.publishers + publisher) * self.topics + topic) {
            wrong |= index < *next;
            *next = (*next).max(index + 1);
        }
        if matches!(self.expected, Expected::Waiting(_)) {
            wrong |= rank > self.rank[topic];
            self.rank[topic] = rank;
        }
        self.out_of_order += u64::from(wrong);
    }
}

/// The most priorities for which the order of publication is tracked.
const MOST_RANKS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Found;

    fn events() -> Events {
        Events::new(256, &(0..=6), 1).unwrap()
    }

    fn delivered(events: &Events, index: u64) -> Delivered {
        Delivered { event: Some(Found { index, priority: events.priority(index) }), again: false }
    }

    #[test]
    fn what_is_missing_double_or_strange_is_counted() {
        let events = events();
        let mut subscription = Subscription::new(4);
        for index in [0, 1, 1, 3] {
            subscription.count(&delivered(&events, index));
        }
        subscription.count(&delivered(&events, 4));
        subscription.count(&Delivered { event: None, again: false });
        let verdict = subscription.verdict();
        assert_eq!((verdict.deliveries, verdict.missing, verdict.duplicates, verdict.damaged), (3, 1, 1, 2));
        assert!(!verdict.is_good() && !subscription.is_complete());
        subscription.count(&delivered(&events, 2));
        assert!(subscription.is_complete());
    }

    #[test]
    fn a_backlog_comes_in_exact_order() {
        let events = events();
        let mut order: Vec<u64> = (0..1000).collect();
        order.sort_by_key(|index| (std::cmp::Reverse(events.priority(*index)), *index));
        let out_of_order = |order: &[u64], expected| {
            let mut check = OrderCheck::new(&events, expected, 1000, 1, 1);
            order.iter().for_each(|index| check.take(&events, *index, events.priority(*index)));
            check.out_of_order
        };
        assert_eq!(out_of_order(&order, Expected::Waiting(Order::Priority)), 0);
        assert!(out_of_order(&order, Expected::Waiting(Order::Fifo)) > 0);
        let published: Vec<u64> = (0..1000).collect();
        assert!(out_of_order(&published, Expected::Waiting(Order::Priority)) > 0);
        assert_eq!(out_of_order(&published, Expected::WhilePublishing(Order::Priority)), 0);
        order.swap(10, 11);
        assert_eq!(out_of_order(&order, Expected::Waiting(Order::Priority)), 1);
        assert_eq!(out_of_order(&order, Expected::WhilePublishing(Order::Priority)), 1);
    }

    #[test]
    fn each_publisher_has_an_order_of_its_own() {
        let events = Events::new(256, &(0..=0), 1).unwrap();
        let mut check = OrderCheck::new(&events, Expected::WhilePublishing(Order::Priority), 10, 2, 1);
        for index in [10, 0, 11, 1] {
            check.take(&events, index, 0);
        }
        assert_eq!(check.out_of_order, 0);
        check.take(&events, 5, 0);
        check.take(&events, 4, 0);
        assert_eq!(check.out_of_order, 1);
    }

    #[test]
    fn each_topic_has_an_order_of_its_own() {
        let events = events();
        let take = |topics, order: &[u64]| {
            let mut check = OrderCheck::new(&events, Expected::Waiting(Order::Priority), 1000, 1, topics);
            order.iter().for_each(|index| check.take(&events, *index, events.priority(*index)));
            check.out_of_order
        };
        let mut order: Vec<u64> = (0..1000).collect();
        order.sort_by_key(|index| (index % 2, std::cmp::Reverse(events.priority(*index)), *index));
        assert_eq!(take(2, &order), 0);
        assert!(take(1, &order) > 0);
        order.swap(10, 11);
        assert_eq!(take(2, &order), 1);
    }
}

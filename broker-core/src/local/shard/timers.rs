//! The times at which something changes in a shard without a message.

use std::collections::BTreeSet;

use crate::event::Millis;
use crate::local::topics::TopicAt;
use crate::queue::SubscriptionId;
use crate::table::Table;

/// The part of a topic that a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A subscription: time-outs, and events that become due in it.
    Subscription(SubscriptionId),
    /// The topic as a whole: expiry, delayed events, letters to send again.
    Topic,
}

/// The timers of a shard, in one ordered structure.
///
/// # Invariant
/// `at` and `of` hold the same timers. Each subscription, and each topic as a whole, has at most one.
#[derive(Default)]
pub(super) struct Timers {
    at: BTreeSet<(Millis, TopicAt, Timer)>,
    of: Table<(TopicAt, Timer), Millis>,
}

impl Timers {
    /// The time of the first timer.
    pub(super) fn first(&self) -> Option<Millis> {
        self.at.first().map(|(time, ..)| *time)
    }

    /// Replaces a timer; `None` cancels it.
    pub(super) fn set(&mut self, topic: TopicAt, timer: Timer, time: Option<Millis>) {
        // The usual case where events have no delay, time-out or time to live.
        if time.is_none() && self.at.is_empty() {
            return;
        }
        if time == self.of.get(&(topic, timer)).copied() {
            return;
        }
        self.cancel(topic, timer);
        if let Some(time) = time {
            self.at.insert((time, topic, timer));
            self.of.insert((topic, timer), time);
        }
    }

    pub(super) fn cancel(&mut self, topic: TopicAt, timer: Timer) {
        if let Some(time) = self.of.remove(&(topic, timer)) {
            self.at.remove(&(time, topic, timer));
        }
    }

    /// Removes the timers due by `now`, at most `most` of them, earliest first.
    pub(super) fn take_due(&mut self, now: Millis, most: usize) -> Vec<(TopicAt, Timer)> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some((time, topic, timer)) = self.at.first().copied()
            && time <= now
        {
            self.cancel(topic, timer);
            due.push((topic, timer));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timer_is_there_once_and_comes_at_its_latest_time() {
        let (topic, sub) = (TopicAt::new(0), Timer::Subscription(SubscriptionId(7)));
        let mut timers = Timers::default();
        timers.set(topic, sub, None);
        assert_eq!(timers.first(), None);
        timers.set(topic, sub, Some(Millis(5)));
        timers.set(topic, Timer::Topic, Some(Millis(6)));
        timers.set(topic, sub, Some(Millis(9)));
        assert_eq!(timers.first(), Some(Millis(6)));
        assert_eq!(timers.take_due(Millis(8), 10), [(topic, Timer::Topic)]);
        assert_eq!(timers.take_due(Millis(8), 10), []);
        assert_eq!(timers.take_due(Millis(9), 0), []);
        assert_eq!(timers.take_due(Millis(9), 10), [(topic, sub)]);
        assert_eq!(timers.first(), None);
    }

    #[test]
    fn a_cancelled_timer_does_not_come() {
        let topic = TopicAt::new(3);
        let mut timers = Timers::default();
        timers.set(topic, Timer::Topic, Some(Millis(1)));
        timers.set(topic, Timer::Topic, None);
        assert_eq!(timers.take_due(Millis(9), 10), []);
    }
}

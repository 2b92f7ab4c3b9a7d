//! Changes by the passing of time: acknowledgement time-outs, delays, and expiry.

use super::Shard;
use super::timers::Timer;
use crate::storage::Storage;

/// Holds on events that are checked for expiry in one turn.
const EXPIRE: usize = 1024;

/// Events that become due in one topic in one turn.
const DUE: usize = 1024;

/// Overdue deliveries of one subscription that are taken back in one turn.
const OVERDUE: usize = 1024;

/// Waiting events of one subscription that are examined in one turn for whether they have used up their deliveries.
const EXHAUSTED: usize = 1024;

/// Timers handled in one turn. The rest follow after the messages that have arrived, so that many timers do not block a shard.
const TIMERS: usize = 256;

impl<S: Storage + ?Sized> Shard<S> {
    /// Handles timers that are due.
    pub(super) fn time_passed(&mut self) {
        for (at, timer) in self.queues.timers.take_due(self.queues.turn.now(), TIMERS) {
            match timer {
                // The end of the turn sets the timer again for the rest, and sends letters whose time has come.
                Timer::Topic => {
                    self.queues.with(at, |topic, now| {
                        topic.expire(now, EXPIRE);
                        topic.come_due(now, DUE);
                    });
                }
                Timer::Subscription(sub) => {
                    self.queues.with(at, |topic, now| {
                        topic.take_back_overdue(sub, OVERDUE, now);
                        topic.bury_exhausted(sub, EXHAUSTED, now);
                        topic.promote(sub, now);
                    });
                    self.pump(at, sub);
                }
            }
        }
    }
}

//! Letting go of what a subscription holds, in slices.

use super::super::log::Log;
use super::{Exception, Standing, Subscription};
use crate::event::{EventKey, Seq};

impl Subscription {
    /// Hands over all that waits, to one that only lets go of it; what is in flight or on its way stays. `last` is the latest event
    /// of the topic. Returns how many events that are, with their bytes; `unsettled` is what the subscription has in all.
    pub(in crate::queue) fn hand_over(&mut self, log: &Log, last: Seq, unsettled: (u64, u64)) -> (Self, (u64, u64)) {
        let mut ghost = Self::new(None, 0, self.since, (0, 0));
        for key in std::mem::take(&mut self.unsent) {
            self.drop_letter(key);
            let (deliveries, order, grace_ms, standing) = (0, 0, 0, Standing::Blocked);
            ghost.exceptions.insert(key, Exception { deliveries, order, grace_ms, standing });
        }
        ghost.exceptions.append(&mut self.exceptions);
        ghost.seen = self.seen;
        std::mem::swap(&mut ghost.lanes, &mut self.lanes);
        std::mem::swap(&mut ghost.settled_ahead, &mut self.settled_ahead);
        // These only say how the exceptions stand, which nobody asks any more.
        (self.ready, self.delayed, self.undue, self.blocked) = Default::default();
        // What stays is beside the lanes, and in them the ghost must not find it.
        let stays = self.flights.iter().map(|flight| flight.key).chain(self.letters.keys().copied());
        let mut left = unsettled;
        for key in stays {
            left.0 = left.0.saturating_sub(1);
            left.1 = left.1.saturating_sub(log.get(key).map_or(0, |entry| u64::from(entry.len)));
            if key.seq > ghost.position(key.priority) {
                ghost.settled_ahead.insert(key);
            }
        }
        self.seen = last;
        self.unfinished = false;
        self.settled.0 += left.0;
        self.settled.1 += left.1;
        (ghost, left)
    }

    /// Ends with the subscription: nobody waits for what is on its way any more.
    pub(in crate::queue) fn abandon_letters(&mut self, log: &mut Log) {
        let keys: Vec<EventKey> = self.letters.keys().copied().collect();
        for key in keys {
            if self.unsent.contains(&key) {
                // As everything that waits: in slices.
                self.drop_letter(key);
                let (deliveries, order, grace_ms, standing) = (0, 0, 0, Standing::Blocked);
                self.exceptions.insert(key, Exception { deliveries, order, grace_ms, standing });
            } else {
                self.drop_letter(key);
                log.settle(key);
                if key.seq > self.position(key.priority) {
                    self.settled_ahead.insert(key);
                }
            }
        }
    }

    /// Settles up to `most` of what an ended subscription still holds, and adds to `settled` what it settled. Returns how many of
    /// `most` are left over; if any are, it holds nothing more.
    pub(in crate::queue) fn drain(
        &mut self,
        log: &mut Log,
        until: Seq,
        most: usize,
        settled: &mut Vec<EventKey>,
    ) -> usize {
        let mut left = most;
        while left > 0
            && let Some((key, _)) = self.exceptions.pop_first()
        {
            if key.seq > self.position(key.priority) {
                self.settled_ahead.insert(key);
            }
            // What has been replaced since is not held any more: the log counts only those who have it in flight.
            if log.get(key).is_some_and(|entry| !entry.withdrawn()) {
                log.settle(key);
                settled.push(key);
            }
            left -= 1;
        }
        // Nothing new enters what it holds, so a lane that is done stays done.
        while let Some(priority) = self.draining.or_else(|| log.priorities().next()) {
            self.draining = Some(priority);
            let mut position = self.position(priority).max(self.since);
            loop {
                if left == 0 {
                    return 0;
                }
                let Some(seq) = log.first_after(priority, position).map(|entry| entry.seq) else { break };
                if seq > until {
                    break;
                }
                position = seq;
                self.lanes.insert(priority, seq);
                let key = EventKey { priority, seq };
                if !self.settled_ahead.remove(&key) {
                    log.settle(key);
                    settled.push(key);
                }
                left -= 1;
            }
            match log.priority_below(priority) {
                Some(below) => self.draining = Some(below),
                None => break,
            }
        }
        left
    }
}

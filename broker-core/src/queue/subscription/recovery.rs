//! A subscription on its way back after a restart.

use super::{Exception, Standing, Subscription};
use crate::event::EventKey;
use crate::queue::log::Log;
use crate::storage::Requeued;

impl Subscription {
    pub(in crate::queue) fn restore_settled(&mut self, key: EventKey) -> bool {
        self.drop_exception(key);
        key.seq > self.since && self.settled_ahead.insert(key)
    }

    pub(in crate::queue) fn restore_freed(&mut self, key: EventKey) {
        self.settled_ahead.remove(&key);
        self.drop_exception(key);
    }

    pub(in crate::queue) fn restore_requeued(&mut self, requeued: Requeued) {
        self.drop_exception(requeued.key);
        let standing = requeued.due_at.map_or(Standing::Ready, Standing::Delayed);
        let Requeued { key, deliveries, grace_ms, .. } = requeued;
        self.set_aside(key, Exception { deliveries, order: 0, grace_ms, standing });
    }

    /// Forgets what `gone` says is no longer in the log.
    pub(in crate::queue) fn forget_where(&mut self, gone: impl Fn(EventKey) -> bool) {
        self.settled_ahead.retain(|key| !gone(*key));
        let keys: Vec<EventKey> = self.exceptions.keys().copied().filter(|key| gone(*key)).collect();
        for key in keys {
            self.drop_exception(key);
        }
    }

    pub(in crate::queue) fn is_settled_ahead(&self, key: EventKey) -> bool {
        self.settled_ahead.contains(&key)
    }

    /// Turns what recovery collected into positions.
    pub(in crate::queue) fn finish_recovery(&mut self, log: &Log) {
        for key in &self.settled_ahead {
            self.base.0 += 1;
            self.base.1 += log.get(*key).map_or(0, |entry| u64::from(entry.len));
        }
        for priority in log.priorities() {
            let mut position = self.since;
            for entry in log.iter_after(priority, self.since) {
                if !self.settled_ahead.remove(&EventKey { priority, seq: entry.seq }) {
                    break;
                }
                position = entry.seq;
            }
            self.lanes.insert(priority, position);
        }
        self.seen = log.visible;
        self.undue = log.undue().filter(|key| self.is_in_lane(*key)).count() as u64;
    }
}

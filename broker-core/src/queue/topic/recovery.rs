//! Rebuilding a topic from what a storage hands back: first everything is collected, then it becomes positions.

use super::super::log::{Released, Times};
use super::{SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Seq};
use crate::name::{IdKey, SubscriptionName};
use crate::storage::{Holder, Place, Requeued, StoredEvent};

impl Topic {
    /// The topic has used sequences up to this one.
    pub fn restore_last_seq(&mut self, seq: Seq) {
        self.log.last_seq = self.log.last_seq.max(seq);
    }

    /// A durable subscription that was made at `since`.
    pub fn restore_subscription(&mut self, name: SubscriptionName, since: Seq) {
        self.restore_last_seq(since);
        if !self.named.contains_key(&name) {
            let at = self.new_subscription(Some(name.clone()), since, (0, 0));
            self.named.insert(name, at);
        }
    }

    /// A durable subscription that was removed.
    pub fn restore_unsubscribed(&mut self, name: &SubscriptionName) {
        let Some(at) = self.named.get(name).copied() else { return };
        self.remove(SubscriptionId(at), Millis(0));
        while self.drain_leaving(usize::MAX) {}
        self.forget_freed();
    }

    /// A stored event. `holders`: `None` for all subscriptions that are older than it. `payload`: `None` to leave it in the
    /// storage.
    pub fn restore_event(
        &mut self,
        event: &StoredEvent,
        id: IdKey,
        place: Place,
        holders: Option<&[Holder]>,
        keep: bool,
    ) {
        self.restore_last_seq(event.key.seq);
        if self.log.get(event.key).is_some() {
            // An older copy has been replayed: this one stands for it.
            self.log.set_place(event.key, place);
            if let Some(holders) = holders {
                self.restore_holders(event.key, holders);
            }
            return;
        }
        let mut count = 0;
        for (_, sub) in &mut self.subscriptions {
            if event.key.seq <= sub.since {
                continue;
            }
            let holder = match holders {
                None => None,
                Some(holders) => match holders.iter().find(|holder| Some(&holder.subscription) == sub.name.as_ref()) {
                    None => {
                        sub.restore_settled(event.key);
                        continue;
                    }
                    holder => holder,
                },
            };
            count += 1;
            if let Some(holder) = holder.filter(|holder| says_something(holder)) {
                sub.restore_requeued(requeued(event.key, holder));
            }
        }
        if count == 0 {
            for (_, sub) in &mut self.subscriptions {
                sub.restore_freed(event.key);
            }
            self.log.released.push(Released { key: event.key, place });
            return;
        }
        let times = Times::new(event.expires_at, event.due_at);
        let payload = keep.then(|| event.payload.clone());
        self.log.insert(event.key, id, count, event.published_at, times, event.payload.len(), payload);
        self.log.set_place(event.key, place);
    }

    /// Exactly `holders` hold an event that is there: what was settled and requeued before may not have been handed back.
    fn restore_holders(&mut self, key: EventKey, holders: &[Holder]) {
        for (_, sub) in &mut self.subscriptions {
            match holders.iter().find(|holder| Some(&holder.subscription) == sub.name.as_ref()) {
                Some(holder) if says_something(holder) => sub.restore_requeued(requeued(key, holder)),
                Some(_) => {}
                None => {
                    if sub.restore_settled(key) {
                        self.log.settle(key);
                    }
                }
            }
        }
        if self.log.get(key).is_none() {
            self.freed(key);
        }
    }

    /// A subscription is done with an event.
    pub fn restore_settled(&mut self, name: &SubscriptionName, key: EventKey) {
        let Some(at) = self.named.get(name).copied() else { return };
        if self.log.get(key).is_some() && self.subscriptions[at].restore_settled(key) {
            self.log.settle(key);
            if self.log.get(key).is_none() {
                self.freed(key);
            }
        }
    }

    /// An event came back to a subscription's queue.
    pub fn restore_requeued(&mut self, name: &SubscriptionName, requeued: Requeued) {
        let Some(at) = self.named.get(name).copied() else { return };
        let sub = &mut self.subscriptions[at];
        if self.log.get(requeued.key).is_some() && !sub.is_settled_ahead(requeued.key) && requeued.key.seq > sub.since {
            sub.restore_requeued(requeued);
        }
    }

    /// An event was taken out for all.
    pub fn restore_forgotten(&mut self, key: EventKey) {
        self.log.withdraw(key, 0);
        self.freed(key);
    }

    fn freed(&mut self, key: EventKey) {
        for (_, sub) in &mut self.subscriptions {
            sub.restore_freed(key);
        }
    }

    /// After many were freed at once: forget what was remembered of them.
    fn forget_freed(&mut self) {
        let log = &self.log;
        for (_, sub) in &mut self.subscriptions {
            sub.forget_where(|key| log.get(key).is_none());
        }
    }

    /// Ends recovery: everything that is there is visible, and collected settlements become positions.
    pub fn finish_recovery(&mut self) {
        for priority in self.log.priorities().collect::<Vec<_>>() {
            if let Some(seq) = self.log.last_of(priority) {
                self.log.show(EventKey { priority, seq });
            }
        }
        self.log.visible = self.log.last_seq;
        // Counts are differences: of what is stored, so much came before a subscription, and so much it has settled.
        let mut starts: Vec<Seq> = self.subscriptions.iter().map(|(_, sub)| sub.since).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut before = vec![(0, 0); starts.len() + 1];
        for priority in self.log.priorities() {
            for entry in self.log.iter_after(priority, Seq(0)) {
                let (count, bytes) = &mut before[starts.partition_point(|since| *since < entry.seq)];
                *count += 1;
                *bytes += u64::from(entry.len);
            }
        }
        for at in 1..before.len() {
            before[at] = (before[at].0 + before[at - 1].0, before[at].1 + before[at - 1].1);
        }
        self.stored = before[starts.len()];
        for (_, sub) in &mut self.subscriptions {
            sub.base = before[starts.partition_point(|since| *since < sub.since)];
            sub.finish_recovery(&self.log);
        }
    }
}

/// Whether a holder has more to it than that it holds the event.
fn says_something(holder: &Holder) -> bool {
    holder.deliveries > 0 || holder.due_at.is_some() || holder.grace_ms > 0
}

fn requeued(key: EventKey, holder: &Holder) -> Requeued {
    let Holder { deliveries, due_at, grace_ms, .. } = *holder;
    Requeued { key, deliveries, due_at, grace_ms }
}

//! Recovery: rebuilds a topic from the records of a storage.
//!
//! Recovery has two phases. During the replay, each event, settlement and redelivery is only collected, because a storage may replay
//! them in either of two orders: a log in the order of the changes, or a state as subscriptions, then events, then their settlements and
//! redeliveries. [`Topic::finish_recovery`] then turns them into positions and counts, and makes everything visible.
//!
//! A crash can happen between any two records, so the replay tolerates the following:
//! - A record about an event or a subscription that is gone is ignored.
//! - An event may exist twice, moved by the storage and not yet deleted at its old place. The later record counts, and its
//!   holders are right whatever came before.
//! - An event without holders is released at once, so that the storage can free it. Nothing is freed because a record is
//!   missing.

use super::Topic;
use crate::event::{EventKey, Millis, Seq};
use crate::name::{IdKey, SubscriptionName};
use crate::queue::log::{NewEntry, Released};
use crate::queue::times::Times;
use crate::storage::{Holder, Place, Redelivery, StoredEvent};
use crate::tally::Tally;

impl Topic {
    /// Restores the highest sequence used in the topic.
    pub fn restore_last_seq(&mut self, seq: Seq) {
        self.log.last_seq = self.log.last_seq.max(seq);
    }

    /// Restores a durable subscription created at `since`.
    pub fn restore_subscription(&mut self, name: SubscriptionName, since: Seq) {
        self.restore_last_seq(since);
        if self.subscriptions.find(&name).is_none() {
            self.subscriptions.insert(Some(name), since, Tally::ZERO);
        }
    }

    /// Restores the removal of a durable subscription.
    pub fn restore_unsubscribed(&mut self, name: &SubscriptionName) {
        let Some(sub) = self.subscriptions.find(name) else { return };
        self.remove(sub, Millis(0));
        while self.settle_backlogs(usize::MAX) {}
        self.forget_freed();
    }

    /// Restores an event stored at `place`. `holders`: the subscriptions that hold it; `None`: all older ones. `keep`: whether its
    /// payload stays in memory.
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
            // An older copy was already replayed; this one replaces it.
            self.log.set_place(event.key, place);
            if let Some(holders) = holders {
                self.restore_holders(event.key, holders);
            }
            return;
        }
        let mut count = 0;
        for sub in self.subscriptions.values_mut() {
            if event.key.seq <= sub.since() {
                continue;
            }
            let holder = match holders {
                None => None,
                Some(holders) => match holders.iter().find(|holder| Some(&holder.subscription) == sub.name()) {
                    None => {
                        sub.restore_settled(event.key);
                        continue;
                    }
                    holder => holder,
                },
            };
            count += 1;
            if let Some(holder) = holder.filter(|holder| has_history(holder)) {
                sub.restore_redelivery(redelivery(event.key, holder));
            }
        }
        if count == 0 {
            self.forget(event.key);
            self.log.released.push(Released { key: event.key, place });
            return;
        }
        self.log.insert(NewEntry {
            key: event.key,
            id,
            holders: count,
            published_at: event.published_at,
            times: Times::new(event.expires_at, event.due_at),
            len: event.payload.len(),
            payload: keep.then(|| event.payload.clone()),
        });
        self.log.set_place(event.key, place);
    }

    /// Restores the exact holders of an event in the log. Earlier records of its settlements may be gone.
    fn restore_holders(&mut self, key: EventKey, holders: &[Holder]) {
        for sub in self.subscriptions.values_mut() {
            match holders.iter().find(|holder| Some(&holder.subscription) == sub.name()) {
                Some(holder) if has_history(holder) => sub.restore_redelivery(redelivery(key, holder)),
                Some(_) => {}
                None => {
                    if sub.restore_settled(key) {
                        self.log.settle(key);
                    }
                }
            }
        }
        if self.log.get(key).is_none() {
            self.forget(key);
        }
    }

    /// Restores a settlement in a subscription.
    pub fn restore_settled(&mut self, name: &SubscriptionName, key: EventKey) {
        let Some(sub) = self.subscriptions.find(name) else { return };
        if self.log.get(key).is_some() && self.subscriptions[sub].restore_settled(key) {
            self.log.settle(key);
            if self.log.get(key).is_none() {
                self.forget(key);
            }
        }
    }

    /// Restores an event that came back to a subscription's queue.
    pub fn restore_redelivery(&mut self, name: &SubscriptionName, event: Redelivery) {
        let Some(sub) = self.subscriptions.find(name) else { return };
        let sub = &mut self.subscriptions[sub];
        if self.log.get(event.key).is_some() && !sub.is_settled_ahead(event.key) && event.key.seq > sub.since() {
            sub.restore_redelivery(event);
        }
    }

    /// Restores the withdrawal of an event from the topic.
    pub fn restore_forgotten(&mut self, key: EventKey) {
        self.log.withdraw(key, 0);
        self.forget(key);
    }

    /// Forgets what subscriptions remember about an event that is not in the log.
    fn forget(&mut self, key: EventKey) {
        self.subscriptions.values_mut().for_each(|sub| sub.restore_freed(key));
    }

    /// Forgets what subscriptions remember about all events that are not in the log.
    fn forget_freed(&mut self) {
        let log = &self.log;
        self.subscriptions.values_mut().for_each(|sub| sub.forget_where(|key| log.get(key).is_none()));
    }

    /// Ends recovery: everything in the log is visible, and settlements become positions.
    pub fn finish_recovery(&mut self) {
        for priority in self.log.priorities().collect::<Vec<_>>() {
            if let Some(seq) = self.log.last_of(priority) {
                self.log.show(EventKey { priority, seq });
            }
        }
        self.log.visible = self.log.last_seq;
        self.restore_accounts();
        self.review_deliveries();
    }

    /// Counts the events of the log, and those older than each subscription; see `Account`. One pass over the log serves all
    /// subscriptions: events are counted between the sequences at which subscriptions begin, then added up.
    fn restore_accounts(&mut self) {
        let mut starts: Vec<Seq> = self.subscriptions.values().map(|sub| sub.since()).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut before = vec![Tally::ZERO; starts.len() + 1];
        for priority in self.log.priorities() {
            for entry in self.log.iter_after(priority, Seq(0)) {
                before[starts.partition_point(|since| *since < entry.seq)] += Tally::one(u64::from(entry.len));
            }
        }
        for at in 1..before.len() {
            before[at] = before[at] + before[at - 1];
        }
        self.stored = before[starts.len()];
        for sub in self.subscriptions.values_mut() {
            let before = before[starts.partition_point(|since| *since < sub.since())];
            sub.finish_recovery(&self.log, before);
        }
    }
}

/// Whether a holder has any history of deliveries or a due time.
fn has_history(holder: &Holder) -> bool {
    holder.deliveries > 0 || holder.due_at.is_some() || holder.grace_ms > 0
}

fn redelivery(key: EventKey, holder: &Holder) -> Redelivery {
    let Holder { deliveries, due_at, grace_ms, .. } = *holder;
    Redelivery { key, deliveries, due_at, grace_ms }
}

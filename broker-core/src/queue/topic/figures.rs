//! What `topics` and `stats` say of a topic.

use super::super::subscription::Subscription;
use super::Topic;
use crate::engine::{SubscriptionStats, TopicStats, TopicSummary};
use crate::event::Millis;

impl Topic {
    pub(super) fn unsettled(&self, sub: &Subscription) -> (u64, u64) {
        let of = |stored: u64, base: u64, settled: u64| stored.saturating_sub(base).saturating_sub(settled);
        (of(self.stored.0, sub.base.0, sub.settled.0), of(self.stored.1, sub.base.1, sub.settled.1))
    }

    /// Counts of a subscription: waiting, in flight, delayed.
    fn counts(&self, sub: &Subscription) -> (u64, u64, u64) {
        let (in_flight, delayed) = (sub.flights.len() as u64, sub.delayed_len());
        (self.unsettled(sub).0.saturating_sub(in_flight + delayed), in_flight, delayed)
    }

    /// Its line of `topics`.
    #[must_use]
    pub fn summary(&self) -> TopicSummary {
        let counts = self.subscriptions.iter().map(|(_, sub)| self.counts(sub));
        let (waiting, in_flight) = counts.fold((0, 0), |sum, (w, f, _)| (sum.0 + w, sum.1 + f));
        TopicSummary {
            topic: self.name.as_str().to_owned(),
            subscriptions: self.subscriptions.len(),
            waiting,
            in_flight,
            published: self.published,
        }
    }

    /// Its figures.
    #[must_use]
    pub fn stats(&self, now: Millis) -> TopicStats {
        let mut subscriptions: Vec<_> =
            self.subscriptions.iter().map(|(_, sub)| self.subscription_stats(sub, now)).collect();
        subscriptions.sort_by(|a, b| (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name)));
        TopicStats { topic: self.name.as_str().to_owned(), published: self.published, subscriptions }
    }

    fn subscription_stats(&self, sub: &Subscription, now: Millis) -> SubscriptionStats {
        let (waiting, in_flight, delayed) = self.counts(sub);
        SubscriptionStats {
            name: sub.name.as_ref().map(|name| name.as_str().to_owned()),
            connections: sub.consumers.len(),
            waiting,
            in_flight,
            delayed,
            oldest_ms: sub.oldest(&self.log).map_or(0, |at| now.since(at)),
            delivered: sub.counters.delivered,
            acknowledged: sub.counters.acknowledged,
            redelivered: sub.counters.redelivered,
            expired: sub.counters.expired,
            dropped: sub.counters.dropped,
            dead_lettered: sub.counters.dead_lettered,
        }
    }
}

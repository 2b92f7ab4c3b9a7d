//! The answers to `topics` and `stats`.

use super::Topic;
use crate::engine::{SubscriptionStats, TopicStats, TopicSummary};
use crate::event::Millis;
use crate::queue::subscription::Subscription;

/// The unsettled events of a subscription, each counted once.
struct Counts {
    waiting: u64,
    in_flight: u64,
    delayed: u64,
}

impl Topic {
    fn counts(&self, sub: &Subscription) -> Counts {
        let (in_flight, delayed) = (sub.in_flight() as u64, sub.delayed());
        let waiting = sub.unsettled(self.stored).events.saturating_sub(in_flight + delayed);
        Counts { waiting, in_flight, delayed }
    }

    /// The topic's line of `topics`.
    #[must_use]
    pub fn summary(&self) -> TopicSummary {
        let counts = self.subscriptions.values().map(|sub| self.counts(sub));
        let (waiting, in_flight) =
            counts.fold((0, 0), |sum, counts| (sum.0 + counts.waiting, sum.1 + counts.in_flight));
        TopicSummary {
            topic: self.name.as_str().to_owned(),
            subscriptions: self.subscriptions.len(),
            waiting,
            in_flight,
            published: self.published,
        }
    }

    /// The topic's answer to `stats`.
    #[must_use]
    pub fn stats(&self, now: Millis) -> TopicStats {
        let mut subscriptions: Vec<_> =
            self.subscriptions.values().map(|sub| self.subscription_stats(sub, now)).collect();
        subscriptions.sort_by(|a, b| (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name)));
        TopicStats { topic: self.name.as_str().to_owned(), published: self.published, subscriptions }
    }

    fn subscription_stats(&self, sub: &Subscription, now: Millis) -> SubscriptionStats {
        let Counts { waiting, in_flight, delayed } = self.counts(sub);
        let counters = sub.counters();
        SubscriptionStats {
            name: sub.name().map(|name| name.as_str().to_owned()),
            connections: sub.consumers(),
            waiting,
            in_flight,
            delayed,
            oldest_ms: sub.oldest(&self.log).map_or(0, |at| now.since(at)),
            delivered: counters.delivered,
            acknowledged: counters.acknowledged,
            redelivered: counters.redelivered,
            expired: counters.expired,
            dropped: counters.dropped,
            dead_lettered: counters.dead_lettered,
        }
    }
}

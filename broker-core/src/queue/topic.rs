//! A topic and its subscriptions: the pure state machine that a shard drives.
//!
//! | to find | look in |
//! | --- | --- |
//! | publishing, replacing by id | [`publish`] |
//! | limits, and how a full subscription makes room | [`overflow`] |
//! | deliveries, acknowledgements, nacks, timeouts, payloads read back | [`deliver`] |
//! | dead letters and their way to the dead-letter topic | [`dead_letters`], [`outbox`] |
//! | dead letters that move back | [`redrive`] |
//! | expiry, and the end of delays | [`expiry`] |
//! | removing and purging subscriptions in slices | [`purge`], [`backlogs`] |
//! | the mutations for the storage | [`changes`] |
//! | the answers to `topics`, `stats` and `peek` | [`stats`], [`peek`] |
//! | the subscriptions by place and by name | [`subscriptions`] |
//! | recovery after a restart | [`recovery`] |

mod backlogs;
mod changes;
mod dead_letters;
mod deliver;
mod expiry;
mod outbox;
mod overflow;
mod peek;
mod publish;
mod purge;
mod recovery;
mod redrive;
mod stats;
mod subscriptions;

use super::log::Log;
use super::memory::Memory;
use super::subscription::{ClientId, ConsumerId, Rules, Subscription};
use crate::event::Millis;
use crate::name::{SubscriptionName, TopicName};
use crate::policy::{DuplicateId, TopicPolicy};
use crate::storage::Mutation;
use crate::tally::Tally;
use backlogs::Backlogs;
pub use dead_letters::{Fate, LETTERS, Outgoing};
pub use deliver::{Acknowledged, Next};
use outbox::Outbox;
pub use peek::{Page, Peeked};
pub use publish::Publication;
pub use redrive::Walk;
pub use subscriptions::SubscriptionId;
use subscriptions::Subscriptions;

/// A named stream of events, and the subscriptions that hold them.
///
/// Pure: it neither reads a clock nor does I/O. The driver passes `now`, stores the mutations it gets, tells the topic when they
/// are written and when they are durable, and asks for deliveries.
#[derive(Debug)]
pub struct Topic {
    name: TopicName,
    policy: TopicPolicy,
    log: Log,
    subscriptions: Subscriptions,
    backlogs: Backlogs,
    outbox: Outbox,
    /// The events stored since the start of the broker, including those that existed then. The accounts of subscriptions build on it.
    stored: Tally,
    published: u64,
    /// The subscriptions that may have changes to store, possibly more than once.
    changed: Vec<SubscriptionId>,
    /// The subscriptions with deliveries to record.
    delivered: Vec<SubscriptionId>,
}

impl Topic {
    /// A topic without events or subscriptions.
    #[must_use]
    pub fn new(name: TopicName, policy: TopicPolicy) -> Self {
        Self {
            outbox: Outbox::new(policy.dead_letter_of(&name)),
            name,
            policy,
            log: Log::default(),
            subscriptions: Subscriptions::default(),
            backlogs: Backlogs::default(),
            stored: Tally::ZERO,
            published: 0,
            changed: Vec::new(),
            delivered: Vec::new(),
        }
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// The topic's policy.
    #[must_use]
    pub fn policy(&self) -> &TopicPolicy {
        &self.policy
    }

    /// Replaces the policy. Its limits, time to live and treatment of ids apply to events published from now on, its timeout to
    /// deliveries and touches from now on, everything else to all waiting events.
    pub fn set_policy(&mut self, policy: TopicPolicy) {
        self.outbox.set_address(policy.dead_letter_of(&self.name));
        if policy.duplicate_id == DuplicateId::Keep {
            self.subscriptions.values_mut().for_each(Subscription::unblock_all);
        }
        self.policy = policy;
        self.review_deliveries();
    }

    /// Has the waiting events examined, in slices, that may have used up their deliveries; see [`Topic::next_change`].
    fn review_deliveries(&mut self) {
        if self.rules().max_deliveries > 0 {
            self.subscriptions.values_mut().for_each(Subscription::review_deliveries);
        }
    }

    fn rules(&self) -> Rules {
        let has_letters = self.outbox.address().is_some();
        Rules {
            one_flight_an_id: self.policy.duplicate_id != DuplicateId::Keep,
            max_deliveries: if has_letters { self.policy.max_deliveries } else { 0 },
            expired_to_dead_letter: has_letters && self.policy.expired_to_dead_letter,
            ack_timeout_ms: self.policy.ack_timeout_ms,
        }
    }

    /// Records that a subscription may have changes to store and letters to send.
    fn note_changed(&mut self, sub: SubscriptionId) {
        self.changed.push(sub);
        if self.subscriptions.get(sub).is_some_and(Subscription::has_unsent) {
            self.outbox.add(sub);
        }
    }

    /// The memory of the topic's events.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.log.memory()
    }

    /// Whether the topic has neither subscriptions nor events.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.subscriptions.is_empty() && self.backlogs.is_empty() && self.log.live == 0
    }

    /// Whether the topic can be forgotten: it is idle, the configuration does not name it, and it has no outstanding change for the storage
    /// or answer from it. A copy of an event that is written after its topic was forgotten would stay in the storage.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        self.is_idle()
            && !self.policy.named
            && self.log.unplaced == 0
            && self.log.released.is_empty()
            && self.changed.is_empty()
    }

    /// Records that the storage writes another copy of an event, whose place [`Topic::set_place`] will report.
    pub fn await_place(&mut self) {
        self.log.unplaced += 1;
    }

    /// Frees memory that an idle topic does not need.
    pub fn shrink(&mut self) {
        self.log.shrink();
        (self.changed, self.delivered) = (Vec::new(), Vec::new());
    }

    // ---- Subscriptions ----

    /// The subscription called `name`.
    #[must_use]
    pub fn find(&self, name: &SubscriptionName) -> Option<SubscriptionId> {
        self.subscriptions.find(name)
    }

    /// Creates a subscription to events published from now on. A named one is durable, and its mutation must be stored.
    pub fn subscribe(&mut self, name: Option<SubscriptionName>) -> (SubscriptionId, Option<Mutation>) {
        let since = self.log.last_seq;
        let id = self.subscriptions.insert(name.clone(), since, self.stored);
        let topic = || self.name.clone();
        (id, name.map(|subscription| Mutation::Subscribe { topic: topic(), subscription, since }))
    }

    /// Whether the subscription exists.
    #[must_use]
    pub fn has(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.contains(sub)
    }

    /// Whether a subscription has a consumer that can take more.
    #[must_use]
    pub fn is_hungry(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.get(sub).is_some_and(Subscription::is_hungry)
    }

    /// The subscriptions with a consumer that can take more.
    #[must_use]
    pub fn hungry(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().filter(|(_, sub)| sub.is_hungry()).map(|(id, _)| id).collect()
    }

    /// All subscriptions.
    #[must_use]
    pub fn subscription_ids(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().map(|(id, _)| id).collect()
    }

    /// The number of subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The only subscription, if there is exactly one.
    #[must_use]
    pub fn only_subscription(&self) -> Option<SubscriptionId> {
        let mut all = self.subscriptions.iter();
        all.next().filter(|_| all.next().is_none()).map(|(id, _)| id)
    }

    /// The names of the durable subscriptions, in order.
    #[must_use]
    pub fn subscription_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.subscriptions.names().map(SubscriptionName::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether the subscription has a name and so outlives its consumers.
    #[must_use]
    pub fn is_durable(&self, sub: SubscriptionId) -> bool {
        self.subscriptions[sub].name().is_some()
    }

    /// The subscription's name, if it is durable.
    #[must_use]
    pub fn subscription_name(&self, sub: SubscriptionId) -> Option<&SubscriptionName> {
        self.subscriptions[sub].name()
    }

    /// Attaches a consumer with up to `prefetch` events in flight.
    pub fn attach(&mut self, sub: SubscriptionId, client: ClientId, prefetch: u16) -> ConsumerId {
        self.subscriptions[sub].attach(client, prefetch)
    }

    /// Changes a consumer's prefetch. A smaller one recalls no events.
    pub fn set_prefetch(&mut self, sub: SubscriptionId, consumer: ConsumerId, prefetch: u16) {
        self.subscriptions[sub].set_prefetch(consumer, prefetch);
    }

    /// Removes a consumer. Its events in flight come back to the queue.
    pub fn detach(&mut self, sub: SubscriptionId, consumer: ConsumerId, now: Millis) {
        let rules = self.rules();
        self.subscriptions[sub].detach(&mut self.log, consumer, now, rules);
        self.note_changed(sub);
    }
}

#[cfg(test)]
impl Topic {
    /// The internal state, for tests.
    pub(super) fn inside(&self) -> (&Log, &Subscriptions) {
        (&self.log, &self.subscriptions)
    }
}

//! A topic and its subscriptions: the pure state machine that a shard drives.
//!
//! | to find | look in |
//! | --- | --- |
//! | events coming in, limits, what is dropped | [`publishing`] |
//! | events going out, acknowledgements, payloads that were read | [`delivering`] |
//! | dead letters, on their way there and back | [`letters`] |
//! | what waited for too long, what is let go of in slices | [`passing`] |
//! | what the storage is told | [`storing`] |
//! | what it says of itself | [`figures`], [`looking`] |
//! | the way back after a restart | [`recovery`] |

mod delivering;
mod figures;
mod letters;
mod looking;
mod passing;
mod publishing;
mod recovery;
mod storing;

use std::collections::{BTreeSet, HashMap, VecDeque};

use slab::Slab;

use super::log::Log;
use super::memory::Memory;
use super::subscription::{ClientId, Rules, Subscription};
use crate::event::{EventKey, Millis, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::policy::{DuplicateId, TopicPolicy};
use crate::storage::Mutation;
pub use delivering::{Acknowledged, Next};
pub use letters::{Fate, LETTERS, Outgoing, Walk};
pub use looking::Peeked;
use passing::Leaving;
pub use publishing::Publication;

/// A subscription within its topic. Used again after the subscription is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub(crate) usize);

/// A consumer within its subscription. Used again after it is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConsumerId(pub(crate) u32);

/// An event bus with its own order: events of one name, and the subscriptions that hold them.
///
/// Pure: it neither reads a clock nor does I/O. Whoever drives it gives it `now`, stores what it says is to be stored, tells
/// it when that is written and when it is safe, and asks for deliveries.
#[derive(Debug)]
pub struct Topic {
    name: TopicName,
    policy: TopicPolicy,
    log: Log,
    subscriptions: Slab<Subscription>,
    named: HashMap<SubscriptionName, usize>,
    /// Where its dead letters go; `None`: there is no valid name for that.
    dead_letter: Option<TopicName>,
    /// What ended subscriptions and purges still have to let go of.
    leaving: VecDeque<Leaving>,
    /// Purges that have come to their end.
    purged: Vec<u64>,
    /// What these settled, by subscription: the storage has to be told.
    told: Vec<(SubscriptionName, Vec<EventKey>)>,
    /// Subscriptions made so far.
    births: u64,
    /// Subscriptions with letters that have not been sent.
    with_letters: BTreeSet<usize>,
    /// Letters are under way, and the next ones wait for them.
    burying: bool,
    /// The dead-letter topic had no room: until when it is not tried again, and why.
    dead_full: Option<(Millis, String)>,
    /// Events that their consumers have given up, to be sent.
    given_up: Vec<Outgoing>,
    /// Events and their bytes stored since the start, for the counts of subscriptions.
    stored: (u64, u64),
    published: u64,
    /// Subscriptions with something to store.
    dirty: Vec<usize>,
}

impl Topic {
    /// A topic without events or subscriptions.
    #[must_use]
    pub fn new(name: TopicName, policy: TopicPolicy) -> Self {
        Self {
            dead_letter: policy.dead_letter_of(&name),
            name,
            policy,
            log: Log::default(),
            subscriptions: Slab::new(),
            named: HashMap::new(),
            leaving: VecDeque::new(),
            purged: Vec::new(),
            told: Vec::new(),
            births: 0,
            with_letters: BTreeSet::new(),
            burying: false,
            dead_full: None,
            given_up: Vec::new(),
            stored: (0, 0),
            published: 0,
            dirty: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// Its policy.
    #[must_use]
    pub fn policy(&self) -> &TopicPolicy {
        &self.policy
    }

    /// Puts another policy in force: its limits and what it says of ids for what is published from now on, its time to live as
    /// well, its time-out for what is delivered or touched from now on, everything else for all that waits.
    pub fn set_policy(&mut self, policy: TopicPolicy) {
        // Letters that are on their way need an address: where the new pattern gives none (the name would be too long), the old
        // one stays.
        if let Some(dead_letter) = policy.dead_letter_of(&self.name)
            && self.dead_letter.as_ref() != Some(&dead_letter)
        {
            self.dead_letter = Some(dead_letter);
            self.dead_full = None;
        }
        if policy.duplicate_id == DuplicateId::Keep {
            for (_, subscription) in &mut self.subscriptions {
                subscription.unblock_all();
            }
        }
        self.policy = policy;
    }

    fn rules(&self) -> Rules {
        let has_letters = self.dead_letter.is_some();
        Rules {
            one_flight_an_id: self.policy.duplicate_id != DuplicateId::Keep,
            max_deliveries: if has_letters { self.policy.max_deliveries } else { 0 },
            expired_to_dead_letter: has_letters && self.policy.expired_to_dead_letter,
            ack_timeout_ms: self.policy.ack_timeout_ms,
        }
    }

    /// A subscription may have something to be stored, and letters to be sent.
    fn changed(&mut self, at: usize) {
        self.dirty.push(at);
        if self.subscriptions.get(at).is_some_and(Subscription::has_unsent) {
            self.with_letters.insert(at);
        }
    }

    /// What its events cost in memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.log.memory()
    }

    /// Whether it has neither subscriptions nor events.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.subscriptions.is_empty() && self.leaving.is_empty() && self.log.live == 0
    }

    // ---- Subscriptions ----

    /// The subscription called `name`.
    #[must_use]
    pub fn find(&self, name: &SubscriptionName) -> Option<SubscriptionId> {
        self.named.get(name).copied().map(SubscriptionId)
    }

    /// Makes a subscription that gets the events published from now on. A named one has to be stored, see the mutation.
    pub fn subscribe(&mut self, name: Option<SubscriptionName>) -> (SubscriptionId, Option<Mutation>) {
        let since = self.log.last_seq;
        let at = self.new_subscription(name.clone(), since, self.stored);
        let mutation = name.map(|name| {
            self.named.insert(name.clone(), at);
            Mutation::Subscribe { topic: self.name.clone(), subscription: name, since }
        });
        (SubscriptionId(at), mutation)
    }

    fn new_subscription(&mut self, name: Option<SubscriptionName>, since: Seq, base: (u64, u64)) -> usize {
        self.births += 1;
        self.subscriptions.insert(Subscription::new(name, self.births, since, base))
    }

    /// Whether the subscription is there.
    #[must_use]
    pub fn has(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.contains(sub.0)
    }

    /// Whether a subscription has a consumer that can take more.
    #[must_use]
    pub fn is_hungry(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.get(sub.0).is_some_and(Subscription::is_hungry)
    }

    /// The subscriptions with a consumer that can take more.
    #[must_use]
    pub fn hungry(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().filter(|(_, sub)| sub.is_hungry()).map(|(at, _)| SubscriptionId(at)).collect()
    }

    /// All its subscriptions.
    #[must_use]
    pub fn subscription_ids(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().map(|(at, _)| SubscriptionId(at)).collect()
    }

    /// How many subscriptions it has.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether the subscription has a name, and so outlives its consumers.
    #[must_use]
    pub fn is_durable(&self, sub: SubscriptionId) -> bool {
        self.subscriptions[sub.0].name.is_some()
    }

    /// Its name.
    #[must_use]
    pub fn subscription_name(&self, sub: SubscriptionId) -> Option<&SubscriptionName> {
        self.subscriptions[sub.0].name.as_ref()
    }

    /// Attaches a consumer with so many events in flight at the most.
    pub fn attach(&mut self, sub: SubscriptionId, client: ClientId, prefetch: u16) -> ConsumerId {
        ConsumerId(self.subscriptions[sub.0].attach(client, prefetch))
    }

    /// Changes how many events a consumer may have in flight; fewer recalls nothing.
    pub fn set_prefetch(&mut self, sub: SubscriptionId, consumer: ConsumerId, prefetch: u16) {
        self.subscriptions[sub.0].set_prefetch(consumer.0, prefetch);
    }

    /// Gives back what a consumer has in flight and lets go of it.
    pub fn detach(&mut self, sub: SubscriptionId, consumer: ConsumerId, now: Millis) {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub.0];
        while let Some(flight) = subscription.first_flight_of(consumer.0) {
            subscription.requeue_flight(&mut self.log, flight, None, now, rules);
        }
        subscription.remove_consumer(consumer.0);
        self.changed(sub.0);
    }

    /// Removes a subscription with all that it holds. Returns the clients that were attached, and for a named one what is to
    /// be stored. What it held is let go of by [`Topic::drain_leaving`], so that a long queue stops nobody.
    pub fn remove(&mut self, sub: SubscriptionId, now: Millis) -> (Vec<ClientId>, Option<Mutation>) {
        let consumers: Vec<usize> = self.subscriptions[sub.0].consumers.iter().map(|(at, _)| at).collect();
        let mut clients = Vec::with_capacity(consumers.len());
        for at in consumers {
            clients.push(self.subscriptions[sub.0].consumers[at].client);
            self.detach(sub, ConsumerId(u32::try_from(at).expect("it was a u32")), now);
        }
        let mut subscription = self.subscriptions.remove(sub.0);
        subscription.to_store = super::subscription::ToStore::default();
        subscription.abandon_letters(&mut self.log);
        self.dirty.retain(|at| *at != sub.0);
        self.with_letters.remove(&sub.0);
        let mutation = subscription.name.take().map(|name| {
            self.named.remove(&name);
            Mutation::Unsubscribe { topic: self.name.clone(), subscription: name }
        });
        self.leaving.push_back(Leaving { subscription, until: self.log.last_seq, tells: None, ticket: None });
        (clients, mutation)
    }
}

#[cfg(test)]
impl Topic {
    /// For tests that look inside.
    pub(super) fn inside(&self) -> (&Log, &Slab<Subscription>) {
        (&self.log, &self.subscriptions)
    }
}

//! The subscriptions of a topic, by place and by name.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::event::Seq;
use crate::name::SubscriptionName;
use crate::queue::subscription::Subscription;
use crate::tally::Tally;

/// Identifies a subscription within its topic. Reused after the subscription is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub(crate) usize);

/// The subscriptions of a topic.
///
/// Invariants:
/// - `named` has exactly the subscriptions with a name.
/// - No two subscriptions ever have the same birth. A late answer belongs to the subscription with its birth, not to the next one at
///   its place: see [`Subscriptions::get_born`].
#[derive(Debug, Default)]
pub(in crate::queue) struct Subscriptions {
    all: Slab<Subscription>,
    named: HashMap<SubscriptionName, SubscriptionId>,
    births: u64,
}

impl Subscriptions {
    /// Adds a subscription that holds the events after `since`, in a topic that has stored `stored` so far.
    pub(super) fn insert(&mut self, name: Option<SubscriptionName>, since: Seq, stored: Tally) -> SubscriptionId {
        self.births += 1;
        let id = SubscriptionId(self.all.insert(Subscription::new(name.clone(), self.births, since, stored)));
        if let Some(name) = name {
            self.named.insert(name, id);
        }
        id
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) -> Subscription {
        let subscription = self.all.remove(id.0);
        if let Some(name) = subscription.name() {
            self.named.remove(name);
        }
        subscription
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, id: SubscriptionId) -> bool {
        self.all.contains(id.0)
    }

    #[inline]
    pub(super) fn get(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.all.get(id.0)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.all.get_mut(id.0)
    }

    /// The subscription at a place, if it is still the one with this birth.
    pub(super) fn get_born(&mut self, id: SubscriptionId, birth: u64) -> Option<&mut Subscription> {
        self.get_mut(id).filter(|subscription| subscription.birth() == birth)
    }

    pub(super) fn find(&self, name: &SubscriptionName) -> Option<SubscriptionId> {
        self.named.get(name).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &SubscriptionName> {
        self.named.keys()
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (SubscriptionId, &Subscription)> {
        self.all.iter().map(|(at, subscription)| (SubscriptionId(at), subscription))
    }

    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SubscriptionId, &mut Subscription)> {
        self.all.iter_mut().map(|(at, subscription)| (SubscriptionId(at), subscription))
    }

    #[inline]
    pub(super) fn values(&self) -> impl Iterator<Item = &Subscription> {
        self.all.iter().map(|(_, subscription)| subscription)
    }

    #[inline]
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.all.iter_mut().map(|(_, subscription)| subscription)
    }
}

/// Accesses a subscription that is known to exist.
impl Index<SubscriptionId> for Subscriptions {
    type Output = Subscription;

    #[inline]
    fn index(&self, id: SubscriptionId) -> &Subscription {
        &self.all[id.0]
    }
}

impl IndexMut<SubscriptionId> for Subscriptions {
    #[inline]
    fn index_mut(&mut self, id: SubscriptionId) -> &mut Subscription {
        &mut self.all[id.0]
    }
}

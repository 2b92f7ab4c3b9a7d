//! Output for clients.

use crate::engine::{Delivery, LinkEvent, Outcome, Slot};
use crate::name::{SubscriptionName, TopicName};
use crate::queue::ClientId;
use crate::table::Table;

/// The request that an outcome answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::local) struct ReplyTo {
    pub(in crate::local) client: ClientId,
    pub(in crate::local) slot: Slot,
}

/// Output for clients, in order for each client. Outcomes and deliveries that follow each other share one [`LinkEvent`].
#[derive(Debug, Default)]
pub(in crate::local) struct Outbox {
    clients: Vec<(ClientId, Vec<LinkEvent>)>,
    index: Table<ClientId, usize>,
    last: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    fn of(&mut self, client: ClientId) -> &mut Vec<LinkEvent> {
        // Output for one client usually follows output for the same client, which saves the look-up.
        if self.clients.get(self.last).is_none_or(|(id, _)| *id != client) {
            self.last = *self.index.entry(client).or_insert_with(|| {
                self.clients.push((client, Vec::new()));
                self.clients.len() - 1
            });
        }
        &mut self.clients[self.last].1
    }

    pub(in crate::local) fn outcome(&mut self, to: ReplyTo, outcome: Outcome) {
        let events = self.of(to.client);
        match events.last_mut() {
            Some(LinkEvent::Outcomes(outcomes)) => outcomes.push((to.slot, outcome)),
            _ => events.push(LinkEvent::Outcomes(vec![(to.slot, outcome)])),
        }
    }

    pub(super) fn delivery(&mut self, client: ClientId, delivery: Delivery) {
        let events = self.of(client);
        match events.last_mut() {
            Some(LinkEvent::Deliveries(deliveries)) => deliveries.push(delivery),
            _ => events.push(LinkEvent::Deliveries(vec![delivery])),
        }
    }

    pub(super) fn removed(&mut self, client: ClientId, topic: TopicName, subscription: SubscriptionName) {
        self.of(client).push(LinkEvent::Removed { topic, subscription });
    }

    pub(super) fn append(&mut self, other: Self) {
        for (client, events) in other.clients {
            self.of(client).extend(events);
        }
    }

    pub(in crate::local) fn into_events(self) -> impl Iterator<Item = (ClientId, Vec<LinkEvent>)> {
        self.clients.into_iter()
    }
}

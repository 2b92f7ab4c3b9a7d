//! The clients of a shard and their attachments to subscriptions.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::unserved::Unserved;
use crate::engine::{Gauge, LinkEvent};
use crate::event::Seq;
use crate::local::topics::TopicAt;
use crate::queue::{ClientId, ConsumerId, SubscriptionId};
use crate::table::Table;

/// A client's attachment to a subscription of one topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attachment {
    pub(super) at: TopicAt,
    pub(super) sub: SubscriptionId,
    pub(super) consumer: ConsumerId,
    /// The latest event that this client published to the topic itself.
    pub(super) published: Seq,
}

struct Client {
    name: Arc<str>,
    events: mpsc::Sender<Vec<LinkEvent>>,
    gauge: Arc<Gauge>,
    attachments: Table<TopicAt, Attachment>,
    unserved: Unserved,
}

/// The clients that this shard knows.
///
/// # Invariant
/// A client has at most one attachment per topic, and each attachment is a consumer of its subscription. The two are always removed
/// together.
#[derive(Default)]
pub(super) struct Clients(Table<ClientId, Client>);

impl Clients {
    pub(super) fn connect(
        &mut self,
        client: ClientId,
        name: Arc<str>,
        events: mpsc::Sender<Vec<LinkEvent>>,
        gauge: Arc<Gauge>,
    ) {
        let (attachments, unserved) = (Table::default(), Unserved::default());
        self.0.insert(client, Client { name, events, gauge, attachments, unserved });
    }

    pub(super) fn remove(&mut self, client: ClientId) {
        self.0.remove(&client);
    }

    pub(super) fn contains(&self, client: ClientId) -> bool {
        self.0.contains_key(&client)
    }

    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.0.keys().copied().collect()
    }

    /// Drops all clients, and with them this shard's ends of their links.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    // ---- Attachments ----

    pub(super) fn attach(&mut self, client: ClientId, attachment: Attachment) {
        if let Some(client) = self.0.get_mut(&client) {
            client.attachments.insert(attachment.at, attachment);
        }
    }

    pub(super) fn detach(&mut self, client: ClientId, at: TopicAt) {
        if let Some(client) = self.0.get_mut(&client) {
            client.attachments.remove(&at);
        }
    }

    pub(super) fn attachment(&self, client: ClientId, at: TopicAt) -> Option<Attachment> {
        self.0.get(&client)?.attachments.get(&at).copied()
    }

    pub(super) fn attachments(&self, client: ClientId) -> Vec<Attachment> {
        self.0.get(&client).map(|client| client.attachments.values().copied().collect()).unwrap_or_default()
    }

    /// Notes the latest event that a client published to a topic it is attached to.
    pub(super) fn published(&mut self, client: ClientId, at: TopicAt, seq: Seq) {
        let client = self.0.get_mut(&client);
        if let Some(attachment) = client.and_then(|client| client.attachments.get_mut(&at)) {
            attachment.published = seq;
        }
    }

    // ---- Output ----

    /// Whether a client's output has room for an event of the topic `at`. If not, the topic is visited again on a resume.
    pub(super) fn has_room(&mut self, client: ClientId, at: TopicAt) -> bool {
        let Some(client) = self.0.get_mut(&client) else { return false };
        let has_room = client.gauge.has_room();
        if !has_room {
            client.unserved.push(at);
        }
        has_room
    }

    /// The number of topics that skipped a client for lack of room.
    pub(super) fn unserved(&self, client: ClientId) -> usize {
        self.0.get(&client).map_or(0, |client| client.unserved.len())
    }

    /// The next topic that skipped a client. `None`: there is none, or no room. Without room the client is marked as starved
    /// and will resume again.
    pub(super) fn next_unserved(&mut self, client: ClientId) -> Option<TopicAt> {
        self.0.get_mut(&client).filter(|client| client.gauge.has_room())?.unserved.pop()
    }

    /// Counts bytes of a delivery to a client.
    pub(super) fn count(&self, client: ClientId, bytes: usize) {
        if let Some(client) = self.0.get(&client) {
            client.gauge.add(bytes);
        }
    }

    /// Passes output on to a client's link.
    ///
    /// # Errors
    /// With the client's name when its link is full; the client must then be disconnected.
    pub(super) fn send(&self, client: ClientId, events: Vec<LinkEvent>) -> Result<(), Arc<str>> {
        let Some(client) = self.0.get(&client) else { return Ok(()) };
        match client.events.try_send(events) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Arc::clone(&client.name)),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

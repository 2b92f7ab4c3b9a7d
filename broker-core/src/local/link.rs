//! A client's link to the shards: divides its requests, and disconnects it when the link is dropped.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::message::{Gather, Part, ShardMessage, ShardRequest};
use super::shared::Shared;
use crate::engine::{EngineGone, Gauge, Link, LinkEvent, Op, Request, RequestSink, Slot};
use crate::queue::ClientId;

/// The pieces of output that may wait for a session. A working session cannot reach this limit: its outcomes are bounded by its
/// unanswered requests (16,384, with at most two pieces each), its deliveries by the gauge. A client whose session reaches it anyway
/// is disconnected. Unused capacity costs nothing.
pub(super) const LINK_EVENTS: usize = 40_000;

pub(super) fn connect(
    client: ClientId,
    name: String,
    shards: Vec<mpsc::Sender<ShardMessage>>,
    shared: Arc<Shared>,
) -> Link {
    let (sender, events) = mpsc::channel(LINK_EVENTS);
    let gauge = Arc::new(Gauge::default());
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let weak = sender.downgrade();
    shared.links.add(client, sender);
    let sink = LocalSink {
        client,
        name: Arc::from(name),
        connected: vec![false; shards.len()],
        shards,
        events: weak,
        gauge: Arc::clone(&gauge),
        shared,
        runtime: Handle::current(),
    };
    Link { requests: Box::new(sink), events, gauge }
}

/// The open links of an engine, including those that no shard knows yet. Each shard can only drop its own ends; this list can end all
/// links at once.
#[derive(Debug)]
pub(super) struct Links(Mutex<Option<HashMap<ClientId, mpsc::Sender<Vec<LinkEvent>>>>>);

impl Links {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    fn add(&self, client: ClientId, events: mpsc::Sender<Vec<LinkEvent>>) {
        // After `end`, the sender is dropped here, so that the new link ends immediately.
        if let Some(links) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            links.insert(client, events);
        }
    }

    fn remove(&self, client: ClientId) {
        if let Some(links) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            links.remove(&client);
        }
    }

    /// Ends all links, once the shards have dropped their ends, and any later link immediately.
    pub(super) fn end(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

struct LocalSink {
    client: ClientId,
    name: Arc<str>,
    shards: Vec<mpsc::Sender<ShardMessage>>,
    /// Whether each shard knows the client. A shard learns of it with the first request, so idle connections cost shards nothing.
    connected: Vec<bool>,
    /// Weak, so that the link ends when the engine drops it; see [`Links`].
    events: mpsc::WeakSender<Vec<LinkEvent>>,
    gauge: Arc<Gauge>,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl LocalSink {
    /// Divides a batch over the shards. Questions about all topics go to every shard, requests about the client itself to those
    /// that know it.
    fn split(&self, batch: Vec<Request>) -> Vec<Vec<ShardRequest>> {
        let shards = self.shards.len();
        let mut parts: Vec<Vec<ShardRequest>> = std::iter::repeat_with(Vec::new).take(shards).collect();
        for Request { slot, op } in batch {
            match op {
                Op::Topics => ask_all(&mut parts, slot, ShardRequest::Topics, Part::All),
                Op::Stats(None) => ask_all(&mut parts, slot, ShardRequest::Stats, Part::All),
                Op::TopicsAfter(after) => ask_all(&mut parts, slot, ShardRequest::Topics, Part::After(after)),
                Op::StatsAfter(after) => ask_all(&mut parts, slot, ShardRequest::Stats, Part::After(after)),
                Op::Prefetch(prefetch) => self.tell_connected(&mut parts, slot, || Op::Prefetch(prefetch)),
                Op::Resume => self.tell_connected(&mut parts, slot, || Op::Resume),
                op => {
                    let shard = self.shard_of(&op);
                    parts[shard].push(ShardRequest::One(Request { slot, op }));
                }
            }
        }
        parts
    }

    /// The shard that carries out an operation about one topic.
    fn shard_of(&self, op: &Op) -> usize {
        let shards = self.shards.len();
        let Some(topic) = op.topic() else { return 0 };
        // A redrive walks through the letters, which are in the dead-letter topic.
        let dead = matches!(op, Op::Redrive { .. }).then(|| self.shared.policies().of(topic).dead_letter_of(topic));
        dead.flatten().as_ref().unwrap_or(topic).shard(shards)
    }

    fn tell_connected(&self, parts: &mut [Vec<ShardRequest>], slot: Slot, op: impl Fn() -> Op) {
        for (part, _) in parts.iter_mut().zip(&self.connected).filter(|(_, connected)| **connected) {
            part.push(ShardRequest::One(Request { slot, op: op() }));
        }
    }
}

/// Asks all shards for their part of an answer. The last one to add its part answers.
fn ask_all<T>(
    parts: &mut [Vec<ShardRequest>],
    slot: Slot,
    request: impl Fn(Slot, Arc<Gather<T>>) -> ShardRequest,
    of: Part,
) {
    let gather = Arc::new(Gather::new(parts.len(), of));
    parts.iter_mut().for_each(|part| part.push(request(slot, Arc::clone(&gather))));
}

impl RequestSink for LocalSink {
    fn send(&mut self, batch: Vec<Request>) -> Pin<Box<dyn Future<Output = Result<(), EngineGone>> + Send + '_>> {
        Box::pin(async move {
            for (shard, requests) in self.split(batch).into_iter().enumerate() {
                if requests.is_empty() {
                    continue;
                }
                if !self.connected[shard] {
                    let connect = ShardMessage::Connect {
                        client: self.client,
                        name: Arc::clone(&self.name),
                        events: self.events.upgrade().ok_or(EngineGone)?,
                        gauge: Arc::clone(&self.gauge),
                    };
                    self.shards[shard].send(connect).await.map_err(|_gone| EngineGone)?;
                    self.connected[shard] = true;
                }
                let message = ShardMessage::Requests { client: self.client, requests };
                self.shards[shard].send(message).await.map_err(|_gone| EngineGone)?;
            }
            Ok(())
        })
    }
}

impl Drop for LocalSink {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.links.remove(self.client);
        for (shard, connected) in self.shards.iter().zip(&self.connected) {
            if !connected {
                continue;
            }
            let disconnect = ShardMessage::Disconnect { client: self.client };
            if let Err(mpsc::error::TrySendError::Full(disconnect)) = shard.try_send(disconnect) {
                // A shard with a full inbox must still learn of it, or the client's events in flight would never return to their queues.
                let shard = shard.clone();
                self.runtime.spawn(async move { shard.send(disconnect).await });
            }
        }
    }
}

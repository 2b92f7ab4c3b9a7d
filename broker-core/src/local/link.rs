//! A client's way to the shards: splits its requests, and says goodbye for it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::message::{Gather, ShardMessage, ShardRequest};
use super::shared::Shared;
use crate::engine::{EngineGone, Gauge, Link, LinkEvent, Op, Request, RequestSink};
use crate::queue::ClientId;

/// Pieces that may wait for a session. It cannot be reached by a session that handles what it gets: outcomes are bounded by
/// the requests that it has not got an answer to (16,384, two pieces each at the most), deliveries by the gauge. A client whose
/// session lets it happen is cut off. What is not used costs nothing.
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

/// The links of an engine, those included that no shard knows yet: what ends all of them.
#[derive(Debug)]
pub(super) struct Links(Mutex<Option<HashMap<ClientId, mpsc::Sender<Vec<LinkEvent>>>>>);

impl Links {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    fn add(&self, client: ClientId, events: mpsc::Sender<Vec<LinkEvent>>) {
        // One that comes after the end has ended.
        if let Some(links) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            links.insert(client, events);
        }
    }

    fn remove(&self, client: ClientId) {
        if let Some(links) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            links.remove(&client);
        }
    }

    /// Ends all links, once the shards have let go of them, and any that is still to come.
    pub(super) fn end(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

struct LocalSink {
    client: ClientId,
    name: Arc<str>,
    shards: Vec<mpsc::Sender<ShardMessage>>,
    /// The shards that know the client. An idle connection is known to none.
    connected: Vec<bool>,
    /// Weak, so that the link ends when the engine lets go of it; see [`Links`].
    events: mpsc::WeakSender<Vec<LinkEvent>>,
    gauge: Arc<Gauge>,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl LocalSink {
    /// Which shards get what.
    fn split(&self, batch: Vec<Request>) -> Vec<Vec<ShardRequest>> {
        let shards = self.shards.len();
        let mut parts: Vec<Vec<ShardRequest>> = std::iter::repeat_with(Vec::new).take(shards).collect();
        for request in batch {
            if let Some(topic) = request.op.topic() {
                let mut shard = topic.shard(shards);
                if let Op::Redrive { topic, .. } = &request.op {
                    // The letters are in the other topic.
                    let dead = self.shared.policies().of(topic).dead_letter_of(topic);
                    shard = dead.map_or(shard, |dead| dead.shard(shards));
                }
                parts[shard].push(ShardRequest::One(request));
                continue;
            }
            let slot = request.slot;
            match request.op {
                Op::Topics => {
                    let gather = Arc::new(Gather::new(shards));
                    parts.iter_mut().for_each(|part| part.push(ShardRequest::Topics(slot, Arc::clone(&gather))));
                }
                Op::Stats(_) => {
                    let gather = Arc::new(Gather::new(shards));
                    parts.iter_mut().for_each(|part| part.push(ShardRequest::Stats(slot, Arc::clone(&gather))));
                }
                Op::Prefetch(prefetch) => {
                    for (part, _) in parts.iter_mut().zip(&self.connected).filter(|(_, connected)| **connected) {
                        part.push(ShardRequest::One(Request { slot, op: Op::Prefetch(prefetch) }));
                    }
                }
                _ => {
                    for (part, _) in parts.iter_mut().zip(&self.connected).filter(|(_, connected)| **connected) {
                        part.push(ShardRequest::One(Request { slot, op: Op::Resume }));
                    }
                }
            }
        }
        parts
    }
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
            let goodbye = ShardMessage::Disconnect { client: self.client };
            if let Err(mpsc::error::TrySendError::Full(goodbye)) = shard.try_send(goodbye) {
                // A shard that is busy must still hear of it, or what the client has in flight would never come back.
                let shard = shard.clone();
                self.runtime.spawn(async move { shard.send(goodbye).await });
            }
        }
    }
}

//! The embedded engine: topics in shards, each owned by one task, over a [`Storage`].
//!
//! A shard takes what has arrived as one turn, applies it to its queues in memory, and submits what has changed as one
//! batch. Replies and deliveries of a turn leave when the batch is written, confirmations when it is safe; an event becomes
//! visible to subscriptions when it is safe. While a batch is on its way the shard goes on with the next turn, so that the
//! storage always has something to commit together. Shards share nothing on an event's path.
//!
//! | to find | look in |
//! | --- | --- |
//! | what a request does | [`shard`] |
//! | what leaves when | [`turn`] |
//! | how requests reach shards | [`link`] |
//! | one atomic batch over several shards | [`joint`] |
//! | how queues are rebuilt at the start | [`recovery`] |
//! | how it gets over a storage that has failed | [`reopening`] |

mod clock;
mod joint;
mod link;
mod message;
mod recovery;
mod reopening;
mod shard;
mod shared;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::engine::{Cursor, Engine, Health, Link, Outcome, Refusal, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::ClientId;
use crate::storage::{
    Batch, Janitor, Level, Place, RecoveryReport, Storage, StorageError, StorageErrorKind, StoredEvent,
};
pub use reopening::{OnRecovery, Reopen, Reopening, ReopeningEngine};

use joint::Joint;
use message::{PublishPart, ShardMessage};
use shared::Shared;

/// Messages that may wait for a shard before whoever sends waits as well.
const INBOX: usize = 256;

/// What the engine needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Tasks that own topics, at least 1.
    pub shards: usize,
    /// Bytes of memory for events that wait, divided over the shards; [`Memory::room_for_payloads`](crate::queue::Memory::room_for_payloads)
    /// says what of it payloads get. Beyond that they are read back from the storage.
    pub memory_budget_bytes: usize,
    /// Rules by topic pattern.
    pub policies: Policies,
    /// Topics that there may be.
    pub max_topics: usize,
    /// Subscriptions that there may be, those of connections included.
    pub max_subscriptions: usize,
    /// The broker's version, for `stats`.
    pub version: &'static str,
    /// Cancelled when a shard fails in a way that it cannot go on from: the broker has to stop.
    pub emergency: CancellationToken,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            shards: 1,
            memory_budget_bytes: 256 << 20,
            policies: Policies::default(),
            max_topics: 100_000,
            max_subscriptions: 1_000_000,
            version: env!("CARGO_PKG_VERSION"),
            emergency: CancellationToken::new(),
        }
    }
}

/// The embedded engine over a storage.
pub struct LocalEngine<S: Storage + ?Sized> {
    storage: Arc<S>,
    shared: Arc<Shared>,
    shards: Vec<mpsc::Sender<ShardMessage>>,
    cursors: Mutex<HashMap<String, String>>,
    clients: AtomicU64,
    /// Held while one batch is sent to several shards, so that all see such batches in one order.
    joint: tokio::sync::Mutex<()>,
}

impl<S: Storage + ?Sized> LocalEngine<S> {
    /// Recovers what `storage` holds and starts the shards. Must be called within a runtime.
    ///
    /// # Errors
    /// When the storage cannot be used.
    pub async fn open(storage: Arc<S>, settings: EngineSettings) -> Result<(Self, RecoveryReport), StorageError> {
        let shards = settings.shards.max(1);
        let recovering = Arc::clone(&storage);
        let (policies, budget) = (settings.policies.clone(), settings.memory_budget_bytes / shards);
        let recovered = tokio::task::spawn_blocking(move || {
            let mut recovery = recovery::Recoverer::new(shards, &policies, budget)?;
            let report = recovering.recover(&mut recovery)?;
            Ok::<_, StorageError>((recovery.finish()?, report))
        });
        let (mut recovered, report) = recovered.await.map_err(|panic| {
            StorageError::new(StorageErrorKind::Unusable, "recovery did not come to its end").with_source(panic)
        })??;
        if !recovered.released.is_empty() {
            let commit = storage.submit(Batch { mutations: std::mem::take(&mut recovered.released) });
            commit.written.await?;
        }
        let shared = Arc::new(Shared::new(&settings, storage.level(), &recovered));
        let (inboxes, ends): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(INBOX)).unzip();
        let peers: Arc<[_]> = inboxes.iter().map(mpsc::Sender::downgrade).collect();
        for (topics, inbox) in recovered.shards.into_iter().zip(ends) {
            let (storage, shared, peers) = (Arc::clone(&storage), Arc::clone(&shared), Arc::clone(&peers));
            let shard = shard::Shard::new(storage, shared, peers, topics, budget);
            tokio::spawn(shard.run(inbox, settings.emergency.clone().drop_guard()));
        }
        storage.start(Arc::new(ShardJanitor { shards: inboxes.iter().map(mpsc::Sender::downgrade).collect() }));
        let engine = Self {
            storage,
            shared,
            shards: inboxes,
            cursors: Mutex::new(recovered.cursors),
            clients: AtomicU64::new(1),
            joint: tokio::sync::Mutex::new(()),
        };
        Ok((engine, report))
    }

    /// Completes when the storage has failed, and with it the engine.
    async fn failed(&self) {
        self.shared.failed().await;
    }

    /// Gives back what is in flight and ends all links; the storage is left to the caller.
    async fn close_shards(&self) {
        let mut closing = Vec::new();
        for shard in &self.shards {
            let (done, closed) = oneshot::channel();
            if shard.send(ShardMessage::Close(done)).await.is_ok() {
                closing.push(closed);
            }
        }
        for closed in closing {
            let _a_shard_that_panicked_has_said_so = closed.await;
        }
        self.shared.links.end();
    }

    fn closed() -> Unavailable {
        Unavailable(Arc::from("the broker is shutting down"))
    }

    /// Splits a batch by shard, keeping for each event its place in the batch.
    fn split(&self, events: Vec<(TopicName, NewEvent)>) -> Vec<(usize, PublishPart, Vec<usize>)> {
        let mut parts: Vec<(usize, PublishPart, Vec<usize>)> = Vec::new();
        for (index, (topic, event)) in events.into_iter().enumerate() {
            let shard = topic.shard(self.shards.len());
            let at = parts.iter().position(|(other, ..)| *other == shard).unwrap_or_else(|| {
                parts.push((shard, PublishPart::default(), Vec::new()));
                parts.len() - 1
            });
            parts[at].1.events.push((topic, event));
            parts[at].2.push(index);
        }
        parts
    }
}

#[async_trait]
impl<S: Storage + ?Sized> Engine for LocalEngine<S> {
    fn connect(&self, client: String) -> Link {
        let id = ClientId(self.clients.fetch_add(1, Ordering::Relaxed));
        link::connect(id, client, self.shards.clone(), Arc::clone(&self.shared))
    }

    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        let total = events.len();
        let mut parts = self.split(events);
        if parts.is_empty() {
            parts.push((0, PublishPart::default(), Vec::new()));
        }
        parts[0].1.cursor.clone_from(&cursor);
        let joint = (parts.len() > 1).then(|| Arc::new(Joint::new(parts.len())));
        let mut answers = Vec::with_capacity(parts.len());
        {
            // Two such batches that met at two shards in different orders would wait for each other for ever.
            let _one_at_a_time = if joint.is_some() { Some(self.joint.lock().await) } else { None };
            for (number, (shard, mut part, indexes)) in parts.into_iter().enumerate() {
                part.joint = joint.as_ref().map(|joint| (Arc::clone(joint), number));
                let (reply, answer) = oneshot::channel();
                let sent = self.shards[shard].send(ShardMessage::Publish { part, reply }).await;
                sent.map_err(|_gone| Self::closed())?;
                answers.push((answer, indexes));
            }
        }
        // Held on to, it would keep shards waiting for a part that is not to come.
        drop(joint);
        let mut outcomes = vec![Outcome::Published { replaced: false }; total];
        for (answer, indexes) in answers {
            let part = answer.await.map_err(|_gone| Self::closed())??;
            for (index, outcome) in indexes.into_iter().zip(part) {
                outcomes[index] = outcome;
            }
        }
        let full = |outcome: &Outcome| matches!(outcome, Outcome::Refused(Refusal::Full { .. }));
        if let Some(cursor) = cursor.filter(|_| total == 0 || !outcomes.iter().all(full)) {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors.insert(cursor.source, cursor.value);
        }
        Ok(outcomes)
    }

    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable> {
        Ok(self.cursors.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned())
    }

    async fn set_policies(&self, policies: Policies) -> Result<(), Unavailable> {
        self.shared.set_policies(policies.clone());
        let mut waiting = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (done, in_force) = oneshot::channel();
            let sent = shard.send(ShardMessage::Policies { policies: policies.clone(), done }).await;
            sent.map_err(|_gone| Self::closed())?;
            waiting.push(in_force);
        }
        for in_force in waiting {
            in_force.await.map_err(|_gone| Self::closed())?;
        }
        Ok(())
    }

    fn level(&self) -> Level {
        self.shared.level
    }

    fn health(&self) -> Health {
        Health { unavailable: self.shared.failure(), storage: self.storage.figures() }
    }

    async fn close(&self) {
        self.close_shards().await;
        if let Err(error) = self.storage.close().await {
            tracing::error!(%error, "the last sync failed");
        }
    }
}

/// Sends what a storage wants to move to the shards that know whether it is needed.
struct ShardJanitor {
    /// Weak, since the shards hold the storage, which holds this.
    shards: Vec<mpsc::WeakSender<ShardMessage>>,
}

impl Janitor for ShardJanitor {
    fn rewrite(
        &self,
        events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>> {
        let mut parts: Vec<Vec<(StoredEvent, Place)>> = vec![Vec::new(); self.shards.len()];
        for (event, place) in events {
            parts[event.topic.shard(self.shards.len())].push((event, place));
        }
        let shards = self.shards.clone();
        Box::pin(async move {
            let mut answers = Vec::new();
            for (shard, events) in shards.iter().zip(parts) {
                if events.is_empty() {
                    continue;
                }
                let (done, answer) = oneshot::channel();
                let shard = shard.upgrade().ok_or_else(StorageError::closed)?;
                let sent = shard.send(ShardMessage::Rewrite { events, done }).await;
                sent.map_err(|_gone| StorageError::closed())?;
                answers.push(answer);
            }
            for answer in answers {
                answer.await.map_err(|_gone| StorageError::closed())??;
            }
            Ok(())
        })
    }
}

//! The engine that sessions and sources call. It starts the shards and divides batches over them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::EngineSettings;
use super::janitor::ShardJanitor;
use super::joint::Joint;
use super::link;
use super::message::{Aside, Asides, Peers, PublishPart, ShardMessage};
use super::recovery::Recoverer;
use super::shard::Shard;
use super::shared::Shared;
use super::sources::Sources;
use crate::engine::{Cursor, DISK_FULL, Engine, Handover, Health, Link, Offer, Outcome, Standing, Unavailable};
use crate::error_chain;
use crate::event::NewEvent;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::ClientId;
use crate::storage::{Batch, Level, RecoveryReport, Storage, StorageError, StorageErrorKind};

/// The capacity of a shard's inbox, in messages. When it is full, senders wait.
const INBOX: usize = 256;

/// The embedded engine over one storage.
pub struct LocalEngine<S: Storage + ?Sized> {
    storage: Arc<S>,
    shared: Arc<Shared>,
    shards: Vec<mpsc::Sender<ShardMessage>>,
    sources: Mutex<Sources>,
    /// The number of the next client.
    clients: AtomicU64,
    /// Held while the parts of one batch are sent to several shards (see [`Joint`]). Two such batches that reached two shards in
    /// different orders would deadlock.
    joint: tokio::sync::Mutex<()>,
}

/// The events of a batch that one shard owns, with the index of each in the batch.
struct Part {
    shard: usize,
    publish: PublishPart,
    indexes: Vec<usize>,
}

impl<S: Storage + ?Sized> LocalEngine<S> {
    /// Recovers the contents of `storage` and starts the shards. Must be called within a runtime.
    ///
    /// # Errors
    /// When the storage fails to recover.
    pub async fn open(storage: Arc<S>, settings: EngineSettings) -> Result<(Self, RecoveryReport), StorageError> {
        let shards = settings.shards.max(1);
        let recovering = Arc::clone(&storage);
        let (policies, budget) = (settings.policies.clone(), settings.memory_budget_bytes / shards);
        let recovered = tokio::task::spawn_blocking(move || {
            let mut recovery = Recoverer::new(shards, &policies, budget)?;
            let report = recovering.recover(&mut recovery)?;
            Ok::<_, StorageError>((recovery.finish()?, report))
        });
        let (mut recovered, report) = recovered
            .await
            .map_err(|panic| StorageError::new(StorageErrorKind::Unusable, "recovery panicked").with_source(panic))??;
        if !recovered.released.is_empty() {
            let commit = storage.submit(Batch { mutations: std::mem::take(&mut recovered.released) });
            commit.written.await?;
        }
        let shared = Arc::new(Shared::new(&settings, storage.level(), &recovered));
        let (inboxes, ends): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(INBOX)).unzip();
        let peers = Peers::new(&inboxes);
        for (topics, inbox) in recovered.shards.into_iter().zip(ends) {
            let shard = Shard::new(Arc::clone(&storage), Arc::clone(&shared), peers.clone(), topics);
            tokio::spawn(shard.run(inbox, settings.emergency.clone().drop_guard()));
        }
        storage.start(Arc::new(ShardJanitor::new(peers)));
        let engine = Self {
            storage,
            shared,
            shards: inboxes,
            sources: Mutex::new(Sources::recovered(recovered.cursors)),
            clients: AtomicU64::new(1),
            joint: tokio::sync::Mutex::new(()),
        };
        Ok((engine, report))
    }

    /// Completes when the storage has failed, and the engine with it.
    pub(super) async fn failed(&self) {
        self.shared.failed().await;
    }

    /// Returns events in flight to their queues and ends all links. The storage stays open.
    pub(super) async fn close_shards(&self) {
        let mut closing = Vec::new();
        for shard in &self.shards {
            let (done, closed) = oneshot::channel();
            if shard.send(ShardMessage::Close(done)).await.is_ok() {
                closing.push(closed);
            }
        }
        for closed in closing {
            let _a_panic_is_reported_by_the_emergency_token = closed.await;
        }
        self.shared.links.end();
    }

    /// Closes the storage.
    pub(super) async fn close_storage(&self) -> Result<(), StorageError> {
        self.storage.close().await
    }

    fn closed() -> Unavailable {
        Unavailable(Arc::from("the broker is shutting down"))
    }

    /// Refuses a whole batch from within the process on a full disk: events cannot stand aside either, because that is stored.
    fn refuse_on_full_disk(&self) -> Result<(), Unavailable> {
        if self.storage.has_room() { Ok(()) } else { Err(Unavailable(Arc::from(DISK_FULL))) }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Divides a batch by shard. `offers` has the number, order and state of each event of a source.
    fn split(&self, events: Vec<(TopicName, NewEvent)>, offers: Option<(&Arc<str>, &[Aside])>) -> Vec<Part> {
        let new_part = |shard| {
            let asides = offers.map(|(source, _)| Asides { source: Arc::clone(source), events: Vec::new() });
            Part { shard, publish: PublishPart { asides, ..PublishPart::default() }, indexes: Vec::new() }
        };
        let mut parts: Vec<Part> = Vec::new();
        for (index, (topic, event)) in events.into_iter().enumerate() {
            let shard = topic.shard(self.shards.len());
            let at = parts.iter().position(|part| part.shard == shard).unwrap_or_else(|| {
                parts.push(new_part(shard));
                parts.len() - 1
            });
            let Part { publish, indexes, .. } = &mut parts[at];
            publish.events.push((topic, event));
            if let (Some(asides), Some((_, numbers))) = (&mut publish.asides, offers) {
                asides.events.push(numbers[index]);
            }
            indexes.push(index);
        }
        if parts.is_empty() {
            // A cursor without events is stored by the first shard.
            parts.push(new_part(0));
        }
        parts
    }

    /// Publishes the parts of a batch of `total` events as one.
    async fn publish_parts(&self, parts: Vec<Part>, total: usize) -> Result<Vec<Outcome>, Unavailable> {
        let joint = (parts.len() > 1).then(|| Arc::new(Joint::new(parts.len())));
        let mut answers = Vec::with_capacity(parts.len());
        {
            let _one_at_a_time = if joint.is_some() { Some(self.joint.lock().await) } else { None };
            for (number, Part { shard, mut publish, indexes }) in parts.into_iter().enumerate() {
                publish.joint = joint.as_ref().map(|joint| (Arc::clone(joint), number));
                let (reply, answer) = oneshot::channel();
                let sent = self.shards[shard].send(ShardMessage::Publish { part: publish, reply }).await;
                sent.map_err(|_gone| Self::closed())?;
                answers.push((answer, indexes));
            }
        }
        // If a shard has not taken its part, the last reference is dropped with it, and the other shards' stages fail.
        drop(joint);
        let mut outcomes = vec![Outcome::Published { replaced: false }; total];
        for (answer, indexes) in answers {
            let part = answer.await.map_err(|_gone| Self::closed())??;
            for (index, outcome) in indexes.into_iter().zip(part) {
                outcomes[index] = outcome;
            }
        }
        Ok(outcomes)
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
        if !events.is_empty() {
            self.refuse_on_full_disk()?;
        }
        let total = events.len();
        let mut parts = self.split(events, None);
        parts[0].publish.cursor.clone_from(&cursor);
        let outcomes = self.publish_parts(parts, total).await?;
        if let Some(Cursor { source, value }) = cursor {
            self.sources().set_cursor(source, value);
        }
        Ok(outcomes)
    }

    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        let mut earlier = self.sources().outcomes_of_earlier(&handover);
        let Handover { source, events, cursor, .. } = handover;
        let undecided = |(offer, earlier): (Offer, &Option<Outcome>)| earlier.is_none().then_some(offer);
        let offers: Vec<Offer> = events.into_iter().zip(&earlier).filter_map(undecided).collect();
        if offers.is_empty() && cursor.is_none() {
            return Ok(earlier.into_iter().flatten().collect());
        }
        if !offers.is_empty() {
            self.refuse_on_full_disk()?;
        }
        let numbers: Vec<Aside> = {
            let sources = self.sources();
            // The stored state decides: an earlier attempt may have put an event aside that the source considers new.
            let aside = |offer: &Offer| sources.stands_aside(&source, offer.number);
            let place = |offer: &Offer| {
                let Offer { number, order, held, .. } = *offer;
                Aside { number, order, aside: aside(offer), held }
            };
            offers.iter().map(place).collect()
        };
        let events: Vec<(TopicName, NewEvent)> =
            offers.iter().map(|offer| (offer.topic.clone(), offer.event.clone())).collect();
        let mut parts = self.split(events, Some((&Arc::from(source.as_str()), &numbers)));
        parts[0].publish.cursor = cursor.clone().map(|value| Cursor { source: source.clone(), value });
        let outcomes = self.publish_parts(parts, offers.len()).await?;
        let stand_aside = outcomes.iter().map(Outcome::stands_aside);
        self.sources().stored(source, cursor, offers.into_iter().zip(stand_aside));
        let mut now = outcomes.into_iter();
        for outcome in earlier.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = now.next();
        }
        Ok(earlier.into_iter().flatten().collect())
    }

    async fn standing(&self, source: &str) -> Result<Standing, Unavailable> {
        Ok(self.sources().standing(source))
    }

    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable> {
        Ok(self.sources().cursor(source))
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

    fn max_output_line_bytes(&self) -> usize {
        self.shared.max_output_line_bytes.max(self.shared.longest_recovered)
    }

    fn health(&self) -> Health {
        Health { unavailable: self.shared.failure(), storage: self.storage.stats() }
    }

    async fn close(&self) {
        self.close_shards().await;
        if let Err(error) = self.close_storage().await {
            tracing::error!(error = %error_chain(&error), "last sync failed");
        }
    }
}

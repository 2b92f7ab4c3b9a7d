//! The state that the shards and links of an engine share. None of it lies on an event's path.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::EngineSettings;
use super::clock::Clock;
use super::limit::Limit;
use super::link::Links;
use super::recovery::Recovered;
use super::topics::TopicTable;
use crate::engine::Unavailable;
use crate::error_chain;
use crate::policy::Policies;
use crate::queue::Topic;
use crate::source::SourceStates;
use crate::storage::{Level, StorageError};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// The durability that a confirmation promises.
    pub(super) level: Level,
    /// For links, which need the policies to route a `redrive`. Each shard has its own copy.
    policies: RwLock<Policies>,
    pub(super) version: &'static str,
    /// For `stats`.
    pub(super) sources: SourceStates,
    /// The number of open links.
    pub(super) connections: AtomicUsize,
    pub(super) links: Links,
    pub(super) topics: Limit,
    /// The number of empty topics in all shards, as of the last turn of each.
    pub(super) forgettable: AtomicUsize,
    pub(super) subscriptions: Limit,
    /// The limit on the longest delivery of an event, in bytes.
    pub(super) max_output_line_bytes: usize,
    /// The longest delivery of an event that recovery found, in bytes.
    pub(super) longest_recovered: usize,
    failure: OnceLock<Unavailable>,
    failed: CancellationToken,
}

impl Shared {
    pub(super) fn new(settings: &EngineSettings, level: Level, recovered: &Recovered) -> Self {
        let topics = recovered.shards.iter().map(TopicTable::len).sum();
        let subscriptions = recovered.shards.iter().flat_map(TopicTable::iter).map(Topic::subscriptions).sum();
        Self {
            clock: Clock::new(recovered.latest),
            level,
            policies: RwLock::new(settings.policies.clone()),
            version: settings.version,
            sources: settings.sources.clone(),
            connections: AtomicUsize::new(0),
            links: Links::new(),
            forgettable: AtomicUsize::new(0),
            topics: Limit::new(topics, settings.max_topics),
            subscriptions: Limit::new(subscriptions, settings.max_subscriptions),
            max_output_line_bytes: settings.max_output_line_bytes,
            longest_recovered: recovered.longest,
            failure: OnceLock::new(),
            failed: CancellationToken::new(),
        }
    }

    /// The current policies.
    pub(super) fn policies(&self) -> Policies {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_policies(&self, policies: Policies) {
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// The reason the storage is out of service; `None` while it is in service.
    pub(super) fn failure(&self) -> Option<Unavailable> {
        self.failure.get().cloned()
    }

    /// Takes the engine out of service permanently. Of several reasons the first is kept.
    pub(super) fn fail(&self, error: &StorageError) -> Unavailable {
        let reason = self.failure.get_or_init(|| {
            let reason = error_chain(error);
            tracing::error!(%reason, "storage is out of service: nothing is confirmed until it has been reopened and recovered");
            Unavailable(Arc::from(reason))
        });
        self.failed.cancel();
        reason.clone()
    }

    /// Completes when the engine has been taken out of service.
    pub(super) async fn failed(&self) {
        self.failed.cancelled().await;
    }
}

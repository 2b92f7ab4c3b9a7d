//! What all shards and links of an engine share: counts and states that are off the path of an event.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::EngineSettings;
use super::clock::Clock;
use super::link::Links;
use super::recovery::Recovered;
use crate::engine::Unavailable;
use crate::policy::Policies;
use crate::storage::{Level, StorageError};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) level: Level,
    /// For links, which look at it for a `redrive` only; every shard has its own.
    policies: RwLock<Policies>,
    pub(super) version: &'static str,
    pub(super) connections: AtomicUsize,
    pub(super) links: Links,
    pub(super) topics: Limit,
    pub(super) subscriptions: Limit,
    failure: OnceLock<Unavailable>,
    failed: CancellationToken,
}

impl Shared {
    pub(super) fn new(settings: &EngineSettings, level: Level, recovered: &Recovered) -> Self {
        let topics = recovered.shards.iter().map(Vec::len).sum();
        let subscriptions = recovered.shards.iter().flatten().map(crate::queue::Topic::subscriptions).sum();
        Self {
            clock: Clock::new(recovered.latest),
            level,
            policies: RwLock::new(settings.policies.clone()),
            version: settings.version,
            connections: AtomicUsize::new(0),
            links: Links::new(),
            topics: Limit::new(topics, settings.max_topics),
            subscriptions: Limit::new(subscriptions, settings.max_subscriptions),
            failure: OnceLock::new(),
            failed: CancellationToken::new(),
        }
    }

    /// The rules of topics.
    pub(super) fn policies(&self) -> Policies {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_policies(&self, policies: Policies) {
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// Why the storage is out of service, if it is.
    pub(super) fn failure(&self) -> Option<Unavailable> {
        self.failure.get().cloned()
    }

    /// Takes the engine out of service; the first reason stands.
    pub(super) fn fail(&self, error: &StorageError) -> Unavailable {
        let reason = self.failure.get_or_init(|| {
            let reason = chain(error);
            tracing::error!(%reason, "storage is out of service: nothing is confirmed until it has been opened again and recovered");
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

/// An error with its causes, in one line.
pub(super) fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// A count with a limit.
#[derive(Debug)]
pub(super) struct Limit {
    count: AtomicUsize,
    most: usize,
}

impl Limit {
    fn new(count: usize, most: usize) -> Self {
        Self { count: AtomicUsize::new(count), most }
    }

    /// Counts one more, unless that is too many; then the limit is returned.
    pub(super) fn take(&self) -> Result<(), usize> {
        let more = |count| (count < self.most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(|_full| self.most)
    }

    pub(super) fn give_back(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

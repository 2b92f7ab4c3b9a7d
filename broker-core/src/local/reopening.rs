//! An engine that survives the failure of its storage: it opens the storage again, recovers it, and goes on.
//!
//! A storage that has failed stays out of service, and its engine with it: what was under way is refused, and so is whatever
//! comes. Meanwhile the storage is closed, opened and recovered, after a pause that grows from time to time. When that has
//! worked, a new engine over what was recovered takes the old one's place, and the old one closes: its links end, so its
//! clients connect again and find everything that was ever confirmed. Nothing of the old engine's memory is taken over, since
//! some of it may be about what was never stored; until it has gone, both take memory.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{EngineSettings, LocalEngine};
use crate::engine::{Cursor, Engine, Health, Link, Outcome, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::storage::{Level, RecoveryReport, Storage, StorageError, StorageErrorKind};

/// Opens the storage again, with everything that is in it. Blocking; called on a thread that may block, after the one before has
/// been closed.
pub type Reopen = Arc<dyn Fn() -> Result<Arc<dyn Storage>, StorageError> + Send + Sync>;

/// Told of each recovery after the first.
pub type OnRecovery = Arc<dyn Fn(&RecoveryReport) + Send + Sync>;

/// How a failed storage is opened again.
#[derive(Clone)]
pub struct Reopening {
    /// Opens it.
    pub reopen: Reopen,
    /// Told of what was recovered.
    pub on_recovery: OnRecovery,
    /// The pause before the first attempt; twice as long before each further one.
    pub first_pause: Duration,
    /// The longest pause. If the storage fails again sooner than this after an attempt that worked, the pauses go on growing.
    pub longest_pause: Duration,
}

impl Reopening {
    /// With pauses of 1 s to 30 s.
    #[must_use]
    pub fn new(reopen: Reopen, on_recovery: OnRecovery) -> Self {
        Self { reopen, on_recovery, first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

type Current = Arc<LocalEngine<dyn Storage>>;

struct Inner {
    current: RwLock<Current>,
    settings: EngineSettings,
    /// The rules of topics that are in force now; those of `settings` were at the start.
    policies: RwLock<Policies>,
    reopening: Reopening,
    closing: CancellationToken,
}

/// A [`LocalEngine`] that another one replaces when its storage has failed.
pub struct ReopeningEngine {
    inner: Arc<Inner>,
    caretaker: Mutex<Option<JoinHandle<()>>>,
}

impl ReopeningEngine {
    /// Recovers what `storage` holds and starts. Must be called within a runtime.
    ///
    /// # Errors
    /// When the storage cannot be used; this first time nothing is tried again.
    pub async fn open(
        storage: Arc<dyn Storage>,
        settings: EngineSettings,
        reopening: Reopening,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        let (engine, report) = LocalEngine::open(storage, settings.clone()).await?;
        let current = RwLock::new(Arc::new(engine));
        let emergency = settings.emergency.clone().drop_guard();
        let policies = RwLock::new(settings.policies.clone());
        let inner = Arc::new(Inner { current, policies, settings, reopening, closing: CancellationToken::new() });
        let cared_for = Arc::clone(&inner);
        let caretaker = tokio::spawn(async move {
            // Should this panic, nobody would ever open the storage again: then the broker has to stop.
            cared_for.take_care().await;
            emergency.disarm();
        });
        Ok((Self { inner, caretaker: Mutex::new(Some(caretaker)) }, report))
    }
}

impl Inner {
    fn current(&self) -> Current {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn policies(&self) -> Policies {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for failures, and gets over them.
    async fn take_care(&self) {
        let Reopening { first_pause, longest_pause, .. } = self.reopening;
        let mut pause = first_pause;
        let mut in_service_since = Instant::now();
        loop {
            let failed = self.current();
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = failed.failed() => {}
            }
            let out_of_service_since = Instant::now();
            if in_service_since.elapsed() >= longest_pause {
                pause = first_pause;
            }
            loop {
                tokio::select! {
                    () = self.closing.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(longest_pause);
                match self.try_again(&failed).await {
                    Ok(report) => {
                        let out_of_service_ms = out_of_service_since.elapsed().as_millis();
                        let out_of_service_ms = u64::try_from(out_of_service_ms).unwrap_or(u64::MAX);
                        tracing::warn!(
                            out_of_service_ms,
                            records = report.records,
                            "the storage was opened again and recovered: the broker is back in service, its clients have to connect again"
                        );
                        (self.reopening.on_recovery)(&report);
                        break;
                    }
                    Err(error) => {
                        let next_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                        let error = super::shared::chain(&error);
                        tracing::warn!(%error, next_ms, "the storage cannot be opened again yet; trying again");
                    }
                }
            }
            in_service_since = Instant::now();
            // Its clients have been refused since the failure; now they can be served elsewhere.
            failed.close_shards().await;
        }
    }

    /// One attempt: closes the failed storage, opens it, and puts an engine over it in place of the failed one.
    async fn try_again(&self, failed: &LocalEngine<dyn Storage>) -> Result<RecoveryReport, StorageError> {
        // It says that the last sync failed, or that it has been closed by the attempt before: both are known.
        let _it_has_failed = failed.storage.close().await;
        let reopen = Arc::clone(&self.reopening.reopen);
        let opened = tokio::task::spawn_blocking(move || reopen()).await;
        let storage = opened.map_err(|panic| {
            StorageError::new(StorageErrorKind::Unusable, "opening the storage panicked").with_source(panic)
        })??;
        let settings = EngineSettings { policies: self.policies(), ..self.settings.clone() };
        match LocalEngine::open(Arc::clone(&storage), settings).await {
            Ok((engine, report)) => {
                let engine = Arc::new(engine);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&engine);
                // They may have changed since it was opened, when it was not yet the one to be told.
                let _it_is_about_to_close = engine.set_policies(self.policies()).await;
                Ok(report)
            }
            Err(error) => {
                // Or the next attempt would find the directory locked.
                let _it_cannot_be_used = storage.close().await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Engine for ReopeningEngine {
    fn connect(&self, client: String) -> Link {
        self.inner.current().connect(client)
    }

    async fn publish(
        &self,
        events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
    ) -> Result<Vec<Outcome>, Unavailable> {
        self.inner.current().publish(events, cursor).await
    }

    async fn cursor(&self, source: &str) -> Result<Option<String>, Unavailable> {
        self.inner.current().cursor(source).await
    }

    async fn set_policies(&self, policies: Policies) -> Result<(), Unavailable> {
        *self.inner.policies.write().unwrap_or_else(PoisonError::into_inner) = policies.clone();
        self.inner.current().set_policies(policies).await
    }

    fn level(&self) -> Level {
        self.inner.current().level()
    }

    fn health(&self) -> Health {
        self.inner.current().health()
    }

    async fn close(&self) {
        self.inner.closing.cancel();
        let caretaker = self.caretaker.lock().unwrap_or_else(PoisonError::into_inner).take();
        // An attempt that is under way comes to its end first: what it opens has to be closed.
        if let Some(caretaker) = caretaker {
            let _its_panic_is_an_emergency = caretaker.await;
        }
        self.inner.current().close().await;
    }
}

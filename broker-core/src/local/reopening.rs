//! An engine that survives a failure of its storage: it reopens the storage, recovers it and continues.
//!
//! ```text
//!   in service ── a write or sync fails ──► out of service: requests are refused with the reason
//!       ▲                                        │ pause, growing with each attempt
//!       │                                        ▼
//!       │                              close, reopen, recover ── fails ──► next pause
//!       └── new engine replaces the old one, old links end ◄── works
//! ```
//!
//! A failed storage is never used again, and neither is the state of its engine, which may include events that were never stored. A
//! new engine is built from the recovered records alone. When it takes over, the old engine closes: its links end, and its clients
//! connect again and find everything that was confirmed. Until the old engine is gone, both take memory.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{EngineSettings, LocalEngine};
use crate::engine::{Cursor, Engine, Handover, Health, Link, Outcome, Standing, Unavailable};
use crate::event::NewEvent;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::storage::{Level, RecoveryReport, Storage, StorageError, StorageErrorKind};
use crate::{Backoff, error_chain};

/// Opens the storage with its existing contents. Blocking; called on a thread that may block, after the previous storage has been
/// closed.
pub type Reopen = Arc<dyn Fn() -> Result<Arc<dyn Storage>, StorageError> + Send + Sync>;

/// Receives the report of each recovery after the first.
pub type OnRecovery = Arc<dyn Fn(&RecoveryReport) + Send + Sync>;

/// The rules for reopening a failed storage.
#[derive(Clone)]
pub struct Reopening {
    /// Opens the storage.
    pub reopen: Reopen,
    /// Receives the report of each recovery.
    pub on_recovery: OnRecovery,
    /// The longest first pause; see [`Backoff`] for how pauses grow.
    pub first_pause: Duration,
    /// The longest pause. A storage that stays in service for this long starts over with the first pause when it fails again.
    pub longest_pause: Duration,
}

impl Reopening {
    /// Pauses of up to 1 s at first and up to 30 s later.
    #[must_use]
    pub fn new(reopen: Reopen, on_recovery: OnRecovery) -> Self {
        Self { reopen, on_recovery, first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

type Current = Arc<LocalEngine<dyn Storage>>;

struct Inner {
    current: RwLock<Current>,
    settings: EngineSettings,
    /// The current policies. Those in `settings` are the ones of the start.
    policies: RwLock<Policies>,
    reopening: Reopening,
    closing: CancellationToken,
}

/// A [`LocalEngine`] that is replaced by a new one when its storage has failed.
pub struct ReopeningEngine {
    inner: Arc<Inner>,
    caretaker: Mutex<Option<JoinHandle<()>>>,
}

impl ReopeningEngine {
    /// Recovers the contents of `storage` and starts. Must be called within a runtime.
    ///
    /// # Errors
    /// When the storage fails to recover. This first attempt is not repeated.
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
            // A panic here would leave the storage out of service indefinitely, so it stops the broker.
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

    /// Waits for failures and replaces the engine after each, until the engine is closed.
    async fn take_care(&self) {
        let Reopening { first_pause, longest_pause, .. } = self.reopening;
        let mut backoff = Backoff::new(first_pause, longest_pause);
        let mut in_service_since = Instant::now();
        loop {
            let failed = self.current();
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = failed.failed() => {}
            }
            let out_of_service_since = Instant::now();
            // A storage that soon fails again, as on a disk that fills up once more, keeps its long pauses.
            if in_service_since.elapsed() >= longest_pause {
                backoff.reset();
            }
            let Some(report) = self.replace(&failed, &mut backoff).await else { return };
            in_service_since = Instant::now();
            let out_of_service_ms = u64::try_from(out_of_service_since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                out_of_service_ms,
                records = report.records,
                "storage reopened and recovered: the broker is back in service, clients have to connect again"
            );
            (self.reopening.on_recovery)(&report);
            // Its clients have been refused since the failure. Now they can connect to the new engine.
            failed.close_shards().await;
        }
    }

    /// Repeats attempts to replace the failed engine until one works. `None`: the engine is being closed.
    async fn replace(&self, failed: &LocalEngine<dyn Storage>, backoff: &mut Backoff) -> Option<RecoveryReport> {
        let mut pause = backoff.next_delay();
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            match self.try_again(failed).await {
                Ok(report) => return Some(report),
                Err(error) => {
                    pause = backoff.next_delay();
                    let next_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(error = %error_chain(&error), next_ms, "reopening the storage failed, retrying");
                }
            }
        }
    }

    /// One attempt: closes the failed storage, reopens it, and replaces the failed engine by one over the reopened storage.
    async fn try_again(&self, failed: &LocalEngine<dyn Storage>) -> Result<RecoveryReport, StorageError> {
        // An error here repeats the known failure, or reports that an earlier attempt has closed the storage.
        let _known_error = failed.close_storage().await;
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
                // The policies may have been replaced while the new engine was opening and could not receive them.
                let _it_is_closing_already = engine.set_policies(self.policies()).await;
                Ok(report)
            }
            Err(error) => {
                // Closed so that the next attempt does not find the directory locked.
                let _the_first_error_counts = storage.close().await;
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

    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        self.inner.current().hand_over(handover).await
    }

    async fn standing(&self, source: &str) -> Result<Standing, Unavailable> {
        self.inner.current().standing(source).await
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

    fn max_output_line_bytes(&self) -> usize {
        self.inner.current().max_output_line_bytes()
    }

    fn health(&self) -> Health {
        self.inner.current().health()
    }

    async fn close(&self) {
        self.inner.closing.cancel();
        let caretaker = self.caretaker.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A reopening in progress is completed first, because its storage has to be closed.
        if let Some(caretaker) = caretaker {
            let _a_panic_is_reported_by_the_emergency_token = caretaker.await;
        }
        self.inner.current().close().await;
    }
}

//! The assembly of a running broker from its settings (storage, engine, transports, sources), and its orderly stop.
//!
//! An orderly stop goes from the outside in: sources and listeners first, then connections, then the engine, which closes the
//! storage after a last sync. One deadline covers all of it; tasks that miss it are logged and aborted.

#[cfg(feature = "pipeline")]
pub(crate) mod durable;
#[cfg(test)]
#[cfg(all(feature = "json-log", feature = "tcp"))]
mod tests;
#[cfg(feature = "pipeline")]
mod tweets;
mod warnings;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_core::auth::{Rights, Tokens};
use broker_core::engine::Engine;
use broker_core::local::{EngineSettings, Reopen, Reopening, ReopeningEngine};
use broker_core::session::SessionSettings;
use broker_core::settings::{MadeSource, SourceStats, Start};
use broker_core::source::{LocalPublisher, Publisher, SourceError, SourceStates};
use broker_core::storage::{RecoveryReport, StorageError, StorageErrorKind};
use broker_core::transport::{Broker as Served, Reload, Transport, TransportError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport_client::{OpenError, RemotePublisher};

use crate::validate::{BrokerSettings, RemoteSettings, Settings, StorageSettings};
use crate::{error_chain, limits};
use warnings::{warn_of_durability, warn_of_exposure, warn_of_limits};

/// Why a broker could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The storage cannot be opened or read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A transport cannot listen.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The publisher to a broker elsewhere cannot be opened.
    #[error(transparent)]
    Remote(#[from] OpenError),
    /// A source cannot be made from its settings.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The pipeline's console cannot listen.
    #[error("cannot listen on {addr} for the pipeline's console")]
    Console {
        /// The address.
        addr: String,
        /// The error of the bind.
        #[source]
        cause: std::io::Error,
    },
    /// The pipeline's sink cannot be used.
    #[cfg(feature = "pipeline")]
    #[error("the pipeline's sink")]
    Sink(#[from] pipeline_tweets::sink::SinkError),
}

/// A listener of a running broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The transport's name.
    pub transport: &'static str,
    /// The address that it is bound to, as `host:port`; the real port where the configuration says 0.
    pub addr: String,
    /// Whether its connections use TLS.
    pub encrypted: bool,
}

/// The outcome of [`Broker::stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was confirmed is durable as promised.
    Clean,
    /// The storage was not closed in time, or a vital task had failed.
    Unclean,
}

/// A running broker.
pub struct Broker {
    /// `None` where sources publish to a broker elsewhere and no transport is configured.
    engine: Option<Arc<dyn Engine>>,
    remote: Option<Arc<RemotePublisher>>,
    listeners: Vec<Listener>,
    stats: Vec<(String, ReadStats)>,
    source_states: SourceStates,
    tokens: Arc<Tokens>,
    /// The transports whose certificates can be reloaded, by name.
    reloads: Vec<(&'static str, Arc<dyn Reload>)>,
    /// The emergency stop: cancelled when a vital task panics or fails.
    root: CancellationToken,
    sources: Stage,
    /// The tweet pipeline, if there is one.
    pipeline: Stage,
    #[cfg(feature = "pipeline")]
    tweets: Option<tweets::Tweets>,
    transports: Stage,
    failure: Failure,
}

type ReadStats = Arc<dyn Fn() -> SourceStats + Send + Sync>;

/// The first reason for which the broker has to stop by itself, if any.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

/// A group of tasks that stop together.
struct Stage {
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Cancelled once the deadline has passed: aborts the tasks.
    abandon: CancellationToken,
}

impl Stage {
    fn new(root: &CancellationToken) -> Self {
        Self { stop: root.child_token(), tasks: TaskTracker::new(), abandon: CancellationToken::new() }
    }

    /// Tells the tasks to stop and waits for them; aborts them at `deadline`. Returns false if any had to be aborted.
    async fn finish(&self, what: &'static str, deadline: Instant) -> bool {
        self.stop.cancel();
        self.tasks.close();
        if timeout_at(deadline, self.tasks.wait()).await.is_ok() {
            return true;
        }
        tracing::warn!(what, abandoned = self.tasks.len(), "the time to stop is over: what is left is cut off");
        self.abandon.cancel();
        // Dropping a task is quick; one that blocks even then is left to the end of the process.
        let _ = timeout_at(Instant::now() + Duration::from_millis(200), self.tasks.wait()).await;
        false
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Broker {
    /// Binds the listeners, recovers the storage and serves. Logs each listener once it is ready. Needs a multi-threaded runtime.
    ///
    /// # Errors
    /// [`StartError`]: whatever had started by then is stopped.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        let root = CancellationToken::new();
        // Until everything runs, an early return cancels the root, and with it every task that has started.
        let guard = root.clone().drop_guard();
        let failure = Failure::default();
        let sources = make_sources(settings)?;
        // Listeners come first, so that a port in use, the commonest mistake, is found before anything on disk is touched.
        // Clients that connect during the recovery wait in the listener's queue instead of being refused.
        let mut transports = Vec::new();
        for transport in &settings.transports {
            transports.push((transport.config.bind().await?, transport.config.is_encrypted()));
        }
        #[cfg(feature = "pipeline")]
        let console = tweets::bind_console(settings).await?;
        let source_states = SourceStates::default();
        let engine = match needs_engine(settings) {
            true => Some(open_engine(settings, source_states.clone(), root.clone()).await?),
            false => None,
        };
        if let Some(engine) = &engine {
            warn_of_durability(&settings.storage);
            warn_of_limits(&settings.broker, engine.max_output_line_bytes());
        }
        let remote = open_remote(settings)?;

        let mut broker = Self {
            engine: engine.clone(),
            remote: remote.clone(),
            listeners: Vec::new(),
            stats: Vec::new(),
            source_states,
            tokens: Arc::new(Tokens::new(tokens(settings))),
            reloads: Vec::new(),
            sources: Stage::new(&root),
            pipeline: Stage::new(&root),
            #[cfg(feature = "pipeline")]
            tweets: None,
            transports: Stage::new(&root),
            root,
            failure,
        };
        if let Some(engine) = &engine {
            let session = Arc::new(broker.session_settings(settings, engine.max_output_line_bytes()));
            let served = Served { engine: Arc::clone(engine), session };
            for (transport, encrypted) in transports {
                broker.serve(transport, served.clone(), encrypted);
            }
        }
        let local = || engine.map(|engine| Arc::new(LocalPublisher(engine)) as Arc<dyn Publisher>);
        let publisher = remote.map(|remote| remote as Arc<dyn Publisher>).or_else(local);
        if let Some(publisher) = publisher {
            for source in sources {
                broker.feed(source, Arc::clone(&publisher));
            }
            #[cfg(feature = "pipeline")]
            if let Some(settings) = &settings.pipeline {
                broker.start_pipeline(settings, console, publisher).await?;
            }
        }
        let _it_runs = guard.disarm();
        Ok(broker)
    }

    /// The engine; `None` where sources publish to a broker elsewhere and no transport is configured.
    #[must_use]
    pub fn engine(&self) -> Option<&Arc<dyn Engine>> {
        self.engine.as_ref()
    }

    /// The listeners, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The counts of each source, with its name.
    pub fn source_stats(&self) -> impl Iterator<Item = (&str, SourceStats)> {
        self.stats.iter().map(|(name, stats)| (name.as_str(), stats()))
    }

    /// Applies the topic policies and the tokens of `settings` and reloads the certificates: all of it, or nothing if anything is
    /// unusable. Logs the outcome and returns whether it was applied. Completes once every topic has its policy.
    pub async fn reload(&self, settings: &Settings) -> bool {
        // Every certificate is read before anything changes, so a bad one leaves the broker as it was.
        let read: Vec<_> = self.reloads.iter().map(|(transport, reload)| (transport, reload.read())).collect();
        for (transport, read) in &read {
            if let Err(error) = read {
                tracing::error!(%transport, error = %error_chain(error), "SIGHUP: what there is now is refused, so nothing has changed");
            }
        }
        let read: Option<Vec<_>> = read.into_iter().map(|(transport, read)| Some((transport, read.ok()?))).collect();
        let Some(read) = read else { return false };
        if let Some(engine) = &self.engine
            && let Err(error) = engine.set_policies(settings.policies.clone()).await
        {
            tracing::error!(%error, "SIGHUP: the topics' policies cannot be changed, so nothing else has been");
            return false;
        }
        self.tokens.replace(tokens(settings));
        let read: Vec<_> = read.into_iter().map(|(transport, put_in_force)| (transport, put_in_force())).collect();
        tracing::info!("SIGHUP: the topics were read again, and every topic has its policy");
        tracing::info!(tokens = settings.tokens.len(), "SIGHUP: the tokens were read again, and are in force");
        for (transport, certificate) in read {
            tracing::info!(%transport, %certificate, "SIGHUP: the certificate was read again, for connections from now on");
        }
        for listener in &self.listeners {
            warn_of_exposure(listener, self.tokens.are_required());
        }
        true
    }

    /// Completes once a vital task has failed or panicked, and the broker has to stop.
    pub async fn failed(&self) {
        self.root.cancelled().await;
    }

    /// Stops in an orderly way, within `timeout`.
    pub async fn stop(self, timeout: Duration) -> Stopped {
        let began = Instant::now();
        let deadline = began + timeout;
        // Part of the time is kept for the last sync, so that no client can use it up.
        let outer = deadline - (timeout / 4).min(Duration::from_secs(2));
        tokio::join!(
            self.sources.finish("sources", outer),
            self.pipeline.finish("tweets that are not stored", outer),
            self.transports.finish("connections", outer)
        );
        if let Some(remote) = &self.remote
            && !remote.close(outer.saturating_duration_since(Instant::now())).await
        {
            tracing::warn!(
                "not all of what was being published is confirmed: it is published again after the next start"
            );
        }
        let closed = match &self.engine {
            Some(engine) => timeout_at(deadline, engine.close()).await.is_ok(),
            None => true,
        };
        if !closed {
            tracing::error!("the time to stop is over: the storage is abandoned before its last sync");
        }
        if let Some(what) = self.failure.0.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            tracing::error!(reason = what, "stopped because a vital part of the broker failed");
            return Stopped::Unclean;
        }
        if self.root.is_cancelled() {
            tracing::error!("stopped because a vital task panicked; its message is above");
            return Stopped::Unclean;
        }
        if let Some(unavailable) =
            self.engine.as_ref().and_then(|engine| engine.health().unavailable).filter(|_| closed)
        {
            tracing::warn!(reason = %unavailable, "the storage was out of service at the end");
        }
        if !closed {
            return Stopped::Unclean;
        }
        tracing::info!(after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "stopped");
        Stopped::Clean
    }

    fn serve(&mut self, transport: Box<dyn Transport>, served: Served, encrypted: bool) {
        let listener = Listener { transport: transport.name(), addr: transport.addr(), encrypted };
        self.reloads.extend(transport.reload().map(|reload| (listener.transport, reload)));
        let stop = self.transports.stop.clone();
        let served = transport.serve(served, stop.clone());
        let (failure, name) = (self.failure.clone(), listener.transport);
        let vital = async move {
            let reason = match served.await {
                Ok(()) if stop.is_cancelled() => return true,
                Ok(()) => format!("transport {name} ended by itself"),
                Err(error) => error_chain(&error),
            };
            failure.set(reason);
            false
        };
        spawn_vital(&self.transports, &self.root, vital);
        tracing::info!(transport = %listener.transport, addr = %listener.addr, "listening");
        warn_of_exposure(&listener, self.tokens.are_required());
        self.listeners.push(listener);
    }

    fn session_settings(&self, settings: &Settings, max_output_line_bytes: usize) -> SessionSettings {
        SessionSettings {
            version: env!("CARGO_PKG_VERSION"),
            max_line_bytes: settings.broker.max_line_bytes,
            max_output_line_bytes,
            words: settings.commands.clone(),
            tokens: Arc::clone(&self.tokens),
        }
    }

    fn feed(&mut self, made: MadeSource, publisher: Arc<dyn Publisher>) {
        let name = made.source.name().to_owned();
        self.stats.push((name.clone(), made.stats));
        self.source_states.started(&name, made.trouble);
        let states = self.source_states.clone();
        let run = made.source.run(publisher, self.sources.stop.clone());
        let ends = async move {
            // A source that needs an operator's help stops alone; only its panic is a bug, and stops the broker.
            let ended = run.await.map_err(|error| error_chain(&error));
            if let Err(error) = &ended {
                tracing::error!(source = %name, %error, "a source has stopped; the broker goes on without it");
            }
            states.ended(&name, ended);
            true
        };
        spawn_vital(&self.sources, &self.root, ends);
    }
}

impl Failure {
    /// Keeps the first reason: later failures follow from it.
    fn set(&self, reason: String) {
        tracing::error!(%reason, "a vital part of the broker failed");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }
}

/// Spawns `task`, which returns whether it ended well. Any other end, a panic above all, cancels `root`: the emergency stop.
fn spawn_vital(stage: &Stage, root: &CancellationToken, task: impl Future<Output = bool> + Send + 'static) {
    let guard = root.clone().drop_guard();
    let abandon = stage.abandon.clone();
    stage.tasks.spawn(async move {
        let well = tokio::select! {
            well = task => well,
            () = abandon.cancelled() => true,
        };
        if well {
            let _no_emergency = guard.disarm();
        }
    });
}

fn make_sources(settings: &Settings) -> Result<Vec<MadeSource>, SourceError> {
    settings.sources.iter().map(|source| source.config.make(&source.name)).collect()
}

/// Whether an engine runs in this process. Where sources publish elsewhere, it does only if a transport is configured.
fn needs_engine(settings: &Settings) -> bool {
    settings.remote.is_none() || !settings.transports.is_empty()
}

fn open_remote(settings: &Settings) -> Result<Option<Arc<RemotePublisher>>, StartError> {
    let Some(RemoteSettings { client, path }) = &settings.remote else { return Ok(None) };
    let sources = settings.sources.iter().map(|source| source.name.as_str());
    let remote = RemotePublisher::open(client.clone(), path, sources)?;
    tracing::info!(to = %client.address(), path = %path.display(), "sources publish to a broker elsewhere");
    if !needs_engine(settings) {
        tracing::info!("no broker runs here, and the storage is not opened: no transport is configured");
    }
    Ok(Some(Arc::new(remote)))
}

async fn open_engine(
    settings: &Settings,
    sources: SourceStates,
    emergency: CancellationToken,
) -> Result<Arc<dyn Engine>, StartError> {
    let StorageSettings { kind, path, config, .. } = &settings.storage;
    let began = Instant::now();
    let for_opening = Arc::clone(config);
    let opened = tokio::task::spawn_blocking(move || for_opening.open(Start::AsConfigured)).await;
    let storage = opened.map_err(|panic| {
        StorageError::new(StorageErrorKind::Unusable, "opening the storage panicked").with_source(panic)
    })??;
    let BrokerSettings { shards, max_output_line_bytes, max_topics, max_subscriptions, .. } = settings.broker;
    let engine_settings = EngineSettings {
        shards: shards.get(),
        memory_budget_bytes: settings.storage.memory_budget_bytes,
        policies: settings.policies.clone(),
        max_topics,
        max_output_line_bytes,
        max_subscriptions,
        version: env!("CARGO_PKG_VERSION"),
        sources,
        emergency,
    };
    let for_reopening = Arc::clone(config);
    // `clean_on_start` must not delete what was stored since the start.
    let reopen: Reopen = Arc::new(move || for_reopening.open(Start::KeepData));
    let reopening = Reopening::new(reopen, Arc::new(say_what_was_found));
    let (engine, report) = ReopeningEngine::open(storage, engine_settings, reopening).await?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let RecoveryReport { records, bytes, .. } = report;
    tracing::info!(storage = %kind, path = %path.display(), records, bytes, took_ms, "storage opened");
    say_what_was_found(&report);
    Ok(Arc::new(engine))
}

/// Logs a warning for a torn tail and for damaged files.
fn say_what_was_found(report: &RecoveryReport) {
    let RecoveryReport { torn_bytes, damaged, .. } = *report;
    if torn_bytes > 0 {
        tracing::warn!(
            torn_bytes,
            "the log ended in the middle of a record, as after a crash: the torn end was cut off"
        );
    }
    if damaged > 0 {
        tracing::error!(
            damaged,
            "damage was found, in the places logged before this; the broker goes on with everything that can be read"
        );
    }
}

fn tokens(settings: &Settings) -> impl Iterator<Item = (&str, Rights)> {
    settings.tokens.iter().map(|token| (token.token.reveal(), token.rights.clone()))
}

/// Warns if the limit on open files is too low for the configured connections.
pub fn check_limits(settings: &Settings, open_files: Option<u64>) {
    let connections = settings.transports.iter().map(|transport| transport.config.max_connections() as u64).sum();
    limits::check_connections(open_files, connections);
}

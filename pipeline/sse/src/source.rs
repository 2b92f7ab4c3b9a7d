//! The SSE client as a [`Source`]: it commits events together with the position to resume at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::{Publisher, Source, SourceError};
use tokio_util::sync::CancellationToken;

use super::client::SseClient;
use super::config::{SseConfig, SseConfigError};
use super::cursor::SseCursor;
use super::event::SseItem;
use super::ids::EventIds;
use super::selection::Selection;
use super::state::{SseState, Stopped};
use pipeline_source::mapping::{Mapping, PointerWatch};
use pipeline_source::publishing::{Publishing, SourceCounters};

/// The most events published together: a large group for one sync, a small part of memory.
const BATCH: usize = 1024;

/// Publishes an SSE feed to a broker.
///
/// The position is committed in the same atomic batch as the events, so a restart continues exactly where the broker's storage ends.
/// One batch is in progress at a time. Until it is stored nothing is read, and the server has to wait.
pub struct SseSource {
    name: String,
    config: SseConfig,
    mapping: Mapping,
    selection: Selection,
    counters: Arc<SourceCounters>,
}

impl SseSource {
    /// Creates a source called `name`, the key of its cursor. The cursor replaces the id to resume at in `config`.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(name: impl Into<String>, config: SseConfig, mapping: Mapping) -> Result<Self, SseConfigError> {
        // Creating a client checks the configuration. The client of `run` differs only in the id to resume at.
        SseClient::new(config.clone())?;
        Ok(Self { name: name.into(), config, mapping, selection: Selection::default(), counters: Arc::default() })
    }

    /// Publishes only the selected events. The rest counts as skipped.
    #[must_use]
    pub fn only(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> Arc<SourceCounters> {
        Arc::clone(&self.counters)
    }

    fn error(&self, reason: impl Into<String>, cause: Option<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError { source_name: self.name.clone(), reason: reason.into(), cause }
    }

    /// Maps items to the events to publish.
    fn map(&self, items: Vec<SseItem>, ids: &mut EventIds, watch: &mut PointerWatch) -> Vec<(TopicName, NewEvent)> {
        let mut events = Vec::with_capacity(items.len());
        for item in items {
            let event = match item {
                SseItem::Event(event) => event,
                // The cursor takes note of it.
                SseItem::Id(_) => continue,
                SseItem::Oversize(oversize) => {
                    self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(source = %self.name, what = oversize.what.as_str(), limit = oversize.limit, after = %oversize.last_event_id, "skipped what is larger than the limit");
                    continue;
                }
            };
            self.counters.read.fetch_add(1, Ordering::Relaxed);
            // Events that are left out have ids too: the places of those behind them depend on it.
            let id = ids.next(&event);
            if !self.selection.wants(&event.event_type, &event.data) {
                self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            watch.examine_text(&self.name, &event.data);
            match self.mapping.apply_typed(&event.event_type, &event.data, &id) {
                Ok(event) => events.push(event),
                Err(why) => {
                    self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(source = %self.name, id = %event.last_event_id, ?why, "skipped an event");
                }
            }
        }
        events
    }
}

#[async_trait]
impl Source for SseSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(
        self: Box<Self>,
        publisher: Arc<dyn Publisher>,
        shutdown: CancellationToken,
    ) -> Result<(), SourceError> {
        let publishing = Publishing::new(&self.name, publisher, Arc::clone(&self.counters), shutdown.clone());
        let Some(cursor) = publishing.cursor().await else { return Ok(()) };
        let stored = cursor.unwrap_or_default();
        let mut committed = SseCursor::parse(&stored).map_err(|error| self.error(error.to_string(), None))?;
        tracing::info!(source = %self.name, last_event_id = %committed.last_event_id, "source started");
        let mut ids = EventIds::new(&self.name, &committed);
        let config = SseConfig {
            last_event_id: committed.last_event_id.clone(),
            sendable_event_id: committed.sendable_id.clone(),
            ..self.config.clone()
        };
        let mut client =
            SseClient::new(config).map_err(|error| self.error(error.to_string(), Some(Box::new(error))))?;
        let mut states = client.watch();
        let mut watch = PointerWatch::new(&self.mapping);
        loop {
            // Not dropped half-way: the cursor below is the client's, which must not be ahead of the batch.
            let items = {
                let mut batch = std::pin::pin!(client.next_batch(publishing.at_most(BATCH)));
                loop {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ok(()),
                        Ok(()) = states.changed() => match &*states.borrow_and_update() {
                            SseState::Waiting { reason, .. } => {
                                self.counters.set_trouble(Some(reason.to_string()));
                                watch.report(&self.name);
                            }
                            SseState::Open { .. } => self.counters.set_trouble(None),
                            _ => {}
                        },
                        items = &mut batch => break items,
                    }
                }
            };
            let items = match items {
                Ok(items) => items,
                Err(stopped @ Stopped::NoContent { .. }) => {
                    tracing::info!(source = %self.name, %stopped, "source ended");
                    break Ok(());
                }
                Err(stopped) => break Err(self.error(stopped.to_string(), Some(Box::new(stopped)))),
            };
            let events = self.map(items, &mut ids, &mut watch);
            // The batch holds everything that the client has parsed, so its ids are those behind the batch.
            let cursor = ids.cursor(client.last_event_id(), client.sendable_event_id());
            let is_moved = cursor != committed;
            if events.is_empty() && !is_moved {
                continue;
            }
            if !publishing.publish(events, is_moved.then(|| cursor.encode())).await {
                break Ok(());
            }
            committed = cursor;
        }
    }
}

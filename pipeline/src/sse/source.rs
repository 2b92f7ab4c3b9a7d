//! The SSE client as a [`Source`]: what it reads is published together with the id to resume at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::{Publisher, Source, SourceError};
use tokio_util::sync::CancellationToken;

use super::client::SseClient;
use super::config::{SseConfig, SseConfigError};
use super::event::SseItem;
use super::selection::Selection;
use super::state::Stopped;
use crate::mapping::{DerivedIds, Mapping};
use crate::publishing::{Publishing, SourceCounters};

/// The most events published together: a large group for one sync, a small part of memory.
const BATCH: usize = 1024;

/// An SSE feed that is published to a broker.
///
/// The id of the last event read is committed in the same atomic batch as the events, so a restart goes on exactly where the
/// broker's storage stands. One batch is on its way at a time; meanwhile nothing is read, and the feed's server has to wait.
pub struct SseSource {
    name: String,
    config: SseConfig,
    mapping: Mapping,
    selection: Selection,
    counters: Arc<SourceCounters>,
}

impl SseSource {
    /// A source called `name`: the key of its cursor. What `config` says of the id to resume at is replaced by the cursor.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(name: impl Into<String>, config: SseConfig, mapping: Mapping) -> Result<Self, SseConfigError> {
        // A client checks everything when it is made; a later one with another id to resume at passes as well.
        SseClient::new(config.clone())?;
        Ok(Self { name: name.into(), config, mapping, selection: Selection::default(), counters: Arc::default() })
    }

    /// The same source, of which only this is published. The rest counts as skipped.
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

    /// Reads items into events, and says up to which id that was.
    fn map(&self, items: Vec<SseItem>, ids: &mut DerivedIds) -> (Vec<(TopicName, NewEvent)>, Option<String>) {
        let mut events = Vec::with_capacity(items.len());
        let mut last = None;
        for item in items {
            let event = match item {
                SseItem::Event(event) => event,
                SseItem::Oversize(oversize) => {
                    self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(source = %self.name, what = oversize.what.as_str(), limit = oversize.limit, after = %oversize.last_event_id, "skipped what is larger than the limit");
                    continue;
                }
            };
            self.counters.read.fetch_add(1, Ordering::Relaxed);
            // Of what is left out as well: the numbers of those that share an SSE id depend on it.
            let id = ids.next(&event.last_event_id);
            if !self.selection.wants(&event.event_type, &event.data) {
                self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                last = Some(event.last_event_id);
                continue;
            }
            match self.mapping.apply_typed(&event.event_type, &event.data, &id) {
                Ok(event) => events.push(event),
                Err(why) => {
                    self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(source = %self.name, id = %event.last_event_id, ?why, "skipped an event");
                }
            }
            last = Some(event.last_event_id);
        }
        (events, last.filter(|id| !id.is_empty()).map(|id| id.to_string()))
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
        let cursor = cursor.unwrap_or_default();
        tracing::info!(source = %self.name, last_event_id = %cursor, "source started");
        let mut ids = DerivedIds::new(&self.name, &cursor);
        let config = SseConfig { last_event_id: cursor.clone(), ..self.config.clone() };
        let mut client =
            SseClient::new(config).map_err(|error| self.error(error.to_string(), Some(Box::new(error))))?;
        let mut committed = cursor;
        loop {
            let items = tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                items = client.next_batch(BATCH) => items,
            };
            let items = match items {
                Ok(items) => items,
                Err(stopped @ Stopped::NoContent { .. }) => {
                    tracing::info!(source = %self.name, %stopped, "source ended");
                    break Ok(());
                }
                Err(stopped) => break Err(self.error(stopped.to_string(), Some(Box::new(stopped)))),
            };
            let (events, last) = self.map(items, &mut ids);
            let moved = last.filter(|last| *last != committed);
            if events.is_empty() && moved.is_none() {
                continue;
            }
            if !publishing.publish(events, moved.clone()).await {
                break Ok(());
            }
            committed = moved.unwrap_or(committed);
        }
    }
}

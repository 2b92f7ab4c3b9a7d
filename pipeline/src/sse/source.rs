//! The SSE client as a [`Source`]: what it reads is published together with the id to resume at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::engine::{Cursor, Outcome, Refusal};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::{Publisher, Source, SourceError};
use tokio_util::sync::CancellationToken;

use super::client::SseClient;
use super::config::{SseConfig, SseConfigError};
use super::event::SseItem;
use super::mapping::{DerivedIds, Mapping};
use super::selection::Selection;
use super::state::Stopped;

/// The most events published together: a large group for one sync, a small part of memory.
const BATCH: usize = 1024;

/// How long the broker is left alone after it refused or could not store: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a source has done since it started. Shared, so that others can show it.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// Events read from the feed.
    pub read: AtomicU64,
    /// Events that the broker has taken.
    pub published: AtomicU64,
    /// Events that are not published by the rules of the configuration, or because they are too large or too deep.
    pub skipped: AtomicU64,
    /// Events that the broker refused for good.
    pub refused: AtomicU64,
}

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

    /// Publishes until everything is taken or refused for good. False: told to stop meanwhile.
    async fn publish(
        &self,
        publisher: &dyn Publisher,
        mut events: Vec<(TopicName, NewEvent)>,
        cursor: Option<Cursor>,
        shutdown: &CancellationToken,
    ) -> bool {
        let mut pause = PAUSE.0;
        loop {
            let answer = tokio::select! {
                // What is under way when the broker stops is committed or not; the cursor knows.
                () = shutdown.cancelled() => return false,
                answer = publisher.publish(events.clone(), cursor.clone()) => answer,
            };
            match answer {
                Ok(outcomes) => {
                    events = self.left_over(events, outcomes);
                    if events.is_empty() {
                        return true;
                    }
                    if pause == PAUSE.0 {
                        tracing::warn!(source = %self.name, topic = %events[0].0, "the topic is full: reading goes on when there is room");
                    }
                }
                Err(error) => tracing::warn!(source = %self.name, %error, "publishing failed; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Counts outcomes, and keeps the events for which there was no room.
    fn left_over(&self, events: Vec<(TopicName, NewEvent)>, outcomes: Vec<Outcome>) -> Vec<(TopicName, NewEvent)> {
        let mut left = Vec::new();
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Refused(Refusal::Full { .. } | Refusal::Unavailable(_)) => left.push(event),
                Outcome::Refused(refusal) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(source = %self.name, topic = %event.0, id = %event.1.payload.id(), %refusal, "the broker refused an event");
                }
                _ => {
                    self.counters.published.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        left
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
        let mut pause = PAUSE.0;
        let cursor = loop {
            match publisher.cursor(&self.name).await {
                Ok(cursor) => break cursor.unwrap_or_default(),
                Err(error) => tracing::warn!(source = %self.name, %error, "the cursor cannot be read; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        };
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
            let cursor = moved.as_ref().map(|value| Cursor { source: self.name.clone(), value: value.clone() });
            if !self.publish(&*publisher, events, cursor, &shutdown).await {
                break Ok(());
            }
            committed = moved.unwrap_or(committed);
        }
    }
}

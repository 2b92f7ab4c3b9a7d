//! Turns the contents of a storage into lines, a page at a time.

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::line::{self, EventHead};
use crate::name::TopicName;
use crate::storage::{Storage, StorageError};

/// The number of events read at a time.
const PAGE_EVENTS: usize = 512;

/// The bytes of payloads read at a time, unless a single one is longer.
const PAGE_BYTES: usize = 2 << 20;

/// The totals of an export; they are its last line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Lines before the last one.
    pub lines: u64,
    /// Topics.
    pub topics: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Events.
    pub events: u64,
    /// Cursors of sources.
    pub cursors: u64,
    /// The checksum of all lines before the last one, as eight hexadecimal digits.
    pub crc32: String,
}

enum Phase {
    Header,
    /// The topic at this index, and its subscriptions.
    Names(usize),
    /// The events of the topic at this index, after this sequence.
    Events(usize, u64),
    Cursors,
    End,
    Done,
}

/// Turns the contents in an [`Index`] into lines. Holds one page of payloads at a time.
pub struct Exporter {
    index: Index,
    /// In the order of their names.
    topics: Vec<TopicName>,
    phase: Phase,
    totals: Totals,
    crc: crc32fast::Hasher,
    left_out: u64,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl Exporter {
    /// Starts an export of the contents of `index`.
    #[must_use]
    pub fn new(index: Index) -> Self {
        let mut topics: Vec<TopicName> = index.topics.keys().cloned().collect();
        topics.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let (totals, crc) = (Totals::default(), crc32fast::Hasher::new());
        Self { index, topics, phase: Phase::Header, totals, crc, left_out: 0 }
    }

    /// The totals so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Events left out because their record is damaged or gone.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The next lines; `None` at the end. Always whole lines, possibly none.
    ///
    /// # Errors
    /// When the storage cannot be read.
    pub async fn next(&mut self, storage: &dyn Storage) -> Result<Option<Vec<u8>>, StorageError> {
        let mut out = Vec::new();
        self.phase = match self.phase {
            Phase::Header => {
                line::push_header(&mut out, self.index.only.as_ref());
                self.totals.lines += 1;
                Phase::Names(0)
            }
            Phase::Names(at) => self.names(&mut out, at),
            Phase::Events(at, after) => self.events(&mut out, storage, at, after).await?,
            Phase::Cursors => {
                for (source, value) in &self.index.cursors {
                    line::push_cursor(&mut out, source, value);
                }
                self.totals.cursors = self.index.cursors.len() as u64;
                self.totals.lines += self.totals.cursors;
                Phase::End
            }
            Phase::End => {
                self.totals.crc32 = format!("{:08x}", self.crc.clone().finalize());
                line::push_end(&mut out, &self.totals);
                self.phase = Phase::Done;
                return Ok(Some(out));
            }
            Phase::Done => return Ok(None),
        };
        self.crc.update(&out);
        Ok(Some(out))
    }

    fn names(&mut self, out: &mut Vec<u8>, at: usize) -> Phase {
        let Some((name, topic)) = self.topics.get(at).and_then(|name| self.index.topics.get_key_value(name)) else {
            return Phase::Events(0, 0);
        };
        line::push_topic(out, name, topic.last_seq);
        for (subscription, state) in &topic.subscriptions {
            line::push_subscription(out, name, subscription, state.since);
        }
        self.totals.topics += 1;
        self.totals.subscriptions += topic.subscriptions.len() as u64;
        self.totals.lines += 1 + topic.subscriptions.len() as u64;
        Phase::Names(at + 1)
    }

    async fn events(
        &mut self,
        out: &mut Vec<u8>,
        storage: &dyn Storage,
        at: usize,
        after: u64,
    ) -> Result<Phase, StorageError> {
        let Some((name, topic)) = self.topics.get(at).and_then(|name| self.index.topics.get_key_value(name)) else {
            return Ok(Phase::Cursors);
        };
        let keys = topic.page(name, after, PAGE_EVENTS, PAGE_BYTES);
        let Some(last) = keys.last().map(|key| key.key.seq.0) else { return Ok(Phase::Events(at + 1, 0)) };
        let payloads = storage.read(keys.clone()).await?;
        for (key, payload) in keys.iter().zip(payloads) {
            let seq = key.key.seq.0;
            let written = topic.events.get(&seq).zip(payload).and_then(|(entry, payload)| {
                let (expires_at, due_at) = entry.times();
                let (priority, published_at) = (entry.priority.0, entry.published_at);
                let head = EventHead { topic: name, priority, seq, published_at, expires_at, due_at };
                line::push_event(out, &head, topic.holders(seq), &payload)
            });
            match written {
                Some(()) => {
                    self.totals.events += 1;
                    self.totals.lines += 1;
                }
                None => {
                    self.left_out += 1;
                    tracing::error!(topic = %name, seq, "event left out: its record cannot be read");
                }
            }
        }
        Ok(Phase::Events(at, last))
    }
}

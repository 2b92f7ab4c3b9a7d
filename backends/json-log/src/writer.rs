//! The writer, which owns the end of the log: it takes every waiting batch, encodes them into one buffer, and writes once.
//!
//! ```text
//!   queue:  batch 8, batch 9, batch 10
//!              │
//!              ▼ encode, one line per mutation (settlements of a subscription share one)
//!   buffer: {"batch":8,"left":1,…}\n{"batch":8,"left":0,…}\n{"batch":9,"left":0,…}\n{"batch":10,…
//!              │
//!              ▼ one write at the end of the active segment: the batches are `written`
//!   Syncer: one sync later: they are `durable`
//! ```
//!
//! A batch never spans two segments, so the segment changes only between batches. Stages complete in the order of batches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use broker_core::storage::{Batch, Completer, Mutation, Place, StorageError};

use crate::active_segment::ActiveSegment;
use crate::catalogue::Catalogue;
use crate::error::JsonLogError;
use crate::format::{Encoder, Span, encode_freed};
use crate::place::{self, MAX_OFFSET};
use crate::recovery::LogEnd;
use crate::shared::Shared;
use crate::sync::{Syncer, Waiting};
use crate::wakeup::Wakeup;
use crate::write_queue::{Request, WriteQueue};
use broker_core::settings::Durability;

/// The bytes gathered before a write; a single batch may exceed them.
const WRITE_BYTES: usize = 1 << 20;

/// The limits of a small batch, in mutations and in bytes of payload.
const SMALL_COUNT: usize = 32;
const SMALL_BYTES: usize = 16 << 10;

/// The memory that the buffer keeps; the excess of one huge batch is released.
const KEEP_BYTES: usize = 8 << 20;

/// An encoded batch that is not written yet.
#[derive(Debug)]
struct Pending {
    /// Whether a client waits for its durability.
    urgent: bool,
    written: Completer<Vec<Place>>,
    durable: Option<Completer<()>>,
    /// Its events, as a range of the spans.
    events: Range<usize>,
}

/// The writer. [`crate::writer_slot`] decides which thread runs it.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    queue: Arc<WriteQueue>,
    requests: Vec<Request>,
    syncer: Arc<Syncer>,
    wakeup: Arc<Wakeup>,
    active: ActiveSegment,
    catalogue: Catalogue,
    next_batch: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
    spans: Vec<Span>,
    pending: Vec<Pending>,
    releases: Vec<Place>,
    waiting: Vec<Waiting>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: Arc<WriteQueue>,
        syncer: Arc<Syncer>,
        wakeup: Arc<Wakeup>,
        LogEnd { active, catalogue, next_batch }: LogEnd,
    ) -> Self {
        syncer.set_file(active.segment.clone(), active.file.clone());
        Self {
            shared,
            queue,
            requests: Vec::new(),
            syncer,
            wakeup,
            active,
            catalogue,
            next_batch,
            encoder: Encoder::default(),
            buffer: Vec::with_capacity(WRITE_BYTES),
            spans: Vec::new(),
            pending: Vec::new(),
            releases: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Handles every request in the queue; returns true if one of them was to close.
    pub(crate) fn turn(&mut self) -> bool {
        let mut requests = std::mem::take(&mut self.requests);
        self.queue.take(&mut requests);
        let mut closing = false;
        for request in requests.drain(..) {
            match request {
                Request::Commit { batch, written, durable } => self.commit(&batch, written, durable),
                Request::Free { through, done } => {
                    let result = self.write_freed(through);
                    let _cleaner_gone = done.send(result);
                }
                Request::Rotate { done } => {
                    self.flush();
                    let result = self.working().and_then(|()| self.rotate());
                    let _cleaner_gone = done.send(result);
                }
                Request::Close => closing = true,
            }
        }
        self.requests = requests;
        self.flush();
        closing
    }

    /// Whether the request is a batch small enough for the submitting thread to write.
    pub(crate) fn would_take(&self, request: &Request) -> bool {
        let Request::Commit { batch, .. } = request else { return false };
        let payload = |mutation: &Mutation| match mutation {
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } => event.payload.len(),
            Mutation::Settle { events, .. } | Mutation::Forget { events, .. } => {
                events.len() * SMALL_BYTES / SMALL_COUNT
            }
            Mutation::Redeliver { events, .. } => events.len() * SMALL_BYTES / SMALL_COUNT,
            _ => 0,
        };
        let bytes: usize = batch.mutations.iter().take(SMALL_COUNT + 1).map(payload).sum();
        let is_small = batch.mutations.len() <= SMALL_COUNT && bytes <= SMALL_BYTES;
        // Beginning a segment takes several syncs, which must not block the submitter.
        is_small && self.has_room_for(0) && !self.syncer.is_busy()
    }

    /// Writes a batch at once. [`Writer::would_take`] must have accepted it.
    pub(crate) fn take_at_once(&mut self, request: Request) {
        if let Request::Commit { batch, written, durable } = request {
            self.commit(&batch, written, durable);
            self.flush();
        }
    }

    fn working(&self) -> Result<(), StorageError> {
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn commit(&mut self, batch: &Batch, written: Completer<Vec<Place>>, durable: Option<Completer<()>>) {
        if let Err(error) = self.working().and_then(|()| self.make_room()) {
            self.flush();
            self.refuse(Pending { urgent: true, written, durable, events: 0..0 }, error);
            return;
        }
        let (bytes, events) = (self.buffer.len(), self.spans.len());
        let encoded = self.encoder.batch(&mut self.buffer, self.next_batch, &batch.mutations, &mut self.spans);
        let end = self.active.offset + self.buffer.len() as u64;
        let encoded = encoded.and_then(|lines| {
            let fits = end <= MAX_OFFSET;
            let too_large = JsonLogError::TooLarge { what: "a batch", bytes: end, limit: MAX_OFFSET };
            if fits { Ok(lines) } else { Err(too_large) }
        });
        match encoded {
            Ok(lines) => self.next_batch += u64::from(lines > 0),
            Err(error) => {
                self.buffer.truncate(bytes);
                self.spans.truncate(events);
                // The batches before it are still written.
                self.flush();
                let error = StorageError::from(error);
                self.shared.fail(&error);
                self.refuse(Pending { urgent: true, written, durable, events: 0..0 }, error);
                return;
            }
        }
        for mutation in &batch.mutations {
            self.catalogue.apply(mutation);
            if let Mutation::Release { place, .. } = mutation {
                self.releases.push(*place);
            }
        }
        let urgent = !batch.mutations.iter().all(is_answered_when_written);
        self.pending.push(Pending { urgent, written, durable, events: events..self.spans.len() });
        if self.buffer.len() >= WRITE_BYTES {
            self.flush();
        }
    }

    /// Whether the active segment has room for `bytes` more.
    fn has_room_for(&self, bytes: u64) -> bool {
        // A catalogue as long as a segment must not make every batch begin a new one.
        let limit = self.shared.config.segment_bytes.max(self.active.begin.saturating_mul(2));
        self.active.offset + bytes < limit
    }

    /// Begins a new segment if the active one is full.
    fn make_room(&mut self) -> Result<(), StorageError> {
        if self.has_room_for(self.buffer.len() as u64) {
            return Ok(());
        }
        self.flush();
        self.working()?;
        self.rotate()
    }

    /// Writes the buffer, and completes the stages of its batches.
    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let written = match self.shared.failure() {
                Some(error) => Err(error.clone()),
                None => self.write_buffer().inspect_err(|error| self.shared.fail(error)),
            };
            if let Err(error) = written {
                self.buffer.clear();
                self.spans.clear();
                self.releases.clear();
                for pending in std::mem::take(&mut self.pending) {
                    self.refuse(pending, error.clone());
                }
                return;
            }
        }
        let bytes = self.buffer.len() as u64;
        let base = self.active.offset;
        self.active.offset += bytes;
        self.active.segment.set_bytes(self.active.offset);
        self.shared.batches.fetch_add(self.pending.len() as u64, Relaxed);

        let number = self.active.segment.number;
        let mut done = std::mem::take(&mut self.pending);
        for pending in done.drain(..) {
            let mut places = Vec::with_capacity(pending.events.len());
            for span in &self.spans[pending.events] {
                let place = place::pack(number, base + span.start as u64, span.len as u64);
                self.active.segment.add_live(place);
                places.push(place);
            }
            pending.written.complete(Ok(places));
            match (pending.durable, self.shared.config.durability) {
                (Some(durable), Durability::Always) => {
                    self.waiting.push(Waiting { urgent: pending.urgent, durable, failed: None });
                }
                (Some(durable), _) => durable.complete(Ok(())),
                (None, _) => {}
            }
        }
        self.pending = done;
        self.spans.clear();
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BYTES);
        if bytes > 0 || !self.waiting.is_empty() {
            self.syncer.wrote(bytes, &mut self.waiting);
        }
        // Only after the write: the settlements that released these events must be in the log before their segment can be freed.
        let mut oldest_is_dead = false;
        for place in self.releases.drain(..) {
            oldest_is_dead |= self.shared.segments.release(place);
        }
        if oldest_is_dead {
            self.wakeup.wake();
        }
    }

    fn write_buffer(&self) -> Result<(), StorageError> {
        let events = if self.spans.is_empty() { 0 } else { self.buffer.len() as u64 };
        self.shared.reserve.before_writing(events)?;
        let written = self.active.file.write_all_at(&self.buffer, self.active.offset);
        written.map_err(|source| JsonLogError::io("write to", &self.active.segment.path, source).into())
    }

    fn refuse(&mut self, pending: Pending, error: StorageError) {
        pending.written.complete(Err(error.clone()));
        match (pending.durable, self.shared.config.durability) {
            (Some(durable), Durability::Always) => {
                self.waiting.push(Waiting { urgent: true, durable, failed: Some(error) });
                self.syncer.wrote(0, &mut self.waiting);
            }
            (Some(durable), _) => durable.complete(Err(error)),
            (None, _) => {}
        }
    }

    /// Begins a new segment. The buffer must be empty.
    ///
    /// The old segment is synced before the new one exists, at every durability. So only the last segment can have a torn tail, and
    /// no record of the new segment survives without all records before it.
    fn rotate(&mut self) -> Result<(), StorageError> {
        self.syncer.barrier()?;
        let number = self.active.segment.number + 1;
        match ActiveSegment::create(&self.shared, number, &self.catalogue, self.next_batch) {
            Ok(active) => {
                self.syncer.set_file(active.segment.clone(), active.file.clone());
                self.active = active;
                self.wakeup.wake();
                Ok(())
            }
            Err(error) => {
                let error = StorageError::from(error);
                self.shared.fail(&error);
                Err(error)
            }
        }
    }

    fn write_freed(&mut self, through: u64) -> Result<(), StorageError> {
        self.working()?;
        encode_freed(&mut self.buffer, self.next_batch, through);
        self.next_batch += 1;
        self.flush();
        self.working()?;
        self.syncer.barrier()
    }
}

/// Whether clients get their answer once the mutation is written, so that none waits for its durability.
fn is_answered_when_written(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Settle { .. } | Mutation::Redeliver { .. } | Mutation::Release { .. })
}

impl Drop for Writer {
    /// Fails the waiting batches, even after a panic, so that no stage stays incomplete.
    fn drop(&mut self) {
        let gone = if std::thread::panicking() {
            let error =
                StorageError::new(broker_core::storage::StorageErrorKind::Failed, "the writing thread panicked");
            self.shared.fail(&error);
            error
        } else {
            StorageError::closed()
        };
        for request in self.queue.close() {
            if let Request::Commit { written, durable, .. } = request {
                self.refuse(Pending { urgent: true, written, durable, events: 0..0 }, gone.clone());
            }
        }
        self.syncer.stop();
    }
}

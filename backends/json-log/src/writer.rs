//! What owns the end of the log: takes all waiting batches, encodes them to one buffer, writes once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use broker_core::event::Millis;
use broker_core::storage::{Batch, Completer, Mutation, Place, StorageError};

use crate::catalogue::Catalogue;
use crate::cleaner::Nudge;
use crate::config::Durability;
use crate::error::JsonLogError;
use crate::files::{DataFile, OpenMode};
use crate::format::{Encoder, Header, Span, encode_freed, encode_header};
use crate::inbox::{Inbox, Request};
use crate::place::{self, MAX_OFFSET};
use crate::segment::Segment;
use crate::shared::Shared;
use crate::sync::{Syncer, Waiting};

/// So much is gathered before it is written; a batch may be longer.
const WRITE_BYTES: usize = 1 << 20;

/// What counts as a small batch: so many mutations, or so many bytes.
const SMALL_COUNT: usize = 32;
const SMALL_BYTES: usize = 16 << 10;

/// A buffer that one huge batch has grown is given back above this.
const KEEP_BYTES: usize = 8 << 20;

/// The segment that is written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DataFile>,
    /// Where the next line goes.
    pub(crate) offset: u64,
    /// Where its catalogue ends.
    pub(crate) begin: u64,
}

impl Active {
    /// Writes the beginning of a segment to an empty file and makes it durable, with its name.
    pub(crate) fn begin(
        shared: &Shared,
        file: Arc<dyn DataFile>,
        number: u64,
        catalogue: &Catalogue,
        next_batch: u64,
    ) -> Result<Self, JsonLogError> {
        let path = shared.segments.path(number);
        let oldest = shared.segments.oldest().unwrap_or(number).min(number);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let created = Millis(u64::try_from(created).unwrap_or_default());
        let mut lines = Vec::new();
        encode_header(&mut lines, &Header { segment: number, created, oldest, next_batch }, catalogue.lines());
        catalogue.encode(&mut lines);
        file.write_all_at(&lines, 0).map_err(|source| JsonLogError::io("write to", &path, source))?;
        file.sync().map_err(|source| JsonLogError::io("sync", &path, source))?;
        let dir = &shared.config.path;
        shared.files.sync_dir(dir).map_err(|source| JsonLogError::io("sync", dir, source))?;
        let begin = lines.len() as u64;
        let segment = shared.segments.entry(number, begin);
        shared.segments.insert(segment.clone());
        Ok(Self::resume(shared, segment, file, begin))
    }

    /// Goes on at the end of a segment whose catalogue ends at `begin`.
    pub(crate) fn resume(shared: &Shared, segment: Arc<Segment>, file: Arc<dyn DataFile>, begin: u64) -> Self {
        shared.segments.set_begin(begin);
        Self { offset: segment.bytes(), segment, file, begin }
    }

    /// The same with a new file.
    pub(crate) fn create(
        shared: &Shared,
        number: u64,
        catalogue: &Catalogue,
        next_batch: u64,
    ) -> Result<Self, JsonLogError> {
        let path = shared.segments.path(number);
        let file = shared
            .files
            .open(&path, OpenMode::CreateNew)
            .map_err(|source| JsonLogError::io("create", &path, source))?;
        Self::begin(shared, file, number, catalogue, next_batch)
    }
}

/// A batch that is encoded and not yet written.
#[derive(Debug)]
struct Pending {
    /// Somebody is told when it is safe.
    urgent: bool,
    written: Completer<Vec<Place>>,
    safe: Option<Completer<()>>,
    /// Its events among the spans.
    events: Range<usize>,
}

/// The writer; see [`crate::desk`] for who runs it.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    requests: Vec<Request>,
    syncer: Arc<Syncer>,
    nudge: Arc<Nudge>,
    active: Active,
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
        inbox: Arc<Inbox>,
        syncer: Arc<Syncer>,
        nudge: Arc<Nudge>,
        (active, catalogue, next_batch): (Active, Catalogue, u64),
    ) -> Self {
        syncer.set_file(active.segment.clone(), active.file.clone());
        Self {
            shared,
            inbox,
            requests: Vec::new(),
            syncer,
            nudge,
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

    /// Does all that waits in the inbox; whether it was asked to close.
    pub(crate) fn turn(&mut self) -> bool {
        let mut requests = std::mem::take(&mut self.requests);
        self.inbox.take(&mut requests);
        let mut closing = false;
        for request in requests.drain(..) {
            match request {
                Request::Commit { batch, written, safe } => self.commit(&batch, written, safe),
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

    /// Whether this is a batch that is written in no time.
    pub(crate) fn would_take(&self, request: &Request) -> bool {
        let Request::Commit { batch, .. } = request else { return false };
        let payload = |mutation: &Mutation| match mutation {
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } => event.payload.len(),
            Mutation::Settle { events, .. } | Mutation::Forget { events, .. } => {
                events.len() * SMALL_BYTES / SMALL_COUNT
            }
            Mutation::Requeue { events, .. } => events.len() * SMALL_BYTES / SMALL_COUNT,
            _ => 0,
        };
        let bytes: usize = batch.mutations.iter().take(SMALL_COUNT + 1).map(payload).sum();
        let is_small = batch.mutations.len() <= SMALL_COUNT && bytes <= SMALL_BYTES;
        // A new segment is not begun in no time.
        is_small && self.has_room_for(0) && !self.syncer.is_busy()
    }

    /// Writes a batch for which [`Writer::would_take`] holds.
    pub(crate) fn take_at_once(&mut self, request: Request) {
        if let Request::Commit { batch, written, safe } = request {
            self.commit(&batch, written, safe);
            self.flush();
        }
    }

    fn working(&self) -> Result<(), StorageError> {
        self.shared.failure().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn commit(&mut self, batch: &Batch, written: Completer<Vec<Place>>, safe: Option<Completer<()>>) {
        if let Err(error) = self.working().and_then(|()| self.make_room()) {
            self.flush();
            self.refuse(Pending { urgent: true, written, safe, events: 0..0 }, error);
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
                // Those before it are not to blame.
                self.flush();
                let error = StorageError::from(error);
                self.shared.fail(&error);
                self.refuse(Pending { urgent: true, written, safe, events: 0..0 }, error);
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
        self.pending.push(Pending { urgent, written, safe, events: events..self.spans.len() });
        if self.buffer.len() >= WRITE_BYTES {
            self.flush();
        }
    }

    /// Whether the active segment is to grow by so much.
    fn has_room_for(&self, bytes: u64) -> bool {
        // A catalogue that is as long as a segment must not make every batch begin a new one.
        let limit = self.shared.config.segment_bytes.max(self.active.begin.saturating_mul(2));
        self.active.offset + bytes < limit
    }

    /// Begins a new segment if the active one is long enough.
    fn make_room(&mut self) -> Result<(), StorageError> {
        if self.has_room_for(self.buffer.len() as u64) {
            return Ok(());
        }
        self.flush();
        self.working()?;
        self.rotate()
    }

    /// Writes what is gathered, and completes its stages.
    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let written = match self.shared.failure() {
                Some(error) => Err(error.clone()),
                None => self.active.file.write_all_at(&self.buffer, self.active.offset).map_err(|source| {
                    let error = JsonLogError::io("write to", &self.active.segment.path, source).into();
                    self.shared.fail(&error);
                    error
                }),
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
            match (pending.safe, self.shared.config.durability) {
                (Some(safe), Durability::Always) => {
                    self.waiting.push(Waiting { urgent: pending.urgent, safe, failed: None });
                }
                (Some(safe), _) => safe.complete(Ok(())),
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
        // After the write: what made the events dead is in the log before their segment can go.
        let mut oldest_is_dead = false;
        for place in self.releases.drain(..) {
            oldest_is_dead |= self.shared.segments.release(place);
        }
        if oldest_is_dead {
            self.nudge.nudge();
        }
    }

    fn refuse(&mut self, pending: Pending, error: StorageError) {
        pending.written.complete(Err(error.clone()));
        match (pending.safe, self.shared.config.durability) {
            (Some(safe), Durability::Always) => {
                self.waiting.push(Waiting { urgent: true, safe, failed: Some(error) });
                self.syncer.wrote(0, &mut self.waiting);
            }
            (Some(safe), _) => safe.complete(Err(error)),
            (None, _) => {}
        }
    }

    /// Begins a new segment; everything that was gathered is written.
    ///
    /// The old segment is synced before there is a new one, whatever the durability: so only the last segment can have a tail
    /// that a crash tore, and nothing in the new one is there without all that came before it.
    fn rotate(&mut self) -> Result<(), StorageError> {
        self.syncer.barrier()?;
        let number = self.active.segment.number + 1;
        match Active::create(&self.shared, number, &self.catalogue, self.next_batch) {
            Ok(active) => {
                self.syncer.set_file(active.segment.clone(), active.file.clone());
                self.active = active;
                self.nudge.nudge();
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

/// Whether the engine answers for it when it is written, so that nobody waits for it to be safe.
fn is_answered_when_written(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Settle { .. } | Mutation::Requeue { .. } | Mutation::Release { .. })
}

impl Drop for Writer {
    /// Also when the thread panics: nobody must wait for what will not happen.
    fn drop(&mut self) {
        let gone = if std::thread::panicking() {
            let error =
                StorageError::new(broker_core::storage::StorageErrorKind::Failed, "the writing thread has panicked");
            self.shared.fail(&error);
            error
        } else {
            StorageError::closed()
        };
        for request in self.inbox.close() {
            if let Request::Commit { written, safe, .. } = request {
                self.refuse(Pending { urgent: true, written, safe, events: 0..0 }, gone.clone());
            }
        }
        self.syncer.stop();
    }
}

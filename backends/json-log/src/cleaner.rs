//! The thread that frees segments, strictly the oldest first.
//!
//! This order makes every record safe to drop with its segment. A settlement is never older than the event it settles. So when
//! the settlement's segment is freed, the event is already gone, or it was moved to the end of the log with the list of the
//! subscriptions that still hold it:
//!
//! ```text
//!   segment 5            segment 6              segment 7 (written)
//!   event 1, event 2     settle 1, event 3      …, event 2 again with its holders
//!   └── freed first ──┘  └── then this one ──┘
//! ```
//!
//! # The two-phase delete
//!
//! A missing file alone never counts as freed. The `freed` record is durable first, and only then is the file unlinked:
//!
//! ```text
//!   1  write `freed through 5`, sync it        a crash here: segment 5 still exists, and is freed again
//!   2  unlink segment 5                        a crash here: its name may or may not exist; the record covers both
//!   3  sync the directory, then segment 6      a crash here: segment 5 is gone, segment 6 exists
//! ```
//!
//! Without the sync of step 3, power loss could restore segment 5 but not segment 6: event 1 would exist without its settlement
//! and would be delivered again.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use broker_core::storage::{Janitor, Mutation, Place, StorageError, StoredEvent};

use crate::error::JsonLogError;
use crate::format::{Names, Record, decode};
use crate::line_reader::{LineReader, Piece};
use crate::place;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::wakeup::Wakeup;
use crate::write_queue::{Request, WriteQueue};

/// The longest time between two checks.
const TICK: Duration = Duration::from_secs(1);

/// The pause after a transient failure, such as a read error.
const RETRY: Duration = Duration::from_secs(30);

/// The limits of a page of events for the janitor, in bytes and in events. A single event may exceed the bytes.
const PAGE_BYTES: usize = 512 << 10;
const PAGE_EVENTS: usize = 1024;

/// The fewest full segments for which moving events is worthwhile.
const MIN_SEGMENTS: usize = 2;

/// How long a segment stays readable after its events were moved: the engine may have looked up an old place without having
/// requested the read yet.
const GRACE: Duration = Duration::from_millis(250);

/// An idle segment without live events is replaced if it is longer than this, or than a quarter of a full segment.
const WORTH_REPLACING: u64 = 1 << 20;

/// Why freeing ended early.
enum Stopped {
    /// The storage is closing or out of service.
    ForGood,
    /// A transient failure, which was logged.
    ForNow,
}

impl From<StorageError> for Stopped {
    fn from(error: StorageError) -> Self {
        tracing::warn!(error = %error, "freeing space failed; retrying later");
        Self::ForNow
    }
}

/// The next step of freeing space.
#[derive(Debug)]
enum Step {
    /// Free these segments: nothing in them is needed.
    Free(Vec<Arc<Segment>>),
    /// Move this segment's events to the end of the log, then free it.
    Move(Arc<Segment>),
    /// Begin a new segment: the active one is long, and nothing in it is needed.
    Replace,
}

/// The cleaning thread's state.
pub(crate) struct Cleaner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<WriteQueue>,
    pub(crate) wakeup: Arc<Wakeup>,
    pub(crate) janitor: Arc<dyn Janitor>,
}

impl Cleaner {
    /// Runs the thread until it is stopped.
    pub(crate) fn run(&self) {
        let mut idle_at = None;
        loop {
            let woken = self.wakeup.wait(TICK);
            if self.wakeup.is_stopped() || self.shared.failure().is_some() {
                return;
            }
            self.shared.reserve.look_again();
            // Idle: nothing was written since the last check, a tick ago.
            let active = self.shared.segments.all().last().map(|active| (active.number, active.bytes()));
            let idle = !woken && active == idle_at;
            idle_at = active;
            while let Some(step) = self.next_step(idle) {
                match self.take(step) {
                    Ok(()) => {}
                    Err(Stopped::ForGood) => return,
                    Err(Stopped::ForNow) => {
                        if self.wakeup.pause(RETRY) {
                            return;
                        }
                        break;
                    }
                }
            }
        }
    }

    fn next_step(&self, idle: bool) -> Option<Step> {
        let segments = self.shared.segments.all();
        let (active, full) = segments.split_last()?;
        let dead: Vec<_> = full.iter().take_while(|segment| segment.live() == 0).cloned().collect();
        if !dead.is_empty() {
            return Some(Step::Free(dead));
        }
        let (bytes, live) = full.iter().fold((0, 0), |(bytes, live), segment| {
            (bytes + segment.bytes(), live + segment.live_bytes().min(segment.bytes()))
        });
        let lends = |segment: &&Arc<Segment>| self.shared.reserve.lends(segment.live_bytes());
        if full.len() >= MIN_SEGMENTS && bytes - live > live {
            return full.first().filter(lends).cloned().map(Step::Move);
        }
        let long = WORTH_REPLACING.min(self.shared.config.segment_bytes / 4);
        (idle && full.is_empty() && active.live() == 0 && active.bytes() > long && self.is_mostly_records(active))
            .then_some(Step::Replace)
    }

    /// Whether a new segment would be much shorter, given that it begins with about the same catalogue.
    fn is_mostly_records(&self, active: &Segment) -> bool {
        self.shared.segments.begin() * 2 < active.bytes()
    }

    fn take(&self, step: Step) -> Result<(), Stopped> {
        match step {
            Step::Free(segments) => self.free(&segments),
            Step::Move(segment) => {
                self.move_events(&segment)?;
                if self.wakeup.pause(GRACE) {
                    return Err(Stopped::ForGood);
                }
                self.free(&[segment])
            }
            Step::Replace => self.ask(|done| Request::Rotate { done }),
        }
    }

    /// Sends a request to the writer and waits for its result.
    fn ask(&self, request: impl FnOnce(SyncSender<Result<(), StorageError>>) -> Request) -> Result<(), Stopped> {
        let (done, answer): (_, Receiver<Result<(), StorageError>>) = sync_channel(1);
        self.queue.push(request(done)).map_err(|_closed| Stopped::ForGood)?;
        // A writer that has ended or is out of service frees nothing further.
        answer.recv().ok().and_then(Result::ok).ok_or(Stopped::ForGood)
    }

    /// Moves the segment's events that are still needed to the end of the log. The engine decides which ones are.
    fn move_events(&self, segment: &Segment) -> Result<(), Stopped> {
        let began = Instant::now();
        let trouble = |source: io::Error| JsonLogError::io("read", &segment.path, source).into_read_error();
        let file = self.shared.segments.file(segment).map_err(trouble)?;
        let mut reader = LineReader::new(&*file, segment.bytes());
        let mut names = Names::default();
        let mut page: Vec<(StoredEvent, Place)> = Vec::new();
        let mut bytes = 0;
        let mut passed_over = 0_u64;
        while let Some(piece) = reader.next().map_err(trouble)? {
            let (offset, len, body) = match piece {
                Piece::Record { offset, len, body, .. } => (offset, len, body),
                Piece::Bad { .. } => {
                    passed_over += 1;
                    continue;
                }
                Piece::Ending { .. } => continue,
            };
            let Some((_, Record::Mutation(Mutation::Publish(event) | Mutation::Rewrite { event, .. }))) =
                decode(body, &mut names)
            else {
                continue;
            };
            if !page.is_empty() && (bytes + event.payload.len() > PAGE_BYTES || page.len() == PAGE_EVENTS) {
                self.rewrite(std::mem::take(&mut page))?;
                bytes = 0;
            }
            bytes += event.payload.len();
            page.push((event, place::pack(segment.number, offset, len)));
        }
        if !page.is_empty() {
            self.rewrite(page)?;
        }
        if passed_over > 0 {
            tracing::warn!(
                file = %segment.path.display(),
                lines = passed_over,
                "freeing a segment with damaged lines, which cannot be moved"
            );
        }
        tracing::debug!(file = %segment.path.display(), took = ?began.elapsed(), "moved the live events of a segment");
        Ok(())
    }

    fn rewrite(&self, page: Vec<(StoredEvent, Place)>) -> Result<(), Stopped> {
        let result = block_on(self.janitor.rewrite(page), || self.wakeup.is_stopped());
        if self.shared.failure().is_some() {
            return Err(Stopped::ForGood);
        }
        Ok(result.ok_or(Stopped::ForGood)??)
    }

    /// Deletes segments that are no longer needed, in two phases: see the top of this file.
    fn free(&self, segments: &[Arc<Segment>]) -> Result<(), Stopped> {
        let Some(through) = segments.last().map(|segment| segment.number) else { return Ok(()) };
        self.ask(|done| Request::Free { through, done })?;
        for segment in segments {
            self.shared.segments.remove(segment.number);
            while segment.is_being_read() {
                if self.wakeup.pause(Duration::from_millis(10)) {
                    // The next start finds the segment and frees it again.
                    return Err(Stopped::ForGood);
                }
            }
            self.remove(segment)?;
        }
        Ok(())
    }

    fn remove(&self, segment: &Arc<Segment>) -> Result<(), Stopped> {
        match self.shared.files.unlink(&segment.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.shared.segments.insert(segment.clone());
                return Err(StorageError::from(JsonLogError::io("remove", &segment.path, error)).into());
            }
        }
        // A read under way may have reopened the file, and an open file keeps its space.
        self.shared.segments.remove(segment.number);
        let dir = &self.shared.config.path;
        if let Err(error) = durable_files::sync_dir(&*self.shared.files, dir) {
            self.shared.fail(&error.into());
            return Err(Stopped::ForGood);
        }
        tracing::debug!(file = %segment.path.display(), bytes = segment.bytes(), "freed a segment");
        Ok(())
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread. `None` if `stopped` becomes true first.
fn block_on<F: Future>(future: F, stopped: impl Fn() -> bool) -> Option<F::Output> {
    /// How often `stopped` is checked.
    const LOOK: Duration = Duration::from_millis(50);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    while !stopped() {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        std::thread::park_timeout(LOOK);
    }
    None
}

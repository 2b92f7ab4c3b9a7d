//! The thread that frees space: strictly the oldest segment first.
//!
//! Freeing in that order is what makes every other record safe to drop with its segment: a settlement is never older than the
//! event that it settles, so when it goes, the event is gone or has been moved to the end of the log with exactly those who
//! still hold it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use broker_core::storage::{Janitor, Mutation, Place, StorageError, StoredEvent};

use crate::error::JsonLogError;
use crate::format::{Names, Record, decode};
use crate::inbox::{Inbox, Request};
use crate::lines::{LineReader, Piece};
use crate::place;
use crate::segment::Segment;
use crate::shared::Shared;

/// How often it looks without being asked to.
const TICK: Duration = Duration::from_secs(1);

/// After a failure that may pass, such as a read error.
const RETRY: Duration = Duration::from_secs(30);

/// Events are handed to the janitor in pages of at most so many bytes (or a single event) and so many events.
const PAGE_BYTES: usize = 512 << 10;
const PAGE_EVENTS: usize = 1024;

/// Fewer full segments than this are not worth moving events for.
const MIN_SEGMENTS: usize = 2;

/// A segment that held events stays readable for so long after they were moved: someone may have looked up the old place and
/// not have asked for it yet.
const GRACE: Duration = Duration::from_millis(250);

/// An idle segment without live events is replaced if it is longer than this, or than a quarter of a full one.
const WORTH_REPLACING: u64 = 1 << 20;

#[derive(Debug, Default)]
struct State {
    nudged: bool,
    stop: bool,
}

/// Wakes the cleaner.
#[derive(Debug, Default)]
pub(crate) struct Nudge {
    state: Mutex<State>,
    changed: Condvar,
}

impl Nudge {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be something to free.
    pub(crate) fn nudge(&self) {
        let mut state = self.lock();
        if !state.nudged {
            state.nudged = true;
            self.changed.notify_all();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Waits for a nudge; true if there was one, false if the time is up.
    fn wait(&self, time: Duration) -> bool {
        let waits = |state: &mut State| !state.nudged && !state.stop;
        let (mut state, _) =
            self.changed.wait_timeout_while(self.lock(), time, waits).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.nudged)
    }

    /// Waits, unless it is stopped; true if it was.
    fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let (state, _) =
            self.changed.wait_timeout_while(state, time, |state| !state.stop).unwrap_or_else(PoisonError::into_inner);
        state.stop
    }
}

/// Why it does not go on.
enum Stopped {
    /// The storage is closing or out of service.
    ForGood,
    /// Something that may pass; it was logged.
    ForNow,
}

impl From<StorageError> for Stopped {
    fn from(error: StorageError) -> Self {
        tracing::warn!(error = %error, "freeing space is put off");
        Self::ForNow
    }
}

/// What is to be done next.
#[derive(Debug)]
enum Step {
    /// These segments hold nothing that is needed.
    Free(Vec<Arc<Segment>>),
    /// This one's events are to be moved first.
    Move(Arc<Segment>),
    /// The active segment is long and holds nothing: a new one lets it go.
    Replace,
}

/// The state of the cleaning thread.
pub(crate) struct Cleaner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) nudge: Arc<Nudge>,
    pub(crate) janitor: Arc<dyn Janitor>,
}

impl Cleaner {
    /// The thread: until it is stopped.
    pub(crate) fn run(&self) {
        let mut idle_at = None;
        loop {
            let nudged = self.nudge.wait(TICK);
            if self.nudge.is_stopped() || self.shared.failure().is_some() {
                return;
            }
            // Idle: nothing was written since the last look, a tick ago.
            let active = self.shared.segments.all().last().map(|active| (active.number, active.bytes()));
            let idle = !nudged && active == idle_at;
            idle_at = active;
            while let Some(step) = self.next_step(idle) {
                match self.take(step) {
                    Ok(()) => {}
                    Err(Stopped::ForGood) => return,
                    Err(Stopped::ForNow) => {
                        if self.nudge.pause(RETRY) {
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
        if full.len() >= MIN_SEGMENTS && bytes - live > live {
            return full.first().cloned().map(Step::Move);
        }
        let long = WORTH_REPLACING.min(self.shared.config.segment_bytes / 4);
        (idle && full.is_empty() && active.live() == 0 && active.bytes() > long && self.is_mostly_records(active))
            .then_some(Step::Replace)
    }

    /// Whether a new segment would be shorter: it would begin with about as long a catalogue.
    fn is_mostly_records(&self, active: &Segment) -> bool {
        self.shared.segments.begin() * 2 < active.bytes()
    }

    fn take(&self, step: Step) -> Result<(), Stopped> {
        match step {
            Step::Free(segments) => self.free(&segments),
            Step::Move(segment) => {
                self.move_events(&segment)?;
                if self.nudge.pause(GRACE) {
                    return Err(Stopped::ForGood);
                }
                self.free(&[segment])
            }
            Step::Replace => self.ask(|done| Request::Rotate { done }),
        }
    }

    /// Asks the writer for something and waits until it is done.
    fn ask(&self, request: impl FnOnce(SyncSender<Result<(), StorageError>>) -> Request) -> Result<(), Stopped> {
        let (done, answer): (_, Receiver<Result<(), StorageError>>) = sync_channel(1);
        self.inbox.push(request(done)).map_err(|_closed| Stopped::ForGood)?;
        // A writer that is gone, or out of service, frees nothing any more.
        answer.recv().ok().and_then(Result::ok).ok_or(Stopped::ForGood)
    }

    /// Has every event of the segment that is still needed written again at the end of the log.
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
                "a segment is freed that has damaged lines; they could not be moved"
            );
        }
        tracing::debug!(file = %segment.path.display(), took = ?began.elapsed(), "moved what a segment still held");
        Ok(())
    }

    fn rewrite(&self, page: Vec<(StoredEvent, Place)>) -> Result<(), Stopped> {
        let result = block_on(self.janitor.rewrite(page), || self.nudge.is_stopped());
        if self.shared.failure().is_some() {
            return Err(Stopped::ForGood);
        }
        Ok(result.ok_or(Stopped::ForGood)??)
    }

    /// Lets go of segments that nothing needs: the note of it becomes durable first, then their files are removed.
    ///
    /// Each removal is durable before the next: a later segment may hold the settlement of an event in an earlier one, which
    /// must not come back alone.
    fn free(&self, segments: &[Arc<Segment>]) -> Result<(), Stopped> {
        let Some(through) = segments.last().map(|segment| segment.number) else { return Ok(()) };
        self.ask(|done| Request::Free { through, done })?;
        for segment in segments {
            self.shared.segments.remove(segment.number);
            while segment.is_being_read() {
                if self.nudge.pause(Duration::from_millis(10)) {
                    // It is there again at the next start, and freed again.
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
        // A read that was under way may have opened it once more, and an open file keeps its space.
        self.shared.segments.remove(segment.number);
        let dir = &self.shared.config.path;
        if let Err(error) = self.shared.files.sync_dir(dir) {
            self.shared.fail(&JsonLogError::io("sync", dir, error).into());
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
    /// How often `stopped` is asked.
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

//! Group commit: a dedicated thread syncs while writing continues. One sync covers everything written before it began.
//!
//! ```text
//!   writes   a  b │  c  d  e  f │ g …
//!   syncs     [───a b───][────c d e f────][── g …
//!                       │                └ c d e f are durable: four batches, one sync
//!                       └ a b are durable
//! ```
//!
//! The slower the disk, the more batches share a sync. [`MAX_UNSYNCED_BYTES`] and [`MAX_UNSYNCED_BATCHES`] make the writer wait for
//! a disk that stalls. A failed sync takes the storage out of service: the kernel may have dropped the data and would report a
//! second sync as successful.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker_core::storage::{Completer, StorageError, StorageErrorKind};
use durable_files::DataFile;

use crate::error::JsonLogError;
use crate::segment::Segment;
use crate::shared::Shared;
use broker_core::settings::Durability;

/// The most bytes and batches written ahead of a sync: a stalled disk must block the publishers, not exhaust the memory.
const MAX_UNSYNCED_BYTES: u64 = 64 << 20;
const MAX_UNSYNCED_BATCHES: usize = 64 << 10;

/// How long a batch that no client waits for may wait to share another batch's sync. Otherwise acknowledgements would keep the
/// disk busy, and each publish would find a sync under way that does not cover it.
const LINGER: Duration = Duration::from_millis(10);

/// A batch waiting for a sync.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// A client waits for its durability, so it is synced at once.
    pub(crate) urgent: bool,
    pub(crate) durable: Completer<()>,
    /// The error if the batch could not be written. Its stage fails only after the stages of earlier batches are complete.
    pub(crate) failed: Option<StorageError>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<(Arc<Segment>, Arc<dyn DataFile>)>,
    waiting: Vec<Waiting>,
    /// Whether one of `waiting` is urgent.
    urgent: bool,
    /// Whether a sync is under way.
    busy: bool,
    /// The bytes written and not covered by a sync, finished or under way.
    unsynced_bytes: u64,
    /// The number of writes.
    written: u64,
    /// The number of writes that are synced.
    synced: u64,
    /// The number of writes that the writer waits to have synced.
    wanted: u64,
    /// The time of the first unsynced write.
    unsynced_since: Option<Instant>,
    error: Option<StorageError>,
    stop: bool,
    /// Whether the thread has panicked and completes no further stages.
    gone: bool,
}

/// The handover between the writer and the syncing thread.
#[derive(Debug)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

impl Syncer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches to `file`, which is written from now on. The previous file must be synced.
    pub(crate) fn set_file(&self, segment: Arc<Segment>, file: Arc<dyn DataFile>) {
        self.lock().file = Some((segment, file));
    }

    /// Records a write and the batches waiting for its sync. Blocks while the disk is far behind.
    pub(crate) fn wrote(&self, bytes: u64, waiting: &mut Vec<Waiting>) {
        let mut state = self.lock();
        let wait = self.shared.config.durability == Durability::Always;
        while wait
            && (state.unsynced_bytes > MAX_UNSYNCED_BYTES || state.waiting.len() > MAX_UNSYNCED_BATCHES)
            && state.error.is_none()
            && !state.stop
        {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut first = false;
        if bytes > 0 {
            state.written += 1;
            state.unsynced_bytes += bytes;
            first = state.unsynced_since.is_none();
            state.unsynced_since.get_or_insert_with(Instant::now);
        }
        if state.gone {
            // Dropping the stages fails them.
            waiting.clear();
            return;
        }
        let urgent = waiting.iter().any(|one| one.urgent);
        state.urgent |= urgent;
        state.waiting.append(waiting);
        // Only the first unsynced write starts the timer; later ones need not wake the thread.
        if self.shared.config.durability != Durability::Never && (urgent || first || bytes == 0) {
            self.work.notify_one();
        }
    }

    /// Whether a sync is under way or due; a concurrent write may take as long as the sync.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.lock();
        state.busy || state.urgent || state.wanted > state.synced
    }

    /// Waits until everything written so far is synced.
    ///
    /// # Errors
    /// When this or an earlier sync failed.
    pub(crate) fn barrier(&self) -> Result<(), StorageError> {
        let mut state = self.lock();
        let count = state.written;
        state.wanted = count;
        self.work.notify_one();
        loop {
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            if state.synced >= count {
                return Ok(());
            }
            if state.stop {
                return Err(StorageError::closed());
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the thread after a last sync, if anything is unsynced.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_one();
        self.done.notify_all();
    }

    /// Runs the thread until [`Syncer::stop`].
    pub(crate) fn run(&self) {
        let _guard = PanicGuard(self);
        let mut state = self.lock();
        loop {
            let dirty = state.written > state.synced;
            // Without a write, there is nothing to sync and no stage to delay.
            let unsynced = dirty || !state.waiting.is_empty();
            let pause = self.pause(&state);
            if state.urgent || state.wanted > state.synced || (state.stop && unsynced) {
                state = self.sync(state);
            } else if state.stop {
                return;
            } else {
                state = match pause.filter(|_| unsynced) {
                    Some(pause) if pause.is_zero() => self.sync(state),
                    Some(pause) => self.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0,
                    None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
            }
        }
    }

    /// How much longer the written bytes may stay unsynced; `None`: indefinitely.
    fn pause(&self, state: &State) -> Option<Duration> {
        let most = match self.shared.config.durability {
            Durability::Always => LINGER,
            Durability::Interval => Duration::from_millis(self.shared.config.sync_interval_ms),
            Durability::Never => return None,
        };
        Some(state.unsynced_since.map_or(Duration::ZERO, |since| most.saturating_sub(since.elapsed())))
    }

    fn sync<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let waiting = std::mem::take(&mut state.waiting);
        let count = state.written;
        let dirty = count > state.synced;
        let file = state.file.clone();
        state.unsynced_bytes = 0;
        state.unsynced_since = None;
        (state.urgent, state.busy) = (false, true);
        let mut error = state.error.clone();
        drop(state);

        if dirty
            && error.is_none()
            && let Some((segment, file)) = file
        {
            self.shared.syncs.fetch_add(1, Relaxed);
            if let Err(source) = file.sync() {
                // Never retried: the kernel may have dropped the data and would report success.
                let failure = StorageError::from(JsonLogError::io("sync", &segment.path, source));
                self.shared.fail(&failure);
                error = Some(failure);
            }
        }
        for Waiting { urgent: _, durable, failed } in waiting {
            durable.complete(match failed.or_else(|| error.clone()) {
                Some(error) => Err(error),
                None => Ok(()),
            });
        }

        let mut state = self.lock();
        state.synced = count;
        state.busy = false;
        if state.error.is_none() {
            state.error = error;
        }
        self.done.notify_all();
        state
    }
}

/// Fails all waiting stages if the thread panics.
struct PanicGuard<'s>(&'s Syncer);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StorageError::new(StorageErrorKind::Failed, "the syncing thread panicked");
            self.0.shared.fail(&error);
            let mut state = self.0.lock();
            state.error.get_or_insert(error);
            state.waiting.clear();
            state.gone = true;
            self.0.done.notify_all();
        }
    }
}

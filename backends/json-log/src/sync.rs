//! The thread that syncs, so that writing goes on meanwhile: one sync covers all that was written before it began.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker_core::storage::{Completer, StorageError, StorageErrorKind};

use crate::config::Durability;
use crate::error::JsonLogError;
use crate::files::DataFile;
use crate::segment::Segment;
use crate::shared::Shared;

/// The most that is written ahead of a sync that is waited for, in bytes and in batches: a disk that stalls must stall the
/// publishers, not fill the memory.
const MAX_UNSYNCED_BYTES: u64 = 64 << 20;
const MAX_UNSYNCED_BATCHES: usize = 64 << 10;

/// How long a batch that nobody is told the safety of waits for a sync that others need. Acknowledgements would keep the disk
/// busy otherwise, and each publish would find a sync under way that does not cover it.
const LINGER: Duration = Duration::from_millis(10);

/// A batch that waits for a sync.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Somebody is told when it is safe, so it is synced now.
    pub(crate) urgent: bool,
    pub(crate) safe: Completer<()>,
    /// The batch could not be written; the stage fails, but not before those of earlier batches are decided.
    pub(crate) failed: Option<StorageError>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<(Arc<Segment>, Arc<dyn DataFile>)>,
    waiting: Vec<Waiting>,
    /// One of them is urgent.
    urgent: bool,
    /// A sync is under way.
    busy: bool,
    /// Bytes written and not covered by a sync that has begun.
    unsynced_bytes: u64,
    /// Writes are counted; a sync covers those up to a count.
    written: u64,
    synced: u64,
    /// A sync up to this count is wanted now.
    wanted: u64,
    /// When the first write that is not synced happened.
    unsynced_since: Option<Instant>,
    error: Option<StorageError>,
    stop: bool,
    /// The thread has panicked: nobody will complete what waits.
    gone: bool,
}

/// The hand-over between the writer and the syncing thread.
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

    /// From now on `file` is the one that is written; the one before must be synced.
    pub(crate) fn set_file(&self, segment: Arc<Segment>, file: Arc<dyn DataFile>) {
        self.lock().file = Some((segment, file));
    }

    /// Takes note of a write and of those who wait for its sync. Waits if the disk is far behind.
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
            // Dropping them fails their stages.
            waiting.clear();
            return;
        }
        let urgent = waiting.iter().any(|one| one.urgent);
        state.urgent |= urgent;
        state.waiting.append(waiting);
        // Once a timer runs it needs no telling that there is more; it begins with the first write.
        if self.shared.config.durability != Durability::Never && (urgent || first || bytes == 0) {
            self.work.notify_one();
        }
    }

    /// Whether a sync is under way, beside which a write may take as long as the sync.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.lock();
        state.busy || state.urgent || state.wanted > state.synced
    }

    /// Waits until all that was written is synced.
    ///
    /// # Errors
    /// When a sync failed, now or earlier.
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

    /// Ends the thread, after a last sync if anything is unsynced.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_one();
        self.done.notify_all();
    }

    /// The thread.
    pub(crate) fn run(&self) {
        let _guard = PanicGuard(self);
        let mut state = self.lock();
        loop {
            let dirty = state.written > state.synced;
            // Without a write there is nothing to sync and nothing to linger for.
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

    /// How long what is written may go on being unsynced; `None`: as long as it likes.
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
                // Never tried again: the kernel may have dropped what it could not write, and would report success.
                let failure = StorageError::from(JsonLogError::io("sync", &segment.path, source));
                self.shared.fail(&failure);
                error = Some(failure);
            }
        }
        for Waiting { urgent: _, safe, failed } in waiting {
            safe.complete(match failed.or_else(|| error.clone()) {
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

/// Lets nobody wait for a thread that has panicked.
struct PanicGuard<'s>(&'s Syncer);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StorageError::new(StorageErrorKind::Failed, "the syncing thread has panicked");
            self.0.shared.fail(&error);
            let mut state = self.0.lock();
            state.error.get_or_insert(error);
            state.waiting.clear();
            state.gone = true;
            self.0.done.notify_all();
        }
    }
}

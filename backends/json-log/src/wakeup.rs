//! The signal that wakes or ends the cleaning thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    woken: bool,
    stop: bool,
}

/// The cleaner's wake-up signal.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    state: Mutex<State>,
    changed: Condvar,
}

impl Wakeup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread: there may be a segment to free.
    pub(crate) fn wake(&self) {
        let mut state = self.lock();
        if !state.woken {
            state.woken = true;
            self.changed.notify_all();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Waits for a wake-up; returns false if none came within `time`.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let waits = |state: &mut State| !state.woken && !state.stop;
        let (mut state, _) =
            self.changed.wait_timeout_while(self.lock(), time, waits).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.woken)
    }

    /// Waits for `time`. Returns true, without waiting further, if the thread must end.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let (state, _) =
            self.changed.wait_timeout_while(state, time, |state| !state.stop).unwrap_or_else(PoisonError::into_inner);
        state.stop
    }
}

//! The engine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::event::Millis;

/// Wall-clock time that does not jump: the time at the start plus what has passed since by the monotonic clock.
///
/// A clock that is set while the broker runs moves no deadline; after a restart the new time counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    /// Since the epoch.
    started: Duration,
}

impl Clock {
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { start: Instant::now(), started }
    }

    pub(super) fn now(&self) -> Millis {
        // Added before they are cut to milliseconds: cut twice, a due time stored by one process would be early in the next.
        Millis(whole_ms(self.started.saturating_add(self.start.elapsed())))
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        whole_ms(self.start.elapsed())
    }

    /// When to wake up for `at`. Never more than a day ahead: an instant cannot be arbitrarily far.
    pub(super) fn instant(&self, at: Millis) -> Instant {
        const DAY_MS: u64 = 86_400_000;
        Instant::now() + Duration::from_millis(at.since(self.now()).min(DAY_MS))
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

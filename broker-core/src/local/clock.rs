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
    start_ms: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { start: Instant::now(), start_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX / 2) }
    }

    pub(super) fn now(&self) -> Millis {
        Millis(self.start_ms + self.uptime_ms())
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// When to wake up for `at`. Never more than a day ahead: an instant cannot be arbitrarily far.
    pub(super) fn instant(&self, at: Millis) -> Instant {
        const DAY_MS: u64 = 86_400_000;
        Instant::now() + Duration::from_millis(at.since(self.now()).min(DAY_MS))
    }
}

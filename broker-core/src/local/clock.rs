//! The engine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::event::Millis;

/// Smaller steps back are not logged, because NTP makes them all the time.
const LOGGED_STEP: Duration = Duration::from_secs(1);

/// Wall-clock time that does not jump: the time at start-up plus the time elapsed since on the monotonic clock.
///
/// Setting the system clock while the broker runs moves no deadline. After a restart the new time applies, unless it is before the
/// latest stored event. Time then continues from that event, so that a clock that was set back delays nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    /// The time at start-up, since the Unix epoch.
    started: Duration,
}

impl Clock {
    /// Starts the clock. `latest` is the time at which the latest stored event was published.
    pub(super) fn new(latest: Millis) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let started = wall.max(Duration::from_millis(latest.0));
        let behind = started - wall;
        if behind >= LOGGED_STEP {
            tracing::warn!(
                behind_ms = whole_ms(behind),
                "system clock is behind the latest stored event: delays and expiry continue from the time of that event"
            );
        }
        Self { start: Instant::now(), started }
    }

    pub(super) fn now(&self) -> Millis {
        // Added before rounding down to milliseconds. If both were rounded, a due time stored by one process would be early in the
        // next.
        Millis(whole_ms(self.started.saturating_add(self.start.elapsed())))
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        whole_ms(self.start.elapsed())
    }

    /// The instant to wake up at for `at`, at most a day ahead, because an instant cannot be arbitrarily far.
    pub(super) fn instant(&self, at: Millis) -> Instant {
        const DAY_MS: u64 = 86_400_000;
        Instant::now() + Duration::from_millis(at.since(self.now()).min(DAY_MS))
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

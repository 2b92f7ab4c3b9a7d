//! The engine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::event::Millis;

/// Clocks that are kept by the network are set by less, all the time.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// Wall-clock time that does not jump: the time at the start plus what has passed since by the monotonic clock.
///
/// A clock that is set while the broker runs moves no deadline. After a restart the new time counts, unless it lies before the
/// latest event that was stored: then time goes on from there, so that a clock that was set back delays nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    /// Since the epoch.
    started: Duration,
}

impl Clock {
    /// `latest`: when the latest event that is stored was published.
    pub(super) fn new(latest: Millis) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let started = wall.max(Duration::from_millis(latest.0));
        let behind = started - wall;
        if behind >= WORTH_A_WORD {
            tracing::warn!(
                behind_ms = whole_ms(behind),
                "the clock is behind the latest event that is stored: delays and expiry go on from that event's time"
            );
        }
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

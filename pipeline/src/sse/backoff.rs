//! How long to wait before the next attempt.

use std::time::Duration;

use super::config::SseConfig;

/// Exponential backoff with jitter on top of a reconnection time that the server can set.
///
/// The n-th wait since the stream was last healthy lies between 2^(n-1) and 2^n reconnection times, and is never longer
/// than the cap. So a client waits at least what the standard asks for, and a thousand clients of a server that
/// restarted do not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    floor: Duration,
    ceiling: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(config: &SseConfig) -> Self {
        Self {
            base: config.retry,
            floor: config.retry_floor,
            ceiling: config.retry_ceiling,
            cap: config.max_backoff,
            failures: 0,
        }
    }

    /// Sets the reconnection time as the server wishes, within floor and ceiling.
    pub(super) fn set_base(&mut self, retry_ms: u64) -> Duration {
        self.base = Duration::from_millis(retry_ms).clamp(self.floor, self.ceiling);
        self.base
    }

    /// The stream works: the next wait is a short one. A connect alone is no reason to call this, or a server that
    /// accepts and hangs up would be called on without pause.
    pub(super) fn healthy(&mut self) {
        self.failures = 0;
    }

    /// How many waits there were since the stream was healthy.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The next wait; `spread`, from 0 to 1, chooses within its range.
    pub(super) fn next_delay(&mut self, spread: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let longest = self.base.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.cap);
        let shortest = self.base.max(longest / 2).min(longest);
        shortest + (longest - shortest).mul_f64(spread.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(base_ms: u64, cap_ms: u64) -> Backoff {
        Backoff {
            base: Duration::from_millis(base_ms),
            floor: Duration::from_millis(50),
            ceiling: Duration::from_millis(3000),
            cap: Duration::from_millis(cap_ms),
            failures: 0,
        }
    }

    fn ms(duration: Duration) -> u128 {
        duration.as_millis()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_when_healthy() {
        let mut shortest = backoff(100, 1000);
        let mut longest = backoff(100, 1000);
        let waits: Vec<_> = (0..6).map(|_| (ms(shortest.next_delay(0.0)), ms(longest.next_delay(1.0)))).collect();
        assert_eq!(waits, [(100, 200), (200, 400), (400, 800), (500, 1000), (500, 1000), (500, 1000)]);
        shortest.healthy();
        assert_eq!(ms(shortest.next_delay(0.0)), 100);
    }

    #[test]
    fn no_wait_is_shorter_than_the_reconnection_time_nor_longer_than_the_cap() {
        let mut backoff = backoff(900, 1000);
        for _ in 0..3 {
            assert_eq!(ms(backoff.next_delay(0.0)), 900);
            assert_eq!(ms(backoff.next_delay(1.0)), 1000);
        }
    }

    #[test]
    fn a_server_cannot_set_the_reconnection_time_beyond_floor_and_ceiling() {
        let mut backoff = backoff(100, 4000);
        assert_eq!(ms(backoff.set_base(0)), 50);
        assert_eq!(ms(backoff.set_base(u64::MAX)), 3000);
        assert_eq!(ms(backoff.set_base(200)), 200);
        assert_eq!(ms(backoff.next_delay(0.0)), 200);
    }

    #[test]
    fn failures_without_end_overflow_nothing() {
        let mut backoff = backoff(100, 1000);
        backoff.failures = u32::MAX - 1;
        for _ in 0..3 {
            assert_eq!(ms(backoff.next_delay(1.0)), 1000);
        }
        // Neither does a spread that is none.
        assert!(ms(backoff.next_delay(7.0)) <= 1000);
    }
}

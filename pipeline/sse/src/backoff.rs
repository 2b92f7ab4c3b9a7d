//! The wait before the next connection.

use std::time::Duration;

use broker_core::Backoff;

use super::config::SseConfig;

/// The shared backoff, with a reconnection time that the server can set.
///
/// The n-th wait since the stream was last healthy lies between 2^(n-1) and 2^n reconnection times, up to the configured maximum. It
/// is never shorter than the standard requires, and spread so that the clients of a restarted server do not all return at once.
#[derive(Debug)]
pub(super) struct Reconnecting {
    backoff: Backoff,
    floor: Duration,
    ceiling: Duration,
}

impl Reconnecting {
    pub(super) fn new(config: &SseConfig) -> Self {
        let (first, shortest) = range(config.retry);
        Self {
            backoff: Backoff::new(first, config.max_backoff).at_least(shortest),
            floor: config.retry_floor,
            ceiling: config.retry_ceiling,
        }
    }

    /// Sets the reconnection time that the server asks for, limited to floor and ceiling, and returns it.
    pub(super) fn set_reconnection_time(&mut self, retry_ms: u64) -> Duration {
        let time = Duration::from_millis(retry_ms).clamp(self.floor, self.ceiling);
        let (first, shortest) = range(time);
        self.backoff.set_first(first, shortest);
        time
    }

    /// Records that the stream is healthy. A connect alone does not count: a server that accepts and hangs up would be contacted
    /// without pause.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// The number of waits since the stream was last healthy.
    pub(super) fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    /// The next wait.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }
}

/// The first wait and the shortest one. The backoff draws from the upper half of its range, so a range up to twice the reconnection
/// time starts at the reconnection time.
fn range(reconnection_time: Duration) -> (Duration, Duration) {
    (reconnection_time.saturating_mul(2), reconnection_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reconnecting(retry_ms: u64, max_ms: u64) -> Reconnecting {
        Reconnecting::new(&SseConfig {
            retry: Duration::from_millis(retry_ms),
            retry_floor: Duration::from_millis(50),
            retry_ceiling: Duration::from_millis(3000),
            max_backoff: Duration::from_millis(max_ms),
            ..SseConfig::new("http://localhost/")
        })
    }

    fn at(reconnecting: &mut Reconnecting, spread: f64) -> u128 {
        reconnecting.backoff.next_delay_at(spread).as_millis()
    }

    #[test]
    fn waits_double_from_one_reconnection_time_to_the_maximum() {
        let (mut low, mut high) = (reconnecting(100, 1000), reconnecting(100, 1000));
        let waits: Vec<_> = (0..5).map(|_| (at(&mut low, 0.0), at(&mut high, 1.0))).collect();
        assert_eq!(waits, [(100, 200), (200, 400), (400, 800), (500, 1000), (500, 1000)]);
        low.reset();
        assert_eq!(at(&mut low, 0.0), 100);
    }

    #[test]
    fn no_wait_is_shorter_than_the_reconnection_time_nor_longer_than_the_maximum() {
        let mut reconnecting = reconnecting(900, 1000);
        for _ in 0..3 {
            assert_eq!((at(&mut reconnecting, 0.0), at(&mut reconnecting, 1.0)), (900, 1000));
        }
    }

    #[test]
    fn a_server_cannot_set_the_reconnection_time_beyond_floor_and_ceiling() {
        let mut reconnecting = reconnecting(100, 4000);
        let mut set = |ms| reconnecting.set_reconnection_time(ms).as_millis();
        assert_eq!((set(0), set(u64::MAX), set(200)), (50, 3000, 200));
        assert_eq!(at(&mut reconnecting, 0.0), 200);
    }
}

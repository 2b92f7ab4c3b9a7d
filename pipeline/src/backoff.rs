//! How long to wait before the next attempt.

use std::time::Duration;

use rand::RngExt as _;

/// Exponential backoff with jitter: the n-th wait since the last success lies between half of 2^(n-1) bases and all of it, and is
/// never longer than the cap.
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of `base` at first, of `cap` at the most.
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// It works: the next wait is a short one.
    pub(crate) fn healthy(&mut self) {
        self.failures = 0;
    }

    /// The next wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let longest = self.base.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_begin_again_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        for longest in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!((ms(longest / 2)..=ms(longest)).contains(&delay), "{delay:?} of {longest}");
        }
        backoff.healthy();
        assert!(backoff.next_delay() <= ms(100));
        backoff.failures = u32::MAX;
        assert!(backoff.next_delay() <= ms(1000), "nothing overflows");
    }
}

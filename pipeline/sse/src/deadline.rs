//! A limit on silence that makes allowance for a caller who was not listening.

use std::time::Duration;

use tokio::time::Instant;

/// The extra time if the limit passed while no caller was listening, long enough for waiting bytes to arrive.
const GRACE: Duration = Duration::from_secs(1);

/// The deadline of a silence. It is set when listening starts and survives dropped pulls, so that a caller who pulls in a `select!`
/// with a faster timer still notices a dead connection.
///
/// A caller may also stop pulling for hours, because the storage behind it is full. Bytes may then be waiting in the task that reads the
/// socket although the deadline has long passed. Such a caller gets some extra time, once.
#[derive(Debug)]
pub(super) struct Deadline {
    due: Instant,
    limit: Duration,
    /// The time at which the caller returned after `due`.
    late: Option<Instant>,
}

impl Deadline {
    pub(super) fn new(now: Instant, limit: Duration) -> Self {
        Self { due: now + limit, limit, late: None }
    }

    /// The time until which a caller that starts listening now should wait.
    pub(super) fn until(&mut self, now: Instant) -> Instant {
        if now < self.due {
            return self.due;
        }
        *self.late.get_or_insert(now) + GRACE.min(self.limit)
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_listener_gets_extra_time_once() {
        let start = Instant::now();
        let limit = Duration::from_secs(10);
        let mut deadline = Deadline::new(start, limit);
        assert_eq!(deadline.until(start), start + limit);
        assert_eq!(deadline.until(start + Duration::from_secs(9)), start + limit);
        let late = start + Duration::from_secs(1000);
        assert_eq!(deadline.until(late), late + GRACE);
        let later = late + Duration::from_millis(900);
        assert_eq!(deadline.until(later), late + GRACE);
    }
}

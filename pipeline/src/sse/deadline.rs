//! A limit on a silence that is fair to a caller who was not listening.

use std::time::Duration;

use tokio::time::Instant;

/// How long to go on listening when the limit passed while nobody was. What has arrived meanwhile shows up within it.
const GRACE: Duration = Duration::from_secs(1);

/// The end of a silence. It is set when listening starts and is kept over pulls that are given up, so that a caller who
/// pulls in a `select!` with a faster timer still notices a dead connection.
///
/// A caller may also stop pulling, for hours, because the storage behind it is full. Bytes may wait then, right behind
/// the task that reads the socket, and the limit is long past: such a caller gets some time more.
#[derive(Debug)]
pub(super) struct Deadline {
    due: Instant,
    limit: Duration,
    /// When the caller came back after `due`.
    late: Option<Instant>,
}

impl Deadline {
    pub(super) fn new(now: Instant, limit: Duration) -> Self {
        Self { due: now + limit, limit, late: None }
    }

    /// Until when the caller, who begins to listen now, should go on.
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
    fn a_listener_who_comes_back_late_gets_some_time_and_only_once() {
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

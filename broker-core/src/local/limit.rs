//! A count that several shards share, with a limit.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A count that [`Limit::take`] never raises beyond its limit. After recovery it may exceed the limit from the start.
#[derive(Debug)]
pub(super) struct Limit {
    count: AtomicUsize,
    most: usize,
}

impl Limit {
    pub(super) fn new(count: usize, most: usize) -> Self {
        Self { count: AtomicUsize::new(count), most }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// With the limit, when it is reached.
    pub(super) fn take(&self) -> Result<(), usize> {
        self.take_beyond(0)
    }

    /// Counts one more, beyond the limit by up to `more`.
    ///
    /// # Errors
    /// With the limit, when even that is reached.
    pub(super) fn take_beyond(&self, more: usize) -> Result<(), usize> {
        let one_more = |count| (count < self.most.saturating_add(more)).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map(drop).map_err(|_full| self.most)
    }

    /// Whether it counts more than the limit.
    pub(super) fn is_exceeded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.most
    }

    /// Counts one less.
    pub(super) fn give_back(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_refuses_beyond_its_number_and_admits_again_after_a_return() {
        let limit = Limit::new(1, 2);
        assert_eq!(limit.take(), Ok(()));
        assert_eq!(limit.take(), Err(2));
        assert_eq!(limit.take_beyond(1), Ok(()));
        assert!(limit.is_exceeded());
        assert_eq!(limit.take_beyond(1), Err(2));
        limit.give_back();
        limit.give_back();
        assert_eq!(limit.take(), Ok(()));
    }
}

//! The number of workers that a pool should have.

/// The events per second that justify one worker, as in the reference system.
const EVENTS_PER_WORKER: u64 = 5;

/// The load on a pool during one second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Items that arrived.
    pub(super) items: u64,
    /// Whether any had to wait because the queues of all workers were full.
    pub(super) waited: bool,
}

impl Load {
    /// The next size: one worker for every 5 events of the second, plus one; at most `most`.
    ///
    /// The reference's queues were unbounded, so it saw all arriving events. Here events arrive no faster than they are
    /// processed, and the rule alone would never detect that more workers are needed. So if items had to wait, the size at least
    /// doubles.
    pub(super) fn wanted(self, workers: usize, most: usize) -> usize {
        let by_rule = usize::try_from(self.items / EVENTS_PER_WORKER).unwrap_or(usize::MAX).saturating_add(1);
        let at_least = if self.waited { workers.saturating_mul(2) } else { 1 };
        by_rule.max(at_least).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_worker_for_five_events_and_one_more() {
        for (items, waited, workers, wanted) in [
            (0, false, 5, 1),
            (4, false, 5, 1),
            (5, false, 5, 2),
            (60, false, 5, 13),
            (60, true, 5, 13),
            (60, true, 13, 26),
            (10, true, 60, 64),
            (100_000, false, 5, 64),
            (u64::MAX, true, usize::MAX, 64),
        ] {
            assert_eq!(Load { items, waited }.wanted(workers, 64), wanted, "{items} {waited} {workers}");
        }
    }
}

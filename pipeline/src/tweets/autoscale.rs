//! How many workers a pool should have.

/// Events of a second that make one worker, as in the reference system.
const EVENTS_PER_WORKER: u64 = 5;

/// What a pool saw in a second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Items that came.
    pub(super) items: u64,
    /// Whether any had to wait because the queues of all workers were full.
    pub(super) waited: bool,
}

impl Load {
    /// The size to have next: one worker for 5 events of the second, and one more; at most `most`.
    ///
    /// The reference's queues had no bounds, so it saw all events that came. Here they come no faster than they are worked off, and the
    /// rule alone would never find out that more workers are needed. So where items had to wait, it is at least twice as many as before.
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

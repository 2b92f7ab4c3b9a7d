//! Counts a subscription's unsettled events without a counter that every publish would have to update.

use crate::tally::Tally;

/// The unsettled events of a subscription, kept as a difference.
///
/// Invariant: `unsettled = stored - base - settled`, where `stored` is the topic's total. A publish changes the topic's single
/// `stored` and no account, however many subscriptions there are.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// The events that the topic had stored before this subscription existed. After a restart it also includes events that had been
    /// settled out of order.
    base: Tally,
    settled: Tally,
}

impl Account {
    /// An account for which nothing of the `stored` so far is unsettled.
    pub(super) fn open(stored: Tally) -> Self {
        Self { base: stored, settled: Tally::ZERO }
    }

    #[inline]
    pub(super) fn settle(&mut self, settled: Tally) {
        self.settled += settled;
    }

    /// Adds to what was settled before the account was opened.
    pub(super) fn was_settled(&mut self, settled: Tally) {
        self.base += settled;
    }

    /// The unsettled part of the `stored` so far.
    #[inline]
    pub(super) fn unsettled(&self, stored: Tally) -> Tally {
        stored.saturating_sub(self.base).saturating_sub(self.settled)
    }
}

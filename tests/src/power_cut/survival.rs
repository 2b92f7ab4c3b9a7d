//! Chooses the unsynced changes that survive a power cut.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// The unsynced changes that are on the disk after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// None of them.
    Nothing,
    /// All of them, as after a kill.
    Everything,
    /// All changes before a position in the journal. A write at that position is torn at a multiple of 512 bytes.
    Beginning {
        /// The position.
        until: u64,
    },
    /// A random selection of blocks, in no order.
    Scattered {
        /// The size of a block: 512 or 4096 bytes.
        block: u64,
        /// The percentage that survives.
        percent: u32,
        /// The seed of the selection.
        seed: u64,
    },
}

impl Survival {
    /// A random choice for a journal of this length.
    pub(super) fn choose(rng: &mut StdRng, journal: u64) -> Self {
        match rng.random_range(0..100) {
            0..30 => Self::Nothing,
            30..40 => Self::Everything,
            // Unsynced changes are near the end of the journal.
            40..65 => {
                let furthest = 1 << rng.random_range(8..24);
                let back = rng.random_range(0..=journal.min(furthest));
                Self::Beginning { until: journal - back }
            }
            _ => {
                let block = if rng.random() { 512 } else { 4096 };
                let percent = [5, 50, 50, 95][rng.random_range(0..4)];
                Self::Scattered { block, percent, seed: rng.next_u64() }
            }
        }
    }

    /// Its name in a report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Everything => "everything",
            Self::Beginning { .. } => "a beginning",
            Self::Scattered { .. } => "any part",
        }
    }
}

/// Decides which changes of one file or directory survive, one change at a time.
pub(super) struct Chooser {
    survival: Survival,
    rng: StdRng,
    gone: bool,
}

impl Chooser {
    /// A chooser for the file or directory with this number.
    pub(super) fn new(survival: &Survival, of: usize) -> Self {
        let seed = if let Survival::Scattered { seed, .. } = survival { *seed } else { 0 };
        Self { survival: *survival, rng: StdRng::seed_from_u64(seed ^ of as u64), gone: false }
    }

    /// Whether a change without data survives, given the position of its record. Once one does not, no later change does.
    pub(super) fn keeps(&mut self, at: u64) -> bool {
        let keeps = match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Beginning { until } => at < until,
            Survival::Scattered { percent, .. } => self.rng.random_range(0..100) < percent,
        };
        self.gone |= !keeps;
        !self.gone
    }

    /// Whether later changes may still survive.
    pub(super) fn may_keep(&self) -> bool {
        !self.gone
    }

    /// The surviving parts of a write of `len` bytes to `offset`. Its record is at `at` in the journal, and its bytes are at `data`.
    pub(super) fn parts(&mut self, at: u64, data: u64, offset: u64, len: u64) -> Vec<(u64, u64)> {
        match self.survival {
            Survival::Nothing => Vec::new(),
            Survival::Everything => vec![(0, len)],
            Survival::Beginning { until } if until <= at => Vec::new(),
            Survival::Beginning { until } if until >= data + len => vec![(0, len)],
            Survival::Beginning { until } => {
                let end = offset + until.saturating_sub(data);
                vec![(0, (end - end % 512).saturating_sub(offset))]
            }
            Survival::Scattered { block, percent, .. } => {
                let mut parts = Vec::new();
                let mut from = 0;
                while from < len {
                    // Blocks are aligned to the disk, not to the start of the write.
                    let to = (from + block - (offset + from) % block).min(len);
                    if self.rng.random_range(0..100) < percent {
                        parts.push((from, to));
                    }
                    from = to;
                }
                parts
            }
        }
    }
}

//! What of the unsynced survives a power cut.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// What of the unsynced is on the disk all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// All of it, as after a kill.
    Everything,
    /// What was done before this place in the journal. A write that it falls into is torn at a multiple of 512 bytes.
    Beginning {
        /// The place.
        until: u64,
    },
    /// Any part: each block of so many bytes by chance, in no order.
    Scattered {
        /// 512 or 4096.
        block: u64,
        /// How many of a hundred survive.
        percent: u32,
        /// Repeats the choice.
        seed: u64,
    },
}

impl Survival {
    /// One of them by chance, for a journal of so many bytes.
    pub(super) fn choose(rng: &mut StdRng, journal: u64) -> Self {
        match rng.random_range(0..100) {
            0..30 => Self::Nothing,
            30..40 => Self::Everything,
            // What is at the end of the journal is what is not synced.
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

    /// Its name, for counting.
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

/// Decides about one change after the other, of one file or directory.
pub(super) struct Chooser {
    survival: Survival,
    rng: StdRng,
    gone: bool,
}

impl Chooser {
    /// For a file or directory of this number.
    pub(super) fn new(survival: &Survival, of: usize) -> Self {
        let seed = if let Survival::Scattered { seed, .. } = survival { *seed } else { 0 };
        Self { survival: *survival, rng: StdRng::seed_from_u64(seed ^ of as u64), gone: false }
    }

    /// Whether a change without bytes survives that began at this place. Once one does not, none after it does.
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

    /// Whether anything may survive still.
    pub(super) fn may_keep(&self) -> bool {
        !self.gone
    }

    /// The parts that survive of a write of `len` bytes to `offset`, whose record begins at this place and its bytes at `data`.
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
                    // Blocks are the disk's, wherever the write begins.
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

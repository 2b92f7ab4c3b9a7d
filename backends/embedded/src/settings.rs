//! The values of settings that mean the same in every such storage.

use serde::{Deserialize, Serialize};

/// When a batch counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is synced: it survives power loss.
    #[default]
    Always,
    /// When it is with the operating system; synced every `sync_interval_ms`.
    Interval,
    /// At once, in memory; with the operating system soon after, and synced when the storage is closed, or earlier by the database's
    /// own rules.
    Never,
}

impl Durability {
    /// What a confirmation says of it.
    #[must_use]
    pub fn level(self) -> broker_core::storage::Level {
        use broker_core::storage::Level;
        match self {
            Self::Always => Level::Synced,
            Self::Interval => Level::Written,
            Self::Never => Level::Memory,
        }
    }
}

/// What to do about a record that does not check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it in place, report it, go on without it.
    #[default]
    Serve,
    /// Refuse to start.
    Stop,
}

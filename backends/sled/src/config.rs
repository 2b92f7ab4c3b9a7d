//! The settings of the sled storage, their defaults and their check.

use std::path::PathBuf;

use backend_embedded::{Durability, OnDamage};
use serde::{Deserialize, Serialize};

use crate::error::SledError;

/// The settings of a [`crate::SledStorage`]: `[storage]` in `herald.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SledConfig {
    /// The data directory; made with its missing parents. Default `data`, below the working directory.
    pub path: PathBuf,
    /// When a batch counts as safe. Default `always`.
    pub durability: Durability,
    /// With `interval`: the time between two syncs, in milliseconds, 1 to 3,600,000. Default 1,000.
    pub sync_interval_ms: u64,
    /// What sled may keep of its pages in memory, in bytes; 1 MiB to 64 GiB. Default 32 MiB. It is no hard limit: see the README.
    pub cache_bytes: u64,
    /// What to do about damage. Default `serve`.
    pub on_damage: OnDamage,
    /// Remove this storage's database (and nothing else) when it is opened. Default false.
    pub clean_on_start: bool,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            durability: Durability::Always,
            sync_interval_ms: 1_000,
            cache_bytes: 32 << 20,
            on_damage: OnDamage::Serve,
            clean_on_start: false,
        }
    }
}

impl SledConfig {
    /// The defaults with the data in `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Checks the values and reports every problem at once.
    ///
    /// # Errors
    /// [`SledError::Config`] with the problems.
    pub fn validate(&self) -> Result<(), SledError> {
        let mut problems = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push("path is empty: name a directory".to_owned());
        }
        if !(1..=3_600_000).contains(&self.sync_interval_ms) {
            problems.push(format!("sync_interval_ms is {}: expected 1 to 3600000", self.sync_interval_ms));
        }
        if !(1 << 20..=64 << 30).contains(&self.cache_bytes) {
            problems.push(format!("cache_bytes is {}: expected 1048576 to 68719476736", self.cache_bytes));
        }
        if problems.is_empty() { Ok(()) } else { Err(SledError::Config { problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = SledConfig { path: PathBuf::new(), sync_interval_ms: 0, cache_bytes: 1, ..SledConfig::default() };
        let text = config.validate().unwrap_err().to_string();
        for key in ["path", "sync_interval_ms", "cache_bytes"] {
            assert!(text.contains(key), "{text}");
        }
        assert!(SledConfig::default().validate().is_ok());
    }

    #[test]
    fn keys_are_lower_case_and_unknown_ones_are_refused() {
        let config: SledConfig =
            serde_json::from_str(r#"{"path":"x","durability":"interval","on_damage":"stop"}"#).unwrap();
        assert_eq!(config.durability, Durability::Interval);
        assert_eq!(config.on_damage, OnDamage::Stop);
        assert_eq!(config.cache_bytes, 32 << 20);
        assert!(serde_json::from_str::<SledConfig>(r#"{"pat":"x"}"#).is_err());
        assert!(serde_json::from_str::<SledConfig>(r#"{"durability":"Always"}"#).is_err());
    }
}

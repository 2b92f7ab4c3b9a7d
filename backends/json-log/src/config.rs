//! The settings of the JSON log, their defaults and their check.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::JsonLogError;

/// When a batch counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is synced: it survives power loss.
    #[default]
    Always,
    /// When it is with the operating system; synced every [`JsonLogConfig::sync_interval_ms`].
    Interval,
    /// At once, in memory; written soon after, and synced when a segment is full, space is freed, or the storage is closed.
    Never,
}

/// What to do about a record that does not check and has valid ones after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it in place, report it, go on without it.
    #[default]
    Serve,
    /// Refuse to start.
    Stop,
}

/// The settings of a [`crate::JsonLogStorage`]: `[storage]` in `herald.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonLogConfig {
    /// The data directory; made with its missing parents. Default `data`, below the working directory.
    pub path: PathBuf,
    /// When a batch counts as safe. Default `always`.
    pub durability: Durability,
    /// With `interval`: the time between two syncs, in milliseconds, 1 to 3,600,000. Default 1,000.
    pub sync_interval_ms: u64,
    /// A segment that is this long, in bytes, is followed by a new one; 4 KiB to 1 GiB. Default 64 MiB.
    /// A batch is never split, so a segment may be longer by its last batch.
    pub segment_bytes: u64,
    /// What to do about damage. Default `serve`.
    pub on_damage: OnDamage,
    /// Remove this storage's segments (and nothing else) when it is opened. Default false.
    pub clean_on_start: bool,
}

impl Default for JsonLogConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            durability: Durability::Always,
            sync_interval_ms: 1_000,
            segment_bytes: 64 << 20,
            on_damage: OnDamage::Serve,
            clean_on_start: false,
        }
    }
}

impl JsonLogConfig {
    /// The defaults with the data in `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Checks the values and reports every problem at once.
    ///
    /// # Errors
    /// [`JsonLogError::Config`] with the problems.
    pub fn validate(&self) -> Result<(), JsonLogError> {
        let mut problems = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push("path is empty: name a directory".to_owned());
        }
        if !(1..=3_600_000).contains(&self.sync_interval_ms) {
            problems.push(format!("sync_interval_ms is {}: expected 1 to 3600000", self.sync_interval_ms));
        }
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            problems.push(format!("segment_bytes is {}: expected 4096 to 1073741824", self.segment_bytes));
        }
        if problems.is_empty() { Ok(()) } else { Err(JsonLogError::Config { problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let config =
            JsonLogConfig { path: PathBuf::new(), sync_interval_ms: 0, segment_bytes: 1, ..JsonLogConfig::default() };
        let text = config.validate().unwrap_err().to_string();
        for key in ["path", "sync_interval_ms", "segment_bytes"] {
            assert!(text.contains(key), "{text}");
        }
        assert!(JsonLogConfig::default().validate().is_ok());
    }

    #[test]
    fn keys_are_lower_case_and_unknown_ones_are_refused() {
        let config: JsonLogConfig =
            serde_json::from_str(r#"{"path":"x","durability":"interval","on_damage":"stop"}"#).unwrap();
        assert_eq!(config.durability, Durability::Interval);
        assert_eq!(config.on_damage, OnDamage::Stop);
        assert_eq!(config.segment_bytes, 64 << 20);
        assert!(serde_json::from_str::<JsonLogConfig>(r#"{"pat":"x"}"#).is_err());
        assert!(serde_json::from_str::<JsonLogConfig>(r#"{"durability":"Always"}"#).is_err());
    }
}

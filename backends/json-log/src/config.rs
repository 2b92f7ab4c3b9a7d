//! The settings of the JSON log: its own keys, and the configuration they are read into.

use std::path::PathBuf;
use std::sync::Arc;

use broker_core::settings::storage::{self, SHARED};
use broker_core::settings::{
    Durability, Key, OnDamage, Plugin, Preset, Shape, Start, StorageConfig, from_defaults, read, values,
};
use broker_core::storage::check::Check;
use broker_core::storage::{Storage, StorageError};
use durable_files::SystemFiles;
use serde::Deserialize;

use crate::directory;
use crate::error::JsonLogError;
use crate::{JsonLogCheck, JsonLogStorage};

/// The length of a segment.
pub const SEGMENT_MB: Key = Key::with_default(
    "segment_mb",
    Shape::Int(1, 1024),
    Preset::Int(64),
    "MiB after which the log begins a new file. Space is freed file by file, so a small disk needs small files.",
);

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn StorageConfig> = Plugin {
    doc: "Append-only JSON lines, which jq and tail -f can read.",
    keys: &[SEGMENT_MB],
    configure: |values| Ok(Arc::new(read::<JsonLogConfig>(values)?)),
};

/// The settings of a [`crate::JsonLogStorage`]: `[storage]` in `herald.toml`. Defaults and ranges are those of the keys,
/// [`SHARED`] and [`SEGMENT_MB`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLogConfig {
    /// The data directory; created with its missing parents.
    pub path: PathBuf,
    /// When a batch counts as durable.
    pub durability: Durability,
    /// With `interval`: the time between two syncs, in milliseconds.
    pub sync_interval_ms: u64,
    /// The length in bytes after which a new segment begins. A batch is never split, so a segment may exceed it by its last batch.
    /// Code may set less than the key allows, because tests need many segments.
    #[serde(rename = "segment_mb", deserialize_with = "values::mebibytes")]
    pub segment_bytes: u64,
    /// The reaction to damage.
    pub on_damage: OnDamage,
    /// Whether opening the storage removes its segments, and nothing else.
    pub clean_on_start: bool,
}

impl Default for JsonLogConfig {
    fn default() -> Self {
        from_defaults(&[SHARED, &[SEGMENT_MB]])
    }
}

impl JsonLogConfig {
    /// The defaults with the data in `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Checks values set by code, and reports every problem at once.
    ///
    /// # Errors
    /// [`JsonLogError::Config`] with all problems.
    pub fn validate(&self) -> Result<(), JsonLogError> {
        let mut problems = storage::problems(&self.path, self.sync_interval_ms);
        let (_, most) = SEGMENT_MB.range();
        if self.segment_bytes == 0 || self.segment_bytes > most << 20 {
            problems.extend(storage::out_of_range(&SEGMENT_MB, self.segment_bytes >> 20));
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(JsonLogError::Config {
            problems: problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect(),
        })
    }
}

impl StorageConfig for JsonLogConfig {
    fn open(&self, start: Start) -> Result<Arc<dyn Storage>, StorageError> {
        let clean_on_start = self.clean_on_start && start == Start::AsConfigured;
        Ok(Arc::new(JsonLogStorage::open(Self { clean_on_start, ..self.clone() })?))
    }

    fn check(&self) -> Result<Box<dyn Check>, StorageError> {
        Ok(Box::new(JsonLogCheck::open(self.clone())?))
    }

    fn is_there(&self) -> Result<bool, StorageError> {
        self.validate()?;
        Ok(directory::look(&SystemFiles, &self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use broker_core::settings::{Values, defaults};

    use super::*;

    fn values(change: impl FnOnce(&mut Values)) -> Values {
        let mut values = defaults(SHARED);
        values.extend(defaults(PLUGIN.keys));
        change(&mut values);
        values
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config =
            JsonLogConfig { path: PathBuf::new(), sync_interval_ms: 0, segment_bytes: 0, ..JsonLogConfig::default() };
        let text = config.validate().unwrap_err().to_string();
        for key in ["path", "sync_interval_ms", "segment_mb"] {
            assert!(text.contains(key), "{text}");
        }
        assert!(JsonLogConfig::default().validate().is_ok());
    }

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = (PLUGIN.configure)(&values(|_| {})).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", JsonLogConfig::default()));
        let values = values(|values| {
            values.insert("durability".to_owned(), "interval".into());
            values.insert("on_damage".to_owned(), "stop".into());
            values.insert("segment_mb".to_owned(), 3.into());
        });
        let config: JsonLogConfig = read(&values).unwrap();
        assert_eq!((config.durability, config.on_damage), (Durability::Interval, OnDamage::Stop));
        assert_eq!(config.segment_bytes, 3 << 20);
    }
}

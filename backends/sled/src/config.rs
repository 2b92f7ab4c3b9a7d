//! The settings of the sled storage: its own keys, and the configuration they are read into.

use std::path::PathBuf;
use std::sync::Arc;

use broker_core::settings::storage::{self, SHARED};
use broker_core::settings::{
    Durability, Key, OnDamage, Plugin, Preset, Shape, Start, StorageConfig, from_defaults, read, values,
};
use broker_core::storage::check::Check;
use broker_core::storage::{Storage, StorageError};
use serde::Deserialize;

use crate::directory;
use crate::error::SledError;
use crate::{SledCheck, SledStorage};

/// The memory for pages.
pub const CACHE_MB: Key = Key::with_default(
    "cache_mb",
    Shape::Int(1, 64 << 10),
    Preset::Int(32),
    "Memory for the pages of the database, in MiB. Not a hard limit: see the storage's README.",
);

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn StorageConfig> = Plugin {
    doc: "sled, an embedded key-value store.",
    keys: &[CACHE_MB],
    configure: |values| Ok(Arc::new(read::<SledConfig>(values)?)),
};

/// The settings of a [`crate::SledStorage`]: `[storage]` in `herald.toml`. Defaults and ranges are those of the keys,
/// [`SHARED`] and [`CACHE_MB`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SledConfig {
    /// The data directory; created with its missing parents.
    pub path: PathBuf,
    /// When a batch counts as durable.
    pub durability: Durability,
    /// With `interval`: the time between two syncs, in milliseconds.
    pub sync_interval_ms: u64,
    /// The memory for pages, in bytes. Not a hard limit: see the README.
    #[serde(rename = "cache_mb", deserialize_with = "values::mebibytes")]
    pub cache_bytes: u64,
    /// The reaction to damage.
    pub on_damage: OnDamage,
    /// Whether opening the storage removes its database, and nothing else.
    pub clean_on_start: bool,
}

impl Default for SledConfig {
    fn default() -> Self {
        from_defaults(&[SHARED, &[CACHE_MB]])
    }
}

impl SledConfig {
    /// The defaults with the data in `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Checks values set by code, and reports every problem at once.
    ///
    /// # Errors
    /// [`SledError::Config`] with all problems.
    pub fn validate(&self) -> Result<(), SledError> {
        let mut problems = storage::problems(&self.path, self.sync_interval_ms);
        problems.extend(storage::out_of_range(&CACHE_MB, self.cache_bytes >> 20));
        if problems.is_empty() {
            return Ok(());
        }
        Err(SledError::Config {
            problems: problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect(),
        })
    }
}

impl StorageConfig for SledConfig {
    fn open(&self, start: Start) -> Result<Arc<dyn Storage>, StorageError> {
        let clean_on_start = self.clean_on_start && start == Start::AsConfigured;
        Ok(Arc::new(SledStorage::open(Self { clean_on_start, ..self.clone() })?))
    }

    fn check(&self) -> Result<Box<dyn Check>, StorageError> {
        Ok(Box::new(SledCheck::open(self.clone())?))
    }

    fn is_there(&self) -> Result<bool, StorageError> {
        self.validate()?;
        Ok(directory::look(&self.path)?)
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
        let config = SledConfig { path: PathBuf::new(), sync_interval_ms: 0, cache_bytes: 1, ..SledConfig::default() };
        let text = config.validate().unwrap_err().to_string();
        for key in ["path", "sync_interval_ms", "cache_mb"] {
            assert!(text.contains(key), "{text}");
        }
        assert!(SledConfig::default().validate().is_ok());
    }

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = (PLUGIN.configure)(&values(|_| {})).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", SledConfig::default()));
        let values = values(|values| {
            values.insert("durability".to_owned(), "interval".into());
            values.insert("on_damage".to_owned(), "stop".into());
            values.insert("cache_mb".to_owned(), 3.into());
        });
        let config: SledConfig = read(&values).unwrap();
        assert_eq!((config.durability, config.on_damage), (Durability::Interval, OnDamage::Stop));
        assert_eq!(config.cache_bytes, 3 << 20);
    }
}

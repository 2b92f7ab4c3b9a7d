//! `[storage]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_core::settings::storage::{SHARED, SharedStorageSettings};
use broker_core::settings::{Durability, StorageConfig, Values, read};
use serde_json::Value;

use super::Validate;
use crate::registry::Entry;

/// `[storage]`.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// The kind, as the registry calls it.
    pub kind: &'static str,
    /// The data directory.
    pub path: PathBuf,
    /// The point at which an event is confirmed.
    pub durability: Durability,
    /// The time between two syncs, with [`Durability::Interval`].
    pub sync_interval: Duration,
    /// Whether to start with an empty storage.
    pub clean_on_start: bool,
    /// The memory budget for waiting events, in bytes.
    pub memory_budget_bytes: usize,
    /// The storage's configuration, which opens the storage.
    pub config: Arc<dyn StorageConfig>,
}

pub(super) fn storage(validate: &mut Validate<'_>) -> Option<StorageSettings> {
    let mut values = validate.table("storage")?.clone();
    let kind = values.remove("kind")?;
    let memory_budget_mb = values.remove("memory_budget_mb").as_ref().and_then(Value::as_u64)?;
    // The check has reported a kind that is unavailable.
    let (kind, plugin) = Entry::plugin(&validate.registry.storages, kind.as_str()?)?;
    let shared: Values =
        SHARED.iter().filter_map(|key| Some((key.name.to_owned(), values.get(key.name)?.clone()))).collect();
    let read = read::<SharedStorageSettings>(&shared).and_then(|shared| Ok((shared, (plugin.configure)(&values)?)));
    let (shared, config) = read.map_err(|problems| validate.plugin_problems("storage", problems)).ok()?;
    Some(StorageSettings {
        kind,
        path: shared.path,
        durability: shared.durability,
        sync_interval: Duration::from_millis(shared.sync_interval_ms),
        clean_on_start: shared.clean_on_start,
        memory_budget_bytes: usize::try_from(memory_budget_mb.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
        config,
    })
}

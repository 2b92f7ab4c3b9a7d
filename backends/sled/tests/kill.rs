//! A killed process loses nothing that it reported as durable.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::path::Path;

use backend_sled::{SledConfig, SledStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::kill::KillBackend;

struct Sled;

impl KillBackend for Sled {
    type Storage = SledStorage;

    fn open(dir: &Path, durability: &str) -> Result<SledStorage, StorageError> {
        let durability = serde_json::from_value(durability.into()).unwrap();
        SledStorage::open(SledConfig { durability, ..SledConfig::new(dir) })
    }
}

broker_core::storage_kill_contract!(Sled);

//! Tests that a killed process loses nothing that it reported as durable.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::path::Path;

use backend_sqlite::{SqliteConfig, SqliteStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::kill::KillBackend;

struct Sqlite;

impl KillBackend for Sqlite {
    type Storage = SqliteStorage;

    fn open(dir: &Path, durability: &str) -> Result<SqliteStorage, StorageError> {
        let durability = serde_json::from_value(durability.into()).unwrap();
        SqliteStorage::open(SqliteConfig { durability, ..SqliteConfig::new(dir) })
    }
}

broker_core::storage_kill_contract!(Sqlite);

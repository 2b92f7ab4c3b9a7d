//! Full and broken disks, damaged, missing and foreign files, and a clock that jumps.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;

use backend_sqlite::{SqliteConfig, SqliteStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::ContractBackend;

struct Sqlite;

impl ContractBackend for Sqlite {
    type Storage = SqliteStorage;

    fn open(dir: &Path) -> Result<SqliteStorage, StorageError> {
        SqliteStorage::open(SqliteConfig::new(dir))
    }

    fn make_newer(dir: &Path) {
        let database = rusqlite::Connection::open(dir.join("herald.db")).unwrap();
        database.pragma_update(None, "user_version", 99).unwrap();
    }
}

broker_core::storage_faults!(Sqlite);

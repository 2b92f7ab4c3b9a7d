//! Opens the storage for the suites of `broker-core`.

use std::path::Path;

use backend_sqlite::{SqliteConfig, SqliteStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::ContractBackend;

/// The storage under test.
pub(crate) struct Sqlite;

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

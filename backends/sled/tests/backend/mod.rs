//! Opens the storage for the suites of `broker-core`.

use std::path::Path;

use backend_sled::{SledConfig, SledStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::ContractBackend;

/// The storage under test.
pub(crate) struct Sled;

impl ContractBackend for Sled {
    type Storage = SledStorage;

    fn open(dir: &Path) -> Result<SledStorage, StorageError> {
        SledStorage::open(SledConfig::new(dir))
    }

    fn make_newer(dir: &Path) {
        let conf = dir.join("conf");
        let newer = std::fs::read_to_string(&conf).unwrap().replace("\"version\":1", "\"version\":99");
        std::fs::write(&conf, newer).unwrap();
    }
}

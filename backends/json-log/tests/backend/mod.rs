//! Opens the storage for the suites of `broker-core`.

use std::path::Path;

use backend_json_log::{JsonLogConfig, JsonLogStorage};
use broker_core::storage::StorageError;
use broker_core::storage::contract::ContractBackend;

/// The storage under test.
pub(crate) struct JsonLog;

impl ContractBackend for JsonLog {
    type Storage = JsonLogStorage;

    fn open(dir: &Path) -> Result<JsonLogStorage, StorageError> {
        JsonLogStorage::open(JsonLogConfig { segment_bytes: 4 << 20, ..JsonLogConfig::new(dir) })
    }

    fn make_newer(dir: &Path) {
        let path = dir.join("0000000000000001.jsonl");
        let log = std::fs::read_to_string(&path).unwrap();
        let (header, rest) = log.split_once('\n').unwrap();
        let body = header[..header.find(",\"crc\"").unwrap()].replace("\"version\":1", "\"version\":99");
        let newer = format!("{body},\"crc\":\"{:08x}\"}}\n{rest}", crc32fast::hash(body.as_bytes()));
        std::fs::write(&path, newer).unwrap();
    }
}

//! What the integration tests share: a disk that loses power, and an engine that is small enough to be a model.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

pub mod engine;
pub mod sim;

use std::path::{Path, PathBuf};

use backend_json_log::JsonLogConfig;

/// Blocks on a future of the storage, with a runtime for its reads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// The smallest segments there can be.
pub fn small_segments(path: impl Into<PathBuf>) -> JsonLogConfig {
    JsonLogConfig { segment_bytes: 4096, ..JsonLogConfig::new(path) }
}

/// The segments of a directory, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    found.sort();
    found
}

/// Waits for a condition of another thread.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    // Generous: a hang is the only failure that this finds.
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what} did not happen");
}

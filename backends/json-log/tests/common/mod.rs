//! Shared by the integration tests: a disk that can lose power, and a model of the engine.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

pub mod engine;
pub mod sim;

use std::path::{Path, PathBuf};

use backend_json_log::JsonLogConfig;

/// Blocks on a future of the storage, with a runtime for its reads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A configuration with very small segments.
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

/// Waits until another thread makes the condition true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    // A generous limit: only a hang exceeds it.
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what} did not happen");
}

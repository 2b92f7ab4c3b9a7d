//! Measures the cost of a commit on this disk, at each durability and batch size, and the speed of recovering and reading a backlog.
//!
//! ```text
//! cargo run --release -p backend-sqlite --example sqlite_commit_rate [directory on the disk to measure] [seconds per line]
//! ```
//!
//! The directory must be on the disk in question: `/tmp` is often in memory.
#![expect(clippy::print_stdout, reason = "it prints its results")]

use backend_sqlite::{Durability, SqliteConfig as Config, SqliteStorage as Backend};

#[path = "../../commit_rate.rs"]
mod commit_rate;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    commit_rate::run()
}

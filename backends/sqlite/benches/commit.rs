//! Measures the cost of a commit of 1, 32 and 256 events at each durability. The results depend on the machine and its disk as much
//! as on the code, so compare only results from the same machine.
//!
//! ```text
//! TMPDIR=/a/directory/on/the/disk cargo bench -p backend-sqlite
//! ```
//!
//! Without `TMPDIR` it writes to `/tmp`, which is often in memory.

use backend_sqlite::{Durability, SqliteConfig, SqliteStorage};
use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../../commit_bench.rs"]
mod commit_bench;

fn commit(c: &mut Criterion) {
    let durabilities =
        [("always", Durability::Always), ("interval", Durability::Interval), ("never", Durability::Never)];
    for (name, durability) in durabilities {
        let dir = tempfile::tempdir().expect("a directory");
        let number = std::cell::Cell::new(0);
        commit_bench::measure(c, name, || {
            number.set(number.get() + 1);
            let path = dir.path().join(number.get().to_string());
            SqliteStorage::open(SqliteConfig { durability, ..SqliteConfig::new(path) }).expect("an empty storage")
        });
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);

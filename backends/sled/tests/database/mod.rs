//! Opens the database of a closed storage with sled itself.

use std::path::Path;
use std::time::{Duration, Instant};

/// Opens the database in `dir`. Waits, because sled releases its lock shortly after the storage is closed.
pub(crate) fn database(dir: &Path) -> sled::Db {
    const PATIENCE: Duration = Duration::from_secs(10);
    let config = sled::Config::new().path(dir.join("db/000001")).segment_size(2 << 20).flush_every_ms(None);
    let began = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return db,
            Err(error) if began.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Flips a bit in each value whose key begins with `prefix`. Returns the number of values.
pub(crate) fn damage(dir: &Path, prefix: &[u8]) -> usize {
    let db = database(dir);
    let found: Vec<_> = db.scan_prefix(prefix).map(Result::unwrap).collect();
    for (key, value) in &found {
        let mut value = value.to_vec();
        *value.last_mut().unwrap() ^= 0x10;
        db.insert(key, value).unwrap();
    }
    db.flush().unwrap();
    found.len()
}

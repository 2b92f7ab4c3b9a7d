//! Herald's default storage: an append-only log of JSON lines that `jq` and `tail -f` can read.
//!
//! It writes every batch of the engine to the end of the newest segment, syncs for many batches at once, reads events back by
//! their place in it, and frees whole segments, strictly the oldest first. It keeps nothing in memory but the names of topics,
//! subscriptions and sources, and a few numbers for each segment. It does not index, search or edit.
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`JsonLogConfig`] |
//! | what the engine calls | [`JsonLogStorage`] |
//! | the format of a line | `format` |
//! | what every segment begins with | `catalogue` |
//! | writing, who does it, and the queue into it | `writer`, `desk`, `inbox` |
//! | syncing beside writing | `sync` |
//! | reading payloads | `reads`, `place` |
//! | what opening repairs, reports, refuses | `recovery`, `tail`, `lines`, `lock` |
//! | `herald fsck`: what is wrong, and the repair | [`JsonLogCheck`], `check`, `repair`, `witness` |
//! | freeing space | `cleaner`, `segment` |
//! | the operating system, and where faults are put in for tests | [`files`] |
//!
//! # Invariants
//!
//! - A batch is whole when its line with `"left":0` is there, and lies within one segment.
//! - A segment is synced, with all before it, before the next is begun; a segment's beginning and its name are synced before
//!   anything is written to it. So only the last one can have a torn tail.
//! - A segment is removed only when it is the oldest, nothing in it is needed, and the note of that is synced; its removal is
//!   durable before the next one's. So what exists is always a suffix of the log, and each suffix can stand alone.
//! - After a write or a sync has failed nothing is written any more until the directory is opened again.
//!
//! # Threads
//!
//! `json-log-write` encodes and writes (a small batch is written by whoever submits it, while the thread is idle); `json-log-sync` syncs; `json-log-clean` frees space. Reads run on the runtime's
//! blocking threads, so [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod catalogue;
mod check;
mod cleaner;
mod config;
mod desk;
mod error;
pub mod files;
mod format;
mod inbox;
mod lines;
mod lock;
mod place;
mod reads;
mod recovery;
mod repair;
mod segment;
mod shared;
mod storage;
mod sync;
mod tail;
mod witness;
mod writer;

pub use check::JsonLogCheck;
pub use config::{Durability, JsonLogConfig, OnDamage};
pub use error::JsonLogError;
pub use storage::JsonLogStorage;

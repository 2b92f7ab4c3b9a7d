//! The parts shared by storages over an embedded database, `../sled` and `../sqlite`. Each of those has its own format, recovery
//! and rules for syncing; everything around them is here.
//!
//! | to find | look in |
//! | --- | --- |
//! | the storage as the engine sees it, over a [`Database`] | [`EmbeddedStorage`] |
//! | the bounded queue into the writing thread | `write_queue` |
//! | the writing thread's loop (groups, syncs, failures), over a [`DatabaseWriter`] | `writer` |
//! | whether the storage serves, is closed or has failed; its counters | [`State`] |
//! | topics and subscriptions by name, with their ids in keys and rows | [`Topics`], [`TopicIds`] |
//! | `herald fsck`: the lock and the rounds of a repair, over an [`Examine`] | [`EmbeddedCheck`] |
//! | the files in `damaged/` that a repair moves records to | [`SideFile`] |
//!
//! The lock of the data directory and durable changes to it are in [`durable_files`].

mod check;
mod side_file;
mod state;
mod storage;
mod topics;
mod write_queue;
mod writer;

pub use check::{EmbeddedCheck, Examine};
pub use side_file::SideFile;
pub use state::State;
pub use storage::{Database, EmbeddedStorage};
pub use topics::{Subscription, Topic, TopicIds, Topics};
pub use writer::DatabaseWriter;

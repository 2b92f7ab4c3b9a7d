//! What storages over an embedded database share. No storage itself: those in `../sled` and `../sqlite` are.
//!
//! | to find | look in |
//! | --- | --- |
//! | `durability` and `on_damage` | [`Durability`], [`OnDamage`] |
//! | who has the data directory | [`Lock`] |
//! | the bounded queue into the writing thread | [`Inbox`] |
//! | the writing thread's loop: groups, syncs, what a failure means for those who wait | [`Writer`], over what a database does for it, [`Database`] |
//! | whether the storage serves, is closed, has failed; its counters | [`State`] |
//! | the files below `damaged/` for what a repair moves out | [`Side`] |
//! | what goes wrong with files and directories | [`FileError`] |
//!

mod file_error;
mod inbox;
mod lock;
mod settings;
mod side;
mod state;
mod writer;

pub use file_error::{FileError, sync_dir};
pub use inbox::Inbox;
pub use lock::Lock;
pub use settings::{Durability, OnDamage};
pub use side::Side;
pub use state::State;
pub use writer::{Database, Writer};

//! Files and directories whose changes survive a power failure. Everything that Herald keeps on disk goes through this crate:
//! the storages in `../backends`, the cursors that a remote publisher in `../transports` keeps for its sources, and the files of
//! the tweet pipeline. A transport may not depend on a backend, so the crate sits below both. It depends on `broker-core` alone,
//! for the [`StorageError`] that a failure becomes.
//!
//! | to find | look in |
//! | --- | --- |
//! | the lock file: which process uses a directory | [`Lock`] |
//! | whether a directory is empty, or what it holds | [`occupant`] |
//! | durable creation, renaming and removal | [`create_dir`], [`sync_dir`], [`sync_parent`], [`rename`], [`remove`] |
//! | the space reserved for a full disk | [`Reserve`] |
//! | free space, and a file that occupies real space | [`space()`], [`allocate`] |
//! | write-then-rename: atomic replacement of a small file | [`replace`] |
//! | the operations underneath, where tests inject faults and power cuts | [`Files`], [`DataFile`] |
//! | those operations on the real disk | [`SystemFiles`] |
//! | an error of the operating system, with the action and the path | [`FileError`] |
//!
//! # Why a directory is synced
//!
//! Syncing a file makes its bytes durable, not its name. The name is an entry of the directory, which needs a sync of its own:
//!
//! ```text
//!   create   write   file.sync()                 sync_dir()
//!   ────┬──────┬─────────┬────────────────────────────┬───────▶ time
//!       │      │         │  bytes survive power loss, │  the name survives as well:
//!       │      │         │  under a name that may not │  only now may a write be confirmed
//! ```
//!
//! The same holds for a rename (until the sync, either name may exist) and a removal (until the sync, the file may reappear).
//!
//! [`StorageError`]: broker_core::storage::StorageError

mod durable;
mod error;
mod files;
mod lock;
mod occupied;
mod reserve;
mod space;
mod system;

pub use durable::{create_dir, remove, rename, replace, sync_dir, sync_parent};
pub use error::FileError;
pub use files::{DataFile, Entry, Files, LockGuard, Locking, OpenMode, read_full};
pub use lock::Lock;
pub use occupied::occupant;
pub use reserve::{RESERVE_FILE, Reserve};
pub use space::{Space, allocate, space};
pub use system::SystemFiles;

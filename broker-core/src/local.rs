//! The embedded engine over a [`Storage`](crate::storage::Storage): topics are divided over shards, and one task owns each shard.
//!
//! A shard takes the waiting messages as one turn, applies them to its queues in memory, and submits the changes as one batch.
//! Replies and deliveries leave once the batch is written; confirmations leave, and events become visible to subscriptions, once it
//! is durable. During a commit the shard continues with the next turn, so the storage has several batches to commit together. On an
//! event's path, shards share nothing.
//!
//! ```text
//!   sessions ── Link ──┐                       ┌── queues (crate::queue)
//!                      ├──► inbox ──► Shard ───┤
//!   sources ───────────┘                       └── Storage::submit ──► written ──► durable
//! ```
//!
//! | to find | look in |
//! | --- | --- |
//! | the engine that sessions and sources call | [`engine`], [`settings`] |
//! | the handling of a request by a shard | [`shard`] |
//! | the rules for output that leaves a shard | [`turn`] |
//! | the topics of a shard, and their memory | [`topics`] |
//! | how requests reach shards | [`link`], [`message`] |
//! | one atomic batch over several shards | [`joint`] |
//! | the positions of sources in their feeds | [`sources`] |
//! | the rebuilding of queues at start-up | [`recovery`] |
//! | the moving of events when the storage frees space | [`janitor`] |
//! | the replacement of a failed storage | [`reopening`] |

mod clock;
mod engine;
mod janitor;
mod joint;
mod limit;
mod link;
mod message;
mod recovery;
mod reopening;
mod settings;
mod shard;
mod shared;
mod sources;
mod topics;
mod turn;

#[cfg(test)]
mod tests;

pub use engine::LocalEngine;
pub use reopening::{OnRecovery, Reopen, Reopening, ReopeningEngine};
pub use settings::EngineSettings;

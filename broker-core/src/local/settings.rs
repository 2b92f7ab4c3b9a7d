//! The settings of a local engine.

use tokio_util::sync::CancellationToken;

use crate::policy::Policies;
use crate::source::SourceStates;

/// The settings of a [`LocalEngine`](super::LocalEngine), from the configuration.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Number of shards, and so of tasks that own topics; at least 1.
    pub shards: usize,
    /// Bytes of memory for waiting events, divided evenly over the shards. Payloads get the share that
    /// [`Memory::room_for_payloads`](crate::queue::Memory::room_for_payloads) computes and are read back from the storage beyond it.
    pub memory_budget_bytes: usize,
    /// Policies by topic pattern.
    pub policies: Policies,
    /// The most topics.
    pub max_topics: usize,
    /// The longest line that is sent, in bytes. An event whose delivery could be longer is refused.
    pub max_output_line_bytes: usize,
    /// The most subscriptions, including the nameless ones of connections.
    pub max_subscriptions: usize,
    /// The broker's version, for `stats`.
    pub version: &'static str,
    /// The sources that run beside the engine, for `stats`.
    pub sources: SourceStates,
    /// Cancelled when a shard panics; the broker must then stop.
    pub emergency: CancellationToken,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            shards: 1,
            memory_budget_bytes: 256 << 20,
            policies: Policies::default(),
            max_topics: 100_000,
            max_output_line_bytes: 1 << 20,
            max_subscriptions: 1_000_000,
            version: env!("CARGO_PKG_VERSION"),
            sources: SourceStates::default(),
            emergency: CancellationToken::new(),
        }
    }
}

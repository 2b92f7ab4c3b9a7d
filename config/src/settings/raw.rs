//! `herald.toml` as serde reads it, after the check: all keys there, with their defaults, which the schema has.
//!
//! What the keys mean is in `schema`. What is refused by the check (keys of a later version) has no field here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The whole of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSettings {
    pub(crate) broker: RawBroker,
    pub(crate) storage: RawStorage,
    #[serde(rename = "engine")]
    _engine: RawEngine,
    #[serde(default)]
    pub(crate) transports: RawTransports,
    pub(crate) auth: RawAuth,
    pub(crate) commands: RawCommands,
    pub(crate) topics: BTreeMap<String, RawTopic>,
    pub(crate) publish: RawPublish,
    #[serde(default)]
    pub(crate) sources: Vec<RawSource>,
    #[serde(default)]
    pub(crate) pipeline: Option<RawPipeline>,
}

/// `[broker]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBroker {
    /// 0: one for each core.
    pub(crate) shards: usize,
    /// Bytes.
    pub(crate) max_line_bytes: usize,
    pub(crate) max_topics: usize,
    pub(crate) max_subscriptions: usize,
    /// Milliseconds.
    pub(crate) shutdown_timeout_ms: u64,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[storage]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStorage {
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) durability: Durability,
    /// Milliseconds.
    pub(crate) sync_interval_ms: u64,
    /// MiB.
    pub(crate) memory_budget_mb: usize,
    /// MiB.
    pub(crate) segment_mb: u64,
    pub(crate) on_damage: OnDamage,
    pub(crate) clean_on_start: bool,
}

/// When an event is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is synced to the disk.
    Always,
    /// Once it is with the operating system, which is told to sync at intervals.
    Interval,
    /// Once it is in memory.
    Never,
}

impl Durability {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        }
    }
}

/// What to do about a damaged record inside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDamage {
    /// Leave it, report it, go on.
    Serve,
    /// Refuse to start.
    Stop,
}

/// `[engine]`: the check let nothing but the local one through.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEngine {
    #[serde(rename = "kind")]
    _kind: String,
}

/// `[transports]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTransports {
    #[serde(default)]
    pub(crate) tcp: Option<RawListener>,
    #[serde(default)]
    pub(crate) ws: Option<RawWs>,
    /// Off, or refused by the check.
    #[serde(default, rename = "http")]
    _http: Option<IgnoredAny>,
}

/// What all tables of transports have. Unknown keys are refused by the check alone: serde cannot do that together with `flatten`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawListener {
    pub(crate) enabled: bool,
    pub(crate) listen: String,
    pub(crate) max_connections: usize,
    /// Milliseconds; 0: none.
    pub(crate) idle_timeout_ms: u64,
    /// Milliseconds.
    pub(crate) write_timeout_ms: u64,
    /// Milliseconds.
    pub(crate) handshake_timeout_ms: u64,
    pub(crate) tls: Option<RawTls>,
}

/// `tls` of a transport.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTls {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// `[transports.ws]`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawWs {
    #[serde(flatten)]
    pub(crate) listener: RawListener,
    pub(crate) path: String,
    pub(crate) allowed_origins: Vec<String>,
    /// Milliseconds; 0: never.
    pub(crate) ping_interval_ms: u64,
}

/// `[auth]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAuth {
    pub(crate) tokens: Vec<RawToken>,
}

/// One of `auth.tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawToken {
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) token_env: Option<String>,
    pub(crate) name: String,
    pub(crate) publish: Vec<String>,
    pub(crate) subscribe: Vec<String>,
    pub(crate) admin: bool,
}

impl std::fmt::Debug for RawToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `[commands]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCommands {
    pub(crate) publish: String,
    pub(crate) subscribe: String,
    pub(crate) unsubscribe: String,
    pub(crate) acknowledge: String,
}

/// `[topics."pattern"]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTopic {
    pub(crate) auto_create: bool,
    pub(crate) duplicate_id: RawDuplicateId,
    pub(crate) max_waiting: u64,
    pub(crate) max_waiting_bytes: u64,
    /// Milliseconds; 0: never.
    pub(crate) ack_timeout_ms: u64,
    /// Milliseconds; 0: for ever.
    pub(crate) ttl_ms: u64,
    pub(crate) overflow: RawOverflow,
    /// 0: no limit.
    pub(crate) max_deliveries: u64,
    pub(crate) dead_letter: String,
    pub(crate) expired_to_dead_letter: bool,
}

/// `overflow`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawOverflow {
    Reject,
    DropLowest,
    DeadLetter,
}

/// `duplicate_id`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawDuplicateId {
    Replace,
    Reject,
    Keep,
}

/// `[publish]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPublish {
    pub(crate) to: String,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) token_env: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) path: String,
}

impl std::fmt::Debug for RawPublish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPublish").finish_non_exhaustive()
    }
}

/// One of `[[sources]]`.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum RawSource {
    Sse(RawSse),
    ChangeStream(RawChangeStream),
}

/// `[[sources]]` with `kind = "sse"`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSse {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) events: Vec<String>,
    pub(crate) skip: BTreeMap<String, String>,
    pub(crate) topic: String,
    pub(crate) id: String,
    pub(crate) msg: String,
    pub(crate) priority: RawPriority,
    pub(crate) on_missing: OnMissing,
}

/// `[[sources]]` with `kind = "change-stream"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawChangeStream {
    pub(crate) name: String,
    pub(crate) uri: String,
    pub(crate) database: Option<String>,
    pub(crate) collection: Option<RawNames>,
    pub(crate) topic: String,
    pub(crate) id: String,
    pub(crate) msg: String,
    pub(crate) priority: RawPriority,
    pub(crate) on_missing: OnMissing,
    pub(crate) operations: Vec<String>,
    pub(crate) on_lost_history: OnLostHistory,
    pub(crate) full_document: FullDocument,
    pub(crate) full_document_before_change: BeforeChange,
}

impl std::fmt::Debug for RawChangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawChangeStream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One name or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawNames {
    One(String),
    Several(Vec<String>),
}

/// `on_lost_history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLostHistory {
    /// Stop.
    Fail,
    /// Go on from now and tell of the gap.
    Restart,
}

/// `full_document`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullDocument {
    /// As it is when the change is read.
    Lookup,
    /// The post-image, if there is one.
    WhenAvailable,
    /// The post-image.
    Required,
    /// None.
    Off,
}

/// `full_document_before_change`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BeforeChange {
    /// None.
    Off,
    /// The pre-image, if there is one.
    WhenAvailable,
    /// The pre-image.
    Required,
}

/// `priority` of a source.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawPriority {
    Fixed(i32),
    Pointer(String),
    Random { random: [i32; 2] },
}

/// What becomes of an event in which a pointer finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// It is published with `msg` null.
    Null,
    /// It is not published.
    Skip,
}

/// `[pipeline]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPipeline {
    pub(crate) streams: Vec<String>,
    pub(crate) autostart: bool,
    /// Empty: none.
    pub(crate) console: String,
    pub(crate) workers: usize,
    pub(crate) max_workers: usize,
    pub(crate) autoscale: bool,
    /// Milliseconds.
    pub(crate) simulated_work_ms: [u64; 2],
    pub(crate) batch_size: usize,
    /// Milliseconds.
    pub(crate) flush_ms: u64,
    /// Milliseconds.
    pub(crate) stats_ms: u64,
    pub(crate) hashtags_file: String,
    pub(crate) dead_letter: String,
    pub(crate) sink: RawSink,
}

/// `[pipeline.sink]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSink {
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) uri: Option<String>,
}

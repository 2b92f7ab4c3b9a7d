//! From checked settings to what the broker is made with: what the values mean, and whether they fit together.

mod pipeline;
mod publish;
mod tokens;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use broker_core::name::{MAX_NAME_BYTES, TopicName};
use broker_core::policy::{DuplicateId, Overflow, Policies, TopicPolicy};
use broker_core::protocol::command::CommandWords;
use broker_core::transfer::IMPORT_CURSOR;
use tracing_subscriber::EnvFilter;

use crate::registry;
use crate::secret::SecretString;
use crate::settings::path::{below, entry, quoted};
use crate::settings::problem::{Origin, Problem};
pub use pipeline::{PipelineSettings, SinkSettings};
pub use publish::RemoteSettings;
pub use tokens::TokenSettings;

use crate::settings::raw::{
    BeforeChange, Durability, FullDocument, LogFormat, OnDamage, OnLostHistory, OnMissing, RawCommands, RawDuplicateId,
    RawListener, RawNames, RawOverflow, RawPriority, RawSettings, RawSource, RawTopic, RawTransports,
};

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[broker]`.
    pub broker: BrokerSettings,
    /// `[storage]`.
    pub storage: StorageSettings,
    /// `[topics]`.
    pub policies: Policies,
    /// `[commands]`.
    pub commands: CommandWords,
    /// `[auth]`.
    pub tokens: Vec<TokenSettings>,
    /// The transports that are on.
    pub transports: Vec<TransportSettings>,
    /// `[[sources]]`.
    pub sources: Vec<SourceSettings>,
    /// `[pipeline]`.
    pub pipeline: Option<PipelineSettings>,
    /// `[publish]`: the broker elsewhere; `None`: the one in this process.
    pub remote: Option<RemoteSettings>,
}

/// `[broker]`.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Tasks that own topics.
    pub shards: NonZeroUsize,
    /// The longest line, in bytes, without its ending.
    pub max_line_bytes: usize,
    /// The most topics.
    pub max_topics: usize,
    /// The most subscriptions.
    pub max_subscriptions: usize,
    /// How long an orderly stop may take.
    pub shutdown_timeout: Duration,
    /// A tracing filter, known to be valid.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// `[storage]`.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// Known to the registry.
    pub kind: String,
    /// The data directory.
    pub path: PathBuf,
    /// When an event is confirmed.
    pub durability: Durability,
    /// With [`Durability::Interval`]: the time between two syncs.
    pub sync_interval: Duration,
    /// Memory for payloads that wait.
    pub memory_budget_bytes: usize,
    /// Length after which a log begins a new file.
    pub segment_bytes: u64,
    /// What to do about a damaged record inside the log.
    pub on_damage: OnDamage,
    /// Whether to begin with an empty storage.
    pub clean_on_start: bool,
}

/// `[transports.…]`.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// Known to the registry.
    pub kind: &'static str,
    /// `host:port`.
    pub listen: String,
    /// The most connections at a time.
    pub max_connections: usize,
    /// How long a client may send nothing; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a client may take none of its output.
    pub write_timeout: Duration,
    /// How long a client may take for what comes before the greeting.
    pub handshake_timeout: Duration,
    /// The certificate, if there is TLS.
    pub tls: Option<TlsSettings>,
    /// What only a WebSocket has.
    pub web: WebSettings,
}

/// `tls` of a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What `[transports.ws]` has besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSettings {
    /// The path of the WebSocket.
    pub path: String,
    /// Origins of pages that may connect besides those of the same host.
    pub allowed_origins: Vec<String>,
    /// After how long a silence a client is pinged; `None`: never.
    pub ping_interval: Option<Duration>,
}

/// `[[sources]]`.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Known to the registry.
    pub kind: &'static str,
    /// The key of its cursor.
    pub name: String,
    /// What it reads.
    pub feed: FeedSettings,
    /// A topic, in which `{event}` stands for the type of an SSE feed's event, or a pointer if it begins with `/`.
    pub topic: String,
    /// A pointer; empty: derived from the feed's ids.
    pub id: String,
    /// A pointer; empty: all of the data.
    pub msg: String,
    /// Where the priority comes from.
    pub priority: Priority,
    /// What becomes of an event without a message.
    pub on_missing: OnMissing,
}

/// What a source reads: the keys that only its kind has.
#[derive(Debug, Clone)]
pub enum FeedSettings {
    /// `kind = "sse"`.
    Sse {
        /// The feed.
        url: SecretString,
        /// Request headers.
        headers: Vec<(String, SecretString)>,
        /// The types of events to publish; empty: all.
        events: Vec<String>,
        /// Pointers, and the strings that are not wanted there.
        skip: Vec<(String, String)>,
    },
    /// `kind = "change-stream"`.
    ChangeStream(ChangeStreamSettings),
}

/// `[[sources]]` with `kind = "change-stream"`: what only it has.
#[derive(Debug, Clone)]
pub struct ChangeStreamSettings {
    /// The connection string.
    pub uri: SecretString,
    /// The database; `None`: that of the connection string.
    pub database: Option<String>,
    /// The collections; none: all.
    pub collections: Vec<String>,
    /// The operations that are published.
    pub operations: Vec<String>,
    /// What to do when history is lost.
    pub on_lost_history: OnLostHistory,
    /// How an update gets the whole document.
    pub full_document: FullDocument,
    /// Whether a change brings the document as it was before.
    pub before_change: BeforeChange,
}

/// Where an event's priority comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Priority {
    /// Always this one.
    Fixed(i32),
    /// A JSON pointer.
    Pointer(String),
    /// From the first to the second, both included.
    Random(i32, i32),
}

/// Checks what the values mean and adds what is wrong to `problems`. Pure, but for the look at the number of cores and at files
/// that hold tokens.
pub(crate) fn validate(
    raw: RawSettings,
    origins: &BTreeMap<String, Origin>,
    places: &[usize],
    environment: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut validate = Validate { origins, problems };
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let RawSettings { broker, storage, .. } = &raw;
    if let Err(error) = EnvFilter::try_new(&broker.log) {
        validate.problem(
            "broker.log",
            format!("not a tracing filter ({error}): expected a level such as \"info\", or \"warn,broker_core=debug\""),
        );
    }
    if storage.path.is_empty() {
        validate.problem("storage.path", "the path is empty: expected a directory".to_owned());
    }
    let broker = BrokerSettings {
        shards: NonZeroUsize::new(broker.shards).unwrap_or_else(cores),
        max_line_bytes: broker.max_line_bytes,
        max_topics: broker.max_topics,
        max_subscriptions: broker.max_subscriptions,
        shutdown_timeout: Duration::from_millis(broker.shutdown_timeout_ms),
        log: broker.log.clone(),
        log_format: broker.log_format,
    };
    let storage = StorageSettings {
        kind: storage.kind.clone(),
        path: PathBuf::from(&storage.path),
        durability: storage.durability,
        sync_interval: Duration::from_millis(storage.sync_interval_ms),
        memory_budget_bytes: storage.memory_budget_mb.saturating_mul(1 << 20),
        segment_bytes: storage.segment_mb.saturating_mul(1 << 20),
        on_damage: storage.on_damage,
        clean_on_start: storage.clean_on_start,
    };
    let commands = validate.commands(&raw.commands);
    let remote = publish::remote(&mut validate, &raw.publish, environment);
    let transports = validate.transports(&raw);
    let tokens = tokens::tokens(&mut validate, raw.auth.tokens, environment);
    let policies = validate.topics(&raw.topics);
    let sources = validate.sources(raw.sources, places);
    let pipeline = raw.pipeline.map(|raw| pipeline::pipeline(&mut validate, raw));
    Settings { broker, storage, policies, commands, tokens, transports, sources, pipeline, remote }
}

struct Validate<'a> {
    origins: &'a BTreeMap<String, Origin>,
    problems: &'a mut Vec<Problem>,
}

impl Validate<'_> {
    fn problem(&mut self, key: &str, text: String) {
        // An entry of a list comes from where the list does.
        let list = || key.strip_suffix(']').and_then(|entry| entry.rsplit_once('[')).map(|(list, _)| list);
        // A table comes from where anything in it does.
        let inside = || {
            let mut below = self
                .origins
                .iter()
                .filter(|(other, _)| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
            below.find_map(|(_, origin)| (!matches!(origin, Origin::Default)).then_some(origin))
        };
        let origin = self.origins.get(key).or_else(|| self.origins.get(list()?)).or_else(inside);
        let origin = origin.cloned().unwrap_or(Origin::Default);
        self.problems.push(Problem::new(origin, key, text));
    }

    /// Whether anything below `key` was written, by whomever.
    fn is_written(&self, key: &str) -> bool {
        self.origins.get(key).is_some_and(|origin| *origin != Origin::Default)
    }

    fn commands(&mut self, raw: &RawCommands) -> CommandWords {
        let words = CommandWords {
            publish: raw.publish.clone(),
            subscribe: raw.subscribe.clone(),
            unsubscribe: raw.unsubscribe.clone(),
            acknowledge: raw.acknowledge.clone(),
        };
        for (name, text) in words.validate().err().unwrap_or_default() {
            self.problem(&below("commands", name), format!("{text}: choose another word"));
        }
        words
    }

    fn transports(&mut self, raw: &RawSettings) -> Vec<TransportSettings> {
        let RawTransports { tcp, ws, .. } = &raw.transports;
        let mut transports = Vec::new();
        // Where sources publish to a broker elsewhere, the transport that is on by itself is not.
        let elsewhere = raw.publish.to != publish::LOCAL;
        let [tcp_on, ws_on] = ["tcp", "ws"].map(|kind| !elsewhere || self.is_written(&below("transports", kind)));
        if let Some(tcp) = tcp.as_ref().filter(|tcp| tcp.enabled && tcp_on) {
            transports.push(self.transport("tcp", tcp, WebSettings::default()));
        }
        if let Some(ws) = ws.as_ref().filter(|ws| ws.listener.enabled && ws_on) {
            let ping = Duration::from_millis(ws.ping_interval_ms);
            let web = WebSettings {
                path: ws.path.clone(),
                allowed_origins: ws.allowed_origins.clone(),
                ping_interval: (!ping.is_zero()).then_some(ping),
            };
            transports.push(self.transport("ws", &ws.listener, web));
        }
        if transports.is_empty()
            && !elsewhere
            && self.problems.iter().all(|problem| !problem.key.starts_with("transports"))
        {
            let text = match registry::default_transport() {
                Some(kind) => {
                    format!("no transport is on, so nobody could connect: set transports.{kind}.enabled = true")
                }
                None => "this build has no transport, so nobody could connect: rebuild with --features tcp".to_owned(),
            };
            self.problem("transports", text);
        }
        transports
    }

    fn transport(&mut self, kind: &'static str, raw: &RawListener, web: WebSettings) -> TransportSettings {
        let path = below("transports", kind);
        if let Err(why) = check_listen(&raw.listen) {
            self.problem(
                &below(&path, "listen"),
                format!("{why}: expected host:port, such as 127.0.0.1:8000 or [::1]:8000"),
            );
        }
        let file = |path: &String| PathBuf::from(path);
        let tls = raw.tls.as_ref().map(|tls| TlsSettings { cert: file(&tls.cert), key: file(&tls.key) });
        let idle = Duration::from_millis(raw.idle_timeout_ms);
        let settings = TransportSettings {
            kind,
            listen: raw.listen.clone(),
            max_connections: raw.max_connections,
            idle_timeout: (!idle.is_zero()).then_some(idle),
            write_timeout: Duration::from_millis(raw.write_timeout_ms),
            handshake_timeout: Duration::from_millis(raw.handshake_timeout_ms),
            tls,
            web,
        };
        for (key, text) in registry::transport_problems(&settings) {
            self.problem(&below(&path, key), text);
        }
        settings
    }

    fn topics(&mut self, raw: &BTreeMap<String, RawTopic>) -> Policies {
        let mut policies = Vec::new();
        for (pattern, topic) in raw {
            if let Err(text) = check_pattern(pattern) {
                self.problem(&below("topics", pattern), text.to_owned());
            }
            let parts = topic.dead_letter.matches("{topic}").count();
            if TopicName::new(&topic.dead_letter.replace("{topic}", "x")).is_err()
                || topic.dead_letter == "{topic}"
                || topic.dead_letter == *pattern
                || parts > 1
            {
                self.problem(
                    &below(&below("topics", pattern), "dead_letter"),
                    format!(
                        "{} is no name for another topic: expected one such as \"{{topic}}.dead\", with {{topic}} at most once",
                        quoted(&topic.dead_letter)
                    ),
                );
            }
            let policy = TopicPolicy {
                auto_create: topic.auto_create,
                duplicate_id: match topic.duplicate_id {
                    RawDuplicateId::Replace => DuplicateId::Replace,
                    RawDuplicateId::Reject => DuplicateId::Reject,
                    RawDuplicateId::Keep => DuplicateId::Keep,
                },
                max_waiting: topic.max_waiting,
                max_waiting_bytes: topic.max_waiting_bytes,
                ack_timeout_ms: topic.ack_timeout_ms,
                overflow: match topic.overflow {
                    RawOverflow::Reject => Overflow::Reject,
                    RawOverflow::DropLowest => Overflow::DropLowest,
                    RawOverflow::DeadLetter => Overflow::DeadLetter,
                },
                ttl_ms: topic.ttl_ms,
                max_deliveries: u32::try_from(topic.max_deliveries).unwrap_or(u32::MAX),
                dead_letter: topic.dead_letter.clone(),
                expired_to_dead_letter: topic.expired_to_dead_letter,
                // Known of a topic when it is made.
                keeps: false,
            };
            policies.push((pattern.clone(), policy));
        }
        Policies::new(policies)
    }

    fn sources(&mut self, raw: Vec<RawSource>, places: &[usize]) -> Vec<SourceSettings> {
        let mut sources: Vec<SourceSettings> = Vec::new();
        for (at, raw) in raw.into_iter().enumerate() {
            let path = entry("sources", places.get(at).copied().unwrap_or(at));
            let settings = source(raw);
            if settings.name.is_empty() || settings.name.len() > MAX_NAME_BYTES {
                self.problem(&below(&path, "name"), "expected a name of 1 to 255 bytes".to_owned());
            } else if settings.name == IMPORT_CURSOR {
                let name = quoted(&settings.name);
                self.problem(&below(&path, "name"), format!("{name} is reserved: choose another name"));
            } else if let Some(other) = sources.iter().position(|other| other.name == settings.name) {
                let other = entry("sources", places.get(other).copied().unwrap_or(other));
                let text = format!(
                    "{} is the name of {other} as well: each needs its own, by which its place is stored",
                    quoted(&settings.name)
                );
                self.problem(&below(&path, "name"), text);
            }
            for (key, text) in registry::source_problems(&settings) {
                self.problem(&below(&path, key), text);
            }
            sources.push(settings);
        }
        sources
    }
}

fn source(raw: RawSource) -> SourceSettings {
    let priority = |raw| match raw {
        RawPriority::Fixed(priority) => Priority::Fixed(priority),
        RawPriority::Pointer(pointer) => Priority::Pointer(pointer),
        RawPriority::Random { random: [low, high] } => Priority::Random(low, high),
    };
    match raw {
        RawSource::Sse(raw) => SourceSettings {
            kind: "sse",
            name: raw.name,
            feed: FeedSettings::Sse {
                url: SecretString::new(raw.url),
                headers: raw.headers.into_iter().map(|(name, value)| (name, SecretString::new(value))).collect(),
                events: raw.events,
                skip: raw.skip.into_iter().collect(),
            },
            topic: raw.topic,
            id: raw.id,
            msg: raw.msg,
            priority: priority(raw.priority),
            on_missing: raw.on_missing,
        },
        RawSource::ChangeStream(raw) => SourceSettings {
            kind: "change-stream",
            name: raw.name,
            feed: FeedSettings::ChangeStream(ChangeStreamSettings {
                uri: SecretString::new(raw.uri),
                database: raw.database,
                collections: match raw.collection {
                    None => Vec::new(),
                    Some(RawNames::One(name)) => vec![name],
                    Some(RawNames::Several(names)) => names,
                },
                operations: raw.operations,
                on_lost_history: raw.on_lost_history,
                full_document: raw.full_document,
                before_change: raw.full_document_before_change,
            }),
            topic: raw.topic,
            id: raw.id,
            msg: raw.msg,
            priority: priority(raw.priority),
            on_missing: raw.on_missing,
        },
    }
}

/// Whether any topic can match `pattern`: what it has besides stars has to be able to occur in a topic's name.
fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let name = pattern.replace('*', "x");
    if pattern.is_empty() || TopicName::new(&name).is_err() || pattern.len() > MAX_NAME_BYTES {
        return Err("no topic can match this pattern: expected A-Z a-z 0-9 . _ : - and *, not beginning with a dot");
    }
    Ok(())
}

/// Whether `listen` is `host:port`; a host's name is looked up only when it is bound.
fn check_listen(listen: &str) -> Result<(), String> {
    let Some((host, port)) = listen.rsplit_once(':') else { return Err(format!("{} has no port", quoted(listen))) };
    if port.parse::<u16>().is_err() {
        return Err(format!("{} is no port", quoted(port)));
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if valid { Ok(()) } else { Err(format!("{} is no host", quoted(host))) }
}

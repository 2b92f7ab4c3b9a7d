//! The keys that belong to no plugin (broker, access rights, commands, topics, publishing), and those that every plugin of a seam
//! has besides its own.

use broker_core::settings::key::MAX_INTEGER;
use broker_core::settings::{Key, Preset, Secret, Shape};

const fn int(name: &'static str, least: i64, most: i64, default: i64, doc: &'static str) -> Key {
    Key::with_default(name, Shape::Int(least, most), Preset::Int(default), doc)
}

const fn text(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key::with_default(name, Shape::Text, Preset::Text(default), doc)
}

const fn flag(name: &'static str, default: bool, doc: &'static str) -> Key {
    Key::with_default(name, Shape::Bool, Preset::Bool(default), doc)
}

const fn word(name: &'static str, words: &'static [&'static str], doc: &'static str) -> Key {
    Key::with_default(name, Shape::Word(words), Preset::Text(words[0]), doc)
}

/// `[broker]`.
pub(crate) const BROKER: &[Key] = &[
    int("shards", 0, 1024, 0, "Tasks that own topics; 0: one for each core."),
    int(
        "max_line_bytes",
        64,
        64 << 20,
        1 << 20,
        "The longest line that a client may send, in bytes, its line ending not counted.",
    ),
    int(
        "max_output_line_bytes",
        32 << 10,
        64 << 20,
        1 << 20,
        "The longest delivery, in bytes, its line ending not counted. An event that could become longer on the way, with the\n\
         names, the note and the history of a dead letter (up to 14 KiB), is refused when it is published.",
    ),
    int("max_topics", 1, 10_000_000, 100_000, "The most topics that may exist."),
    int("max_subscriptions", 1, 10_000_000, 1_000_000, "The most subscriptions that may exist, over all topics."),
    int(
        "shutdown_timeout_ms",
        0,
        60 * 60 * 1000,
        10_000,
        "Milliseconds that an orderly stop (SIGTERM, SIGINT) may take; what is not done by then is abandoned.",
    ),
    text("log", "info", "What is logged: a tracing filter, such as \"info\" or \"warn,broker_core=debug\".").reloaded(),
    word("log_format", &["text", "json"], "\"text\", or \"json\": one object per line."),
];

/// `[storage]`: the key that belongs to the engine above every storage.
pub(crate) const STORAGE: &[Key] = &[int(
    "memory_budget_mb",
    1,
    1 << 20,
    256,
    "Memory for events that wait, in MiB. Half of it holds their index and then their payloads; payloads beyond that are read\n\
     back from the storage. The other half is for buffers and for memory that the allocator keeps.",
)];

pub(crate) const TRANSPORTS_DOC: &str = "The listeners that clients connect to. A transport without a table is off, except tcp. `enabled = false` turns one off.";

/// The first key of every transport.
pub(crate) const ENABLED: Key = flag("enabled", true, "false: this transport is off.");

/// `[auth]`.
pub(crate) const AUTH: &[Key] = &[Key::with_default(
    "tokens",
    Shape::List(TOKEN),
    Preset::Texts(&[]),
    "The tokens and their rights; clients send theirs with `hello`. Without tokens, anyone who can reach the port may do\n\
     anything.\n\
     tokens = [{ token_file = \"billing.token\", name = \"billing\", publish = [\"billing.*\"], subscribe = [\"tweets\"] }]\n\
     The secret is in one of token, token_file (a file with nothing else in it) and token_env (an environment variable).\n\
     SIGHUP reads all of it again; clients whose token or rights have changed are disconnected.",
)
.secret(Secret::Whole)
.reloaded()];

const TOKEN: &[Key] = &[
    Key::optional("token", Shape::Text, "The secret itself, at most 512 bytes.").secret(Secret::Whole),
    Key::optional("token_file", Shape::Text, "A file that holds the secret; a line break at its end does not count."),
    Key::optional("token_env", Shape::Text, "The name of an environment variable that holds the secret."),
    Key::required("name", Shape::Text, "The name of its bearer, for logs."),
    Key::with_default("publish", Shape::Texts, Preset::Texts(&[]), "Patterns of the topics that it may publish to."),
    Key::with_default(
        "subscribe",
        Shape::Texts,
        Preset::Texts(&[]),
        "Patterns of the topics that it may subscribe to.",
    ),
    flag("admin", false, "Whether it may purge, redrive and peek where it may subscribe, and see all statistics."),
];

pub(crate) const COMMANDS_DOC: &str = "The short forms of the commands can be renamed; the long forms (PUBLISH, SUBSCRIBE, UNSUBSCRIBE, ACKNOWLEDGE)\n\
     always work.";

/// `[commands]`.
pub(crate) const COMMANDS: &[Key] = &[
    text("publish", "pub", "The short form of PUBLISH."),
    text("subscribe", "sub", "The short form of SUBSCRIBE."),
    text("unsubscribe", "unsub", "The short form of UNSUBSCRIBE."),
    text("acknowledge", "ack", "The short form of ACKNOWLEDGE."),
];

pub(crate) const TOPICS_DOC: &str = "The rules of topics, by pattern: `*` stands for any characters, dots included. Of several patterns that match,\n\
     the one with the most literal characters counts. A rule that a pattern leaves out is that of \"*\".";

/// `[topics."pattern"]`.
pub(crate) const TOPIC: &[Key] = &[
    flag("auto_create", true, "false: `sub` and `pub` to a topic that does not exist are errors."),
    word(
        "duplicate_id",
        &["replace", "reject", "keep"],
        "An id published again while it waits: it replaces the waiting event, is refused, or both are kept.",
    ),
    int("max_waiting", 0, MAX_INTEGER, 0, "Events not yet settled that a subscription may have; 0: no limit."),
    int("max_waiting_bytes", 0, MAX_INTEGER, 0, "The bytes of those events; 0: no limit."),
    word(
        "overflow",
        &["reject", "drop-lowest", "dead-letter"],
        "A publish beyond a limit: it is refused, the least urgent event is dropped, or that event becomes a dead letter.",
    ),
    int(
        "ack_timeout_ms",
        0,
        MAX_INTEGER,
        0,
        "Milliseconds after which an event in flight is delivered again; 0: never.",
    ),
    int(
        "max_deliveries",
        0,
        MAX_INTEGER,
        0,
        "Deliveries after which an event that comes back becomes a dead letter; 0: no limit.",
    ),
    text("dead_letter", "{topic}.dead", "The topic for dead letters; {topic} stands for the topic's name."),
    int("ttl_ms", 0, MAX_INTEGER, 0, "Milliseconds that an event may wait before it expires; 0: it never does."),
    flag("expired_to_dead_letter", false, "Whether expired events become dead letters."),
];

/// `[publish]`.
pub(crate) const PUBLISH: &[Key] = &[
    text(
        "to",
        "local",
        "\"local\": the broker in this process. Otherwise a broker elsewhere: tcp://host:8000, tls://, ws:// or wss://. Then no\n\
         broker runs here and [storage] is not used, unless a key of a transport is written.",
    )
    .secret(Secret::InUrl),
    Key::optional("token", Shape::Text, "The token for a broker elsewhere, or:").secret(Secret::Whole),
    Key::optional("token_file", Shape::Text, "a file that holds it; a line break at its end does not count; or:"),
    Key::optional("token_env", Shape::Text, "the name of an environment variable that holds it."),
    Key::optional(
        "ca",
        Shape::Text,
        "With tls:// and wss://, a PEM file with the authorities to trust, instead of the operating system's.",
    ),
    Key::with_default(
        "path",
        Shape::Path("directory"),
        Preset::Text("sources"),
        "With a broker elsewhere, the directory for the positions of the sources; created if it is missing.",
    ),
];

/// The key by which every source is known.
pub(crate) const SOURCE_NAME: Key =
    Key::required("name", Shape::Text, "Its name, unique; the source's position in the feed is stored under it.");

pub(crate) const PIPELINE_DOC: &str =
    "The tweet pipeline: tweets from server-sent events, scored and stored. Without this table it is off.";

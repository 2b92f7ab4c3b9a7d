//! Every key there is: its shape, its default, what it means. The only place that says so.
//!
//! The check of what was written, the built-in defaults, the coercion of environment values, `herald config show` and
//! `herald config init` all read these tables, so none of them can disagree. A flat list, hence longer than other files.

use crate::registry;

/// A key of a table.
pub(crate) struct Key {
    /// As it is written.
    pub(crate) name: &'static str,
    /// What its value looks like.
    pub(crate) shape: Shape,
    /// What holds if it is not written.
    pub(crate) presence: Presence,
    /// What it means, with its unit; each line becomes a comment line.
    pub(crate) doc: &'static str,
    /// What of its value may not be shown.
    pub(crate) secret: Secret,
    /// Whether this version can do anything but the default.
    pub(crate) later: bool,
}

/// What a value looks like.
pub(crate) enum Shape {
    /// `true` or `false`.
    Bool,
    /// An integer in a range, both ends included.
    Int(i64, i64),
    /// Any string.
    Text,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// The name of a plugin; the registry knows them.
    Plugin(registry::Seam),
    /// A list of strings.
    Texts,
    /// A string or a list of strings.
    TextOrTexts,
    /// Two integers, the first at most the second.
    Range,
    /// A table with strings for values and any keys.
    TextMap,
    /// An integer, a JSON pointer, or `{ random = [lo, hi] }`.
    Priority,
    /// A table with known keys.
    Table(&'static Table),
    /// A table with any keys, topic patterns, and such a table for each.
    Patterns(&'static Table),
    /// A list of tables, whose `kind` says which of these each is; one entry without a name: all are alike.
    List(&'static [(&'static str, &'static Table)]),
}

/// What holds for a key that is not written.
pub(crate) enum Presence {
    /// This, in TOML.
    Default(&'static str),
    /// What this build makes of it, a string.
    Computed(fn() -> String),
    /// It has to be written.
    Required,
    /// There is none. For a table: what it describes is off.
    Absent,
    /// A table that is always there, with its own defaults.
    Always,
    /// A transport's table: there if it is the transport that a build turns on by itself.
    DefaultTransport,
}

/// What of a value may not be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secret {
    /// All may.
    No,
    /// Nothing of it.
    Whole,
    /// Credentials and query of a URL.
    InUrl,
}

/// A table with known keys; those that are tables themselves come last, as TOML wants it.
pub(crate) struct Table {
    /// Its keys, in the order in which they are shown.
    pub(crate) keys: &'static [Key],
}

impl Table {
    /// The key called `name`.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn key(name: &'static str, shape: Shape, presence: Presence, doc: &'static str) -> Key {
    Key { name, shape, presence, doc, secret: Secret::No, later: false }
}

impl Key {
    /// Known, but nothing except its default works yet.
    const fn later(mut self) -> Self {
        self.later = true;
        self
    }

    const fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }
}

use Presence::{Absent, Always, Computed, Default, DefaultTransport, Required};
use Shape::{Bool, Int, List, Patterns, Plugin, Priority, Range, Text, TextMap, TextOrTexts, Texts, Word};

/// The largest number that every JSON and TOML reader keeps exact.
const MAX: i64 = (1 << 53) - 1;
/// A day, in milliseconds.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The whole of `herald.toml`.
pub(crate) static ROOT: Table = Table {
    keys: &[
        key("broker", Shape::Table(&BROKER), Always, "The broker itself."),
        key("storage", Shape::Table(&STORAGE), Always, "Where events are kept."),
        key("engine", Shape::Table(&ENGINE), Always, "Who owns the queues."),
        key(
            "transports",
            Shape::Table(&TRANSPORTS),
            Always,
            "What clients connect to. A transport that has no table is off, except tcp. `enabled = false` turns one off.",
        ),
        key("auth", Shape::Table(&AUTH), Always, "Who may do what."),
        key(
            "commands",
            Shape::Table(&COMMANDS),
            Always,
            "The short forms of the commands can be renamed; the long forms (PUBLISH, SUBSCRIBE, UNSUBSCRIBE, ACKNOWLEDGE)\n\
             always work.",
        ),
        key(
            "topics",
            Patterns(&TOPIC),
            Always,
            "The rules of topics, by pattern: `*` stands for any characters, dots included. Of several patterns that match,\n\
             the one with the most literal characters counts. What a pattern does not say is as in \"*\".",
        ),
        key("publish", Shape::Table(&PUBLISH), Always, "Where sources and the pipeline publish to."),
        key("sources", List(&[("sse", &SSE), ("change-stream", &CHANGE_STREAM)]), Absent, "What feeds the broker."),
        key(
            "pipeline",
            Shape::Table(&PIPELINE),
            Absent,
            "The tweet pipeline: tweets from server-sent events, scored and stored. Without this table it is off.",
        ),
    ],
};

static BROKER: Table = Table {
    keys: &[
        key("shards", Int(0, 1024), Default("0"), "Tasks that own topics; 0: one for each core."),
        key(
            "max_line_bytes",
            Int(64, 64 << 20),
            Default("1048576"),
            "The longest line a client may send, in bytes, its ending not counted.",
        ),
        key("max_topics", Int(1, 10_000_000), Default("100000"), "The most topics there may be."),
        key(
            "max_subscriptions",
            Int(1, 10_000_000),
            Default("1000000"),
            "The most subscriptions there may be, over all topics.",
        ),
        key(
            "shutdown_timeout_ms",
            Int(0, 60 * 60 * 1000),
            Default("10000"),
            "How long an orderly stop (SIGTERM, SIGINT) may take, in milliseconds; what is not done then is abandoned.",
        ),
        key(
            "log",
            Text,
            Default("\"info\""),
            "What is logged: a tracing filter, such as \"info\" or \"warn,broker_core=debug\".",
        ),
        key("log_format", Word(&["text", "json"]), Default("\"text\""), "\"text\", or \"json\": one object a line."),
    ],
};

static STORAGE: Table = Table {
    keys: &[
        key(
            "kind",
            Plugin(registry::Seam::Storage),
            Computed(registry::default_storage),
            "json-log | sled | sqlite; the default is the first that this build has.",
        ),
        key(
            "path",
            Text,
            Default("\"data\""),
            "The data directory, relative to the working directory; made if it is not there.",
        ),
        key(
            "durability",
            Word(&["always", "interval", "never"]),
            Default("\"always\""),
            "\"always\": an event is synced to the disk before it is confirmed. \"interval\": it is with the operating system,\n\
             and synced every sync_interval_ms; a power failure may lose what came since. \"never\": it is in memory, and a\n\
             crash of the broker may lose it as well.",
        ),
        key(
            "sync_interval_ms",
            Int(1, 60 * 60 * 1000),
            Default("1000"),
            "With \"interval\": milliseconds between two syncs.",
        ),
        key(
            "memory_budget_mb",
            Int(1, 1 << 20),
            Default("256"),
            "Memory for events that wait, in MiB. Half of it is for their index and then their payloads, which are read back from\n\
             the storage beyond that; the other half is for buffers and for what the allocator keeps.",
        ),
        key(
            "segment_mb",
            Int(1, 1024),
            Default("64"),
            "json-log: MiB after which it begins a new file. Space comes back file by file, so a small disk wants small ones.",
        ),
        key(
            "on_damage",
            Word(&["serve", "stop"]),
            Default("\"serve\""),
            "A record inside the log that does not check: \"serve\" leaves it, reports it and goes on; \"stop\" refuses to start.",
        ),
        key(
            "clean_on_start",
            Bool,
            Default("false"),
            "Begin with an empty storage: deletes what is there at each start.",
        ),
    ],
};

static ENGINE: Table = Table {
    keys: &[
        key("kind", Plugin(registry::Seam::Engine), Default("\"local\""), "local | jetstream"),
        key(
            "jetstream",
            Shape::Table(&JETSTREAM),
            Absent,
            "The engine over NATS JetStream. This version does not have it yet.",
        )
        .later(),
    ],
};

static JETSTREAM: Table = Table {
    keys: &[
        key("url", Text, Default("\"nats://127.0.0.1:4222\""), "The NATS server.").secret(Secret::InUrl),
        key("replicas", Int(1, 5), Default("1"), "Copies of each stream."),
        key("priority_bands", Int(1, 64), Default("7"), "How many priorities are told apart."),
    ],
};

static TRANSPORTS: Table = Table {
    keys: &[
        key("tcp", Shape::Table(&TCP), DefaultTransport, "The line protocol over TCP: telnet, nc, the client crate."),
        key("ws", Shape::Table(&WS), DefaultTransport, "The same over WebSocket, for browsers."),
        // Whether it is in this version is the registry's to say.
        key(
            "http",
            Shape::Table(&HTTP),
            Absent,
            "Health, metrics, admin API, dashboard. This version does not have it yet.",
        ),
    ],
};

const ENABLED: Key = key("enabled", Bool, Default("true"), "false: this transport is off.");
const MAX_CONNECTIONS: Key = key(
    "max_connections",
    Int(1, 1_000_000),
    Default("10000"),
    "The most connections at a time; one more is told that the server is full. Each takes an open file: see `ulimit -Hn`.",
);
const IDLE_TIMEOUT: Key = key(
    "idle_timeout_ms",
    Int(0, DAY_MS),
    Default("0"),
    "Milliseconds without a byte from a client after which it is disconnected; 0: never. TCP keep-alive is on.",
);
const WRITE_TIMEOUT: Key = key(
    "write_timeout_ms",
    Int(1, DAY_MS),
    Default("30000"),
    "Milliseconds that a client may take none of its output before it is disconnected and its events come back.",
);
const HANDSHAKE_TIMEOUT: Key = key(
    "handshake_timeout_ms",
    Int(1, DAY_MS),
    Default("10000"),
    "Milliseconds that a client may take for what comes before the greeting: TLS, the request for a WebSocket.",
);
const TLS: Key = key(
    "tls",
    Shape::Table(&TLS_TABLE),
    Absent,
    "TLS: tls = { cert = \"cert.pem\", key = \"key.pem\" }. SIGHUP reads both files again, for connections from then on.",
);
/// Where there is no such thing yet.
const TLS_LATER: Key = key("tls", Shape::Table(&TLS_TABLE), Absent, "TLS. This version does not have it yet.").later();

static TLS_TABLE: Table = Table {
    keys: &[
        key("cert", Text, Required, "The certificate chain, a PEM file."),
        key("key", Text, Required, "Its private key, a PEM file."),
    ],
};

static TCP: Table = Table {
    keys: &[
        ENABLED,
        key("listen", Text, Default("\"127.0.0.1:8000\""), "Where to listen; port 0: a free one, which the log tells."),
        MAX_CONNECTIONS,
        IDLE_TIMEOUT,
        WRITE_TIMEOUT,
        HANDSHAKE_TIMEOUT,
        TLS,
    ],
};

static WS: Table = Table {
    keys: &[
        ENABLED,
        key("listen", Text, Default("\"127.0.0.1:8001\""), "Where to listen; port 0: a free one, which the log tells."),
        key("path", Text, Default("\"/ws\""), "The path of the WebSocket."),
        key(
            "allowed_origins",
            Texts,
            Default("[]"),
            "Origins (\"https://app.example\", \"null\", \"*\") that pages may connect from, besides those of the same host.",
        ),
        key(
            "ping_interval_ms",
            Int(0, DAY_MS),
            Default("30000"),
            "Milliseconds of silence after which a client is pinged; one that does not answer for as long again is disconnected.\n\
             0: never.",
        ),
        MAX_CONNECTIONS,
        IDLE_TIMEOUT,
        WRITE_TIMEOUT,
        HANDSHAKE_TIMEOUT,
        TLS,
    ],
};

static HTTP: Table = Table {
    keys: &[
        ENABLED,
        key("listen", Text, Default("\"127.0.0.1:8090\""), "Where to listen."),
        MAX_CONNECTIONS,
        IDLE_TIMEOUT,
        WRITE_TIMEOUT,
        TLS_LATER,
    ],
};

static AUTH: Table = Table {
    keys: &[key(
        "tokens",
        List(&[("", &TOKEN)]),
        Default("[]"),
        "Who may do what; clients give their token with `hello`. Without tokens, anyone who can reach the port may do anything.\n\
         tokens = [{ token_file = \"billing.token\", name = \"billing\", publish = [\"billing.*\"], subscribe = [\"tweets\"] }]\n\
         Where the token is: one of token, token_file (a file with nothing else in it) and token_env (an environment variable).\n\
         SIGHUP reads all of it again; clients whose token or rights have changed are disconnected.",
    )
    .secret(Secret::Whole)],
};

static TOKEN: Table = Table {
    keys: &[
        key("token", Text, Absent, "The secret itself, at most 512 bytes.").secret(Secret::Whole),
        key("token_file", Text, Absent, "A file that holds the secret; a line break at its end does not count."),
        key("token_env", Text, Absent, "The name of an environment variable that holds the secret."),
        key("name", Text, Required, "Whose it is, for logs."),
        key("publish", Texts, Default("[]"), "Patterns of the topics it may publish to."),
        key("subscribe", Texts, Default("[]"), "Patterns of the topics it may subscribe to."),
        key(
            "admin",
            Bool,
            Default("false"),
            "Whether it may purge, redrive and peek where it may subscribe, and see all figures.",
        ),
    ],
};

static COMMANDS: Table = Table {
    keys: &[
        key("publish", Text, Default("\"pub\""), "The short form of PUBLISH."),
        key("subscribe", Text, Default("\"sub\""), "The short form of SUBSCRIBE."),
        key("unsubscribe", Text, Default("\"unsub\""), "The short form of UNSUBSCRIBE."),
        key("acknowledge", Text, Default("\"ack\""), "The short form of ACKNOWLEDGE."),
    ],
};

/// The keys of `[topics."pattern"]`. Public to the check, which lets them take what they lack from `"*"`.
pub(crate) static TOPIC: Table = Table {
    keys: &[
        key("auto_create", Bool, Default("true"), "false: `sub` and `pub` to a topic that is not there are errors."),
        key(
            "duplicate_id",
            Word(&["replace", "reject", "keep"]),
            Default("\"replace\""),
            "An id published again while it waits: it replaces the waiting event, is an error, or both are kept.",
        ),
        key(
            "max_waiting",
            Int(0, MAX),
            Default("0"),
            "Events not yet settled that a subscription may have; 0: no limit.",
        ),
        key("max_waiting_bytes", Int(0, MAX), Default("0"), "Their bytes; 0: no limit."),
        key(
            "overflow",
            Word(&["reject", "drop-lowest", "dead-letter"]),
            Default("\"reject\""),
            "A publish that finds a limit reached: it is an error; the least urgent event is dropped; or it goes to the dead letters.",
        ),
        key(
            "ack_timeout_ms",
            Int(0, MAX),
            Default("0"),
            "Milliseconds after which an event in flight is delivered again; 0: never.",
        ),
        key(
            "max_deliveries",
            Int(0, MAX),
            Default("0"),
            "Deliveries after which an event that comes back goes to the dead letters; 0: no limit.",
        ),
        key(
            "dead_letter",
            Text,
            Default("\"{topic}.dead\""),
            "The topic for dead letters; {topic} stands for the topic's name.",
        ),
        key("ttl_ms", Int(0, MAX), Default("0"), "Milliseconds that an event may wait before it expires; 0: for ever."),
        key("expired_to_dead_letter", Bool, Default("false"), "Whether expired events go to the dead letters."),
    ],
};

static PUBLISH: Table = Table {
    keys: &[
        key(
            "to",
            Text,
            Default("\"local\""),
            "\"local\": the broker in this process. Or a broker elsewhere: tcp://host:8000, tls://, ws:// or wss://. No broker runs\n\
             here then, and [storage] is not used, unless a key of a transport is written.",
        )
        .secret(Secret::InUrl),
        key("token", Text, Absent, "The token for a broker elsewhere, or:").secret(Secret::Whole),
        key("token_file", Text, Absent, "a file that holds it; a line break at its end does not count; or:"),
        key("token_env", Text, Absent, "the name of an environment variable that holds it."),
        key(
            "ca",
            Text,
            Absent,
            "With tls:// and wss://, a PEM file with the authorities to trust, instead of the operating system's.",
        ),
        key(
            "path",
            Text,
            Default("\"sources\""),
            "With a broker elsewhere, the directory for how far each source has been read; made if it is not there.",
        ),
    ],
};

const ON_MISSING: Key = key(
    "on_missing",
    Word(&["null", "skip"]),
    Default("\"null\""),
    "Where msg finds nothing: \"null\" publishes null, \"skip\" publishes no event. (A missing id is derived from the feed's,\n\
     a missing priority is 0, and without a topic nothing can be published.)",
);
const PRIORITY: Key = key(
    "priority",
    Priority,
    Default("0"),
    "An integer, a JSON pointer, or { random = [0, 6] }. Higher is delivered first.",
);

static SSE: Table = Table {
    keys: &[
        key("kind", Plugin(registry::Seam::Source), Required, "sse: any feed of server-sent events."),
        key("name", Text, Required, "Its name, by which its place in the feed is stored; unique."),
        key("url", Text, Required, "The feed, http or https.").secret(Secret::InUrl),
        key("headers", TextMap, Default("{}"), "Request headers, such as { Authorization = \"Bearer …\" }.")
            .secret(Secret::Whole),
        key(
            "events",
            Texts,
            Default("[]"),
            "The types of the events to publish, as the feed's `event:` has them (\"message\" where it has none); []: all.",
        ),
        key(
            "skip",
            TextMap,
            Default("{}"),
            "What not to publish: JSON pointers into the event's data, each with the string that is not wanted there, such as\n\
             { \"/meta/domain\" = \"canary\" }.",
        ),
        key(
            "topic",
            Text,
            Required,
            "The topic to publish to, in which {event} stands for the event's type, or a JSON pointer (\"/a/b\") into its data.",
        ),
        key(
            "id",
            Text,
            Default("\"\""),
            "A JSON pointer to the event's id; \"\": from the feed's own event id, so that nothing is published twice.",
        ),
        key("msg", Text, Default("\"\""), "A JSON pointer to what is published; \"\": the whole of the data."),
        PRIORITY,
        ON_MISSING,
    ],
};

static CHANGE_STREAM: Table = Table {
    keys: &[
        key(
            "kind",
            Plugin(registry::Seam::Source),
            Required,
            "change-stream: the changes of a MongoDB replica set, or of a sharded cluster.",
        ),
        key("name", Text, Required, "Its name, by which its resume token is stored; unique."),
        key(
            "uri",
            Text,
            Required,
            "How to connect, such as \"mongodb://user:password@host:27017/database?replicaSet=rs0&authSource=admin\".",
        )
        .secret(Secret::InUrl),
        key("database", Text, Absent, "The database to watch; without it, the one that the uri names."),
        key(
            "collection",
            TextOrTexts,
            Absent,
            "The collection to watch, or a list of them; without it, all of the database.",
        ),
        key(
            "topic",
            Text,
            Required,
            "The topic to publish to, or a JSON pointer into the change event, such as \"/ns/coll\". Events about gaps need a topic.",
        ),
        key(
            "id",
            Text,
            Default("\"\""),
            "A JSON pointer to the event's id; \"\": from the resume token, so that nothing is published twice. With\n\
             \"/documentKey/_id\" a newer change of a document replaces an older one that still waits.",
        ),
        key(
            "msg",
            Text,
            Default("\"\""),
            "A JSON pointer to what is published, such as \"/fullDocument\"; \"\": the whole change event. BSON becomes relaxed\n\
             extended JSON.",
        ),
        PRIORITY,
        ON_MISSING,
        key(
            "operations",
            Texts,
            Default("[\"insert\", \"update\", \"replace\", \"delete\"]"),
            "The operations to publish, by MongoDB's names; [\"*\"]: all, also those of later versions.",
        ),
        key(
            "on_lost_history",
            Word(&["fail", "restart"]),
            Default("\"fail\""),
            "When the oplog does not reach back to the resume token any more: \"fail\" stops the source and says so, \"restart\" goes\n\
             on from now and publishes an event that tells of the gap.",
        ),
        key(
            "full_document",
            Word(&["lookup", "when-available", "required", "off"]),
            Default("\"lookup\""),
            "How an update gets the whole document: \"lookup\" reads it now (it may be newer than the change), \"when-available\" and\n\
             \"required\" take the post-image that the collection keeps (changeStreamPreAndPostImages), \"off\" leaves it out.",
        ),
        key(
            "full_document_before_change",
            Word(&["off", "when-available", "required"]),
            Default("\"off\""),
            "Whether changes bring the document as it was before: the pre-image that the collection keeps.",
        ),
    ],
};

static PIPELINE: Table = Table {
    keys: &[
        key(
            "streams",
            Texts,
            Default("[\"http://localhost:4000/tweets/1\", \"http://localhost:4000/tweets/2\"]"),
            "The feeds to read: URLs, http or https.",
        )
        .secret(Secret::InUrl),
        key("autostart", Bool, Default("false"), "true: begin without waiting for the `twitter` command."),
        key(
            "console",
            Text,
            Default("\"127.0.0.1:8080\""),
            "Telnet here and type `twitter` to begin and to see the tweets; \"\": no console.",
        ),
        key("workers", Int(1, 10_000), Default("5"), "Each pool's size at the start."),
        key(
            "max_workers",
            Int(1, 10_000),
            Default("64"),
            "The size that no pool grows beyond. Workers that only compute need no more than there are cores; with\n\
             simulated_work_ms they sleep most of the time.",
        ),
        key(
            "autoscale",
            Bool,
            Default("true"),
            "Resize each pool every second: a worker for 5 events of that second and one more, and twice as many where events\n\
             had to wait.",
        ),
        key(
            "simulated_work_ms",
            Range,
            Default("[0, 0]"),
            "Milliseconds to sleep for each tweet, at random between the two, at most a minute.",
        ),
        key("batch_size", Int(1, 100_000), Default("200"), "Tweets in a batch."),
        key(
            "flush_ms",
            Int(1, DAY_MS),
            Default("3000"),
            "Milliseconds after which a batch that is not full is written.",
        ),
        key(
            "stats_ms",
            Int(1, DAY_MS),
            Default("5000"),
            "Milliseconds between two statistics, which go to the log and to the topics logger_stats, tweets_stats and users_stats.",
        ),
        key(
            "hashtags_file",
            Text,
            Default("\"hashtag_stats.json\""),
            "Where the counts of hashtags are written: one JSON object, the highest count first.",
        ),
        key(
            "dead_letter",
            Text,
            Default("\"pipeline.dead\""),
            "The topic for what can never be stored, with the reason.",
        ),
        key("sink", Shape::Table(&SINK), Always, "Where tweets, users and scores are stored."),
    ],
};

static SINK: Table = Table {
    keys: &[
        key("kind", Plugin(registry::Seam::Sink), Default("\"sqlite\""), "sqlite (embedded) | mongodb"),
        key("path", Text, Default("\"tweets.db\""), "sqlite: the file, made if it is not there."),
        key("uri", Text, Absent, "mongodb: the server and the database.").secret(Secret::InUrl),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `see` with each table there is.
    fn every_table(table: &'static Table, see: &mut impl FnMut(&'static Table)) {
        see(table);
        for key in table.keys {
            match &key.shape {
                Shape::Table(inner) | Patterns(inner) => every_table(inner, see),
                List(kinds) => kinds.iter().for_each(|(_, inner)| every_table(inner, see)),
                _ => {}
            }
        }
    }

    #[test]
    fn names_are_unique_and_tables_come_last() {
        every_table(&ROOT, &mut |table| {
            let mut seen = std::collections::BTreeSet::new();
            let mut tables = false;
            for key in table.keys {
                assert!(seen.insert(key.name), "{} twice", key.name);
                assert!(!key.doc.is_empty(), "{}", key.name);
                let is_table = matches!(key.shape, Shape::Table(_) | Patterns(_));
                let is_list = matches!(key.shape, List(_)) && matches!(key.presence, Absent);
                assert!(is_table || is_list || !tables, "{} stands behind a table", key.name);
                tables |= is_table;
            }
        });
    }
}

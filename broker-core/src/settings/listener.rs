//! Keys that transports with a listener of their own share. A transport puts those that it honours into its table.

use super::key::{DAY_MS, Key, Preset, Shape};

/// The address. Each transport gives it a default of its own.
pub const LISTEN: Key =
    Key::required("listen", Shape::Address, "The address to listen on; port 0 takes a free port, which the log names.");

/// The limit on connections.
pub const MAX_CONNECTIONS: Key = Key::with_default(
    "max_connections",
    Shape::Int(1, 1_000_000),
    Preset::Int(10_000),
    "The most connections at a time; one more is told that the server is full. Each takes an open file: see `ulimit -Hn`.",
);

/// The limit on silence.
pub const IDLE_TIMEOUT_MS: Key = Key::with_default(
    "idle_timeout_ms",
    Shape::Int(0, DAY_MS),
    Preset::Int(0),
    "Milliseconds without a byte from a client after which it is disconnected; 0: never. TCP keep-alive is on.",
);

/// The limit on a stalled write.
pub const WRITE_TIMEOUT_MS: Key = Key::with_default(
    "write_timeout_ms",
    Shape::Int(1, DAY_MS),
    Preset::Int(30_000),
    "Milliseconds without a byte accepted by a client that has output waiting, after which it is disconnected and its\n\
     events are delivered again.",
);

/// The limit on the time before the greeting.
pub const HANDSHAKE_TIMEOUT_MS: Key = Key::with_default(
    "handshake_timeout_ms",
    Shape::Int(1, DAY_MS),
    Preset::Int(10_000),
    "Milliseconds for everything before the greeting: TLS, the request for a WebSocket.",
);

/// The certificate and its key.
pub const TLS: Key = Key::optional(
    "tls",
    Shape::Table(TLS_KEYS),
    "TLS: tls = { cert = \"cert.pem\", key = \"key.pem\" }. SIGHUP reads both files again, for connections from then on.",
);

/// The keys of [`TLS`].
pub const TLS_KEYS: &[Key] = &[
    Key::required("cert", Shape::Text, "The certificate chain, a PEM file."),
    Key::required("key", Shape::Text, "Its private key, a PEM file."),
];

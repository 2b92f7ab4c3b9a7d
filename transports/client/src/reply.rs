//! Parses the broker's lines. Pure.
//!
//! The replies of a connection come in the order of its commands, with deliveries between them, and only deliveries are
//! JSON objects (on a connection that asks for no `stats`). So a line is told by its first word alone, and to whom it
//! belongs is a question of order: see `publish_task` and `window`.

use serde::Deserialize;

use crate::error::{Error, excerpt};
use crate::name::EventId;

/// The first line of every connection.
pub(crate) const GREETING: &str = "Successfully connected to message_broker";

/// How safe a confirmed event is. From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// A word this client does not know; a newer broker's.
    Unknown,
    /// In the broker's memory (durability `never`).
    Memory,
    /// With the operating system, synced soon (durability `interval`).
    Written,
    /// On disk (durability `always`).
    Synced,
}

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Taken.
    Published,
    /// Taken, in place of a waiting event with the same id. After a reconnect that may be this event's own first try.
    Replaced,
    /// Taken and dropped at once: the topic is full, its overflow policy is `drop-lowest`, and this event was the lowest.
    Dropped,
    /// Sent again after a reconnect, and the topic (`duplicate_id = "reject"`) answered that the id is there already:
    /// the first try had arrived.
    AlreadyThere,
}

/// The broker's word on one published event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confirmation {
    /// The event's id, also where the client made it.
    pub id: EventId,
    /// The outcome of the publish.
    pub outcome: Outcome,
    /// The level that the event has reached; `None` for [`Outcome::Dropped`], and for [`Outcome::AlreadyThere`], whose answer has
    /// none.
    pub level: Option<Level>,
}

/// One line, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// A JSON object.
    Object(&'a str),
    /// `published`, `replaced` or `dropped`.
    Confirmed {
        outcome: Outcome,
        topic: &'a str,
        id: &'a str,
        level: Option<Level>,
    },
    /// `no_event_error: <id>`, or `error: event <id> is no longer held here`, which answers its repetition.
    NoEvent(&'a str),
    /// `error: <reason>`.
    Error(&'a str),
    Pong,
    Bye,
    /// Anything else: success replies that need no telling apart, and what a newer broker may say.
    Other(&'a str),
}

impl<'a> Reply<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        if line.starts_with('{') {
            return Self::Object(line);
        }
        let no_longer =
            line.strip_prefix("error: event ").and_then(|rest| rest.strip_suffix(" is no longer held here"));
        if let Some(id) = line.strip_prefix("no_event_error: ").or(no_longer) {
            return Self::NoEvent(id);
        }
        if let Some(reason) = line.strip_prefix("error: ") {
            return Self::Error(reason);
        }
        match line {
            "pong" => Self::Pong,
            "bye" => Self::Bye,
            _ => parse_confirmation(line).unwrap_or(Self::Other(line)),
        }
    }
}

fn parse_confirmation(line: &str) -> Option<Reply<'_>> {
    let mut words = line.split(' ');
    let outcome = match words.next()? {
        "published" => Outcome::Published,
        "replaced" => Outcome::Replaced,
        "dropped" => Outcome::Dropped,
        _ => return None,
    };
    let (topic, id) = (words.next()?, words.next()?);
    let level = match (outcome, words.next()) {
        (Outcome::Dropped, _) => None,
        (_, Some("synced")) => Some(Level::Synced),
        (_, Some("written")) => Some(Level::Written),
        (_, Some("memory")) => Some(Level::Memory),
        (_, Some(_)) => Some(Level::Unknown),
        (_, None) => return None,
    };
    Some(Reply::Confirmed { outcome, topic, id, level })
}

/// The limit that a publish to `topic` met, if that is why it was refused.
pub(crate) fn full<'a>(reason: &'a str, topic: &str) -> Option<&'a str> {
    reason.strip_prefix("topic ")?.strip_prefix(topic)?.strip_prefix(" is full: ")
}

/// Why the broker's storage takes nothing, if that is why a publish was refused.
#[cfg(feature = "remote")]
pub(crate) fn out_of_service(reason: &str) -> Option<&str> {
    reason.strip_prefix("storage is out of service: ")
}

/// Whether the limit for which a topic is full is one that the event can never meet.
#[cfg(feature = "remote")]
pub(crate) fn never_fits(limit: &str) -> bool {
    limit.starts_with("an event of ") && limit.contains(" never fits into ")
}

/// Whether a publish was refused because its id waits already.
pub(crate) fn is_duplicate(reason: &str) -> bool {
    reason.starts_with("duplicate id ")
}

/// The broker's description of itself, in its answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServerInfo {
    /// `herald`.
    #[serde(default)]
    pub server: String,
    /// The broker's version.
    #[serde(default)]
    pub version: String,
    /// The protocol's version; always 1, or there is no connection.
    pub protocol: u64,
    /// The broker's name for this connection, as in its logs.
    #[serde(default)]
    pub session: String,
    /// The longest line the broker takes, its ending not counted.
    #[serde(default = "default_max_line_bytes")]
    pub max_line_bytes: usize,
    /// The longest delivery the broker makes, its ending not counted. `None`: the broker does not say.
    #[serde(default)]
    pub max_output_line_bytes: Option<usize>,
}

impl ServerInfo {
    /// The bytes that a delivery may add to a published event, of a broker that does not tell its limit.
    const ADDED: usize = 64 * 1024;

    /// The longest line that is taken from this broker by a client that takes `least` from any.
    pub(crate) fn longest_line(&self, least: usize) -> usize {
        let longest = self.max_output_line_bytes.unwrap_or_else(|| self.max_line_bytes.saturating_add(Self::ADDED));
        longest.min(MAX_LINE_BYTES).max(least)
    }
}

/// The longest line that any broker may announce: twice what Herald's configuration allows.
pub(crate) const MAX_LINE_BYTES: usize = 128 * 1024 * 1024;

/// The longest line of a broker that does not tell its limit, as the protocol defines it.
pub(crate) fn default_max_line_bytes() -> usize {
    1024 * 1024
}

/// Takes the answer to `hello`.
pub(crate) fn parse_hello(line: &str) -> Result<ServerInfo, Error> {
    if let Some(reason) = line.strip_prefix("error: ") {
        return Err(handshake_error(reason));
    }
    let info: ServerInfo = line
        .strip_prefix("hello ")
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| Error::Protocol(format!("expected an answer to hello, got \"{}\"", excerpt(line))))?;
    if info.protocol != 1 {
        return Err(Error::Protocol(format!("the broker speaks version {}, this client version 1", info.protocol)));
    }
    Ok(info)
}

/// Sorts an error that comes in place of the greeting or of the answer to `hello`.
pub(crate) fn handshake_error(reason: &str) -> Error {
    let owned = || reason.to_owned();
    if reason.starts_with("authentication") {
        Error::Auth { reason: owned() }
    } else if reason.starts_with("server is full") || reason.starts_with("too many failed authentications") {
        Error::ServerFull { reason: owned() }
    } else if reason.starts_with("this port speaks TLS") {
        Error::Protocol("the port may speak TLS: use tls:// or wss://".to_owned())
    } else if reason.starts_with("unknown command") {
        // The reference broker, for one: no hello, so no confirmations and no prefetch either.
        Error::Protocol(format!("the broker does not know hello: {}", excerpt(reason)))
    } else {
        Error::Refused { reason: owned() }
    }
}

/// `subscription "<name>" of topic <topic> was removed`: the one error that answers no command. The name is quoted,
/// perhaps cut, so only what is around it is compared; no other error has that form.
pub(crate) fn is_removal(reason: &str, topic: &str) -> bool {
    reason
        .strip_prefix("subscription \"")
        .and_then(|rest| rest.strip_suffix(" was removed"))
        .and_then(|rest| rest.strip_suffix(topic))
        .is_some_and(|rest| rest.ends_with("\" of topic "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_told_by_its_beginning() {
        for (line, reply) in [
            (
                "published t 1 synced",
                Reply::Confirmed { outcome: Outcome::Published, topic: "t", id: "1", level: Some(Level::Synced) },
            ),
            (
                "replaced t é memory",
                Reply::Confirmed { outcome: Outcome::Replaced, topic: "t", id: "é", level: Some(Level::Memory) },
            ),
            ("dropped t 1", Reply::Confirmed { outcome: Outcome::Dropped, topic: "t", id: "1", level: None }),
            (
                "published t 1 replicated",
                Reply::Confirmed { outcome: Outcome::Published, topic: "t", id: "1", level: Some(Level::Unknown) },
            ),
            ("published t 1", Reply::Other("published t 1")),
            ("published", Reply::Other("published")),
            ("no_event_error: 7", Reply::NoEvent("7")),
            ("error: event 7 is no longer held here", Reply::NoEvent("7")),
            ("error: not a topic t subscriber", Reply::Error("not a topic t subscriber")),
            ("error: no_event_error: 7", Reply::Error("no_event_error: 7")),
            ("pong", Reply::Pong),
            ("bye", Reply::Bye),
            ("no available message", Reply::Other("no available message")),
            ("hello {}", Reply::Other("hello {}")),
            ("", Reply::Other("")),
            ("{}", Reply::Object("{}")),
        ] {
            assert_eq!(Reply::parse(line), reply);
        }
    }

    #[test]
    fn hello_is_read_and_what_is_none_is_sorted() {
        let line =
            r#"hello {"server":"herald","version":"1.2","protocol":1,"session":"s","max_line_bytes":99,"new":[]}"#;
        let info = parse_hello(line).unwrap();
        assert_eq!((info.version.as_str(), info.max_line_bytes), ("1.2", 99));
        assert_eq!(info.longest_line(10), 99 + ServerInfo::ADDED, "of a broker that does not say");
        for (line, expected) in [
            ("error: authentication failed", "Auth"),
            ("error: authentication required", "Auth"),
            ("error: server is full: 3 connections", "ServerFull"),
            ("error: too many failed authentications from this address: try again later", "ServerFull"),
            ("error: unknown command: \"hello {}\"", "Protocol"),
            ("error: hello: prefetch: …", "Refused"),
            (r#"hello {"protocol":2}"#, "Protocol"),
            (r#"hello {"protocol":-1}"#, "Protocol"),
            ("hello", "Protocol"),
            ("HTTP/1.1 400 Bad Request", "Protocol"),
        ] {
            let error = parse_hello(line).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{line}: {error:?}");
        }
    }

    #[test]
    fn a_removal_is_told_from_other_errors() {
        assert!(is_removal("subscription \"s\" of topic t was removed", "t"));
        assert!(is_removal("subscription \"aaa…\" of topic t was removed", "t"));
        for other in [
            "subscription \"s\" of topic tt was removed",
            "subscription \"s\" of topic t was refused",
            "not a topic t subscriber",
            "subscription \"",
        ] {
            assert!(!is_removal(other, "t"), "{other}");
        }
    }
}

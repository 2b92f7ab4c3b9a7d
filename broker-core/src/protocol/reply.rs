//! The texts of replies, in one place. None begins as a delivery does, with `{"topic":`, so that a client can tell them apart.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};

use crate::engine::Refusal;
use crate::event::write_json_string;
use crate::name::{SubscriptionName, TopicName};
use crate::protocol::command::CommandError;

/// The greeting: the first line that a client gets.
pub const GREETING: &str = "Successfully connected to message_broker";

/// The ending of every line that the broker sends.
pub const LINE_END: &[u8] = b"\r\n";

/// The number of characters of a client's line that an error quotes, at most.
const QUOTED: usize = 80;

/// Writes a line with its ending.
pub fn line(out: &mut BytesMut, text: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = write!(out, "{text}");
    out.put_slice(LINE_END);
}

/// Quotes `text` as a JSON string, cut to 80 characters and `…`.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = Vec::new();
    match text.char_indices().nth(QUOTED) {
        Some((at, _)) => write_json_string(&mut out, &format!("{}…", &text[..at])),
        None => write_json_string(&mut out, text),
    }
    String::from_utf8(out).expect("escaping keeps UTF-8")
}

/// A line that is not a valid command.
pub fn command_error(out: &mut BytesMut, error: &CommandError<'_>) {
    match error {
        CommandError::Unknown(text) => {
            line(out, format_args!("error: unknown command: {}; type help for the commands", quote(text)));
        }
        CommandError::Usage(form) => line(out, format_args!("error: usage: {form}")),
        CommandError::Topic(name, why) => line(out, format_args!("error: invalid topic name {}: {why}", quote(name))),
        CommandError::Subscription(name, why) => {
            line(out, format_args!("error: invalid subscription name {}: {why}", quote(name)));
        }
        CommandError::Count(count, most) => {
            line(
                out,
                format_args!("error: invalid number of events {}: expected an integer from 1 to {most}", quote(count)),
            );
        }
        CommandError::Position(position) => {
            line(
                out,
                format_args!(
                    "error: invalid position {}: expected start, or what end of peek says after the word after",
                    quote(position)
                ),
            );
        }
        CommandError::Delay(delay) => {
            line(
                out,
                format_args!(
                    "error: invalid delay {}: expected milliseconds, an integer from 0 to 9007199254740991",
                    quote(delay)
                ),
            );
        }
    }
}

/// A line that was too long.
pub fn line_too_long(out: &mut BytesMut, limit: usize) {
    line(out, format_args!("error: line exceeds {limit} bytes"));
}

/// A line that is not valid UTF-8.
pub fn not_utf8(out: &mut BytesMut) {
    line(out, "error: line is not valid UTF-8");
}

/// A malformed event.
pub fn invalid_event(out: &mut BytesMut, reason: &str) {
    line(out, format_args!("error: event is not of an accepted format: {reason}"));
}

/// A malformed `hello`.
pub fn invalid_hello(out: &mut BytesMut, reason: &str) {
    line(out, format_args!("error: hello: {reason}"));
}

/// A command before the token that is required.
pub fn authentication_required(out: &mut BytesMut) {
    line(out, "error: authentication required");
}

/// A wrong token.
pub fn authentication_failed(out: &mut BytesMut) {
    line(out, "error: authentication failed");
}

/// A token that is not checked, because too many wrong ones have come from the client's address.
pub fn too_many_attempts(out: &mut BytesMut) {
    line(out, "error: too many failed authentications from this address: try again later");
}

/// The client's token or its rights have changed.
pub fn rights_changed(out: &mut BytesMut) {
    line(out, "error: tokens have changed: connect again");
}

/// A command that the client's token does not allow; `what` is its verb.
pub fn not_allowed(out: &mut BytesMut, what: &str, topic: &TopicName) {
    line(out, format_args!("error: not allowed to {what} topic {topic}"));
}

/// A request that the engine has refused.
pub fn refused(out: &mut BytesMut, refusal: &Refusal) {
    line(out, format_args!("error: {refusal}"));
}

/// An event whose id is waiting already, where the topic's policy refuses duplicates.
pub fn duplicate_id(out: &mut BytesMut, id: &str) {
    line(out, format_args!("error: duplicate id {id}"));
}

/// The durable subscription that the client was attached to has been removed by another client.
pub fn removed(out: &mut BytesMut, topic: &TopicName, subscription: &SubscriptionName) {
    line(out, format_args!("error: subscription \"{subscription}\" of topic {topic} was removed"));
}

/// The engine has reopened its storage, and no longer knows this connection.
pub fn engine_gone(out: &mut BytesMut) {
    line(out, "error: the storage was opened again after a failure; what was confirmed is there: connect again");
}

/// The limit of connections is reached.
pub fn server_full(out: &mut BytesMut, connections: usize) {
    line(out, format_args!("error: server is full: {connections} connections"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_a_json_string_of_at_most_80_characters() {
        assert_eq!(quote("a\"b\t"), r#""a\"b\t""#);
        assert_eq!(quote(&"ä".repeat(80)), format!("\"{}\"", "ä".repeat(80)));
        assert_eq!(quote(&"ä".repeat(81)), format!("\"{}…\"", "ä".repeat(80)));
    }
}

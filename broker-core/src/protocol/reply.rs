//! Every text that the broker says, in one place. None of them begins as a delivery does, with `{"topic":`.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};

use crate::engine::Refusal;
use crate::event::write_json_string;
use crate::name::{SubscriptionName, TopicName};
use crate::protocol::command::CommandError;

/// The first thing that a client gets.
pub const GREETING: &str = "Successfully connected to message_broker";

/// How every line of the broker ends.
pub const LINE_END: &[u8] = b"\r\n";

/// The most characters of a client's words that an error quotes.
const QUOTED: usize = 80;

/// Writes a line with its ending.
pub fn line(out: &mut BytesMut, text: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = write!(out, "{text}");
    out.put_slice(LINE_END);
}

/// `text` as a JSON string, cut after 80 characters with `…`.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = Vec::new();
    match text.char_indices().nth(QUOTED) {
        Some((at, _)) => write_json_string(&mut out, &format!("{}…", &text[..at])),
        None => write_json_string(&mut out, text),
    }
    String::from_utf8(out).expect("escaping keeps UTF-8")
}

/// What is wrong with a line.
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

/// A line that is not text.
pub fn not_utf8(out: &mut BytesMut) {
    line(out, "error: line is not valid UTF-8");
}

/// An event that cannot be accepted.
pub fn invalid_event(out: &mut BytesMut, reason: &str) {
    line(out, format_args!("error: event is not of an accepted format: {reason}"));
}

/// A `hello` that cannot be accepted.
pub fn invalid_hello(out: &mut BytesMut, reason: &str) {
    line(out, format_args!("error: hello: {reason}"));
}

/// A token has to be given first.
pub fn authentication_required(out: &mut BytesMut) {
    line(out, "error: authentication required");
}

/// The token is wrong.
pub fn authentication_failed(out: &mut BytesMut) {
    line(out, "error: authentication failed");
}

/// Too many wrong tokens have come from the client's address.
pub fn too_many_attempts(out: &mut BytesMut) {
    line(out, "error: too many failed authentications from this address: try again later");
}

/// The token that the client gave is no longer what it was.
pub fn rights_changed(out: &mut BytesMut) {
    line(out, "error: tokens have changed: connect again");
}

/// The client's token is not good for that.
pub fn not_allowed(out: &mut BytesMut, what: &str, topic: &TopicName) {
    line(out, format_args!("error: not allowed to {what} topic {topic}"));
}

/// A request that the engine refused.
pub fn refused(out: &mut BytesMut, refusal: &Refusal) {
    line(out, format_args!("error: {refusal}"));
}

/// An id that waits already, where the topic's policy is to refuse it.
pub fn duplicate_id(out: &mut BytesMut, id: &str) {
    line(out, format_args!("error: duplicate id {id}"));
}

/// The durable subscription that a client was attached to was removed by another.
pub fn removed(out: &mut BytesMut, topic: &TopicName, subscription: &SubscriptionName) {
    line(out, format_args!("error: subscription \"{subscription}\" of topic {topic} was removed"));
}

/// The engine has begun anew, and knows nothing of this connection.
pub fn engine_gone(out: &mut BytesMut) {
    line(out, "error: the storage was opened again after a failure; what was confirmed is there: connect again");
}

/// As many connections as are allowed are open.
pub fn server_full(out: &mut BytesMut, connections: usize) {
    line(out, format_args!("error: server is full: {connections} connections"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_a_json_string_of_at_most_80_characters() {
        assert_eq!(quote("a\"b\t"), r#""a\"b\t""#);
        assert_eq!(quote(&"ä".repeat(80)), format!("\"{}\"", "ä".repeat(80)));
        assert_eq!(quote(&"ä".repeat(81)), format!("\"{}…\"", "ä".repeat(80)));
    }
}

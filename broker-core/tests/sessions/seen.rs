//! The output of the connections in one step. The model removes from it what it predicts; the rest is a failure.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde_json::Value;

/// An expected reply, as far as the protocol defines it.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// The whole line.
    Line(String),
    /// The beginning of the line.
    Begins(String),
    /// One line of JSON, see [`Expect::accepts`].
    Json(Value),
}

impl Expect {
    pub(crate) fn line(text: impl Into<String>) -> Self {
        Self::Line(text.into())
    }

    /// Lines are compared literally. In JSON, keys that are not expected are ignored.
    fn accepts(&self, seen: &str, epoch: &mut Option<u64>) -> bool {
        match self {
            Self::Line(line) => same(line, seen, epoch),
            Self::Begins(beginning) => seen.starts_with(beginning),
            Self::Json(expected) => serde_json::from_str(seen).is_ok_and(|seen| same_json(expected, &seen)),
        }
    }
}

fn same_json(expected: &Value, seen: &Value) -> bool {
    match (expected, seen) {
        (Value::Object(expected), Value::Object(seen)) => {
            expected.iter().all(|(key, value)| seen.get(key).is_some_and(|seen| same_json(value, seen)))
        }
        (Value::Array(expected), Value::Array(seen)) => {
            expected.len() == seen.len() && expected.iter().zip(seen).all(|(expected, seen)| same_json(expected, seen))
        }
        _ => expected == seen,
    }
}

/// The offset between the model's clock, which starts at 0, and the broker's. The first dead letter reveals it.
fn same(expected: &str, seen: &str, epoch: &mut Option<u64>) -> bool {
    let parts = |line: &str| {
        let (before, rest) = line.split_once(r#","at":"#)?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        Some((before.to_owned(), rest[..end].parse::<u64>().ok()?, rest[end..].to_owned()))
    };
    match (parts(expected), parts(seen)) {
        (Some((before, at, after)), Some((seen_before, seen_at, seen_after))) => {
            before == seen_before && after == seen_after && *epoch.get_or_insert(seen_at - at) == seen_at - at
        }
        _ => expected == seen,
    }
}

/// The output of one connection.
#[derive(Debug, Default)]
struct Lines {
    replies: VecDeque<String>,
    /// Deliveries by topic, in order.
    deliveries: VecDeque<(String, String)>,
    /// All lines in order, for reports.
    all: Vec<String>,
}

/// The output of all connections.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    connections: Vec<Lines>,
    pub(crate) epoch: Option<u64>,
}

impl Seen {
    pub(crate) fn new(lines: Vec<Vec<String>>, epoch: Option<u64>) -> Self {
        let connections = lines.into_iter().map(|all| {
            let mut lines = Lines { all: all.clone(), ..Lines::default() };
            // Nothing is deliverable once the broker has settled, so no line that a peek shows is a delivery.
            let looked = all.iter().position(|line| line == "end of peek").unwrap_or(0);
            for (at, line) in all.into_iter().enumerate() {
                match line.strip_prefix(r#"{"topic":""#).and_then(|rest| rest.split_once('"')) {
                    Some((topic, _)) if at >= looked => lines.deliveries.push_back((topic.to_owned(), line)),
                    _ => lines.replies.push_back(line),
                }
            }
            lines
        });
        Self { connections: connections.collect(), epoch }
    }

    /// Removes the next reply of a connection, which must be the expected one.
    pub(crate) fn reply(&mut self, connection: usize, expected: &Expect) -> Result<(), String> {
        let seen = self.connections[connection].replies.pop_front();
        match seen {
            Some(seen) if expected.accepts(&seen, &mut self.epoch) => Ok(()),
            seen => Err(format!("connection {connection}: expected\n  {expected:?}\nbut received\n  {seen:?}")),
        }
    }

    /// The id that the broker gave to an event without one, according to the next reply; empty if that is not a confirmation.
    pub(crate) fn assigned_id(&self, connection: usize) -> String {
        let confirmation = self.connections[connection].replies.front();
        let id = confirmation.and_then(|line| line.split(' ').nth(2)).unwrap_or_default();
        let is_uuid = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_uuid { id.to_owned() } else { String::new() }
    }

    /// Removes the next delivery of a connection from the line's topic if it is `line`. Returns whether it was.
    pub(crate) fn take_delivery(&mut self, connection: usize, topic: &str, line: &str) -> bool {
        let deliveries = &mut self.connections[connection].deliveries;
        let Some(at) = deliveries.iter().position(|(of, _)| of == topic) else { return false };
        if !same(line, &deliveries[at].1, &mut self.epoch) {
            return false;
        }
        deliveries.remove(at);
        true
    }

    /// Checks that a reply to a connection came before its first delivery from `topic`.
    pub(crate) fn comes_first(&self, connection: usize, reply: &str, topic: &str) -> Result<(), String> {
        let begins = format!(r#"{{"topic":"{topic}""#);
        let all = &self.connections[connection].all;
        match all.iter().find(|line| *line == reply || line.starts_with(&begins)) {
            Some(line) if line == reply => Ok(()),
            other => Err(format!("connection {connection}: expected first\n  {reply}\nbut received\n  {other:?}")),
        }
    }

    /// Checks that all replies to a connection came before its first delivery from `topic`.
    pub(crate) fn replies_come_first(&self, connection: usize, topic: &str) -> Result<(), String> {
        let all = &self.connections[connection].all;
        let begins = format!(r#"{{"topic":"{topic}""#);
        let first = all.iter().position(|line| line.starts_with(&begins)).unwrap_or(all.len());
        let is_reply = |line: &String| !line.starts_with(r#"{"topic":""#) && !line.ends_with("was removed");
        if all.iter().rposition(is_reply).is_some_and(|last| last > first) {
            return Err(format!("connection {connection} got a delivery before the answer that it follows"));
        }
        Ok(())
    }

    /// Checks that no output is left.
    pub(crate) fn is_explained(&self) -> Result<(), String> {
        for (connection, lines) in self.connections.iter().enumerate() {
            if let Some(reply) = lines.replies.front() {
                return Err(format!("connection {connection}: unexpected reply\n  {reply}"));
            }
            if let Some((_, line)) = lines.deliveries.front() {
                return Err(format!("connection {connection}: unexpected delivery\n  {line}"));
            }
        }
        Ok(())
    }

    /// All output, for reports.
    pub(crate) fn describe(lines: &[Vec<String>]) -> String {
        let mut out = String::new();
        for (connection, lines) in lines.iter().enumerate() {
            for line in lines {
                let _ = writeln!(out, "    {connection} < {line}");
            }
        }
        out
    }
}

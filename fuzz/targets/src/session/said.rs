//! Checks the lines that a connection was told: the form of each, and everything that follows from their order alone.

use std::collections::VecDeque;

use broker_core::name::{SubscriptionName, TopicName, check_event_id};
use broker_core::protocol::command::{Command, CommandError, CommandWords, parse};
use broker_core::protocol::framer::{Frame, Framer};
use broker_core::protocol::help;
use bytes::BytesMut;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// How a reply begins that is one line of text.
const REPLIES: [&str; 21] = [
    "error: ",
    "successfully subscribed to topic ",
    "successfully unsubscribe from topic ",
    "detached from topic ",
    "acknowledged from logs ev_id=",
    "acknowledged ",
    "no available message",
    "no_event_error: ",
    "requeued ev_id=",
    "touched ev_id=",
    "terminated ev_id=",
    "published ",
    "replaced ",
    "dropped ",
    "end of peek",
    "purged ",
    "redriven ",
    "hello {",
    "pong",
    "bye",
    "Successfully connected to message_broker",
];

/// A reply that follows from the client's line alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certain {
    Pong,
    Bye,
    Topics,
    Stats,
    Unknown,
    TooLong,
    NotUtf8,
    BadName,
    EndOfHelp,
}

/// A delivery, or what `peek` shows.
#[derive(Deserialize)]
struct Delivery<'a> {
    topic: String,
    priority: i32,
    #[serde(borrow)]
    msg: &'a RawValue,
    id: String,
    redelivered: Option<u32>,
    dead: Option<Dead>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dead {
    topic: String,
    subscription: Option<String>,
    reason: String,
    #[serde(rename = "deliveries")]
    _deliveries: u32,
    #[serde(rename = "at")]
    _at: u64,
    #[serde(rename = "note")]
    _note: Option<String>,
}

/// The expected and the received lines of one connection.
pub(crate) struct Said {
    /// Finds the client's lines, as the session does.
    framer: Framer,
    words: CommandWords,
    quit: bool,
    /// The answers that are due; `None` where the client's lines are unknown.
    due: Option<VecDeque<Certain>>,
    /// The broker's bytes since its last whole line.
    unfinished: Vec<u8>,
    help: Vec<String>,
    /// The number of lines of help received so far.
    helped: usize,
}

impl Said {
    pub(crate) fn new(max_line: usize) -> Self {
        let words = CommandWords::default();
        let mut out = BytesMut::new();
        help::write(&mut out, &words);
        let help = String::from_utf8(out.to_vec()).expect("help is text");
        Self {
            framer: Framer::new(max_line),
            words,
            quit: false,
            due: Some(VecDeque::new()),
            unfinished: Vec::new(),
            help: help.lines().map(str::to_owned).collect(),
            helped: 0,
        }
    }

    /// The same for a connection whose client's lines are unknown.
    pub(crate) fn to_whom_it_may_concern(max_line: usize) -> Self {
        Self { due: None, ..Self::new(max_line) }
    }

    /// Takes what the client sends.
    pub(crate) fn client(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        // A read is taken in parts: up to each telnet command that wants an answer.
        while !input.is_empty() {
            self.framer.push(&mut input);
            self.lines();
            let pongs = self.framer.take_answers().map_or(0, |answers| answers.pongs);
            if !self.quit {
                self.due.iter_mut().for_each(|all| all.extend((0..pongs).map(|_| Certain::Pong)));
            }
        }
    }

    /// Notes the replies due to the lines that the framer has.
    fn lines(&mut self) {
        while let Some(frame) = self.framer.next_frame() {
            if self.quit {
                continue;
            }
            let due = match &frame {
                Frame::TooLong => Certain::TooLong,
                Frame::NotUtf8 => Certain::NotUtf8,
                Frame::Line(line) => match parse(line, &self.words, &mut None) {
                    Ok(Command::Ping) => Certain::Pong,
                    Ok(Command::Help) => Certain::EndOfHelp,
                    Ok(Command::Topics) => Certain::Topics,
                    Ok(Command::Stats { topic: None }) => Certain::Stats,
                    Ok(Command::Quit) => {
                        self.quit = true;
                        Certain::Bye
                    }
                    Err(CommandError::Unknown(_)) => Certain::Unknown,
                    Err(CommandError::Topic(..) | CommandError::Subscription(..)) => Certain::BadName,
                    _ => continue,
                },
            };
            self.due.iter_mut().for_each(|all| all.push_back(due));
        }
    }

    /// Takes what the broker sends.
    pub(crate) fn broker(&mut self, bytes: &[u8]) {
        self.unfinished.extend_from_slice(bytes);
        // Answers to telnet's options stand between lines or inside of one. No text has the byte that they begin with.
        while let Some(at) =
            self.unfinished.iter().position(|byte| *byte == 0xff).filter(|at| at + 3 <= self.unfinished.len())
        {
            let option: Vec<u8> = self.unfinished.drain(at..at + 3).collect();
            assert!((251..=254).contains(&option[1]), "an answer to an option: {option:?}");
        }
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            let line = std::str::from_utf8(&line).expect("the broker says text");
            self.line(line.strip_suffix("\r\n").expect("its lines end with CRLF"));
        }
    }

    /// Nothing is due any more.
    pub(crate) fn is_answered(&self) {
        assert!(self.unfinished.is_empty(), "every line is ended");
        assert!(self.due.as_ref().is_none_or(VecDeque::is_empty), "{:?} were not answered", self.due);
    }

    fn line(&mut self, line: &str) {
        if line.starts_with(r#"{"topic":"#) {
            return delivery(line);
        }
        // An id that a client made up is said back to it as it came, whatever is in it.
        let echo =
            ["no_event_error: ", "error: duplicate id ", "error: event "].iter().any(|start| line.starts_with(start));
        assert!(echo || !line.contains(|c: char| c < ' '), "a control character: {line:?}");
        if self.helped > 0 || self.help.first().is_some_and(|first| first == line) {
            assert_eq!(line, self.help[self.helped], "help comes in one piece");
            self.helped += 1;
            if self.helped == self.help.len() {
                self.helped = 0;
                self.is_due(Certain::EndOfHelp, line);
            }
            return;
        }
        let certain = if line == "pong" {
            Certain::Pong
        } else if line == "bye" {
            Certain::Bye
        } else if line.starts_with("error: unknown command: ") {
            Certain::Unknown
        } else if line.starts_with("error: line exceeds ") {
            Certain::TooLong
        } else if line == "error: line is not valid UTF-8" {
            Certain::NotUtf8
        } else if line.starts_with("error: invalid topic name ")
            || line.starts_with("error: invalid subscription name ")
        {
            Certain::BadName
        } else if line.starts_with('[') {
            let topics: Value = serde_json::from_str(line).expect("topics are JSON");
            assert!(topics.as_array().is_some_and(|topics| topics.iter().all(|topic| topic["topic"].is_string())));
            Certain::Topics
        } else if line.starts_with(r#"{"version":"#) {
            let stats: Value = serde_json::from_str(line).expect("stats are JSON");
            assert!(stats["topics"].is_array(), "{line}");
            // Those of one topic may be refused instead.
            match self.due.as_ref().and_then(VecDeque::front) {
                Some(Certain::Stats) => Certain::Stats,
                _ => return,
            }
        } else {
            let known = REPLIES.iter().any(|reply| line.starts_with(reply));
            return assert!(known, "the protocol has no such line: {line:?}");
        };
        self.is_due(certain, line);
    }

    fn is_due(&mut self, certain: Certain, line: &str) {
        let Some(all) = &mut self.due else { return };
        let due = all.pop_front();
        assert_eq!(due, Some(certain), "replies come in the order of their commands: {line:?}");
    }
}

fn delivery(line: &str) {
    // Blanks of JSON may be in a message, which is handed on byte for byte.
    assert!(!line.contains(|c: char| c < ' ' && c != '\t' && c != '\r'), "a control character: {line:?}");
    let read: Delivery<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(TopicName::new(&read.topic).is_ok(), "{line}");
    assert!(check_event_id(&read.id).is_ok(), "{line}");
    assert_ne!(read.redelivered, Some(0), "{line}");
    let mut expected = format!(
        r#"{{"topic":"{}","priority":{},"msg":{},"id":{}"#,
        read.topic,
        read.priority,
        read.msg.get(),
        serde_json::to_string(&read.id).expect("a string is JSON")
    );
    if let Some(times) = read.redelivered {
        expected.push_str(&format!(r#","redelivered":{times}"#));
    }
    match &read.dead {
        None => assert_eq!(line, format!("{expected}}}"), "its keys are in order, with nothing between"),
        Some(dead) => {
            assert!(line.starts_with(&format!(r#"{expected},"dead":{{"topic":"{}""#, dead.topic)), "{line}");
            assert!(TopicName::new(&dead.topic).is_ok(), "{line}");
            // Null stands for a subscription that belongs to its connection.
            assert!(dead.subscription.iter().all(|name| SubscriptionName::new(name).is_ok()), "{line}");
            let reasons = ["max_deliveries", "terminated", "expired", "overflow"];
            assert!(reasons.contains(&dead.reason.as_str()), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether what the broker says to a client is found wrong.
    fn is_wrong(client: &str, broker: &str) -> bool {
        let check = || {
            let mut said = Said::new(300);
            said.client(client.as_bytes());
            said.broker(broker.as_bytes());
            said.is_answered();
        };
        std::panic::catch_unwind(check).is_err()
    }

    #[test]
    fn what_the_protocol_does_not_say_is_found() {
        let good = r#"{"topic":"a","priority":1,"msg":[1, 2],"id":"x","redelivered":1}"#;
        assert!(!is_wrong("", &format!("{good}\r\n")));
        for line in [
            r#"{"topic":"a","priority":1,"id":"x","msg":[1, 2]}"#,
            r#"{"topic":"a", "priority":1,"msg":1,"id":"x"}"#,
            r#"{"topic":"a","priority":1,"msg":1,"id":"x","redelivered":0}"#,
            r#"{"topic":"a","priority":1,"msg":1,"id":"x y"}"#,
            r#"{"topic":"a","priority":1,"msg":1,"id":"x""#,
            "something else",
            "error: a bell \u{7}",
            "no end",
            "pong",
        ] {
            let end = if line == "no end" { "" } else { "\r\n" };
            assert!(is_wrong("", &format!("{line}{end}")), "{line}");
        }
        assert!(!is_wrong("ping\nwhat\n", "pong\r\nerror: unknown command: \"what\"; type help\r\n"));
        assert!(is_wrong("what\nping\n", "pong\r\nerror: unknown command: \"what\"; type help\r\n"));
        assert!(is_wrong("ping\nping\n", "pong\r\n"));
    }
}

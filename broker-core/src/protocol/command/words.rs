//! The words that name commands: fixed ones, and four short forms that the configuration can change.

use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Publish,
    Subscribe,
    Unsubscribe,
    Detach,
    Acknowledge,
    Nack,
    Touch,
    Terminate,
    Peek,
    Redrive,
    Purge,
    Hello,
    Topics,
    Stats,
    Help,
    Ping,
    Quit,
}

/// The words that the configuration cannot change.
const FIXED: [(&str, Verb); 17] = [
    ("publish", Verb::Publish),
    ("subscribe", Verb::Subscribe),
    ("unsubscribe", Verb::Unsubscribe),
    ("acknowledge", Verb::Acknowledge),
    ("detach", Verb::Detach),
    ("nack", Verb::Nack),
    ("touch", Verb::Touch),
    ("term", Verb::Terminate),
    ("peek", Verb::Peek),
    ("redrive", Verb::Redrive),
    ("purge", Verb::Purge),
    ("hello", Verb::Hello),
    ("topics", Verb::Topics),
    ("stats", Verb::Stats),
    ("help", Verb::Help),
    ("ping", Verb::Ping),
    ("quit", Verb::Quit),
];

/// Every fixed word: one for each command.
#[cfg(test)]
pub(crate) fn fixed_words() -> impl Iterator<Item = &'static str> {
    FIXED.iter().map(|(word, _)| *word)
}

/// The configurable short forms of four commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandWords {
    /// `pub`.
    pub publish: String,
    /// `sub`.
    pub subscribe: String,
    /// `unsub`.
    pub unsubscribe: String,
    /// `ack`.
    pub acknowledge: String,
}

impl Default for CommandWords {
    fn default() -> Self {
        Self { publish: "pub".into(), subscribe: "sub".into(), unsubscribe: "unsub".into(), acknowledge: "ack".into() }
    }
}

impl CommandWords {
    /// Checks that the words are valid, distinct, and different from the fixed ones.
    ///
    /// # Errors
    /// For each invalid word, its key and a text.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let words = [
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("unsubscribe", &self.unsubscribe),
            ("acknowledge", &self.acknowledge),
        ];
        let mut seen: HashMap<String, &str> = HashMap::new();
        let mut problems = Vec::new();
        for (key, word) in words {
            let lower = word.to_ascii_lowercase();
            if word.is_empty() || word.len() > 32 || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
                problems.push((
                    key,
                    format!("{word:?} is not a command word: 1 to 32 printable characters without blanks"),
                ));
            } else if FIXED.iter().any(|(fixed, _)| *fixed == lower && *fixed != key) {
                problems.push((key, format!("{word:?} is a command already")));
            } else if let Some(other) = seen.insert(lower, key) {
                problems.push((key, format!("{word:?} is the word for {other} already")));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(super) fn verb(&self, word: &str) -> Option<Verb> {
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        if is(&self.publish) {
            Some(Verb::Publish)
        } else if is(&self.acknowledge) {
            Some(Verb::Acknowledge)
        } else if is(&self.subscribe) {
            Some(Verb::Subscribe)
        } else if is(&self.unsubscribe) {
            Some(Verb::Unsubscribe)
        } else {
            FIXED.iter().find(|(fixed, _)| is(fixed)).map(|(_, verb)| *verb)
        }
    }

    pub(super) fn usage(&self, verb: Verb) -> String {
        match verb {
            Verb::Publish => format!("{} <topic> <event>", self.publish),
            Verb::Subscribe => format!("{} <topic> [<name>]", self.subscribe),
            Verb::Unsubscribe => format!("{} <topic> [<name>]", self.unsubscribe),
            Verb::Detach => "detach <topic>".into(),
            Verb::Acknowledge => format!("{0} <topic> <id> [<id> …] or {0} <topic> *", self.acknowledge),
            Verb::Nack => "nack <topic> <id> [<delay_ms>]".into(),
            Verb::Touch => "touch <topic> <id>".into(),
            Verb::Terminate => "term <topic> <id> [<reason …>]".into(),
            Verb::Peek => "peek <topic> [<subscription>] [<n>] [after <position>]".into(),
            Verb::Redrive => "redrive <topic> [<n>]".into(),
            Verb::Purge => "purge <topic> [<subscription>]".into(),
            Verb::Hello => r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#.into(),
            Verb::Topics => "topics".into(),
            Verb::Stats => "stats [<topic>]".into(),
            Verb::Help => "help".into(),
            Verb::Ping => "ping".into(),
            Verb::Quit => "quit".into(),
        }
    }
}

//! A line's words: which command it is, and with what.

use std::collections::HashMap;

use crate::name::{NameError, SubscriptionName, TopicName};
use crate::protocol::event::MAX_MS;
use crate::protocol::framer::is_blank;

/// A command, as far as a line says it.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `pub <topic> <event>`; the event's JSON is not looked at yet.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The rest of the line.
        event: &'a str,
    },
    /// `sub <topic> [<name>]`.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
    },
    /// `unsub <topic> [<name>]`.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
    },
    /// `detach <topic>`.
    Detach {
        /// The topic.
        topic: TopicName,
    },
    /// `ack <topic> <id> …`.
    Acknowledge {
        /// The topic.
        topic: TopicName,
        /// The ids, at least one.
        ids: Vec<&'a str>,
    },
    /// `ack <topic> *`.
    AcknowledgeAll {
        /// The topic.
        topic: TopicName,
    },
    /// `nack <topic> <id> [<delay_ms>]`.
    Requeue {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
        /// Milliseconds.
        delay_ms: u64,
    },
    /// `touch <topic> <id>`.
    Touch {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
    },
    /// `hello <json>`; the JSON is not looked at yet.
    Hello {
        /// The rest of the line.
        options: &'a str,
    },
    /// `topics`.
    Topics,
    /// `stats [<topic>]`.
    Stats {
        /// The topic; all if there is none.
        topic: Option<TopicName>,
    },
    /// `help`.
    Help,
    /// `ping`.
    Ping,
    /// `quit`.
    Quit,
}

/// What is wrong with a line. [`crate::protocol::reply`] has the words.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// No such command.
    Unknown(&'a str),
    /// Too few or too many words; the command's form.
    Usage(String),
    /// A topic's name.
    Topic(&'a str, NameError),
    /// A subscription's name.
    Subscription(&'a str, NameError),
    /// The delay of a `nack`.
    Delay(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Publish,
    Subscribe,
    Unsubscribe,
    Detach,
    Acknowledge,
    Requeue,
    Touch,
    Hello,
    Topics,
    Stats,
    Help,
    Ping,
    Quit,
}

/// The words that always mean what they mean.
const FIXED: [(&str, Verb); 13] = [
    ("publish", Verb::Publish),
    ("subscribe", Verb::Subscribe),
    ("unsubscribe", Verb::Unsubscribe),
    ("acknowledge", Verb::Acknowledge),
    ("detach", Verb::Detach),
    ("nack", Verb::Requeue),
    ("touch", Verb::Touch),
    ("hello", Verb::Hello),
    ("topics", Verb::Topics),
    ("stats", Verb::Stats),
    ("help", Verb::Help),
    ("ping", Verb::Ping),
    ("quit", Verb::Quit),
];

/// Words of the protocol that have no command in this version; renaming a command to one of them would break later.
const RESERVED: [&str; 4] = ["term", "peek", "redrive", "purge"];

/// The short forms of the four commands that the configuration can rename.
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
    /// Checks that the words can be told from each other and from the built-in ones.
    ///
    /// # Errors
    /// A text for each word that cannot be used, with the key it belongs to.
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
            } else if FIXED.iter().any(|(fixed, _)| *fixed == lower && *fixed != key) || RESERVED.contains(&&*lower) {
                problems.push((key, format!("{word:?} is a command already")));
            } else if let Some(other) = seen.insert(lower, key) {
                problems.push((key, format!("{word:?} is the word for {other} already")));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn verb(&self, word: &str) -> Option<Verb> {
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

    fn usage(&self, verb: Verb) -> String {
        match verb {
            Verb::Publish => format!("{} <topic> <event>", self.publish),
            Verb::Subscribe => format!("{} <topic> [<name>]", self.subscribe),
            Verb::Unsubscribe => format!("{} <topic> [<name>]", self.unsubscribe),
            Verb::Detach => "detach <topic>".into(),
            Verb::Acknowledge => format!("{0} <topic> <id> [<id> …] or {0} <topic> *", self.acknowledge),
            Verb::Requeue => "nack <topic> <id> [<delay_ms>]".into(),
            Verb::Touch => "touch <topic> <id>".into(),
            Verb::Hello => r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#.into(),
            Verb::Topics => "topics".into(),
            Verb::Stats => "stats [<topic>]".into(),
            Verb::Help => "help".into(),
            Verb::Ping => "ping".into(),
            Verb::Quit => "quit".into(),
        }
    }
}

/// The first word of `text`, and the rest without the blanks before it.
fn word(text: &str) -> (&str, &str) {
    let end = text.bytes().position(is_blank).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t', '\r']))
}

/// Reads a line that has no blanks at its ends and is not empty.
///
/// `last` is the topic of an earlier line of the same client: most lines name the same one, and it need be neither checked nor
/// copied again.
///
/// # Errors
/// [`CommandError`] says what is wrong; a topic's name is looked at before anything that follows it.
pub fn parse<'a>(
    line: &'a str,
    words: &CommandWords,
    last: &mut Option<TopicName>,
) -> Result<Command<'a>, CommandError<'a>> {
    let (first, rest) = word(line);
    let verb = words.verb(first).ok_or(CommandError::Unknown(line))?;
    let usage = || CommandError::Usage(words.usage(verb));
    match verb {
        Verb::Topics | Verb::Help | Verb::Ping | Verb::Quit => {
            if !rest.is_empty() {
                return Err(usage());
            }
            return Ok(match verb {
                Verb::Topics => Command::Topics,
                Verb::Help => Command::Help,
                Verb::Ping => Command::Ping,
                _ => Command::Quit,
            });
        }
        Verb::Hello => return if rest.is_empty() { Err(usage()) } else { Ok(Command::Hello { options: rest }) },
        Verb::Stats if rest.is_empty() => return Ok(Command::Stats { topic: None }),
        _ => {}
    }
    let (topic, rest) = word(rest);
    if topic.is_empty() {
        return Err(usage());
    }
    // Too few words are too few whatever they are; else the topic comes first.
    let wants_more = matches!(verb, Verb::Publish | Verb::Acknowledge | Verb::Requeue | Verb::Touch);
    if wants_more && rest.is_empty() {
        return Err(usage());
    }
    let topic = match last {
        Some(last) if last.as_str() == topic => last.clone(),
        _ => last.insert(TopicName::new(topic).map_err(|error| CommandError::Topic(topic, error))?).clone(),
    };
    match verb {
        Verb::Publish => Ok(Command::Publish { topic, event: rest }),
        Verb::Acknowledge => {
            let ids: Vec<&str> = rest.split([' ', '\t', '\r']).filter(|word| !word.is_empty()).collect();
            match ids.as_slice() {
                ["*"] => Ok(Command::AcknowledgeAll { topic }),
                ids if ids.contains(&"*") => Err(usage()),
                _ => Ok(Command::Acknowledge { topic, ids }),
            }
        }
        Verb::Requeue => {
            let (id, rest) = word(rest);
            let (delay, rest) = word(rest);
            if !rest.is_empty() {
                return Err(usage());
            }
            let digits = !delay.is_empty() && delay.bytes().all(|byte| byte.is_ascii_digit());
            let delay_ms = if delay.is_empty() {
                0
            } else {
                let ms = delay.parse().ok().filter(|ms| digits && *ms <= MAX_MS);
                ms.ok_or(CommandError::Delay(delay))?
            };
            Ok(Command::Requeue { topic, id, delay_ms })
        }
        _ => {
            let (last, rest) = word(rest);
            if !rest.is_empty() || (matches!(verb, Verb::Detach | Verb::Stats) && !last.is_empty()) {
                return Err(usage());
            }
            let name = || match last {
                "" => Ok(None),
                name => SubscriptionName::new(name).map(Some).map_err(|error| CommandError::Subscription(name, error)),
            };
            Ok(match verb {
                Verb::Subscribe => Command::Subscribe { topic, name: name()? },
                Verb::Unsubscribe => Command::Unsubscribe { topic, name: name()? },
                Verb::Touch => Command::Touch { topic, id: last },
                Verb::Stats => Command::Stats { topic: Some(topic) },
                _ => Command::Detach { topic },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn read(line: &str) -> Result<Command<'_>, CommandError<'_>> {
        static WORDS: std::sync::LazyLock<CommandWords> = std::sync::LazyLock::new(CommandWords::default);
        parse(line, &WORDS, &mut None)
    }

    #[test]
    fn words_are_separated_by_blanks_and_matched_without_case() {
        assert_eq!(
            read("PuB \t t  {\"id\": \"a  b\"}"),
            Ok(Command::Publish { topic: topic("t"), event: "{\"id\": \"a  b\"}" })
        );
        assert_eq!(read("SUBSCRIBE t"), Ok(Command::Subscribe { topic: topic("t"), name: None }));
        assert_eq!(
            read("sub t  s"),
            Ok(Command::Subscribe { topic: topic("t"), name: SubscriptionName::new("s").ok() })
        );
        assert_eq!(read("ack t a  b\tc"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["a", "b", "c"] }));
        assert_eq!(read("acknowledge t *"), Ok(Command::AcknowledgeAll { topic: topic("t") }));
        assert_eq!(read("nack t a"), Ok(Command::Requeue { topic: topic("t"), id: "a", delay_ms: 0 }));
        assert_eq!(read("nack t a 1500"), Ok(Command::Requeue { topic: topic("t"), id: "a", delay_ms: 1500 }));
        assert_eq!(read("stats"), Ok(Command::Stats { topic: None }));
        assert_eq!(read("STATS t"), Ok(Command::Stats { topic: Some(topic("t")) }));
    }

    #[test]
    fn too_few_or_too_many_words_are_answered_with_the_form() {
        for (line, form) in [
            ("pub", "pub <topic> <event>"),
            ("publish t", "pub <topic> <event>"),
            ("pub a/b", "pub <topic> <event>"),
            ("sub", "sub <topic> [<name>]"),
            ("sub t s x", "sub <topic> [<name>]"),
            ("unsub t s x", "unsub <topic> [<name>]"),
            ("detach t x", "detach <topic>"),
            ("ack t", "ack <topic> <id> [<id> …] or ack <topic> *"),
            ("ack t * a", "ack <topic> <id> [<id> …] or ack <topic> *"),
            ("nack t", "nack <topic> <id> [<delay_ms>]"),
            ("nack t a 1 2", "nack <topic> <id> [<delay_ms>]"),
            ("touch t a b", "touch <topic> <id>"),
            ("topics x", "topics"),
            ("stats t x", "stats [<topic>]"),
            ("ping x", "ping"),
            ("hello", r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#),
        ] {
            assert_eq!(read(line), Err(CommandError::Usage(form.into())), "{line}");
        }
    }

    #[test]
    fn a_topics_name_is_looked_at_before_what_follows_it() {
        assert_eq!(read("pub a/b nonsense"), Err(CommandError::Topic("a/b", NameError::Character)));
        assert_eq!(read("sub a/b ../c"), Err(CommandError::Topic("a/b", NameError::Character)));
        assert_eq!(read("sub t ../c"), Err(CommandError::Subscription("../c", NameError::LeadingDot)));
        assert_eq!(read("nack a/b x y"), Err(CommandError::Topic("a/b", NameError::Character)));
        for delay in ["-1", "+1", "x", "1.5", "9007199254740992", "99999999999999999999"] {
            let line = format!("nack t a {delay}");
            assert_eq!(read(&line), Err(CommandError::Delay(delay)), "{line}");
        }
        assert_eq!(read("subb t"), Err(CommandError::Unknown("subb t")));
    }

    #[test]
    fn renamed_words_mean_what_they_are_named_and_the_long_ones_stay() {
        let words = CommandWords { publish: "Say".into(), acknowledge: "done".into(), ..CommandWords::default() };
        assert_eq!(words.validate(), Ok(()));
        assert!(matches!(parse("sAY t {}", &words, &mut None), Ok(Command::Publish { .. })));
        assert!(matches!(parse("publish t {}", &words, &mut None), Ok(Command::Publish { .. })));
        assert_eq!(parse("pub t {}", &words, &mut None), Err(CommandError::Unknown("pub t {}")));
        assert_eq!(parse("say t", &words, &mut None), Err(CommandError::Usage("Say <topic> <event>".into())));
    }

    #[test]
    fn a_topic_that_is_named_again_is_the_same_and_another_is_another() {
        let (words, mut last) = (CommandWords::default(), None);
        for name in ["a", "a", "ab", "a"] {
            let line = format!("pub {name} {{}}");
            assert_eq!(parse(&line, &words, &mut last), Ok(Command::Publish { topic: topic(name), event: "{}" }));
        }
        assert!(matches!(parse("pub .a {}", &words, &mut last), Err(CommandError::Topic(".a", _))));
        assert_eq!(last, Some(topic("a")), "what is wrong is not remembered");
    }

    #[test]
    fn words_that_clash_are_refused() {
        let clash = |f: fn(&mut CommandWords)| {
            let mut words = CommandWords::default();
            f(&mut words);
            words.validate().err().map(|problems| problems.iter().map(|(key, _)| *key).collect::<Vec<_>>())
        };
        assert_eq!(clash(|w| w.publish = "SUB".into()), Some(vec!["subscribe"]));
        assert_eq!(clash(|w| w.publish = "ping".into()), Some(vec!["publish"]));
        assert_eq!(clash(|w| w.publish = "Subscribe".into()), Some(vec!["publish"]));
        assert_eq!(clash(|w| w.publish = "purge".into()), Some(vec!["publish"]));
        assert_eq!(clash(|w| w.publish = "publish".into()), None);
        assert_eq!(clash(|w| w.unsubscribe = "a b".into()), Some(vec!["unsubscribe"]));
        assert_eq!(clash(|w| w.unsubscribe = String::new()), Some(vec!["unsubscribe"]));
    }
}

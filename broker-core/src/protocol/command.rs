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
    /// `term <topic> <id> [<reason …>]`.
    Terminate {
        /// The topic.
        topic: TopicName,
        /// The id.
        id: &'a str,
        /// The rest of the line.
        reason: Option<&'a str>,
    },
    /// `peek <topic> [<subscription>] [<n>]`. One word of digits alone is a number.
    Peek {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
        /// How many events at the most.
        most: usize,
    },
    /// `redrive <topic> [<n>]`.
    Redrive {
        /// The topic that the events came from.
        topic: TopicName,
        /// How many at the most; all if there is no number.
        most: Option<u64>,
    },
    /// `purge <topic> [<subscription>]`.
    Purge {
        /// The topic.
        topic: TopicName,
        /// The durable subscription, if one is named.
        name: Option<SubscriptionName>,
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
    /// A number of events, and the most that it may be.
    Count(&'a str, u64),
}

/// Events that a `peek` without a number shows.
const PEEK: usize = 10;

/// Events that a `peek` shows at the most.
const MAX_PEEK: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Publish,
    Subscribe,
    Unsubscribe,
    Detach,
    Acknowledge,
    Requeue,
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

/// The words that always mean what they mean.
const FIXED: [(&str, Verb); 17] = [
    ("publish", Verb::Publish),
    ("subscribe", Verb::Subscribe),
    ("unsubscribe", Verb::Unsubscribe),
    ("acknowledge", Verb::Acknowledge),
    ("detach", Verb::Detach),
    ("nack", Verb::Requeue),
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
            } else if FIXED.iter().any(|(fixed, _)| *fixed == lower && *fixed != key) {
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
            Verb::Terminate => "term <topic> <id> [<reason …>]".into(),
            Verb::Peek => "peek <topic> [<subscription>] [<n>]".into(),
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
    let wants_more = matches!(verb, Verb::Publish | Verb::Acknowledge | Verb::Requeue | Verb::Touch | Verb::Terminate);
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
                // An event may be called `*`: among several words the star is its id, `ack t * *` if it is alone.
                ["*"] => Ok(Command::AcknowledgeAll { topic }),
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
        Verb::Terminate => {
            let (id, reason) = word(rest);
            Ok(Command::Terminate { topic, id, reason: Some(reason).filter(|reason| !reason.is_empty()) })
        }
        Verb::Peek | Verb::Redrive => {
            let (first, rest) = word(rest);
            let (second, rest) = word(rest);
            if !rest.is_empty() || verb == Verb::Redrive && !second.is_empty() {
                return Err(usage());
            }
            if verb == Verb::Redrive {
                let most = if first.is_empty() { None } else { Some(count(first, MAX_MS)?) };
                return Ok(Command::Redrive { topic, most });
            }
            let is_number = first.bytes().all(|byte| byte.is_ascii_digit());
            let (name, number) = if second.is_empty() && is_number { ("", first) } else { (first, second) };
            let name = subscription_name(name)?;
            let most = if number.is_empty() { PEEK } else { count(number, MAX_PEEK)? as usize };
            Ok(Command::Peek { topic, name, most })
        }
        _ => {
            let (last, rest) = word(rest);
            if !rest.is_empty() || (matches!(verb, Verb::Detach | Verb::Stats) && !last.is_empty()) {
                return Err(usage());
            }
            Ok(match verb {
                Verb::Subscribe => Command::Subscribe { topic, name: subscription_name(last)? },
                Verb::Unsubscribe => Command::Unsubscribe { topic, name: subscription_name(last)? },
                Verb::Purge => Command::Purge { topic, name: subscription_name(last)? },
                Verb::Touch => Command::Touch { topic, id: last },
                Verb::Stats => Command::Stats { topic: Some(topic) },
                _ => Command::Detach { topic },
            })
        }
    }
}

fn subscription_name(word: &str) -> Result<Option<SubscriptionName>, CommandError<'_>> {
    match word {
        "" => Ok(None),
        name => SubscriptionName::new(name).map(Some).map_err(|error| CommandError::Subscription(name, error)),
    }
}

/// A number of events from 1 to `most`.
fn count(word: &str, most: u64) -> Result<u64, CommandError<'_>> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|number| digits && (1..=most).contains(number));
    number.ok_or(CommandError::Count(word, most))
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
            ("nack t", "nack <topic> <id> [<delay_ms>]"),
            ("nack t a 1 2", "nack <topic> <id> [<delay_ms>]"),
            ("touch t a b", "touch <topic> <id>"),
            ("term t", "term <topic> <id> [<reason …>]"),
            ("peek", "peek <topic> [<subscription>] [<n>]"),
            ("peek t s 1 x", "peek <topic> [<subscription>] [<n>]"),
            ("redrive t 1 x", "redrive <topic> [<n>]"),
            ("purge t s x", "purge <topic> [<subscription>]"),
            ("topics x", "topics"),
            ("stats t x", "stats [<topic>]"),
            ("ping x", "ping"),
            ("hello", r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#),
        ] {
            assert_eq!(read(line), Err(CommandError::Usage(form.into())), "{line}");
        }
    }

    #[test]
    fn one_word_of_digits_after_peek_is_a_number() {
        let name = |name| SubscriptionName::new(name).ok();
        let peek = |name, most| Ok(Command::Peek { topic: topic("t"), name, most });
        assert_eq!(read("peek t"), peek(None, 10));
        assert_eq!(read("peek t 3"), peek(None, 3));
        assert_eq!(read("peek t s"), peek(name("s"), 10));
        assert_eq!(read("peek t s 1000"), peek(name("s"), 1000));
        assert_eq!(read("peek t 5 7"), peek(name("5"), 7));
        assert_eq!(read("peek t 0"), Err(CommandError::Count("0", 1000)));
        assert_eq!(read("peek t s 1001"), Err(CommandError::Count("1001", 1000)));
        assert_eq!(read("peek t s -1"), Err(CommandError::Count("-1", 1000)));
        assert_eq!(read("peek t a/b"), Err(CommandError::Subscription("a/b", NameError::Character)));
        assert_eq!(read("redrive t"), Ok(Command::Redrive { topic: topic("t"), most: None }));
        assert_eq!(read("REDRIVE t 7"), Ok(Command::Redrive { topic: topic("t"), most: Some(7) }));
        assert_eq!(read("redrive t s"), Err(CommandError::Count("s", MAX_MS)));
        assert_eq!(read("purge t 5"), Ok(Command::Purge { topic: topic("t"), name: name("5") }));
    }

    #[test]
    fn a_reason_is_the_rest_of_the_line() {
        let term = |reason| Ok(Command::Terminate { topic: topic("t"), id: "a", reason });
        assert_eq!(read("term t a"), term(None));
        assert_eq!(read("term t  a  no  such \"user\""), term(Some("no  such \"user\"")));
    }

    #[test]
    fn an_event_may_be_called_star() {
        assert_eq!(read("ack t *"), Ok(Command::AcknowledgeAll { topic: topic("t") }));
        assert_eq!(read("ack t * *"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["*", "*"] }));
        assert_eq!(read("ack t a *"), Ok(Command::Acknowledge { topic: topic("t"), ids: vec!["a", "*"] }));
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

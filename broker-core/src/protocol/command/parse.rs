//! Parses a line into a command.

use super::words::{CommandWords, Verb};
use super::{Command, CommandError};
use crate::event::{EventKey, Priority, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::protocol::event::MAX_MS;
use crate::protocol::framer::is_blank;

/// The number of events that a `peek` without a number shows.
const PEEK: usize = 10;

/// The largest number of events that a `peek` shows.
const MAX_PEEK: u64 = 1000;

/// Splits `text` into its first word and the rest, without the blanks between them.
fn word(text: &str) -> (&str, &str) {
    let end = text.bytes().position(is_blank).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t', '\r']))
}

/// Parses a line that is not empty and has no blanks at its ends.
///
/// `last` is the topic of the client's previous line. Most lines name the same one, which then need not be validated or copied
/// again.
///
/// # Errors
/// [`CommandError`]. A topic's name is validated before anything that follows it.
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
    // Missing words are reported before an invalid topic, an invalid topic before anything else.
    let wants_more = matches!(verb, Verb::Publish | Verb::Acknowledge | Verb::Nack | Verb::Touch | Verb::Terminate);
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
                // `*` is also a valid id. Among several words it is an id, so an event of that id alone takes `ack t * *`.
                ["*"] => Ok(Command::AcknowledgeAll { topic }),
                _ => Ok(Command::Acknowledge { topic, ids }),
            }
        }
        Verb::Nack => {
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
            Ok(Command::Nack { topic, id, delay_ms })
        }
        Verb::Terminate => {
            let (id, note) = word(rest);
            Ok(Command::Terminate { topic, id, note: Some(note).filter(|note| !note.is_empty()) })
        }
        Verb::Peek => peek(topic, rest)?.ok_or_else(usage),
        Verb::Redrive => {
            let (number, rest) = word(rest);
            if !rest.is_empty() {
                return Err(usage());
            }
            let most = if number.is_empty() { None } else { Some(count(number, MAX_MS)?) };
            Ok(Command::Redrive { topic, most })
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

/// Parses the words of a `peek` behind its topic; `None` if there are too many.
///
/// `after` is a position's only before `start` or a word with a colon; otherwise it is the name of a subscription.
fn peek(topic: TopicName, rest: &str) -> Result<Option<Command<'_>>, CommandError<'_>> {
    let words = rest.split([' ', '\t', '\r']).filter(|word| !word.is_empty()).take(5).collect::<Vec<_>>();
    let (words, after) = match words.as_slice() {
        [before @ .., word, at] if word.eq_ignore_ascii_case("after") && (*at == "start" || at.contains(':')) => {
            (before, Some(position(at)?))
        }
        words => (words, None),
    };
    let (name, number) = match words {
        [] => ("", ""),
        [number] if number.bytes().all(|byte| byte.is_ascii_digit()) => ("", *number),
        [name] => (*name, ""),
        [name, number] => (*name, *number),
        _ => return Ok(None),
    };
    let name = subscription_name(name)?;
    let most = if number.is_empty() { PEEK } else { count(number, MAX_PEEK)? as usize };
    Ok(Some(Command::Peek { topic, name, most, after }))
}

/// Parses a position in delivery order: `start`, or a priority and a sequence.
fn position(word: &str) -> Result<EventKey, CommandError<'_>> {
    if word == "start" {
        return Ok(EventKey::START);
    }
    let key = word.split_once(':').and_then(|(priority, seq)| {
        let digits = seq.bytes().all(|byte| byte.is_ascii_digit());
        Some(EventKey { priority: Priority(priority.parse().ok()?), seq: Seq(seq.parse().ok().filter(|_| digits)?) })
    });
    key.ok_or(CommandError::Position(word))
}

fn subscription_name(word: &str) -> Result<Option<SubscriptionName>, CommandError<'_>> {
    match word {
        "" => Ok(None),
        name => SubscriptionName::new(name).map(Some).map_err(|error| CommandError::Subscription(name, error)),
    }
}

/// Parses a number of events from 1 to `most`.
fn count(word: &str, most: u64) -> Result<u64, CommandError<'_>> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|number| digits && (1..=most).contains(number));
    number.ok_or(CommandError::Count(word, most))
}

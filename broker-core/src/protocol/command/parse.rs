//! Parses a line into a command.

use super::words::{CommandWords, Verb};
use super::{Command, CommandError};
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

/// Parses a number of events from 1 to `most`.
fn count(word: &str, most: u64) -> Result<u64, CommandError<'_>> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|number| digits && (1..=most).contains(number));
    number.ok_or(CommandError::Count(word, most))
}

//! One line, read by the real parser and by a naive one; and `hello`'s options.

use broker_core::name::{SubscriptionName, TopicName};
use broker_core::protocol::command::{Command, CommandError, CommandWords, parse};
use broker_core::protocol::reply;
use broker_core::session::hello::Options;
use bytes::BytesMut;

/// Blanks, as the protocol knows them.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

/// Runs one input: a line, or two of which the first has the four words that the configuration can choose.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (line, words) = match text.split_once('\n') {
        Some((words, line)) => (line, command_words(words)),
        None => (text, CommandWords::default()),
    };
    let line = line.split('\n').next().unwrap_or_default().trim_matches(BLANKS);
    if line.is_empty() || words.validate().is_err() {
        return;
    }
    let read = parse(line, &words, &mut None);
    for before in ["a", "tweets", "x.dead"] {
        let mut last = TopicName::new(before).ok();
        assert_eq!(parse(line, &words, &mut last), read, "the topic of an earlier line means nothing");
    }
    match &read {
        Ok(command) => {
            let written = write(command, &words);
            assert_eq!(parse(&written, &words, &mut None).as_ref(), Ok(command), "{line} is {written}");
            same_words(line, &written, command);
            if let Command::Hello { options } = command {
                hello(options);
            }
        }
        Err(error) => refused(line, error),
    }
}

fn command_words(line: &str) -> CommandWords {
    let mut words = line.split(BLANKS);
    let mut next = || words.next().unwrap_or_default().to_owned();
    CommandWords { publish: next(), subscribe: next(), unsubscribe: next(), acknowledge: next() }
}

/// A line's words behind the first, with one blank between them.
fn arguments(line: &str) -> String {
    line.split(BLANKS).filter(|word| !word.is_empty()).skip(1).collect::<Vec<_>>().join(" ")
}

/// A command has the words of its line, and no others.
fn same_words(line: &str, written: &str, command: &Command<'_>) {
    let (said, written) = (arguments(line), arguments(written));
    match command {
        // Their numbers may have been left out, or begin with zeros.
        Command::Peek { topic, .. } | Command::Redrive { topic, .. } | Command::Nack { topic, .. } => {
            assert_eq!(said.split(' ').next(), Some(topic.as_str()), "{line}");
        }
        _ => assert_eq!(said, written, "{line}"),
    }
}

/// The command as a line, with everything said that need not be.
fn write(command: &Command<'_>, words: &CommandWords) -> String {
    let named = |word: &str, topic: &TopicName, name: &Option<SubscriptionName>| match name {
        Some(name) => format!("{word} {topic} {name}"),
        None => format!("{word} {topic}"),
    };
    match command {
        Command::Publish { topic, event } => format!("{} {topic} {event}", words.publish),
        Command::Subscribe { topic, name } => named("SUBSCRIBE", topic, name),
        Command::Unsubscribe { topic, name } => named("UnSubscribe", topic, name),
        Command::Detach { topic } => format!("detach {topic}"),
        Command::Acknowledge { topic, ids } => format!("acknowledge {topic} {}", ids.join(" ")),
        Command::AcknowledgeAll { topic } => format!("{} {topic} *", words.acknowledge),
        Command::Nack { topic, id, delay_ms: 0 } => format!("nack {topic} {id}"),
        Command::Nack { topic, id, delay_ms } => format!("nack {topic} {id} {delay_ms}"),
        Command::Touch { topic, id } => format!("touch {topic} {id}"),
        Command::Terminate { topic, id, note: None } => format!("term {topic} {id}"),
        Command::Terminate { topic, id, note: Some(note) } => format!("term {topic} {id} {note}"),
        Command::Peek { topic, name, most, after } => {
            let after = after.map(|key| format!(" after {}:{}", key.priority.0, key.seq.0)).unwrap_or_default();
            format!("{} {most}{after}", named("peek", topic, name))
        }
        Command::Redrive { topic, most: None } => format!("redrive {topic}"),
        Command::Redrive { topic, most: Some(most) } => format!("redrive {topic} {most}"),
        Command::Purge { topic, name } => named("purge", topic, name),
        Command::Hello { options } => format!("hello {options}"),
        Command::Topics => "topics".into(),
        Command::Stats { topic: None } => "stats".into(),
        Command::Stats { topic: Some(topic) } => format!("stats {topic}"),
        Command::Help => "help".into(),
        Command::Ping => "ping".into(),
        Command::Quit => "quit".into(),
    }
}

/// Checks the error for a line that is no command: one short line that quotes a part of it.
fn refused(line: &str, error: &CommandError<'_>) {
    let mut out = BytesMut::new();
    reply::command_error(&mut out, error);
    let text = std::str::from_utf8(&out).expect("an error is text");
    let text = text.strip_suffix("\r\n").expect("an error is a line");
    assert!(text.starts_with("error: "), "{text}");
    assert!(!text.contains(|c: char| c < ' '), "an error has no control characters: {text:?}");
    assert!(text.len() < 1000, "an error does not quote without end: {text}");
    let quoted = match error {
        CommandError::Unknown(text)
        | CommandError::Topic(text, _)
        | CommandError::Subscription(text, _)
        | CommandError::Delay(text)
        | CommandError::Position(text)
        | CommandError::Count(text, _) => *text,
        CommandError::Usage(form) => {
            assert!(!form.is_empty());
            return;
        }
    };
    assert!(!quoted.is_empty() && line.contains(quoted), "an error is about what the line says");
    if let CommandError::Topic(name, _) | CommandError::Subscription(name, _) = error {
        let good = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        assert!(name.starts_with('.') || name.len() > 255 || !name.chars().all(good), "{name} is a name");
    }
}

/// Checks the options that `hello` reads.
fn hello(json: &str) {
    match Options::default().changed_by(json) {
        Ok((options, _token)) => {
            assert!(options.prefetch > 0);
            assert!(options.client.iter().all(|name| name.len() <= 255 && !name.chars().any(char::is_control)));
            let again = options.changed_by(json).map(|(options, _)| options);
            assert_eq!(again.as_ref(), Ok(&options), "the same again changes nothing");
            assert_eq!(options.changed_by("{}").map(|(options, _)| options).as_ref(), Ok(&options));
        }
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains(|c: char| c < ' '), "{reason:?}");
            assert!(reason.len() < 1000, "{reason}");
        }
    }
}

//! The reply to `help`.

use bytes::{BufMut, BytesMut};

use crate::protocol::command::CommandWords;
use crate::protocol::reply::{LINE_END, line};

/// Writes the commands, one per line with an example each, and an empty line at the end.
pub fn write(out: &mut BytesMut, words: &CommandWords) {
    let CommandWords { publish, subscribe, unsubscribe, acknowledge } = words;
    let commands = [
        (
            format!("{publish} <topic> <event>"),
            "publish an event",
            format!(r#"{publish} tweets {{"id":"042","priority":3,"msg":"hi"}}"#),
        ),
        (
            format!("{subscribe} <topic> [<name>]"),
            "subscribe; with a name it outlives the connection",
            format!("{subscribe} tweets inbox"),
        ),
        (
            format!("{unsubscribe} <topic> [<name>]"),
            "remove a subscription and what waits in it",
            format!("{unsubscribe} tweets"),
        ),
        ("detach <topic>".into(), "leave a named subscription, which stays", "detach tweets".into()),
        (
            format!("{acknowledge} <topic> <id> …"),
            "acknowledge events and get the next",
            format!("{acknowledge} tweets 042"),
        ),
        (
            format!("{acknowledge} <topic> *"),
            "acknowledge all that is in flight here",
            format!("{acknowledge} tweets *"),
        ),
        ("nack <topic> <id> [<delay_ms>]".into(), "give an event back, to come again", "nack tweets 042 5000".into()),
        ("touch <topic> <id>".into(), "start an event's ack_timeout again", "touch tweets 042".into()),
        (
            "term <topic> <id> [<reason …>]".into(),
            "give an event up: it goes to the dead letters",
            "term tweets 042 no such user".into(),
        ),
        (
            "peek <topic> [<subscription>] [<n>] [after <position>]".into(),
            "look at what waits, 10 events or n",
            "peek tweets.dead 5".into(),
        ),
        ("redrive <topic> [<n>]".into(), "move dead letters of a topic back, all or n", "redrive tweets".into()),
        ("purge <topic> [<subscription>]".into(), "drop what waits", "purge tweets inbox".into()),
        (
            "hello <json>".into(),
            "set options of this connection",
            r#"hello {"prefetch":10,"replies":"quiet","confirm":true}"#.into(),
        ),
        ("topics".into(), "all topics, as JSON", "topics".into()),
        ("stats [<topic>]".into(), "figures, as JSON", "stats tweets".into()),
        ("ping".into(), "answered with pong", "ping".into()),
        ("help".into(), "this list", "help".into()),
        ("quit".into(), "close the connection", "quit".into()),
    ];
    for (form, what, example) in commands {
        line(out, format_args!("{form:<36} {what}, for example: {example}"));
    }
    out.put_slice(LINE_END);
}

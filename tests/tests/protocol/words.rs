//! Usage errors of every command, quoting in errors, and the precedence of errors.

use herald_tests::{TestBroker, delivery, publish};

const TOO_FEW_OR_TOO_MANY: &[(&str, &str)] = &[
    ("pub", "pub <topic> <event>"),
    ("pub t", "pub <topic> <event>"),
    ("PUBLISH t", "pub <topic> <event>"),
    ("sub", "sub <topic> [<name>]"),
    ("sub t s more", "sub <topic> [<name>]"),
    ("unsub", "unsub <topic> [<name>]"),
    ("unsub t s more", "unsub <topic> [<name>]"),
    ("detach", "detach <topic>"),
    ("detach t s", "detach <topic>"),
    ("ack", "ack <topic> <id> [<id> …] or ack <topic> *"),
    ("ack t", "ack <topic> <id> [<id> …] or ack <topic> *"),
    ("nack", "nack <topic> <id> [<delay_ms>]"),
    ("nack t", "nack <topic> <id> [<delay_ms>]"),
    ("nack t a 1 more", "nack <topic> <id> [<delay_ms>]"),
    ("touch", "touch <topic> <id>"),
    ("touch t", "touch <topic> <id>"),
    ("touch t a more", "touch <topic> <id>"),
    ("term", "term <topic> <id> [<reason …>]"),
    ("term t", "term <topic> <id> [<reason …>]"),
    ("peek", "peek <topic> [<subscription>] [<n>] [after <position>]"),
    ("peek t s 1 more", "peek <topic> [<subscription>] [<n>] [after <position>]"),
    ("redrive", "redrive <topic> [<n>]"),
    ("redrive t 1 more", "redrive <topic> [<n>]"),
    ("purge", "purge <topic> [<subscription>]"),
    ("purge t s more", "purge <topic> [<subscription>]"),
    ("topics more", "topics"),
    ("stats t more", "stats [<topic>]"),
    ("ping more", "ping"),
    ("help more", "help"),
    ("quit more", "quit"),
];

#[test]
fn too_few_or_too_many_words_are_answered_with_the_commands_usage() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for (line, form) in TOO_FEW_OR_TOO_MANY {
        client.asks(line, &format!("error: usage: {form}"));
    }
    assert!(client.ask("hello").starts_with("error: usage: hello "));
    client.asks("ping", "pong");
}

#[test]
fn an_error_quotes_its_input_as_a_json_string_of_limited_length() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let long = "x".repeat(100_000);
    for line in [
        format!("sub {long}/"),
        format!("sub t {long}/"),
        format!("unsub {long}"),
        format!("nack t a {long}"),
        format!("stats {long}"),
        format!("{long} t"),
        "sub a\\b\"c\u{1}".to_owned(),
        "\u{1}\u{2}\"\\".to_owned(),
    ] {
        let answer = client.ask(&line);
        assert!(answer.starts_with("error: ") && answer.len() < 1000, "{} bytes: {:.300}", answer.len(), answer);
        let from = answer.find('"').unwrap_or_else(|| panic!("{answer}"));
        let mut quoted = serde_json::Deserializer::from_str(&answer[from..]).into_iter::<String>();
        let quoted = quoted.next().unwrap().unwrap_or_else(|error| panic!("{error}: {answer}"));
        let given = quoted.strip_suffix('…').unwrap_or(&quoted);
        assert!(line.contains(given), "{answer}");
    }
    client.asks("ping", "pong");
}

#[test]
fn every_command_that_names_a_topic_refuses_a_bad_name() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    for command in [
        "pub % {}",
        "pub % nonsense",
        "sub %",
        "unsub %",
        "detach %",
        "ack % a",
        "ack % *",
        "nack % a",
        "touch % a",
        "term % a",
        "peek %",
        "redrive %",
        "purge %",
        "stats %",
    ] {
        for name in ["..", ".", "/", "../../etc/passwd", "a/../b", "a\\b", "a*", "ä", "\u{1}"] {
            let answer = client.ask(&command.replace('%', name));
            let expected = format!("error: invalid topic name {}: ", serde_json::json!(name));
            assert!(answer.starts_with(&expected), "{command} {name}: {answer}");
        }
    }
    for name in ["a", "A.b-c_d:e", "-", "_", ":", "0", "a..b"] {
        client.asks(&format!("sub {name} {name}"), &format!("successfully subscribed to topic {name}"));
    }
    // No file exists outside the data directory, and none is named by a client.
    let mut names: Vec<_> = std::fs::read_dir(broker.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "herald.toml"]);
}

#[test]
fn delays_are_integers_up_to_two_to_the_53rd() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub t", "successfully subscribed to topic t");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    for delay in ["9007199254740992", "1.5", "1e3", "-1", "soon", "+1", "99999999999999999999999"] {
        let answer = client.ask(&format!("nack t a {delay}"));
        assert!(answer.starts_with(&format!("error: invalid delay \"{delay}\": ")), "{answer}");
    }
    client.asks("nack t a 9007199254740991", "requeued ev_id=a");
    client.asks(
        r#"pub t {"ttl_ms":9007199254740992}"#,
        "error: event is not of an accepted format: ttl_ms must be an integer from 0 to 9007199254740991",
    );
    client.asks("ack t a", "acknowledged from logs ev_id=a");
    client.nothing();
}

#[test]
fn settling_needs_a_subscription_to_that_topic() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    client.asks("sub other", "successfully subscribed to topic other");
    for command in
        ["ack t a", "ack t a b c", "ack t *", "nack t a", "nack t a 5", "touch t a", "term t a", "term t a why"]
    {
        client.asks(command, "error: not a topic t subscriber");
    }
}

#[test]
fn renamed_commands_are_shown_by_help_and_in_usage_errors() {
    let broker = TestBroker::start("[commands]\npublish = \"say\"\nacknowledge = \"done\"\n");
    let mut client = broker.telnet();
    client.send("help");
    let help: Vec<String> = std::iter::from_fn(|| Some(client.line()).filter(|line| !line.is_empty())).collect();
    let has = |word: &str| help.iter().any(|line| line.split(' ').next() == Some(word));
    assert!(has("say") && has("done") && has("sub") && !has("pub") && !has("ack"), "{help:#?}");
    assert!(help.iter().any(|line| line.contains("for example: say ")), "{help:#?}");
    client.asks("DONE", "error: usage: done <topic> <id> [<id> …] or done <topic> *");
    client.asks("acknowledge t", "error: usage: done <topic> <id> [<id> …] or done <topic> *");
    let answer = client.ask("ack t a");
    assert!(answer.starts_with("error: unknown command: \"ack t a\""), "{answer}");
}

//! Sessions that require tokens.

use super::*;
use crate::auth::{Rights, Tokens};

pub(super) fn rights(publish: &str, subscribe: &str) -> Rights {
    Rights { name: "r".into(), publish: vec![publish.into()], subscribe: vec![subscribe.into()], admin: false }
}

pub(super) fn client(tokens: &Arc<Tokens>) -> Client {
    Client::with(SessionSettings { tokens: Arc::clone(tokens), ..SessionSettings::default() })
}

fn one() -> Arc<Tokens> {
    Arc::new(Tokens::new([("right", rights("in.*", "out.*"))]))
}

#[test]
fn before_a_right_token_every_command_is_refused_and_the_lines_after_it_wait_for_its_check() {
    let mut client = client(&one());
    for line in ["ping", "quit", "nonsense", "pub a b", "sub in.a", "topics", "hello {\"prefetch\":2}"] {
        assert_eq!(client.answer(line), "error: authentication required\r\n", "{line}");
    }
    assert!(client.answer("hello {\"token\":7}").starts_with("error: hello: token must be a string"));
    assert!(client.answer(&"x".repeat(20_000)).starts_with("error: line exceeds 16384 bytes"));
    client.send("hello {\"token\":\"right\",\"confirm\":true}\r\nping\r\n");
    assert!(client.session.has_claim() && !client.session.wants_input() && !client.session.is_finished());
    assert_eq!(client.said(), "");
    assert!(client.session.check_claim());
    let said = client.said();
    assert!(said.starts_with("hello {") && said.ends_with("}\r\npong\r\n"), "{said}");
    assert!(client.answer(&"x".repeat(20_000)).starts_with("error: unknown command"));
}

#[test]
fn a_wrong_token_ends_the_session_also_after_a_right_one() {
    for before in ["", "hello {\"token\":\"right\"}\n"] {
        let mut client = client(&one());
        client.send(before);
        client.session.check_claim();
        client.said();
        client.send("hello {\"token\":\"wrong\"}\nping\n");
        assert!(!client.session.check_claim());
        assert_eq!(client.said(), "error: authentication failed\r\n");
        assert!(client.session.is_finished() && client.session.is_turned_away());
    }
}

#[test]
fn rights_are_those_of_the_patterns() {
    let mut client = client(&one());
    client.send("hello {\"token\":\"right\"}\n");
    assert!(client.session.check_claim());
    client.said();
    assert_eq!(client.answer("pub other not-even-json"), "error: not allowed to publish to topic other\r\n");
    assert_eq!(client.answer("pub out.a {}"), "error: not allowed to publish to topic out.a\r\n");
    assert_eq!(client.answer("sub in.a"), "error: not allowed to subscribe to topic in.a\r\n");
    assert_eq!(client.answer("unsub in.a name"), "error: not allowed to subscribe to topic in.a\r\n");
    assert_eq!(client.answer("stats other"), "error: not allowed to subscribe to topic other\r\n");
    for (command, what) in [("peek", "peek into"), ("purge", "purge"), ("redrive", "redrive")] {
        let refused = client.answer(&format!("{command} in.a"));
        assert_eq!(refused, "error: not allowed to subscribe to topic in.a\r\n");
        let refused = client.answer(&format!("{command} out.a"));
        assert_eq!(refused, format!("error: not allowed to {what} topic out.a\r\n"));
    }
    for line in ["pub in.a {}", "sub out.a", "unsub out.a name", "stats in.a"] {
        client.send(&format!("{line}\n"));
        assert_eq!(client.requests().len(), 1, "{line}");
    }
}

#[test]
fn operators_look_drop_and_move_back_where_they_may_subscribe() {
    let tokens = Arc::new(Tokens::new([("right", Rights { admin: true, ..rights("in.*", "out.*") })]));
    for command in ["peek", "purge", "redrive"] {
        let mut client = client(&tokens);
        client.send("hello {\"token\":\"right\"}\n");
        assert!(client.session.check_claim());
        client.said();
        let refused = client.answer(&format!("{command} in.a"));
        assert_eq!(refused, "error: not allowed to subscribe to topic in.a\r\n");
        client.send(&format!("{command} out.a\n"));
        assert_eq!(client.requests().len(), 1, "{command}");
    }
}

#[test]
fn only_topics_that_the_token_names_are_listed() {
    let mut client = client(&one());
    client.send("hello {\"token\":\"right\"}\n");
    client.session.check_claim();
    client.said();
    client.send("topics\n");
    let slot = client.requests()[0].slot;
    let topic =
        |name: &str| TopicSummary { topic: name.into(), subscriptions: 0, waiting: 0, in_flight: 0, published: 0 };
    client.outcome(slot, Outcome::Topics(vec![topic("in.a"), topic("other"), topic("out.b")]));
    let said = client.said();
    assert!(said.contains("in.a") && said.contains("out.b") && !said.contains("other"), "{said}");
}

#[test]
fn new_tokens_end_the_sessions_whose_rights_they_change() {
    let tokens = Arc::new(Tokens::default());
    let mut anyone = client(&tokens);
    tokens.replace([("right", rights("*", "*"))]);
    anyone.session.tokens_changed();
    assert_eq!(anyone.said(), "error: tokens have changed: connect again\r\n");
    assert!(anyone.session.is_finished());
    let mut bearer = client(&tokens);
    bearer.send("hello {\"token\":\"right\"}\n");
    assert!(bearer.session.check_claim());
    bearer.said();
    tokens.replace([("right", rights("*", "*")), ("another", rights("*", "*"))]);
    bearer.session.tokens_changed();
    assert_eq!(bearer.answer("ping"), "pong\r\n");
    tokens.replace([("another", rights("*", "*"))]);
    bearer.session.tokens_changed();
    assert_eq!(bearer.said(), "error: tokens have changed: connect again\r\n");
}

#[test]
fn a_new_token_detaches_forbidden_topics_before_its_hello_is_answered() {
    let tokens = Arc::new(Tokens::new([("first", rights("*", "out.*")), ("second", rights("*", "out.b"))]));
    let mut client = client(&tokens);
    client.send("hello {\"token\":\"first\"}\n");
    assert!(client.session.check_claim());
    client.said();
    for topic in ["out.a", "out.b", "out.c", "out.gone"] {
        client.exchange(&format!("sub {topic}"), Outcome::Subscribed);
    }
    client.exchange("unsub out.c", Outcome::Unsubscribed);
    let gone = TopicName::new("out.gone").unwrap();
    client.session.event(LinkEvent::Removed { topic: gone, subscription: SubscriptionName::new("s").unwrap() });
    client.said();
    // The engine has not answered this subscription yet.
    client.send("sub out.d\nhello {\"token\":\"second\"}\nping\n");
    assert!(client.session.check_claim());
    let requests = client.requests();
    let asked: Vec<String> = requests.iter().map(|request| format!("{:?}", request.op)).collect();
    assert!(asked[0].starts_with("Subscribe") && asked[0].contains("out.d"), "{asked:?}");
    assert_eq!(asked[1..], ["Detach { topic: \"out.a\" }", "Detach { topic: \"out.d\" }"]);
    client.outcome(requests[0].slot, Outcome::Subscribed);
    client.deliver("before", 0);
    client.outcome(requests[1].slot, Outcome::Detached);
    let said = client.said();
    assert!(!said.contains("hello"), "out.d is still attached: {said}");
    client.outcome(requests[2].slot, Outcome::Detached);
    let said = client.said();
    assert!(said.starts_with("hello {") && said.contains(",\"detached\":[\"out.a\",\"out.d\"]}\r\npong\r\n"), "{said}");
    // The next token is checked against the remaining topics; a hello without a token changes nothing.
    assert!(!client.answer("hello {\"confirm\":true}").contains("detached"));
    client.send("hello {\"token\":\"first\"}\n");
    assert!(client.session.check_claim());
    assert!(client.requests().is_empty() && !client.said().contains("detached"));
}

//! Every command, with a token for each right and without a token.

use super::tokens::client;
use super::*;
use crate::auth::{Rights, Tokens};
use crate::protocol::command::fixed_words;

/// The right that a line requires.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Needs {
    None,
    Authenticated,
    Publish,
    Subscribe,
    Operate(&'static str),
    See,
}

/// At least one line for each command. Both forms of `acknowledge` and `stats` are commands of their own.
const LINES: [(&str, Needs); 19] = [
    ("hello {\"token\":\"of none\"}", Needs::None),
    ("publish t {}", Needs::Publish),
    ("subscribe t s", Needs::Subscribe),
    ("unsubscribe t s", Needs::Subscribe),
    ("detach t", Needs::Authenticated),
    ("acknowledge t 1", Needs::Authenticated),
    ("acknowledge t *", Needs::Authenticated),
    ("nack t 1", Needs::Authenticated),
    ("touch t 1", Needs::Authenticated),
    ("term t 1 note", Needs::Authenticated),
    ("peek t", Needs::Operate("peek into")),
    ("redrive t", Needs::Operate("redrive")),
    ("purge t", Needs::Operate("purge")),
    ("topics", Needs::Authenticated),
    ("stats", Needs::Authenticated),
    ("stats t", Needs::See),
    ("help", Needs::Authenticated),
    ("ping", Needs::Authenticated),
    ("quit", Needs::Authenticated),
];

const UNAUTHENTICATED: &str = "error: authentication required\r\n";

/// Tokens, named after the rights they have on the topic `t`.
fn tokens() -> Arc<Tokens> {
    let rights = |publish: &[&str], subscribe: &[&str], admin| Rights {
        name: "r".into(),
        publish: publish.iter().map(|pattern| (*pattern).into()).collect(),
        subscribe: subscribe.iter().map(|pattern| (*pattern).into()).collect(),
        admin,
    };
    Arc::new(Tokens::new([
        ("of none", rights(&["other"], &["other"], false)),
        ("of publish", rights(&["t"], &[], false)),
        ("of subscribe", rights(&[], &["t"], false)),
        ("of admin", rights(&[], &[], true)),
        ("of operate", rights(&[], &["t"], true)),
    ]))
}

/// The verb in the refusal, or `None` if `token` grants the right `needs`.
fn refused(token: &str, needs: Needs) -> Option<&'static str> {
    let (publishes, subscribes) = (token == "of publish", token == "of subscribe" || token == "of operate");
    let is_admin = token == "of admin" || token == "of operate";
    match needs {
        Needs::None | Needs::Authenticated => None,
        Needs::Publish => (!publishes).then_some("publish to"),
        Needs::Subscribe => (!subscribes).then_some("subscribe to"),
        Needs::Operate(_) if !subscribes => Some("subscribe to"),
        Needs::Operate(verb) => (!is_admin).then_some(verb),
        Needs::See => (!publishes && !subscribes && !is_admin).then_some("subscribe to"),
    }
}

#[test]
fn every_command_is_in_the_table() {
    for word in fixed_words() {
        let is_there = LINES.iter().any(|(line, _)| line.split(' ').next() == Some(word));
        assert!(is_there, "{word} has no line, so no test says who may do it");
    }
}

#[test]
fn without_a_token_hello_is_the_only_command() {
    for (line, needs) in LINES {
        let mut client = client(&tokens());
        client.send(&format!("{line}\n"));
        if needs == Needs::None {
            assert!(client.session.has_claim(), "{line}");
        } else {
            assert_eq!(client.said(), UNAUTHENTICATED, "{line}");
        }
        assert!(client.requests().is_empty(), "{line}");
        assert!(!client.session.is_finished(), "{line}");
    }
}

#[test]
fn each_command_is_open_to_the_right_that_it_needs_and_to_no_other() {
    for token in ["of none", "of publish", "of subscribe", "of admin", "of operate"] {
        for (line, needs) in LINES {
            let mut client = client(&tokens());
            client.send(&format!("hello {{\"token\":\"{token}\"}}\n"));
            assert!(client.session.check_claim(), "{token}");
            client.said();
            client.send(&format!("{line}\n"));
            let (said, asked) = (client.said(), client.requests().len());
            match refused(token, needs) {
                Some(verb) => {
                    assert_eq!(
                        said,
                        format!("error: not allowed to {verb} topic t\r\n"),
                        "{line} by the token {token}"
                    );
                    assert_eq!(asked, 0, "{line} by the token {token}");
                }
                None => {
                    let is_executed = asked == 1 || client.session.has_claim() || !said.is_empty();
                    assert!(is_executed && !said.starts_with("error"), "{line} by the token {token}: {said}");
                }
            }
        }
    }
}

#[test]
fn where_no_token_is_required_every_command_is_open() {
    for (line, _) in LINES {
        let mut client = Client::new();
        client.send(&format!("{line}\n"));
        assert!(!client.said().starts_with("error"), "{line}");
    }
}

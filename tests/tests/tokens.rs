//! Tokens: which clients are accepted, their permissions, and which have to wait.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::process::Command;
use std::time::{Duration, Instant};

use herald_tests::{Telnet, TestBroker, WebSocketClient, herald};
use rustix::process::Signal;

const CONFIG: &str = "[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n[auth]\ntokens = [\n\
    { token = \"all-of-it\", name = \"admin\", publish = [\"*\"], subscribe = [\"*\"], admin = true },\n\
    { token_file = \"billing.token\", name = \"billing\", publish = [\"billing.*\"], subscribe = [\"tweets\"] },\n]\n";

fn broker() -> TestBroker {
    let mut broker = TestBroker::prepare(CONFIG);
    std::fs::write(broker.dir().join("billing.token"), "s3cret-of-billing\n").unwrap();
    broker.run();
    broker
}

fn hello(token: &str) -> String {
    format!("hello {{\"token\":\"{token}\"}}")
}

/// A client that has authenticated with this token.
fn bearer(broker: &TestBroker, token: &str) -> Telnet {
    let mut telnet = broker.telnet();
    let answer = telnet.ask(&hello(token));
    assert!(answer.starts_with("hello {"), "{answer}");
    telnet
}

#[test]
fn without_a_token_nothing_is_allowed_and_with_one_only_what_it_permits() {
    let broker = broker();
    let mut stranger = broker.telnet();
    for line in ["ping", "topics", "sub tweets", "pub tweets {}", "hello {}", "help", "quit"] {
        stranger.asks(line, "error: authentication required");
    }
    let mut admin = bearer(&broker, "all-of-it");
    admin.asks("sub billing.done", "successfully subscribed to topic billing.done");
    let mut billing = bearer(&broker, "s3cret-of-billing");
    billing.asks("sub tweets", "successfully subscribed to topic tweets");
    billing.asks("sub users", "error: not allowed to subscribe to topic users");
    billing.asks("pub tweets {}", "error: not allowed to publish to topic tweets");
    billing.send("pub billing.done {\"id\":\"1\"}");
    admin.expect("{\"topic\":\"billing.done\",\"priority\":0,\"msg\":null,\"id\":\"1\"}");
    let topics = billing.ask("topics");
    assert!(topics.contains("\"tweets\"") && topics.contains("\"billing.done\""), "{topics}");
    admin.asks("sub private", "successfully subscribed to topic private");
    assert!(!billing.ask("stats").contains("private"));
    // The unauthenticated client may still present a token.
    let answer = stranger.ask(&hello("all-of-it"));
    assert!(answer.starts_with("hello {"), "{answer}");
    stranger.asks("ping", "pong");
    assert!(!broker.log().contains("s3cret") && !broker.log().contains("all-of-it"));
}

#[test]
fn a_wrong_token_closes_the_connection_and_delays_further_attempts_from_its_address() {
    let broker = broker();
    let began = Instant::now();
    for _ in 0..4 {
        let mut telnet = broker.telnet();
        telnet.send(&format!("{}\nping", hello("wrong")));
        assert_eq!(telnet.rest(), ["error: authentication failed"]);
    }
    // 0, 100, 200 and 400 ms.
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    // A valid token waits too, or a missing answer would reveal that a guess is wrong.
    let began = Instant::now();
    let _right = bearer(&broker, "all-of-it");
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert!(broker.log().contains("authentication failed; further attempts from this address have to wait"));
    assert!(!broker.log().contains("wrong"));
}

#[test]
fn guesses_over_many_connections_wait_for_each_other_and_too_many_are_refused() {
    let broker = broker();
    for _ in 0..3 {
        let mut telnet = broker.telnet();
        telnet.asks(&hello("wrong"), "error: authentication failed");
    }
    let mut guesses: Vec<_> = (0..100).map(|_| broker.telnet()).collect();
    for guess in &mut guesses {
        guess.send(&hello("wrong"));
    }
    let sent_away =
        guesses.iter_mut().filter_map(|guess| guess.rest().pop()).filter(|line| line.contains("too many")).count();
    assert!((60..100).contains(&sent_away), "{sent_away}");
}

#[test]
fn a_web_sockets_close_code_reports_a_wrong_token() {
    let broker = broker();
    let mut client = WebSocketClient::connect(broker.addr_of("ws"));
    client.asks("ping", "error: authentication required");
    client.send(&hello("wrong"));
    let (messages, closed) = client.closed();
    assert_eq!(messages, ["error: authentication failed"]);
    assert_eq!(closed, Some((1008, "authentication failed".to_owned())));
    let mut client = WebSocketClient::connect(broker.addr_of("ws"));
    client.send(&format!("{}\nping", hello("s3cret-of-billing")));
    assert!(client.message().unwrap().starts_with("hello {"));
    client.expect("pong");
}

#[test]
fn a_hangup_replaces_the_tokens_and_closes_connections_that_lost_theirs() {
    let broker = broker();
    let (mut admin, mut billing) = (bearer(&broker, "all-of-it"), bearer(&broker, "s3cret-of-billing"));
    billing.asks("sub tweets", "successfully subscribed to topic tweets");
    std::fs::write(broker.dir().join("billing.token"), "another").unwrap();
    broker.signal(Signal::HUP);
    assert_eq!(billing.rest(), ["error: tokens have changed: connect again"]);
    admin.asks("ping", "pong");
    let _new = bearer(&broker, "another");
    // An invalid configuration changes nothing.
    std::fs::remove_file(broker.dir().join("billing.token")).unwrap();
    broker.signal(Signal::HUP);
    let _line = broker.wait_for_log("the configuration is not valid, so nothing has changed");
    let _still = bearer(&broker, "another");
    admin.asks("ping", "pong");
}

#[test]
fn the_command_line_sends_its_token_and_never_shows_one() {
    let broker = broker();
    let server = broker.addr().to_string();
    let run = |args: &[&str], token: Option<&str>| {
        let mut command = Command::new(herald());
        command.current_dir(broker.dir()).args(args).env_remove("HERALD_TOKEN");
        if let Some(token) = token {
            command.env("HERALD_TOKEN", token);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let publish = ["pub", "billing.x", "{\"id\":\"1\"}", "--server", &server];
    let (status, _, error) = run(&publish, None);
    assert_eq!(status, Some(1));
    assert!(error.contains("authentication required; the token is given with --token or HERALD_TOKEN"), "{error}");
    let (status, out, _) = run(&publish, Some("s3cret-of-billing"));
    assert_eq!((status, out.as_str()), (Some(0), "published billing.x 1 synced\n"));
    let (status, out, _) = run(&["config", "show"], None);
    assert_eq!(status, Some(0));
    assert!(!out.contains("all-of-it") && !out.contains("s3cret"), "{out}");
    assert!(out.contains("token = \"(hidden)\"") && out.contains("token_file = \"billing.token\""), "{out}");
}

#[test]
fn a_listener_reachable_from_other_machines_is_warned_about() {
    for (auth, warning) in [
        ("", "no tokens are configured: anyone who can reach this address may publish and subscribe"),
        (
            "[auth]\ntokens = [{ token = \"x\", name = \"x\" }]\n",
            "tokens and events go over the network in the clear here",
        ),
    ] {
        let broker = TestBroker::start(&format!("[transports.tcp]\n[transports.ws]\nlisten = \"0.0.0.0:0\"\n{auth}"));
        let warnings: Vec<_> = ["no tokens are configured", "in the clear"]
            .into_iter()
            .filter(|text| broker.log().contains(text))
            .collect();
        assert_eq!(warnings.len(), 1, "{}", broker.log());
        let line = broker.wait_for_log(warning);
        assert!(line.contains("WARN") && line.contains("transport=ws"), "{line}");
    }
}

/// A connection must not keep receiving events that its new token does not permit.
#[test]
fn a_new_token_also_limits_existing_subscriptions() {
    let broker = TestBroker::start(
        "[auth]\ntokens = [{ token = \"wide\", name = \"wide\", publish = [\"*\"], subscribe = [\"*\"] }, { token = \"narrow\", name = \"narrow\", publish = [\"*\"], subscribe = [\"b\"] }]\n",
    );
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"token\":\"wide\",\"prefetch\":10}").starts_with("hello {"));
    client.asks("sub a s", "successfully subscribed to topic a");
    client.asks("sub b", "successfully subscribed to topic b");
    client.send(&herald_tests::publish("a", "1", 0));
    client.expect(&herald_tests::delivery("a", "1", 0));
    let answer = client.ask("hello {\"token\":\"narrow\"}");
    assert!(answer.starts_with("hello {") && answer.ends_with(",\"detached\":[\"a\"]}"), "{answer}");
    client.send(&herald_tests::publish("a", "2", 0));
    client.asks("ack a 1", "error: not a topic a subscriber");
    client.asks("sub a s", "error: not allowed to subscribe to topic a");
    client.send(&herald_tests::publish("b", "3", 0));
    client.expect(&herald_tests::delivery("b", "3", 0));
    client.nothing();
    // Its events in flight go to a client that is permitted to receive them.
    let mut other = broker.telnet();
    assert!(other.ask("hello {\"token\":\"wide\"}").starts_with("hello {"));
    other.asks("sub a s", "successfully subscribed to topic a");
    assert!(other.line().contains("\"id\":\"1\",\"redelivered\":1"));
}

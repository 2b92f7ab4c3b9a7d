//! Tokens: who is let in, what they may do, and who has to wait.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

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

/// A client that has given its token.
fn bearer(broker: &TestBroker, token: &str) -> Telnet {
    let mut telnet = broker.telnet();
    let answer = telnet.ask(&hello(token));
    assert!(answer.starts_with("hello {"), "{answer}");
    telnet
}

#[test]
fn nothing_goes_without_a_token_and_with_one_what_it_is_good_for() {
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
    // The stranger may still find a token.
    let answer = stranger.ask(&hello("all-of-it"));
    assert!(answer.starts_with("hello {"), "{answer}");
    stranger.asks("ping", "pong");
    assert!(!broker.log().contains("s3cret") && !broker.log().contains("all-of-it"));
}

#[test]
fn a_wrong_token_closes_the_connection_and_the_next_from_there_wait_longer_and_longer() {
    let broker = broker();
    let began = Instant::now();
    for _ in 0..4 {
        let mut telnet = broker.telnet();
        telnet.send(&format!("{}\nping", hello("wrong")));
        assert_eq!(telnet.rest(), ["error: authentication failed"]);
    }
    // 0, 100, 200 and 400 ms.
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    // A right one waits, too: or else whoever gets no answer would know.
    let began = Instant::now();
    let _right = bearer(&broker, "all-of-it");
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert!(broker.log().contains("authentication failed; further attempts from this address have to wait"));
    assert!(!broker.log().contains("wrong"));
}

#[test]
fn guesses_over_many_connections_wait_for_each_other_and_too_many_are_sent_away() {
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
fn a_web_socket_says_by_its_code_that_the_token_was_wrong() {
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
fn a_hangup_puts_other_tokens_in_force_and_those_who_lost_theirs_out() {
    let broker = broker();
    let (mut admin, mut billing) = (bearer(&broker, "all-of-it"), bearer(&broker, "s3cret-of-billing"));
    billing.asks("sub tweets", "successfully subscribed to topic tweets");
    std::fs::write(broker.dir().join("billing.token"), "another").unwrap();
    broker.signal(Signal::HUP);
    assert_eq!(billing.rest(), ["error: tokens have changed: connect again"]);
    admin.asks("ping", "pong");
    let _new = bearer(&broker, "another");
    // What is not valid changes nothing.
    std::fs::remove_file(broker.dir().join("billing.token")).unwrap();
    broker.signal(Signal::HUP);
    let _line = broker.wait_for_log("the configuration is not valid, so nothing has changed");
    let _still = bearer(&broker, "another");
    admin.asks("ping", "pong");
}

#[test]
fn the_command_line_gives_its_token_and_shows_none() {
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
fn a_listener_beyond_this_machine_is_warned_of() {
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

//! The command line: its output, its messages and its exit status.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use herald_tests::{TestBroker, delivery, herald, publish};
use rustix::process::Signal;

struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(herald());
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    ran(command(dir, args).output().unwrap())
}

#[test]
fn publishing_and_subscribing_from_a_shell() {
    let broker = TestBroker::start("");
    let server = broker.addr().to_string();
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let published = run(broker.dir(), &["pub", "t", r#"{"id":"a","priority":2,"msg":"m"}"#, "--server", &server]);
    assert_eq!((published.status, published.out.as_str()), (0, "published t a synced\n"), "{}", published.err);
    let mut child = command(broker.dir(), &["pub", "t", "-"])
        .env("HERALD_SERVER", format!("tcp://{server}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"id\":\"b\",\"msg\":\"m\"}\n[]\n{\"id\":\"c\",\"msg\":\"m\"}\n").unwrap();
    let piped = ran(child.wait_with_output().unwrap());
    assert_eq!(piped.status, 1, "one event was refused: {} {}", piped.out, piped.err);
    assert!(
        piped.out.contains("published t b synced\n") && piped.out.contains("published t c synced\n"),
        "{}",
        piped.out
    );
    assert!(piped.err.contains("line 2"), "{}", piped.err);
    let subscribed = run(broker.dir(), &["sub", "t", "--name", "s", "--count", "3", "--server", &server]);
    assert_eq!(subscribed.status, 0, "{}", subscribed.err);
    let expected = [delivery("t", "a", 2), delivery("t", "b", 0), delivery("t", "c", 0)].join("\n") + "\n";
    assert_eq!(subscribed.out, expected, "each delivery line as received");
    let stats = run(broker.dir(), &["stats", "t", "--json", "--server", &server]);
    let stats: serde_json::Value = serde_json::from_str(&stats.out).unwrap();
    assert_eq!(stats["topics"][0]["subscriptions"][0]["acknowledged"], 3);
    let topics = run(broker.dir(), &["topics", "--server", &server]);
    assert!(topics.status == 0 && topics.out.contains('t'), "{}", topics.out);
}

#[test]
fn without_acknowledging_events_stay() {
    let broker = TestBroker::start("");
    let server = broker.addr().to_string();
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    broker.telnet().send(&publish("t", "a", 0));
    for _ in 0..2 {
        let subscribed =
            run(broker.dir(), &["sub", "t", "--name", "s", "--no-ack", "--count", "1", "--server", &server]);
        assert!(subscribed.out.contains("\"id\":\"a\""), "{}", subscribed.out);
    }
}

#[test]
fn an_unreachable_broker_is_reported_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["topics"][..], &["stats"], &["pub", "t", "{}"]] {
        let args = [args, &["--server", "127.0.0.1:1"]].concat();
        let failed = run(dir.path(), &args);
        assert_eq!(failed.status, 1, "{args:?}: {}", failed.err);
        assert!(failed.err.contains("127.0.0.1:1") && failed.err.contains("herald serve"), "{}", failed.err);
    }
}

#[test]
fn a_wrong_configuration_is_reported_by_file_key_and_expected_value() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("herald.toml"),
        "[broker]\nshards = \"many\"\nshard = 1\n[storage]\nkind = \"paper\"\ndurability = \"maybe\"\n[commands]\npublish = \"ack\"\n",
    )
    .unwrap();
    let failed = run(dir.path(), &["config", "check"]);
    assert_eq!(failed.status, 2, "{}", failed.err);
    for part in [
        "herald.toml",
        "broker.shards",
        "integer",
        "broker.shard:",
        "storage.kind",
        "paper",
        "storage.durability",
        "always",
        "commands",
    ] {
        assert!(failed.err.contains(part), "{part}: {}", failed.err);
    }
    assert_eq!(run(dir.path(), &["serve"]).status, 2);
    assert_eq!(run(dir.path(), &["serve", "--config", "absent.toml"]).status, 2);
    assert_eq!(run(dir.path(), &["serve", "--nonsense"]).status, 2);
    let empty = tempfile::tempdir().unwrap();
    let failed =
        ran(command(empty.path(), &["config", "check"]).env("HERALD_STORAGE__KIN", "json-log").output().unwrap());
    assert!(failed.status == 2 && failed.err.contains("HERALD_STORAGE__KIN"), "{}", failed.err);
    assert_eq!(run(empty.path(), &["config", "check"]).status, 0);
}

#[test]
fn later_layers_win_and_show_names_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("herald.toml"), "[storage]\npath = \"from-file\"\nsync_interval_ms = 7\n").unwrap();
    let mut show = command(dir.path(), &["config", "show", "--set", "broker.shards=3"]);
    let shown = ran(show.env("HERALD_STORAGE__PATH", "from-env").env("HERALD_SERVER", "x:1").output().unwrap());
    assert_eq!(shown.status, 0, "{}", shown.err);
    let line = |key: &str| {
        shown.out.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {}", shown.out))
    };
    assert!(line("path").contains("from-env") && line("path").contains("HERALD_STORAGE__PATH"));
    assert!(line("sync_interval_ms").contains("= 7") && line("sync_interval_ms").contains("herald.toml"));
    assert!(line("shards").contains("= 3") && line("shards").contains("--set"));
    assert!(line("kind").contains("json-log") && line("kind").contains("default"));
}

#[test]
fn check_accepts_the_file_that_init_writes() {
    let dir = tempfile::tempdir().unwrap();
    let init = run(dir.path(), &["config", "init"]);
    assert_eq!(init.status, 0);
    let text =
        if init.out.is_empty() { std::fs::read_to_string(dir.path().join("herald.toml")).unwrap() } else { init.out };
    std::fs::write(dir.path().join("written.toml"), &text).unwrap();
    let checked = run(dir.path(), &["config", "check", "--config", "written.toml"]);
    assert_eq!(checked.status, 0, "{}", checked.err);
    for key in ["max_line_bytes", "durability", "memory_budget_mb", "listen", "auto_create", "[[sources]]"] {
        assert!(text.contains(key), "{key} is missing");
    }
}

#[test]
fn there_are_completions_and_examples() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(dir.path(), &["completions", shell]);
        assert!(completions.status == 0 && completions.out.contains("herald"), "{shell}");
    }
    for command in ["serve", "demo", "feed", "pub", "sub", "topics", "stats", "config", "completions", "man"] {
        let help = run(dir.path(), &[command, "--help"]);
        assert!(
            help.status == 0 && help.out.contains("Example") && help.out.contains(&format!("herald {command}")),
            "{}",
            help.out
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let written = run(dir.path(), &["man", "--dir", "pages/man1"]);
    assert_eq!((written.status, written.out.as_str()), (0, ""), "{}", written.err);
    for (page, says) in [
        ("herald", "herald\\-pub(1)"),
        ("herald-serve", "\\-\\-config"),
        ("herald-pub", "\\-\\-server"),
        ("herald-dead-redrive", "\\-\\-count"),
        ("herald-man", "\\-\\-dir"),
    ] {
        let text = std::fs::read_to_string(dir.path().join(format!("pages/man1/{page}.1"))).unwrap();
        assert!(text.contains(says) && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let printed = run(dir.path(), &["man"]);
    assert!(printed.status == 0 && printed.out.contains(".TH herald 1"), "{}", printed.out);
}

#[test]
fn signals_stop_a_broker_in_an_orderly_way() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = TestBroker::start("");
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        client.send(&publish("t", "a", 0));
        client.expect(&delivery("t", "a", 0));
        broker.signal(signal);
        assert_eq!(client.try_line(), None);
        assert!(broker.wait().success(), "{}", broker.log());
        broker.run();
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        client.expect(&herald_tests::redelivery("t", "a", 0, 1));
    }
}

/// Starts a command and waits for the lines on standard error that name its addresses.
fn listening(command: &mut Command, count: usize) -> (std::process::Child, Vec<String>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut lines = lines.filter_map(|line| line.rsplit_once("addr=").map(|(_, addr)| addr.to_owned()));
    let addrs: Vec<String> = lines.by_ref().take(count).collect();
    std::thread::spawn(move || lines.for_each(drop));
    (child, addrs)
}

#[test]
fn a_feed_serves_the_lines_of_a_file_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> =
        (0..5).map(|n| format!("{{\"message\":{{\"tweet\":{{\"text\":\"tweet {n}\"}}}}}}")).collect();
    std::fs::write(dir.path().join("tweets.json"), lines.join("\n")).unwrap();
    let mut feed = command(
        dir.path(),
        &["feed", "--listen", "127.0.0.1:0", "--rate", "1000", "--panic-every", "3", "--file", "tweets.json"],
    );
    let (mut child, addrs) = listening(&mut feed, 1);
    let events = |last: Option<&str>, count: usize| {
        let mut stream = TcpStream::connect(&addrs[0]).unwrap();
        let resume = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        write!(stream, "GET /tweets/2 HTTP/1.1\r\nHost: feed\r\n{resume}\r\n").unwrap();
        let mut events: Vec<(String, String)> = Vec::new();
        let mut id = String::new();
        for line in BufReader::new(stream).lines().map(Result::unwrap) {
            if let Some(value) = line.strip_prefix("id: ") {
                value.clone_into(&mut id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                events.push((id.clone(), data.to_owned()));
                if events.len() == count {
                    break;
                }
            }
        }
        events
    };
    let first = events(None, 9);
    assert_eq!(first[2].1, "{\"message\": panic}");
    assert_eq!(first[0].1, lines[0]);
    let resumed = events(Some(&first[3].0), 5);
    assert_eq!(resumed, first[4..9]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_demo_runs_everything_and_keeps_its_data_in_the_given_directory() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["demo", "--data", "kept", "--port", "0", "--feed-port", "0", "--console-port", "0"];
    let (mut child, addrs) = listening(&mut command(dir.path(), &args), 2);
    let broker: std::net::SocketAddr = addrs[1].parse().unwrap();
    let mut client = herald_tests::Telnet::connect(broker);
    client.asks("sub tweets inbox", "successfully subscribed to topic tweets");
    let first = client.line();
    let id = herald_tests::id_of(&first);
    client.asks(&format!("ack tweets {id}"), &format!("acknowledged from logs ev_id={id}"));
    // It prints its hints once everything runs, which may be after a fast client has connected.
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut printed = String::new();
    for line in lines {
        printed += &line;
        printed.push('\n');
        if line.contains("Ctrl-C") {
            break;
        }
    }
    // Killed as in a crash, and restarted on the same data.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(printed.contains("telnet") && printed.contains("sub tweets inbox"), "{printed}");
    let (mut child, addrs) = listening(&mut command(dir.path(), &args), 2);
    let mut client = herald_tests::Telnet::connect(addrs[1].parse().unwrap());
    assert!(client.ask("hello {\"prefetch\":1000}").starts_with("hello"));
    client.asks("sub tweets inbox", "successfully subscribed to topic tweets");
    for _ in 0..3 {
        assert_ne!(herald_tests::id_of(&client.line()), id, "an acknowledged event does not come back");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn consumers_that_never_read_do_not_keep_a_broker_from_stopping_in_time() {
    let mut broker = TestBroker::start("[broker]\nshutdown_timeout_ms = 1500\n");
    let mut deaf = broker.telnet();
    assert!(deaf.ask("hello {\"prefetch\":65535}").starts_with("hello"));
    deaf.asks("sub t s", "successfully subscribed to topic t");
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    let text = "x".repeat(50_000);
    // More than the buffers of two sockets hold.
    for n in 0..1000 {
        publisher.asks(&format!("pub t {{\"id\":\"{n}\",\"msg\":\"{text}\"}}"), &format!("published t {n} synced"));
    }
    let mut half = broker.telnet();
    half.send_raw(b"pub t {\"id\":\"half");
    let began = std::time::Instant::now();
    assert!(broker.terminate().success(), "{}", broker.log());
    let took = began.elapsed();
    assert!(took.as_secs() < 20, "the shutdown limit is 1.5 s, but it took {took:?}");
    broker.run();
    // No event is lost.
    broker.wait_for_figures("t", &[("waiting", 1000), ("in_flight", 0)]);
}

#[test]
fn events_confirmed_while_the_broker_stops_survive() {
    let mut broker = TestBroker::start("");
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    let mut writer = publisher.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // Until the broker stops reading.
        for n in 0.. {
            if writeln!(writer, "{}", publish("t", &n.to_string(), 0)).is_err() {
                return;
            }
        }
    });
    for n in 0..1000 {
        publisher.expect(&format!("published t {n} synced"));
    }
    broker.signal(Signal::TERM);
    let rest = publisher.rest();
    writing.join().unwrap();
    for (n, line) in rest.iter().enumerate() {
        assert_eq!(*line, format!("published t {} synced", n + 1000));
    }
    assert!(broker.wait().success(), "{}", broker.log());
    broker.run();
    let mut client = broker.telnet();
    let stats: serde_json::Value = serde_json::from_str(&client.ask("stats t")).unwrap();
    let waiting = stats["topics"][0]["subscriptions"][0]["waiting"].as_u64().unwrap();
    assert!(waiting >= 1000 + rest.len() as u64, "{waiting} wait, {} were confirmed", 1000 + rest.len());
}

#[test]
fn a_port_in_use_is_reported_as_a_failure() {
    let broker = TestBroker::start("");
    let dir = tempfile::tempdir().unwrap();
    let listen = format!("transports.tcp.listen={}", broker.addr());
    let failed = run(dir.path(), &["serve", "--set", &listen]);
    assert_eq!(failed.status, 1, "{}", failed.err);
    assert!(failed.err.contains(&broker.addr().to_string()) && failed.err.contains("in use"), "{}", failed.err);
}

#[test]
fn wrong_usage_is_status_2_and_a_refused_event_status_1() {
    let broker = TestBroker::start("[topics.known]\n[topics.\"*\"]\nauto_create = false\n");
    let server = broker.addr().to_string();
    for args in [
        &[][..],
        &["nonsense"],
        &["pub", "t"],
        &["pub", "a/b", "{}"],
        &["sub"],
        &["sub", "t", "--prefetch", "0"],
        &["topics", "--server", "nowhere"],
        &["topics", "--server", "host:port"],
        &["completions", "tcsh"],
        &["config", "check", "--set", "nonsense"],
        &["config", "check", "--set", "storage.path"],
        &["config", "check", "--set", "storage.no_such_key=1"],
        &["config", "check", "--set", "storage.memory_budget_mb=0"],
    ] {
        let failed = run(broker.dir(), args);
        assert_eq!(failed.status, 2, "{args:?}: {}{}", failed.out, failed.err);
        assert!(!failed.err.is_empty() && failed.out.is_empty(), "{args:?}: {}{}", failed.out, failed.err);
    }
    for event in ["nonsense", "[]", r#"{"priority":1.5}"#] {
        let failed = run(broker.dir(), &["pub", "known", event, "--server", &server]);
        assert_eq!((failed.status, failed.out.as_str()), (1, ""), "{event}: {}", failed.err);
    }
    let failed = run(broker.dir(), &["pub", "unknown", "{}", "--server", &server]);
    assert!(failed.status == 1 && failed.err.contains("unknown topic"), "{}", failed.err);
    let failed = run(broker.dir(), &["stats", "unknown", "--server", &server]);
    assert!(failed.status == 1 && failed.err.contains("no such topic"), "{}", failed.err);
}

#[test]
fn unknown_keys_and_absent_plugins_are_refused_and_not_ignored() {
    let dir = tempfile::tempdir().unwrap();
    for (set, part) in [
        ("topics.t.overflow=drop-first", "topics.t.overflow"),
        ("topics.t.dead_letter={topic}", "topics.t.dead_letter"),
        ("transports.http.listen=127.0.0.1:0", "\"http\""),
        ("storage.kind=postgres", "\"postgres\""),
        ("engine.kind=jetstream", "jetstream"),
    ] {
        for command in ["check", "show"] {
            let failed = run(dir.path(), &["config", command, "--set", set]);
            assert!(failed.status == 2 && failed.err.contains(part), "{set}: {}", failed.err);
        }
        assert_eq!(run(dir.path(), &["serve", "--set", set]).status, 2, "{set}");
    }
}

#[test]
fn the_environment_names_the_configuration_and_is_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("other.toml"), "[broker]\nshards = 5\n").unwrap();
    let shown = ran(command(dir.path(), &["config", "show"]).env("HERALD_CONFIG", "other.toml").output().unwrap());
    let line = shown.out.lines().find(|line| line.starts_with("shards")).unwrap_or_else(|| panic!("{}", shown.out));
    assert!(line.contains("= 5") && line.contains("other.toml"), "{line}");
    let failed = ran(command(dir.path(), &["serve"]).env("HERALD_CONFIG", "absent.toml").output().unwrap());
    assert!(failed.status == 2 && failed.err.contains("absent.toml"), "{}", failed.err);
    let failed = ran(command(dir.path(), &["serve"]).env("HERALD_BROKER__SHARDS", "many").output().unwrap());
    assert!(failed.status == 2 && failed.err.contains("HERALD_BROKER__SHARDS"), "{}", failed.err);
    assert!(failed.err.contains("integer") && failed.err.contains("\"many\""), "{}", failed.err);
    std::fs::write(dir.path().join("herald.toml"), "x = [\"\n").unwrap();
    let failed = run(dir.path(), &["serve"]);
    assert!(
        failed.status == 2 && failed.err.contains("herald.toml") && failed.err.contains("line 1"),
        "{}",
        failed.err
    );
}

#[test]
fn several_connections_of_one_consumer_share_the_work() {
    let broker = TestBroker::start("");
    let server = broker.addr().to_string();
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    for n in 0..60 {
        publisher.asks(&publish("t", &n.to_string(), 0), &format!("published t {n} synced"));
    }
    let args =
        ["sub", "t", "--name", "s", "--connections", "3", "--prefetch", "5", "--count", "60", "--server", &server];
    let subscribed = run(broker.dir(), &args);
    assert_eq!(subscribed.status, 0, "{}", subscribed.err);
    let mut ids: Vec<u32> = subscribed.out.lines().map(|line| herald_tests::id_of(line).parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..60).collect::<Vec<_>>(), "each once");
    broker.wait_for_figures("t", &[("waiting", 0), ("in_flight", 0), ("acknowledged", 60)]);
}

#[test]
fn a_hangup_reloads_the_configuration_and_names_what_needs_a_restart() {
    let broker = TestBroker::start("[topics.t]\nmax_waiting = 1\n");
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.send(&publish("t", "a", 0));
    client.expect(&delivery("t", "a", 0));
    assert!(client.ask(&publish("t", "b", 0)).starts_with("error: topic t is full"));
    std::fs::write(
        broker.dir().join("herald.toml"),
        "[broker]\nlog = \"debug\"\nshards = 7\n[topics.t]\nmax_waiting = 2\n",
    )
    .unwrap();
    broker.signal(Signal::HUP);
    let said = broker.wait_for_log("SIGHUP: the configuration was read again");
    assert!(said.contains("log=debug"), "{said}");
    let unchanged = broker.wait_for_log("broker.shards");
    assert!(unchanged.contains("restart"), "{unchanged}");
    client.send(&publish("t", "b", 0));
    client.asks("ping", "pong");
    // An invalid configuration is refused, and the broker keeps running.
    std::fs::write(broker.dir().join("herald.toml"), "[broker]\nshards = \"many\"\n").unwrap();
    broker.signal(Signal::HUP);
    let refused = broker.wait_for_log("expected an integer");
    assert!(refused.contains("broker.shards"), "{refused}");
    client.asks("ping", "pong");
}

/// Sends a signal to a process and waits for its end.
fn stopped_by(signal: Signal, child: &mut std::process::Child) -> std::process::ExitStatus {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
    child.wait().unwrap()
}

#[test]
fn demo_and_feed_end_in_an_orderly_way_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = command(dir.path(), &["demo", "--port", "0", "--feed-port", "0", "--console-port", "0"]);
    let (mut child, addrs) = listening(demo.env("TMPDIR", temporary.path()), 2);
    let mut client = herald_tests::Telnet::connect(addrs[1].parse().unwrap());
    client.asks("sub tweets mine", "successfully subscribed to topic tweets");
    let _a_tweet = herald_tests::id_of(&client.line());
    assert!(std::fs::read_dir(temporary.path()).unwrap().next().is_some(), "its data are in the temporary directory");
    // The demo keeps printing until it ends.
    let mut stdout = child.stdout.take().unwrap();
    let printing = std::thread::spawn(move || {
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).unwrap();
        printed
    });
    assert!(stopped_by(Signal::INT, &mut child).success());
    assert!(printing.join().unwrap().contains("Ctrl-C"));
    assert!(std::fs::read_dir(temporary.path()).unwrap().next().is_none(), "the temporary data is gone");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the working directory is empty");

    let (mut child, addrs) = listening(&mut command(dir.path(), &["feed", "--listen", "127.0.0.1:0"]), 1);
    let mut stream = TcpStream::connect(&addrs[0]).unwrap();
    stream.write_all(b"GET /tweets/1 HTTP/1.1\r\nHost: feed\r\n\r\n").unwrap();
    let mut head = String::new();
    BufReader::new(&stream).read_line(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(stopped_by(Signal::TERM, &mut child).success());
}

#[test]
fn demo_and_feed_end_when_their_terminal_closes_unless_run_by_nohup() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let args = ["demo", "--port", "0", "--feed-port", "0", "--console-port", "0"];
    let (mut child, _) = listening(command(dir.path(), &args).env("TMPDIR", temporary.path()), 3);
    assert!(stopped_by(Signal::HUP, &mut child).success());
    assert!(std::fs::read_dir(temporary.path()).unwrap().next().is_none(), "the temporary data is gone");
    let feed = ["feed", "--listen", "127.0.0.1:0"];
    let (mut child, _) = listening(&mut command(dir.path(), &feed), 1);
    assert!(stopped_by(Signal::HUP, &mut child).success());

    let mut nohup = Command::new("nohup");
    nohup.arg(herald()).args(feed).current_dir(dir.path()).stdin(Stdio::null());
    let (mut child, addrs) = listening(&mut nohup, 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::HUP).unwrap();
    let mut stream = TcpStream::connect(&addrs[0]).unwrap();
    stream.write_all(b"GET /tweets/1 HTTP/1.1\r\nHost: feed\r\n\r\n").unwrap();
    let mut head = String::new();
    BufReader::new(&stream).read_line(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(stopped_by(Signal::TERM, &mut child).success());
}

#[test]
fn an_incomplete_answer_says_so() {
    let broker = TestBroker::start("[topics.t]\nmax_deliveries = 1\nmax_waiting = 3\n");
    let server = broker.addr().to_string();
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    for n in 0..3 {
        client.send(&publish("t", &n.to_string(), 0));
        client.expect(&delivery("t", &n.to_string(), 0));
        client.asks(&format!("nack t {n}"), &format!("requeued ev_id={n}"));
    }
    broker.wait_for_figures("t.dead", &[("waiting", 3)]);
    let list = run(broker.dir(), &["dead", "list", "t", "-n", "2", "--server", &server]);
    assert_eq!((list.status, list.out.lines().count()), (0, 3));
    let said = list.err.strip_prefix("herald: 2 of 3 letters are shown; --after ");
    let position = said.and_then(|said| said.strip_suffix(" shows the next ones, --all shows all\n"));
    let position = position.unwrap_or_else(|| panic!("{}", list.err));
    // The way on holds while letters before it go.
    let one = ["sub", "t.dead", "--name", "dead", "--prefetch", "1", "--count", "1", "--server", &server];
    assert_eq!(run(broker.dir(), &one).status, 0);
    broker.wait_for_figures("t.dead", &[("waiting", 2), ("in_flight", 0)]);
    let rest = run(broker.dir(), &["dead", "list", "t", "--json", "--after", position, "--server", &server]);
    assert_eq!((rest.status, rest.err.as_str(), rest.out.lines().count()), (0, "", 1));
    assert!(rest.out.contains(r#""id":"2""#), "{}", rest.out);
    let wrong = run(broker.dir(), &["dead", "list", "t", "--after", "soon", "--server", &server]);
    assert_eq!(wrong.status, 2, "{}", wrong.err);
    assert!(wrong.err.contains("invalid position \"soon\""), "{}", wrong.err);
    let full = run(broker.dir(), &["dead", "list", "t", "-n", "2", "--server", &server]);
    assert_eq!((full.out.lines().count(), full.err.as_str()), (3, ""), "a full page that is the last one");
    assert_eq!(run(broker.dir(), &["dead", "list", "t", "--server", &server]).err, "");
    // A full queue accepts no letter back.
    client.asks("detach t", "detached from topic t");
    for n in 3..6 {
        client.send(&publish("t", &n.to_string(), 0));
    }
    broker.wait_for_figures("t", &[("waiting", 3)]);
    let redrive = run(broker.dir(), &["dead", "redrive", "t", "--server", &server]);
    assert_eq!((redrive.status, redrive.out.as_str()), (0, "redriven 0\n"), "{}", redrive.err);
    assert!(redrive.err.starts_with("herald: 2 stay in t.dead: "), "{}", redrive.err);
}

#[test]
fn pub_explains_the_format_warns_of_unknown_keys_and_numbers_lines() {
    let broker = TestBroker::start("");
    let server = broker.addr().to_string();
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let hello = run(broker.dir(), &["pub", "t", "hello", "--server", &server]);
    assert_eq!(
        hello.err,
        "herald: the event is not a JSON object such as {\"priority\":3,\"msg\":\"any JSON value\"}\n"
    );
    let slip = run(broker.dir(), &["pub", "t", "{\"id\":\"a\",\"priorty\":3}", "--server", &server]);
    assert_eq!((slip.status, slip.out.as_str()), (0, "published t a synced\n"));
    assert!(slip.err.starts_with("herald: warning: \"priorty\" is no key of an event"), "{}", slip.err);
    let mut child = command(broker.dir(), &["pub", "t", "-", "--server", &server])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"x\":1}\n{\"x\":2}\n{\"priority\":1.5}\n").unwrap();
    let piped = ran(child.wait_with_output().unwrap());
    assert_eq!(piped.err.matches("\"x\" is no key").count(), 1, "{}", piped.err);
    assert!(piped.err.contains("line 3: priority: expected an integer from -2147483648"), "{}", piped.err);
    assert!(piped.err.ends_with("herald: 2 confirmed, 1 refused\n"), "{}", piped.err);
    let zero = run(broker.dir(), &["sub", "t", "--prefetch", "0"]);
    assert!(zero.status == 2 && zero.err.contains("expected an integer from 1 to 65535"), "{}", zero.err);
}

#[test]
fn all_dead_letters_are_listed_however_many_there_are() {
    let broker = TestBroker::start("");
    let server = broker.addr().to_string();
    let mut client = broker.telnet();
    client.asks("sub t.dead dead", "successfully subscribed to topic t.dead");
    client.asks("detach t.dead", "detached from topic t.dead");
    for n in 0..2_500 {
        client.send(&publish("t.dead", &n.to_string(), n % 3));
    }
    client.asks("ping", "pong");
    broker.wait_for_figures("t.dead", &[("waiting", 2_500)]);
    let list = run(broker.dir(), &["dead", "list", "t", "--all", "--json", "--server", &server]);
    assert_eq!((list.status, list.err.as_str(), list.out.lines().count()), (0, "", 2_500));
    let ids: std::collections::HashSet<String> = list.out.lines().map(herald_tests::id_of).collect();
    assert_eq!(ids.len(), 2_500, "each letter once");
    let tables = run(broker.dir(), &["dead", "list", "t", "--all", "--server", &server]);
    assert_eq!((tables.err.as_str(), tables.out.lines().count()), ("", 2_503), "three tables");
}

#[test]
fn dead_letters_are_listed_moved_back_and_dropped() {
    let broker = TestBroker::start("[topics.t]\nmax_deliveries = 1\n");
    let server = broker.addr().to_string();
    let dead = |args: &[&str]| {
        let mut all = vec!["dead"];
        all.extend(args);
        all.extend(["--server", &server]);
        run(broker.dir(), &all)
    };
    let header = "ID  SUBSCRIPTION  REASON  NOTE  PRIORITY  DELIVERIES\n";
    for (args, out) in [
        (&["list", "t"][..], header),
        (&["list", "t", "--json"], ""),
        (&["redrive", "t"], "redriven 0\n"),
        (&["purge", "t"], "purged 0\n"),
    ] {
        let ran = dead(args);
        assert_eq!((ran.status, ran.out.as_str()), (0, out), "{args:?}: {}", ran.err);
        assert_eq!(ran.err, "herald: there is no topic t\n");
    }
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks(&publish("t", "a", 2), &delivery("t", "a", 2));
    client.asks("term t a no such user", "terminated ev_id=a");
    client.asks(&publish("t", "b", 0), &delivery("t", "b", 0));
    client.asks("nack t b", "requeued ev_id=b");
    broker.wait_for_figures("t.dead", &[("waiting", 2)]);
    assert_eq!(
        dead(&["list", "t"]).out,
        "ID  SUBSCRIPTION  REASON          NOTE          PRIORITY  DELIVERIES\n\
         a   s             terminated      no such user         2           1\n\
         b   s             max_deliveries  -                    0           1\n"
    );
    let json = dead(&["list", "t", "-n", "1", "--json", "--subscription", "dead"]).out;
    assert!(json.starts_with(r#"{"topic":"t.dead","priority":2,"msg":"m","id":"a","dead":{"topic":"t","#), "{json}");
    assert_eq!(json.lines().count(), 1);
    let ran = dead(&["redrive", "t", "-n", "1"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, "redriven 1\n"), "{}", ran.err);
    client.expect(&delivery("t", "a", 2));
    assert_eq!(dead(&["purge", "t"]).out, "purged 1\n");
    assert_eq!(dead(&["list", "t"]).out, header);
    let ran = dead(&["list", "t", "--subscription", "nobody"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("no such subscription: topic t.dead has none called \"nobody\""), "{}", ran.err);
    for wrong in
        [&["list", "a/b"][..], &["list", "t", "-n", "0"], &["list", "t", "-n", "1001"], &["redrive", "t", "-n", "0"]]
    {
        assert_eq!(dead(wrong).status, 2, "{wrong:?}");
    }
}

//! The command line's output: to a pipe that may close, and to a terminal.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, TestBroker, delivery, herald, id_of, publish};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A broker with `count` events waiting in the subscription `s` of `t`.
fn broker_with(count: usize) -> TestBroker {
    let broker = TestBroker::start("");
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello"));
    for n in 0..count {
        publisher.asks(&publish("t", &n.to_string(), 0), &format!("published t {n} synced"));
    }
    broker
}

fn sub(broker: &TestBroker, options: &[&str]) -> Command {
    let mut command = Command::new(herald());
    command.args(["sub", "t", "--name", "s", "--server", &broker.addr().to_string()]).args(options);
    command.current_dir(broker.dir()).stdin(Stdio::null()).env_remove("HERALD_SERVER").env_remove("HERALD_TOKEN");
    command
}

/// Waits until a process has ended, without blocking indefinitely.
fn ended(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "the process does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_reader_that_closes_the_pipe_ends_sub_and_consumes_only_the_events_it_read() {
    for prefetch in ["1", "10", "100"] {
        for lines in [1, 3] {
            let broker = broker_with(10);
            let mut child = sub(&broker, &["--prefetch", prefetch]).stdout(Stdio::piped()).spawn().unwrap();
            let head =
                Command::new("head").arg(format!("-{lines}")).stdin(child.stdout.take().unwrap()).output().unwrap();
            let printed: Vec<String> = (0..lines).map(|n| delivery("t", &n.to_string(), 0) + "\n").collect();
            assert_eq!(String::from_utf8(head.stdout).unwrap(), printed.concat());
            assert_eq!(ended(&mut child).code(), Some(141), "the status of a process ended by SIGPIPE");
            broker.wait_for_figures("t", &[("waiting", 10 - lines), ("in_flight", 0), ("acknowledged", lines)]);
        }
    }
}

#[test]
fn a_closed_pipe_is_noticed_while_nothing_is_published() {
    let broker = broker_with(0);
    let mut child = sub(&broker, &[]).stdout(Stdio::piped()).spawn().unwrap();
    broker.wait_for_figures("t", &[("connections", 1)]);
    drop(child.stdout.take());
    assert_eq!(ended(&mut child).code(), Some(141));
}

#[test]
fn events_left_in_the_pipe_are_not_acknowledged() {
    let broker = broker_with(10);
    let mut child = sub(&broker, &["--prefetch", "10"]).stdout(Stdio::piped()).spawn().unwrap();
    broker.wait_for_figures("t", &[("in_flight", 10)]);
    let mut pipe = child.stdout.take().unwrap();
    let mut part = [0; 20];
    pipe.read_exact(&mut part).unwrap();
    drop(pipe);
    assert_eq!(ended(&mut child).code(), Some(141));
    broker.wait_for_figures("t", &[("waiting", 10), ("in_flight", 0), ("acknowledged", 0)]);
}

#[test]
fn a_reader_that_takes_everything_gets_everything_once() {
    let broker = broker_with(300);
    let output = sub(&broker, &["--prefetch", "50", "--count", "300"]).output().unwrap();
    assert!(output.status.success());
    let lines: String = (0..300).map(|n| delivery("t", &n.to_string(), 0) + "\n").collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), lines);
    broker.wait_for_figures("t", &[("waiting", 0), ("in_flight", 0), ("acknowledged", 300)]);
}

#[test]
fn an_event_longer_than_a_pipe_reaches_a_slow_reader_whole() {
    let broker = broker_with(0);
    let text = "x".repeat(300_000);
    broker.telnet().send(&format!("pub t {{\"id\":\"a\",\"msg\":\"{text}\"}}"));
    let mut child = sub(&broker, &["--count", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    broker.wait_for_figures("t", &[("in_flight", 1)]);
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(printed.contains(&text) && ended(&mut child).success());
    broker.wait_for_figures("t", &[("waiting", 0), ("acknowledged", 1)]);
}

/// A pseudo-terminal: the user's side, and the side that a program writes to.
struct Terminal {
    person: File,
    program: File,
}

impl Terminal {
    fn open() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        Self { person: File::from(person), program: OpenOptions::new().read(true).write(true).open(path).unwrap() }
    }

    fn stdio(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    /// Reads the terminal's output until it contains `text`.
    fn read_until(&mut self, text: &str) -> String {
        let mut shown = String::new();
        let mut bytes = [0; 4096];
        while !shown.contains(text) {
            let count = self.person.read(&mut bytes).unwrap();
            shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        shown
    }
}

/// An event with characters that move a terminal's cursor or reverse a line.
const HOSTILE: &str = "{\"id\":\"h\",\"msg\":\"\u{7f}\u{9b}2J\u{85}\u{202e}txt\u{2066}end\"}";

#[test]
fn control_characters_of_a_publisher_are_escaped_on_a_terminal_and_raw_on_a_pipe() {
    let broker = broker_with(0);
    broker.telnet().send(&format!("pub t {HOSTILE}"));
    let raw = sub(&broker, &["--count", "1", "--no-ack"]).output().unwrap();
    assert!(String::from_utf8(raw.stdout).unwrap().contains("\u{7f}\u{9b}2J\u{85}\u{202e}txt\u{2066}end"));
    let mut terminal = Terminal::open();
    let mut child = sub(&broker, &["--count", "1"]).stdout(terminal.stdio()).spawn().unwrap();
    let shown = terminal.read_until("end");
    assert!(shown.contains(r"\u007f\u009b2J\u0085\u202etxt\u2066end"), "{shown:?}");
    assert!(ended(&mut child).success());
}

#[test]
fn control_characters_in_dead_letters_and_in_errors_are_escaped_on_a_terminal() {
    let broker = broker_with(0);
    let server = broker.addr().to_string();
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.send(&format!("pub t {HOSTILE}"));
    assert_eq!(id_of(&client.line()), "h");
    client.asks("term t h no \u{9b}2J\u{202e}good", "terminated ev_id=h");
    broker.wait_for_figures("t.dead", &[("waiting", 1)]);
    for json in [false, true] {
        let mut terminal = Terminal::open();
        let mut list = Command::new(herald());
        list.args(["dead", "list", "t", "--server", &server]).args(json.then_some("--json"));
        let mut child = list.stdout(terminal.stdio()).spawn().unwrap();
        let shown = terminal.read_until("good");
        assert!(shown.contains(r"no \u009b2J\u202egood"), "{shown:?}");
        assert!(ended(&mut child).success());
    }
    let mut terminal = Terminal::open();
    let mut wrong = Command::new(herald());
    wrong.args(["dead", "list", "t\u{202e}\u{9b}2J", "--server", &server]);
    let mut child = wrong.stderr(terminal.stdio()).spawn().unwrap();
    let shown = terminal.read_until("\n");
    assert!(!shown.contains(['\u{202e}', '\u{9b}']), "{shown:?}");
    assert_eq!(ended(&mut child).code(), Some(2));
}

#[test]
fn on_a_terminal_sub_reports_when_it_is_subscribed_and_when_it_has_reconnected() {
    let mut broker = broker_with(0);
    let mut terminal = Terminal::open();
    let mut child = sub(&broker, &[]).stdout(Stdio::null()).stderr(terminal.stdio()).spawn().unwrap();
    terminal.read_until("subscribed to topic t as \"s\"");
    broker.kill();
    broker.run();
    terminal.read_until("reconnected and subscribed to topic t as \"s\" again");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(ended(&mut child).success(), "it ends when its terminal closes");
}

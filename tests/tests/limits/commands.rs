//! The costliest form of every command, sent over and over by clients that read nothing.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use herald_tests::{TestBroker, publish};

use super::Watch;

/// Clients that send one command each at the same time.
const CLIENTS: usize = 16;

/// The most that a client sends, in bytes. All together it is twice [`MOST_MIB`].
const SENT: usize = 16 << 20;

/// The memory that [`CLIENTS`] may cost in all, in MiB: for each a line of 1 MiB, as much output, and as much of an answer in parts; the rest is
/// what an allocator keeps.
const MOST_MIB: u64 = 128;

/// The time that a client sends for, if the broker takes all of it.
const SENDING: Duration = Duration::from_secs(1);

/// One command: its first word, as `help` lists it, and the lines that a client repeats. `{n}` is the number of the repetition.
struct Row {
    word: &'static str,
    lines: String,
}

fn row(word: &'static str, lines: impl Into<String>) -> Row {
    Row { word, lines: lines.into() }
}

/// A row for each command. [`every_command_is_bounded`] compares them with what the broker lists.
fn rows() -> Vec<Row> {
    let (long, kilobyte) = ("x".repeat(900_000), "x".repeat(1000));
    let name = "n".repeat(240);
    vec![
        row("pub", format!("pub nobody {{\"id\":\"{{n}}\",\"msg\":\"{long}\"}}\n")),
        row("sub", format!("sub {name}{{n}} {name}\n")),
        row("unsub", format!("unsub big {name}{{n}}\n")),
        row("detach", format!("detach {name}{{n}}\n")),
        // Half a million answers to one line.
        row("ack", format!("sub big other\nack big{}\n", " a".repeat(500_000))),
        row("nack", format!("nack big {kilobyte} 5\n")),
        row("touch", format!("touch big {kilobyte}\n")),
        row("term", format!("sub big other\nterm big x {long}\n")),
        row("peek", "peek big s 1000\npeek big s 1000 after start\n"),
        row("redrive", "redrive big\n"),
        row("purge", format!("purge big {name}{{n}}\n")),
        row("hello", format!("hello {{\"{long}\":1}}\n")),
        row("topics", "topics\n"),
        row("stats", "stats\nstats big\n"),
        row("ping", "ping\n"),
        row("help", "help\n"),
        row("quit", format!("quit {kilobyte}\n")),
    ]
}

/// Sends the lines of a row again and again, and reads nothing, until the broker takes no more. Returns the connection.
fn send(broker: &TestBroker, lines: &str) -> TcpStream {
    let mut stream = TcpStream::connect(broker.addr()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let (began, mut sent, mut n) = (Instant::now(), 0, 0);
    // Short lines go out in larger pieces.
    let times = (64 << 10) / lines.len() + 1;
    while sent < SENT && began.elapsed() < SENDING {
        let piece: String = (0..times).map(|k| lines.replace("{n}", &(n + k).to_string())).collect();
        if stream.write_all(piece.as_bytes()).is_err() {
            break;
        }
        sent += piece.len();
        n += times;
    }
    stream
}

#[test]
fn every_command_is_bounded() {
    let broker = TestBroker::start("[broker]\nmax_topics = 500\n");
    let mut client = broker.telnet();
    client.asks("sub big s", "successfully subscribed to topic big");
    client.asks("detach big", "detached from topic big");
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello {"));
    let text = "x".repeat(20_000);
    for n in 0..500 {
        client.asks(&format!("pub big {{\"id\":\"{n}\",\"msg\":\"{text}\"}}"), &format!("published big {n} synced"));
    }
    for n in 0..200 {
        client.asks(
            &publish(&format!("{}{n}", "t".repeat(200)), "a", 0),
            &format!("published {}{n} a synced", "t".repeat(200)),
        );
    }
    client.send("help");
    let help: Vec<String> = std::iter::repeat_with(|| client.line()).take_while(|line| !line.is_empty()).collect();
    let mut listed: Vec<&str> = help.iter().filter_map(|line| line.split_whitespace().next()).collect();
    listed.sort_unstable();
    listed.dedup();
    let rows = rows();
    let mut tried: Vec<&str> = rows.iter().map(|row| row.word).collect();
    tried.sort_unstable();
    assert_eq!(tried, listed, "each command has a row here");
    for Row { word, lines } in rows {
        let watch = Watch::start(&broker);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| send(&broker, &lines))).collect();
            let open: Vec<TcpStream> = clients.into_iter().map(|client| client.join().unwrap()).collect();
            // Whatever they were promised is being made now.
            std::thread::sleep(Duration::from_millis(200));
            drop(open);
        });
        watch.finish(&format!("{CLIENTS} clients that send {word} and read nothing"), MOST_MIB);
    }
}

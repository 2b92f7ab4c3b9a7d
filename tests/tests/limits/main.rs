//! Every limit that an unauthenticated client can reach, and the broker's memory at that limit, measured on the real binary while
//! another client is served.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod commands;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use herald_tests::{Telnet, TestBroker, WebSocketClient, publish, resident_kb};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The time limit for a ping while other clients misbehave. A busy machine takes seconds; a client blocked by another would wait for
/// much longer.
const A_MOMENT: Duration = Duration::from_secs(20);

/// Pings continuously and measures the broker's memory.
struct Watch {
    stop: Arc<AtomicBool>,
    most_kb: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Duration>,
    before_kb: u64,
}

impl Watch {
    fn start(broker: &TestBroker) -> Self {
        let before_kb = resident_kb(broker.pid());
        let (stop, most_kb) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(before_kb)));
        let (mut client, pid) = (broker.telnet(), broker.pid());
        let (stopped, most) = (Arc::clone(&stop), Arc::clone(&most_kb));
        let thread = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                let began = Instant::now();
                client.asks("ping", "pong");
                slowest = slowest.max(began.elapsed());
                most.fetch_max(resident_kb(pid), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
            slowest
        });
        Self { stop, most_kb, thread, before_kb }
    }

    /// Checks the measurements against their bounds, and prints them.
    #[expect(clippy::print_stdout, reason = "the test runner shows the measurements on request")]
    fn finish(self, what: &str, most_mib: u64) {
        self.stop.store(true, Ordering::SeqCst);
        let slowest = self.thread.join().unwrap();
        let most_kb = self.most_kb.load(Ordering::SeqCst);
        let grown = most_kb.saturating_sub(self.before_kb) / 1024;
        println!("{what}: {grown} MiB more at its peak ({} MiB in all), slowest ping {slowest:?}", most_kb / 1024);
        assert!(grown < most_mib, "{what}: {grown} MiB");
        assert!(slowest < A_MOMENT, "{what}: a ping took {slowest:?}");
    }
}

/// Raises the limit of open files to the maximum, and returns it.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

#[test]
fn connections_are_counted_for_each_transport() {
    let broker = TestBroker::start(
        "[transports.tcp]\nmax_connections = 2\n[transports.ws]\nlisten = \"127.0.0.1:0\"\nmax_connections = 1\n",
    );
    let _tcp = [broker.telnet(), broker.telnet()];
    let mut ws = WebSocketClient::connect(broker.addr_of("ws"));
    assert_eq!(broker.telnet().rest(), ["error: server is full: 2 connections"]);
    let (messages, _) = WebSocketClient::connect_as(broker.addr_of("ws"), None).unwrap().closed();
    assert_eq!(messages.last().unwrap(), "error: server is full: 1 connections");
    ws.asks("ping", "pong");
}

#[test]
fn topics_with_content_are_bounded_and_existing_ones_keep_working() {
    let mut broker = TestBroker::start("[broker]\nmax_topics = 3\nshards = 2\n");
    let mut client = broker.telnet();
    for topic in ["a", "b", "c"] {
        client.asks(&format!("sub {topic} s"), &format!("successfully subscribed to topic {topic}"));
    }
    for line in ["sub d", "sub d s", "pub d {}"] {
        let answer = client.ask(line);
        assert!(answer.starts_with("error: ") && answer.contains("there are 3 topics already"), "{answer}");
    }
    client.send(&publish("a", "1", 0));
    client.expect(&herald_tests::delivery("a", "1", 0));
    drop(client);
    // Existing topics still count after a restart.
    broker.kill();
    broker.run();
    let mut client = broker.telnet();
    assert!(client.ask("sub d").contains("there are 3 topics already"));
    client.asks("unsub c s", "successfully unsubscribe from topic c");
    client.asks("sub d", "successfully subscribed to topic d");
}

/// The names of all topics.
fn topics(client: &mut Telnet) -> Vec<String> {
    let topics: Vec<serde_json::Value> = serde_json::from_str(&client.ask("topics")).unwrap();
    topics.iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn used_topics_are_forgotten_by_every_storage_and_the_limit_holds_after_a_restart() {
    const USED: usize = 200;
    for kind in ["json-log", "sled", "sqlite"] {
        let limit = "[broker]\nmax_topics = 20\nshards = 4\n[topics.configured]\nmax_waiting = 9\n";
        let mut broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\"\n{limit}"));
        let mut client = broker.telnet();
        assert!(client.ask("hello {\"confirm\":true}").starts_with("hello {"));
        for topic in ["kept", "configured"] {
            client.asks(&format!("sub {topic} s"), &format!("successfully subscribed to topic {topic}"));
        }
        client.asks("unsub configured s", "successfully unsubscribe from topic configured");
        for n in 0..USED {
            // Alternately with a durable subscription and a nameless one.
            let name = if n % 2 == 0 { " s" } else { "" };
            client.asks(&format!("sub reply{n}{name}"), &format!("successfully subscribed to topic reply{n}"));
            client.send(&publish(&format!("reply{n}"), "a", 0));
            let lines = [client.line(), client.line()];
            assert!(lines.contains(&format!("published reply{n} a synced")), "{kind}: {lines:?}");
            if n % 3 == 0 {
                let ack = format!("ack reply{n} a");
                client.send(&ack);
                client.expect_all(&["acknowledged from logs ev_id=a", "no available message"]);
            }
            client.asks(&format!("unsub reply{n}{name}"), &format!("successfully unsubscribe from topic reply{n}"));
        }
        let began = Instant::now();
        while topics(&mut client).len() > 20 {
            assert!(began.elapsed() < herald_tests::PATIENCE, "{kind}: {:?}", topics(&mut client));
            std::thread::sleep(Duration::from_millis(5));
        }
        for restart in 0..2 {
            if restart == 0 {
                broker.kill();
            } else {
                assert!(broker.terminate().success());
            }
            broker.run();
            let mut names = topics(&mut broker.telnet());
            names.retain(|name| name != "configured");
            assert_eq!(names, ["kept"], "{kind}");
        }
        let mut client = broker.telnet();
        // Nothing is left of `configured`, but the configuration names it, so it may or may not exist.
        client.asks("sub configured s", "successfully subscribed to topic configured");
        for n in 0..18 {
            client.asks(&format!("sub new{n} s"), &format!("successfully subscribed to topic new{n}"));
        }
        let answer = client.ask("sub more s");
        assert!(answer.contains("there are 20 topics already"), "{kind}: {answer}, {:?}", topics(&mut client));
        client.asks("unsub new3 s", "successfully unsubscribe from topic new3");
        client.asks("sub new3 s", "successfully subscribed to topic new3");
        drop(client);
        broker.kill();
        let fsck = Command::new(herald_tests::herald()).arg("fsck").current_dir(broker.dir()).output().unwrap();
        assert!(fsck.status.success(), "{kind}: {}", String::from_utf8_lossy(&fsck.stdout));
    }
}

#[test]
fn an_endless_line_is_bounded() {
    let broker = TestBroker::start("");
    let mut client = broker.telnet();
    let watch = Watch::start(&broker);
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..256 {
        client.send_raw(&chunk);
    }
    client.send_raw(b"\r\n");
    client.expect("error: line exceeds 1048576 bytes");
    watch.finish("256 MiB of a line without end", 16);
}

#[test]
fn ten_thousand_connections_with_half_a_line() {
    let broker = TestBroker::start("[transports.tcp]\nmax_connections = 20000\n");
    let most = open_files().saturating_sub(300).min(10_000);
    assert!(most >= 1000, "the machine allows too few open files for this test");
    let watch = Watch::start(&broker);
    let half: Vec<TcpStream> = (0..most)
        .map(|_| {
            let mut stream = TcpStream::connect(broker.addr()).unwrap();
            stream.write_all(b"pub t {\"id\":\"half").unwrap();
            stream
        })
        .collect();
    let mut client = broker.telnet();
    let began = Instant::now();
    loop {
        let stats: serde_json::Value = serde_json::from_str(&client.ask("stats")).unwrap();
        if stats["connections"].as_u64().unwrap() >= most {
            break;
        }
        assert!(began.elapsed() < 3 * herald_tests::PATIENCE, "{stats}");
        std::thread::sleep(Duration::from_millis(20));
    }
    watch.finish(&format!("{} connections with half a line", half.len()), 256);
}

#[test]
fn a_thousand_subscribers_that_never_read() {
    let broker = TestBroker::start("[broker]\nmax_line_bytes = 100000\n");
    let _enough = open_files();
    let deaf: Vec<Telnet> = (0..1000)
        .map(|_| {
            let mut client = broker.telnet();
            assert!(client.ask("hello {\"prefetch\":65535}").starts_with("hello {"));
            client.asks("sub t", "successfully subscribed to topic t");
            client
        })
        .collect();
    let mut publisher = broker.telnet();
    assert!(publisher.ask("hello {\"confirm\":true}").starts_with("hello {"));
    let watch = Watch::start(&broker);
    let text = "x".repeat(10_000);
    // 20 MB for each subscriber: far more than its socket buffers and its share of the output hold.
    for n in 0..2000 {
        publisher.asks(&format!("pub t {{\"id\":\"{n}\",\"msg\":\"{text}\"}}"), &format!("published t {n} synced"));
    }
    watch.finish(&format!("{} subscribers with prefetch 65,535 that never read", deaf.len()), 512);
}

/// Makes every sync take a tenth of a second.
fn slow_disk(dir: &Path) -> std::path::PathBuf {
    const SOURCE: &str = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <unistd.h>\n\
        static int slow(const char *name, int fd) {\n\
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);\n usleep(100000);\n return real(fd);\n}\n\
        int fsync(int fd) { return slow(\"fsync\", fd); }\nint fdatasync(int fd) { return slow(\"fdatasync\", fd); }\n";
    let (source, library) = (dir.join("slow.c"), dir.join("slow.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(status.unwrap().success(), "cc cannot compile the slow disk");
    library
}

/// Publishes as fast as possible for a while without reading. Returns the number of bytes that the broker accepted.
fn flood(addr: SocketAddr, topic: &str) -> u64 {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut out = &stream;
    out.write_all(b"hello {\"confirm\":true}\n").unwrap();
    let text = "x".repeat(10_000);
    let (began, mut taken) = (Instant::now(), 0);
    for n in 0.. {
        let line = format!("pub {topic} {{\"id\":\"{n}\",\"msg\":\"{text}\"}}\n");
        if out.write_all(line.as_bytes()).is_err() || began.elapsed() > Duration::from_secs(8) || taken > 300 << 20 {
            break;
        }
        taken += line.len() as u64;
    }
    taken
}

#[test]
fn publishers_that_are_faster_than_the_disk() {
    let mut broker = TestBroker::prepare("[storage]\nmemory_budget_mb = 16\n");
    let library = slow_disk(broker.dir());
    broker.env("LD_PRELOAD", library);
    broker.run();
    let mut client = broker.telnet();
    for topic in ["t0", "t1", "t2", "t3"] {
        client.asks(&format!("sub {topic} s"), &format!("successfully subscribed to topic {topic}"));
        client.asks(&format!("detach {topic}"), &format!("detached from topic {topic}"));
    }
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello {"));
    let began = Instant::now();
    client.asks(&publish("t0", "first", 0), "published t0 first synced");
    assert!(began.elapsed() >= Duration::from_millis(100), "the disk is too fast for this test");
    let watch = Watch::start(&broker);
    let addr = broker.addr();
    let floods: Vec<_> = (0..4).map(|n| std::thread::spawn(move || flood(addr, &format!("t{n}")))).collect();
    let taken: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    watch.finish(&format!("4 publishers that sent {} MiB to a disk with 100 ms a sync", taken >> 20), 256);
}

#[test]
fn an_unfinished_handshake_times_out() {
    let broker = TestBroker::start(
        "[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\nhandshake_timeout_ms = 700\nmax_connections = 1\n",
    );
    let slow = herald_tests::socket(broker.addr_of("ws"));
    (&slow).write_all(b"GET /ws HTTP/1.1\r\n").unwrap();
    let mut answer = Vec::new();
    let _it_may_be_reset = std::io::Read::read_to_end(&mut (&slow), &mut answer);
    // The connection's slot is free again.
    WebSocketClient::connect(broker.addr_of("ws")).asks("ping", "pong");
}

//! A full disk, simulated by a small real file system: confirmed events can be consumed and exported, the broker can restart, and
//! consuming makes room for new events. An import that does not fit says what it leaves.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]
#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use herald_tests::{Telnet, TestBroker, herald, id_of};
use tempfile::TempDir;

/// A separate file system in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts the file system; `None` if this process may not mount.
    fn new(mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "herald-test"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the broker of a failed test may still be running.
        let _it_ends_with_the_namespace = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// Runs a test on a file system of this size. A process that may not mount runs itself again in a namespace where it may.
fn on_a_small_disk(name: &str, mebibytes: u32, claim: impl FnOnce(&SmallDisk)) {
    if let Some(disk) = SmallDisk::new(mebibytes) {
        return claim(&disk);
    }
    assert!(std::env::var_os("HERALD_TEST_MAY_MOUNT").is_none(), "a root of its own namespace may mount");
    let own = std::env::current_exe().unwrap();
    let namespace = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(namespace).arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("{name}: not run, because this user may neither mount nor have a namespace");
        return;
    }
    let mut run = Command::new("unshare");
    run.args(namespace).arg(own).args(["--exact", name, "--nocapture"]);
    let output = run.env("HERALD_TEST_MAY_MOUNT", "1").output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn broker(kind: &str, disk: &SmallDisk) -> TestBroker {
    TestBroker::start(&format!("[storage]\nkind = \"{kind}\"\npath = \"{}\"", disk.data()))
}

fn publisher(broker: &TestBroker) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello"));
    client
}

fn publish(client: &mut Telnet, id: u32, bytes: usize) -> Result<(), String> {
    let answer = client.ask(&format!("pub t {{\"id\":\"{id}\",\"msg\":\"{}\"}}", "x".repeat(bytes)));
    if answer == format!("published t {id} synced") { Ok(()) } else { Err(answer) }
}

/// Publishes until an event is refused; returns the number of confirmed events and the refusal.
fn fill(client: &mut Telnet, bytes: usize) -> (u32, String) {
    let refused = (0..200_000).find_map(|id| publish(client, id, bytes).err().map(|refusal| (id, refusal)));
    refused.expect("the disk is full at last")
}

/// Consumes and acknowledges up to `count` events and returns their ids. Reconnects after the storage was reopened.
fn consume(broker: &TestBroker, count: usize) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for _connection in 0..20 {
        let mut client = broker.telnet();
        if !client.ask("hello {\"prefetch\":20}").starts_with("hello") {
            continue;
        }
        client.send("sub t s");
        client.send("ping");
        while let Some(line) = client.try_line() {
            if line.starts_with("error: ") {
                std::thread::sleep(Duration::from_millis(500));
                break;
            }
            if line == "pong" && ids.len() >= count {
                return ids;
            }
            if line.starts_with('{') {
                let id = id_of(&line);
                client.send(&format!("ack t {id}"));
                client.send("ping");
                // An event acknowledged while the storage failed may come again.
                if !ids.contains(&id) {
                    ids.push(id);
                }
                if ids.len() >= count {
                    // Further deliveries are not acknowledged.
                    client.half_close();
                    let _rest = client.rest();
                    return ids;
                }
            }
        }
    }
    ids
}

fn export(kind: &str, disk: &SmallDisk) -> Output {
    let mut command = Command::new(herald());
    command.args(["export", "--set", &format!("storage.kind={kind}"), "--set"]);
    command.arg(format!("storage.path={}", disk.data())).current_dir("/").output().unwrap()
}

fn events(export: &Output) -> usize {
    assert!(export.status.success(), "{}", text(&export.stderr));
    text(&export.stdout).lines().filter(|line| line.contains("\"msg\":\"xxx")).count()
}

/// Fills the disk with events of `bytes` bytes, then consumes, exports and restarts.
fn a_full_disk(kind: &str, disk: &SmallDisk, bytes: usize) {
    let mut broker = broker(kind, disk);
    let mut client = publisher(&broker);
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    let (confirmed, refusal) = fill(&mut client, bytes);
    assert!(refusal.to_lowercase().contains("no space left"), "{refusal}");
    // sled takes several times the size of the stored events.
    let stored = u64::from(confirmed) * bytes as u64;
    assert!(stored * 4 > 12 << 20, "{confirmed} events of {bytes} bytes");

    // Even after a kill at the worst moment, everything works on the full disk.
    broker.kill();
    assert_eq!(events(&export(kind, disk)), confirmed as usize);
    broker.run();
    let third = confirmed as usize / 3;
    let first = consume(&broker, third);
    assert_eq!(first.len(), third);
    assert!(broker.terminate().success());
    let left = events(&export(kind, disk));
    assert!(left <= confirmed as usize - third && left + 20 >= confirmed as usize - third, "{left} of {confirmed}");
    broker.run();
    let rest = consume(&broker, left);
    assert_eq!(rest.len(), left);
    assert_eq!(consume(&broker, 0), Vec::<String>::new());

    // Consuming made room for the same number again. A storage frees space as it goes on, so a publisher may have to wait for it.
    let began = Instant::now();
    let mut client = publisher(&broker);
    for id in 1..confirmed / 3 {
        while let Err(refusal) = publish(&mut client, id, bytes) {
            assert!(began.elapsed() < Duration::from_secs(60), "{id} of {confirmed}: {refusal}");
            std::thread::sleep(Duration::from_millis(100));
            client = publisher(&broker);
        }
    }
}

/// Checks that a full disk refuses only events, while the broker stays in service.
fn stays_in_service(kind: &str, disk: &SmallDisk) {
    let broker = broker(kind, disk);
    let mut client = publisher(&broker);
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    let (confirmed, refusal) = fill(&mut client, 5000);
    assert_eq!(refusal, "error: topic t is full: no space left on the disk; consuming makes room");
    assert_eq!(publish(&mut client, 1_000_000, 5000).unwrap_err(), refusal);
    client.asks("sub other s", "successfully subscribed to topic other");
    client.asks("sub t s", "successfully subscribed to topic t");
    assert_eq!(id_of(&client.line()), "0");
    client.asks("nack t 0 100000", "requeued ev_id=0");
    assert_eq!(id_of(&client.line()), "1");
    client.asks("detach t", "detached from topic t");
    assert!(client.ask("purge t s").starts_with("purged "), "{confirmed} events");
    let began = Instant::now();
    while let Err(refusal) = publish(&mut client, 1_000_000, 5000) {
        assert!(began.elapsed() < Duration::from_secs(20), "{refusal}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!broker.log().contains("out of service"), "{}", broker.log());
}

#[test]
fn sqlite_on_a_full_disk_refuses_events_and_nothing_else() {
    on_a_small_disk("sqlite_on_a_full_disk_refuses_events_and_nothing_else", 12, |disk| {
        stays_in_service("sqlite", disk);
    });
}

#[test]
fn sqlite_is_drained_exported_and_started_on_a_full_disk() {
    on_a_small_disk("sqlite_is_drained_exported_and_started_on_a_full_disk", 12, |disk| {
        a_full_disk("sqlite", disk, 30_000);
    });
}

#[test]
fn sqlite_is_drained_of_small_events_on_a_full_disk() {
    on_a_small_disk("sqlite_is_drained_of_small_events_on_a_full_disk", 12, |disk| a_full_disk("sqlite", disk, 1000));
}

#[test]
fn sled_is_drained_exported_and_started_on_a_full_disk() {
    on_a_small_disk("sled_is_drained_exported_and_started_on_a_full_disk", 24, |disk| {
        a_full_disk("sled", disk, 30_000);
    });
}

#[test]
fn sled_is_drained_of_small_events_on_a_full_disk() {
    on_a_small_disk("sled_is_drained_of_small_events_on_a_full_disk", 24, |disk| a_full_disk("sled", disk, 1000));
}

#[test]
fn a_json_log_is_drained_exported_and_started_on_a_full_disk() {
    on_a_small_disk("a_json_log_is_drained_exported_and_started_on_a_full_disk", 12, |disk| {
        a_full_disk("json-log", disk, 30_000);
    });
}

#[test]
fn a_json_log_is_drained_of_small_events_on_a_full_disk() {
    on_a_small_disk("a_json_log_is_drained_of_small_events_on_a_full_disk", 12, |disk| {
        a_full_disk("json-log", disk, 1000);
    });
}

#[test]
fn a_json_log_on_a_full_disk_refuses_events_and_nothing_else() {
    on_a_small_disk("a_json_log_on_a_full_disk_refuses_events_and_nothing_else", 12, |disk| {
        stays_in_service("json-log", disk);
    });
}

#[test]
fn sled_on_a_full_disk_refuses_events_and_nothing_else() {
    on_a_small_disk("sled_on_a_full_disk_refuses_events_and_nothing_else", 24, |disk| stays_in_service("sled", disk));
}

/// Imports on file systems too small for the whole of it: what the command says about the directory is what `serve` makes of it.
fn an_import_says_what_serve_makes_of_the_directory(kind: &str, disks: &[u32]) {
    let mut source = TestBroker::start("");
    let mut client = publisher(&source);
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    for id in 0..500 {
        publish(&mut client, id, 30_000).unwrap();
    }
    assert!(source.terminate().success());
    let file = source.dir().join("export.jsonl");
    let exported = Command::new(herald()).arg("export").current_dir(source.dir()).output().unwrap();
    assert_eq!(events(&exported), 500);
    std::fs::write(&file, &exported.stdout).unwrap();
    for mebibytes in disks {
        let disk = &SmallDisk::new(*mebibytes).unwrap();
        let settings = [format!("storage.kind={kind}"), format!("storage.path={}", disk.data())];
        let run = |command: &mut Command| {
            command.args(settings.iter().flat_map(|setting| ["--set", setting])).current_dir("/").output().unwrap()
        };
        let import = run(Command::new(herald()).arg("import").arg(&file));
        let said = text(&import.stderr);
        assert_eq!(import.status.code(), Some(1), "{mebibytes} MiB: {said}");
        if said.contains("`herald serve` starts empty in ") {
            broker(kind, disk).telnet().asks("topics", "[]");
        } else if said.contains("`herald serve` refuses it") {
            let serve = run(Command::new(herald()).args(["serve", "--set", "transports.tcp.listen=127.0.0.1:0"]));
            let refusal = text(&serve.stderr);
            assert!(!serve.status.success() && refusal.contains("an import that was not finished"), "{refusal}");
        } else if said.contains("`herald serve` cannot open ") {
            // sled takes room to open what fills the disk.
            let serve = run(Command::new(herald()).args(["serve", "--set", "transports.tcp.listen=127.0.0.1:0"]));
            let refusal = text(&serve.stderr);
            assert!(!serve.status.success() && refusal.contains("no space left"), "{refusal}");
        } else {
            panic!("{mebibytes} MiB: it does not say what serve does: {said}");
        }
    }
}

#[test]
fn an_import_that_fills_the_disk_says_what_serve_makes_of_a_json_log() {
    on_a_small_disk("an_import_that_fills_the_disk_says_what_serve_makes_of_a_json_log", 1, |_may_mount| {
        an_import_says_what_serve_makes_of_the_directory("json-log", &[1, 4, 12]);
    });
}

#[test]
fn an_import_that_fills_the_disk_says_what_serve_makes_of_sqlite() {
    on_a_small_disk("an_import_that_fills_the_disk_says_what_serve_makes_of_sqlite", 1, |_may_mount| {
        an_import_says_what_serve_makes_of_the_directory("sqlite", &[1, 4, 12]);
    });
}

#[test]
fn an_import_that_fills_the_disk_says_what_serve_makes_of_sled() {
    on_a_small_disk("an_import_that_fills_the_disk_says_what_serve_makes_of_sled", 1, |_may_mount| {
        an_import_says_what_serve_makes_of_the_directory("sled", &[4, 24]);
    });
}

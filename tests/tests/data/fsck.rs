//! A check finds damage and changes nothing; a repair costs only the damaged records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use herald_tests::TestBroker;
use rand::{RngExt, SeedableRng};

use super::{KINDS, Ran, broker_over, command, done, files, run, sample};

/// Changes a letter in the payload of the event `seq`, wherever the storage keeps it. Returns whether it was found.
fn damage(data: &Path, seq: u64) -> bool {
    let needle = format!("needle \\u00e9 {seq} ");
    let mut found = false;
    for (path, mut bytes) in files(data) {
        let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = at {
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
            found = true;
        }
    }
    found
}

fn imported(kind: &str, events: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), sample(events)).unwrap();
    done(dir.path(), kind, "data", &["import", "in"]);
    dir
}

fn seqs(export: &str) -> Vec<u64> {
    let events = export.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["event"]["seq"].as_u64()
    });
    events.collect()
}

#[test]
fn damage_is_found_and_repaired_and_costs_only_itself() {
    for kind in KINDS {
        let dir = imported(kind, 300);
        let data = dir.path().join("data");
        assert!(done(dir.path(), kind, "data", &["fsck"]).contains("data: clean"));
        assert!(damage(&data, 200), "{kind}");
        let before = files(&data);
        let Ran { status, out, err } = run(dir.path(), kind, "data", &["fsck"]);
        assert_eq!(status, 1, "{kind}: {out}{err}");
        assert!(
            out.contains("repair:") && out.contains("loses:") && out.contains("herald fsck --repair"),
            "{kind}: {out}"
        );
        assert!(files(&data) == before, "{kind}: the check changes nothing");

        let Ran { status, out, .. } = run(dir.path(), kind, "data", &["fsck", "--json"]);
        let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((status, &lines[0]["finding"]["severity"]), (1, &"damage".into()), "{kind}: {out}");
        assert!(lines.last().unwrap()["checked"]["damage"].as_u64().unwrap() > 0, "{kind}: {out}");
        assert!(files(&data) == before, "{kind}: the check changes nothing");

        let serve = ["serve", "--set", "transports.tcp.listen=127.0.0.1:0", "--set", "storage.on_damage=stop"];
        if kind != "sled" {
            // sled overwrites damage, so this is not tried with sled.
            let Ran { status, err, .. } = run(dir.path(), kind, "data", &serve);
            assert_eq!(status, 1, "{kind}: {err}");
        }
        let out = done(dir.path(), kind, "data", &["fsck", "--repair"]);
        assert!(out.contains("data: repaired; moved out to") && out.contains("data/damaged/000001."), "{kind}: {out}");
        assert!(data.join("damaged").is_dir(), "{kind}");
        assert!(done(dir.path(), kind, "data", &["fsck"]).contains("data: clean"));
        drop(broker_over(dir.path(), kind, "data"));
        let left = seqs(&done(dir.path(), kind, "data", &["export"]));
        if kind == "sled" {
            // sled goes back to before the damage in its log, and it holds the import as one batch.
            assert!(left.is_empty() || left.len() >= 299, "{kind}: {}", left.len());
        } else {
            assert_eq!(left, (1..=300).filter(|seq| *seq != 200).collect::<Vec<_>>(), "{kind}");
        }
    }
}

#[test]
fn a_killed_repair_loses_nothing_and_the_next_one_completes_it() {
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    for kind in ["json-log", "sqlite"] {
        let origin = imported(kind, 2_000);
        damage(&origin.path().join("data"), 700);
        if kind == "sqlite" {
            // A damaged page in the middle as well, so that the repair copies everything to a new database.
            let path = origin.path().join("data/herald.db");
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() / 8192 / 2 * 8192;
            bytes[at..at + 8].fill(0xff);
            fs::write(path, bytes).unwrap();
        }
        let mut lefts = Vec::new();
        for _ in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("data")).unwrap();
            for (path, bytes) in files(&origin.path().join("data")) {
                fs::write(dir.path().join("data").join(path.file_name().unwrap()), bytes).unwrap();
            }
            let mut repair = command(dir.path(), kind, "data", &["fsck", "--repair"]);
            let mut repair = repair.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.random_range(20..250)));
            repair.kill().unwrap();
            repair.wait().unwrap();
            done(dir.path(), kind, "data", &["fsck", "--repair"]);
            assert!(done(dir.path(), kind, "data", &["fsck"]).contains("data: clean"));
            lefts.push(seqs(&done(dir.path(), kind, "data", &["export"])));
        }
        assert!(lefts.iter().all(|left| *left == lefts[0]), "{kind}");
        let left = lefts[0].len();
        assert!(if kind == "sqlite" { (1_900..2_000).contains(&left) } else { left == 1_999 }, "{kind}: {left}");
    }
}

#[test]
fn a_killed_broker_leaves_at_most_a_torn_tail_and_a_repair_loses_nothing() {
    for kind in KINDS {
        let mut broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\""));
        let mut client = broker.telnet();
        client.asks("sub t s", "successfully subscribed to topic t");
        assert!(client.ask("hello {\"confirm\":true,\"prefetch\":1000}").starts_with("hello"));
        client.asks("detach t", "detached from topic t");
        for n in 0..20 {
            client.asks(&herald_tests::publish("t", &n.to_string(), 0), &format!("published t {n} synced"));
        }
        broker.kill();
        let data = broker.dir().join("data");
        if kind == "json-log" {
            let mut segments: Vec<PathBuf> =
                files(&data).into_keys().filter(|path| path.extension().is_some()).collect();
            let last = segments.pop().unwrap();
            let mut bytes = fs::read(&last).unwrap();
            bytes.extend_from_slice(b"{\"batch\":99,\"left\":0,\"seq\":");
            fs::write(&last, bytes).unwrap();
        }
        let before = files(&data);
        let Ran { status, out, err } = run(broker.dir(), kind, "data", &["fsck"]);
        assert_eq!(status, i32::from(kind == "json-log"), "{kind}: {out}{err}");
        assert!(files(&data) == before, "{kind}: the check changes nothing");
        if kind == "json-log" {
            assert!(out.contains("a torn tail of 27 bytes"), "{out}");
        }
        done(broker.dir(), kind, "data", &["fsck", "--repair"]);
        done(broker.dir(), kind, "data", &["fsck"]);
        assert_eq!(seqs(&done(broker.dir(), kind, "data", &["export"])).len(), 20, "{kind}");
    }
}

#[test]
fn beside_a_running_broker_all_three_commands_fail_and_name_it() {
    for kind in KINDS {
        let broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\""));
        fs::write(broker.dir().join("in"), sample(1)).unwrap();
        for args in [&["fsck"][..], &["fsck", "--repair"], &["export"], &["import", "in"]] {
            let Ran { status, out, err } = run(broker.dir(), kind, "data", args);
            assert_eq!((status, out.as_str()), (1, ""), "{args:?} of {kind}: {err}");
            assert!(err.contains(&format!("process {}", broker.pid())), "{args:?} of {kind}: {err}");
        }
        broker.telnet().asks("ping", "pong");
    }
}

#[test]
fn a_directory_that_cannot_be_checked_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let Ran { status, err, .. } = run(dir.path(), "json-log", "nowhere", &["fsck"]);
    assert_eq!(status, 1);
    assert!(err.contains("there is no data directory nowhere") && !dir.path().join("nowhere").exists(), "{err}");
    assert_eq!(run(dir.path(), "json-log", "x", &["fsck", "more"]).status, 2);
    assert_eq!(run(dir.path(), "postgres", "x", &["fsck"]).status, 2);
    let dir = imported("sqlite", 3);
    let before = files(&dir.path().join("data"));
    for kind in ["json-log", "sled"] {
        let Ran { status, err, .. } = run(dir.path(), kind, "data", &["fsck", "--repair"]);
        assert_eq!(status, 1, "{err}");
        assert!(err.contains("an SQLite database"), "{err}");
    }
    assert!(files(&dir.path().join("data")) == before, "a directory of another kind is left alone");
}

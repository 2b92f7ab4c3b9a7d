//! An import resumes after any kill, and its data are not served until it is complete.

use std::fs;
use std::io::Write;
use std::time::Duration;

use herald_tests::TestBroker;
use rand::{RngExt, SeedableRng};

use super::{KINDS, Ran, command, done, ran, run, sample, spawn};

/// Feeds part of an export to an import, waits until it is stored, and kills the import.
fn killed_in_the_middle(dir: &std::path::Path, kind: &str, part: &str) {
    let mut import = spawn(dir, kind, "data", &["import", "-"]);
    let mut stdin = import.stdin.take().unwrap();
    stdin.write_all(part.as_bytes()).unwrap();
    stdin.flush().unwrap();
    // Any amount may be stored by then.
    std::thread::sleep(Duration::from_millis(500));
    import.kill().unwrap();
    import.wait().unwrap();
    drop(stdin);
}

#[test]
fn a_killed_import_is_not_served_until_it_is_resumed_and_completed() {
    let text = sample(6_000);
    let half: String = text.lines().take(4_000).map(|line| format!("{line}\n")).collect();
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        killed_in_the_middle(dir.path(), kind, &half);
        let serve = ["serve", "--set", "transports.tcp.listen=127.0.0.1:0"];
        let Ran { status, err, .. } = run(dir.path(), kind, "data", &serve);
        assert_eq!(status, 1, "{kind}: {err}");
        assert!(err.contains("import that was not finished") && err.contains("herald import"), "{kind}: {err}");
        let Ran { status, out, err } = run(dir.path(), kind, "data", &["export"]);
        assert_eq!((status, out.as_str()), (1, ""), "{kind}: {err}");
        assert!(err.contains("import that was not finished"), "{kind}: {err}");

        fs::write(dir.path().join("other"), sample(6_001)).unwrap();
        let Ran { status, err, .. } = run(dir.path(), kind, "data", &["import", "other"]);
        assert_eq!(status, 1, "{kind}: {err}");
        assert!(err.contains("another import"), "{kind}: {err}");

        fs::write(dir.path().join("in"), &text).unwrap();
        let out = done(dir.path(), kind, "data", &["import", "in"]);
        assert!(out.contains("6000 events") && out.contains("going on after line"), "{kind}: {out}");
        assert_eq!(done(dir.path(), kind, "data", &["export"]), text, "{kind}");
        let out = done(dir.path(), kind, "data", &["import", "in"]);
        assert!(out.contains("holds this export already"), "{kind}: {out}");
        assert_eq!(done(dir.path(), kind, "data", &["export"]), text, "{kind}");
    }
}

#[test]
fn an_import_survives_any_number_of_kills_at_any_time() {
    let text = sample(3_000);
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), &text).unwrap();
        for _ in 0..4 {
            let mut import = command(dir.path(), kind, "data", &["import", "in"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.random_range(5..250)));
            import.kill().unwrap();
            import.wait().unwrap();
        }
        done(dir.path(), kind, "data", &["import", "in"]);
        assert_eq!(done(dir.path(), kind, "data", &["export"]), text, "{kind}");
    }
}

#[test]
fn an_import_reads_standard_input_and_prints_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let mut import = spawn(dir.path(), "sqlite", "data", &["import", "-", "--json"]);
    import.stdin.take().unwrap().write_all(sample(5).as_bytes()).unwrap();
    let Ran { status, out, err } = ran(import.wait_with_output().unwrap());
    assert_eq!(status, 0, "{err}");
    let line: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&line["imported"]["events"], &line["already"]), (&5.into(), &false.into()), "{out}");
}

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let mut broker = TestBroker::start("");
    broker.telnet().asks("sub t s", "successfully subscribed to topic t");
    assert!(broker.terminate().success());
    fs::write(broker.dir().join("in"), sample(3)).unwrap();
    let before = done(broker.dir(), "json-log", "data", &["export"]);
    let Ran { status, err, .. } = run(broker.dir(), "json-log", "data", &["import", "in"]);
    assert_eq!(status, 1);
    assert!(err.contains("the data directory data is not empty"), "{err}");
    assert_eq!(done(broker.dir(), "json-log", "data", &["export"]), before);
}

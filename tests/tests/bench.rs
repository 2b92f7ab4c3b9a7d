//! `herald bench`: every workload runs, verifies its counts and reports them. Speed is not tested here.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use herald_tests::{TestBroker, herald};
use serde_json::Value;

fn bench(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(herald());
    command.arg("bench").args(args).current_dir(dir).env("TMPDIR", dir).stdin(Stdio::null());
    command.output().unwrap()
}

/// The results of a run, one per measurement.
#[track_caller]
fn results(dir: &Path, args: &[&str]) -> Vec<Value> {
    let output = bench(dir, &[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_good(result: &Value, events: u64, deliveries: u64) {
    assert_eq!(result["verified"], true, "{result}");
    assert_eq!(result["events"], events, "{result}");
    assert_eq!(result["verdict"]["deliveries"], deliveries, "{result}");
    for key in ["missing", "duplicates", "out_of_order", "damaged", "wrong_confirmations"] {
        assert_eq!(result["verdict"][key], 0, "{result}");
    }
    assert!(result["per_second"].as_f64().unwrap() > 0.0, "{result}");
    for key in ["p50", "p99", "p999", "max"] {
        assert!(result["confirm_us"][key].as_f64().unwrap() > 0.0, "{result}");
    }
    if cfg!(target_os = "linux") {
        assert!(result["server_peak_mb"].as_f64().unwrap() > 0.0 && result["server_cpu_us"].is_number(), "{result}");
    }
}

#[test]
fn every_workload_is_verified_and_its_json_parses() {
    let dir = tempfile::tempdir().unwrap();
    let all = results(dir.path(), &["--events", "3000", "--subscriptions", "1,20", "--rate", "10000"]);
    let names: Vec<_> = all.iter().map(|result| result["title"].as_str().unwrap()).collect();
    let expected = ["publish", "work, prefetch 1", "work, prefetch 256", "latency at 10000/s", "fan-out to 1"];
    assert_eq!(names, [&expected[..], &["fan-out to 20", "backlog"]].concat());
    for result in &all {
        let deliveries = if result["title"] == "fan-out to 20" { 60_000 } else { 3000 };
        assert_good(result, 3000, deliveries);
        assert_eq!(result["level"], "synced", "{result}");
        assert_eq!(result["notes"], "json-log", "{result}");
    }
    assert!(all[6]["recovered_ms"].as_f64().unwrap() > 0.0 && all[6]["fill_per_second"].is_number(), "{}", all[6]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its directories are removed");
}

#[test]
fn levels_storages_runs_publishers_and_sizes_are_as_requested() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["work", "--events", "1000", "--prefetch", "7", "--publishers", "3", "--size", "100"];
    let more = ["--priorities", "-2..9", "--durability", "interval,never", "--storage", "sqlite", "--runs", "3"];
    let all = results(dir.path(), &[&args[..], &more].concat());
    let levels: Vec<_> = all.iter().map(|result| result["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["written", "memory"]);
    for result in &all {
        assert_good(result, 1000, 1000);
        assert_eq!(result["runs_per_second"].as_array().unwrap().len(), 3, "{result}");
        let named = [&result["size"], &result["publishers"], &result["prefetch"], &result["notes"]];
        assert_eq!(named, [&Value::from(100), &Value::from(3), &Value::from(7), &Value::from("sqlite")]);
        assert_eq!(result["priorities"], serde_json::json!([-2, 9]));
    }
}

#[test]
fn a_running_broker_is_left_unchanged() {
    let broker = TestBroker::start("");
    let (server, pid) = (broker.addr().to_string(), broker.pid().to_string());
    let remote = ["--server", server.as_str(), "--pid", pid.as_str()];
    let all = results(
        broker.dir(),
        &[&["backlog", "fan-out", "--events", "500", "--subscriptions", "3"], &remote[..]].concat(),
    );
    assert_good(&all[0], 500, 500);
    assert_good(&all[1], 500, 1500);
    assert_eq!(all[0]["recovered_ms"], Value::Null, "a broker that is already running is not restarted");
    let stats: Value = serde_json::from_str(&broker.telnet().ask("stats")).unwrap();
    for topic in stats["topics"].as_array().unwrap() {
        assert_eq!(topic["subscriptions"], serde_json::json!([]), "{stats}");
    }
}

#[test]
fn the_table_names_the_level_and_the_plot_is_an_svg() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(dir.path(), &["latency", "--events", "500", "--plot", "latency.svg"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let row = text.lines().find(|line| line.starts_with("latency at 5000/s")).unwrap();
    assert!(row.contains("synced") && row.ends_with("yes"), "{text}");
    let svg = std::fs::read_to_string(dir.path().join("latency.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("synced: delivery"), "{svg}");
}

#[test]
fn idle_connections_are_counted_and_their_memory_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let all = results(dir.path(), &["idle", "--connections", "200"]);
    assert_eq!((all.len(), &all[0]["workload"], &all[0]["connections"]), (1, &"idle".into(), &200.into()), "{all:?}");
    let bytes = all[0]["bytes_each"].as_f64().unwrap();
    assert!((1.0..1e6).contains(&bytes), "{all:?}");
}

#[test]
fn events_are_spread_over_topics() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["work", "publish", "backlog", "--topics", "7", "--events", "1000", "--prefetch", "16", "--publishers", "3"];
    let all = results(dir.path(), &args);
    assert_eq!(all.len(), 3);
    for result in &all {
        assert_good(result, 1000, 1000);
        assert_eq!(result["topics"], 7, "{result}");
    }
}

#[test]
fn growth_measures_every_point() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["growth", "--events", "20", "--waiting", "100,200"];
    let all = results(dir.path(), &args);
    let points: Vec<_> =
        all.iter().map(|one| (one["dimension"].as_str().unwrap(), one["value"].as_u64().unwrap())).collect();
    let topics = [1, 10, 100, 1000, 10_000].map(|value| ("topics", value));
    let publishers = [1, 10, 100, 1000].map(|value| ("publishers", value));
    let sizes = [64, 256, 1024, 16_384, 131_072, 1_032_192].map(|value| ("size", value));
    assert_eq!(points, [&topics[..], &publishers, &sizes, &[("waiting", 100), ("waiting", 200)]].concat());
    for one in &all {
        let events = if one["dimension"] == "waiting" { one["value"].as_u64().unwrap() } else { 20 };
        assert_good(&one["publish"], events, events);
        assert!(one["publish"]["drain_per_second"].as_f64().unwrap() > 0.0, "{one}");
        assert_eq!(one["work"].is_null(), one["dimension"] == "waiting", "{one}");
    }
}

#[test]
fn a_measurement_that_is_impossible_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    for (args, status, part) in [
        (&["publish", "--size", "10"][..], 2, "at least"),
        (&["publish", "--storage", "paper"], 1, "paper"),
        (&["publish", "--server", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (&["publish", "--events", "10", "--dir", "nowhere"], 1, "directory"),
    ] {
        let output = bench(dir.path(), args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

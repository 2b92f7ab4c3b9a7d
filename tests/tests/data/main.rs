//! A data directory without its broker: `herald export`, `import` and `fsck` on the command line.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod broken;
mod directories;
mod export;
mod fsck;
mod import;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use herald_tests::{TestBroker, herald};

const KINDS: [&str; 3] = ["json-log", "sled", "sqlite"];

/// The outcome of a run.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// `herald` with the storage `kind` in the folder `data` of `dir`.
fn command(dir: &Path, kind: &str, data: &str, args: &[&str]) -> Command {
    let mut command = Command::new(herald());
    command.args(args).args(["--set", &format!("storage.kind={kind}"), "--set", &format!("storage.path={data}")]);
    command.current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, kind: &str, data: &str, args: &[&str]) -> Ran {
    ran(command(dir, kind, data, args).output().unwrap())
}

/// Runs a command that must succeed; returns its standard output.
#[track_caller]
fn done(dir: &Path, kind: &str, data: &str, args: &[&str]) -> String {
    let Ran { status, out, err } = run(dir, kind, data, args);
    assert_eq!(status, 0, "{args:?} of {kind}: {out}{err}");
    out
}

/// Starts a command that reads standard input.
fn spawn(dir: &Path, kind: &str, data: &str, args: &[&str]) -> Child {
    let mut command = command(dir, kind, data, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A broker over the existing directory `data`.
fn broker_over(dir: &Path, kind: &str, data: &str) -> TestBroker {
    let path = dir.join(data);
    let config = format!("[storage]\nkind = \"{kind}\"\non_damage = \"stop\"\npath = {:?}", path.to_str().unwrap());
    TestBroker::start(&config)
}

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.insert(entry.clone(), Vec::new());
            found.extend(files(&entry));
        } else {
            found.insert(entry.clone(), fs::read(&entry).unwrap());
        }
    }
    found
}

/// The checksum of an export, computed bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// An export with this many events and every kind of line.
fn sample(events: u64) -> String {
    let mut text = String::from("{\"herald\":\"export\",\"version\":1}\n");
    text.push_str(&format!(
        "{{\"topic\":{{\"name\":\"empty\",\"last_seq\":7}}}}\n{{\"topic\":{{\"name\":\"t\",\"last_seq\":{}}}}}\n",
        events + 3
    ));
    text.push_str("{\"subscription\":{\"topic\":\"t\",\"name\":\"idle\",\"since\":0}}\n");
    text.push_str("{\"subscription\":{\"topic\":\"t\",\"name\":\"s\",\"since\":0}}\n");
    for seq in 1..=events {
        let priority = seq % 5;
        let times = if seq % 7 == 0 { ",\"due_at\":1700000000000,\"expires_at\":4000000000000" } else { "" };
        let idle = if seq % 3 == 0 { "{\"subscription\":\"idle\"}," } else { "" };
        let counted = if seq % 4 == 0 { ",\"deliveries\":2" } else { "" };
        text.push_str(&format!(
            "{{\"event\":{{\"topic\":\"t\",\"priority\":{priority},\"seq\":{seq},\"published_at\":1700000000000{times},\
             \"holders\":[{idle}{{\"subscription\":\"s\"{counted}}}],\"payload\":{{\"topic\":\"t\",\"priority\":{priority},\
             \"msg\":\"needle \\u00e9 {seq} {}\",\"id\":\"id-{seq}\"}}}}}}\n",
            "x".repeat(100)
        ));
    }
    text.push_str("{\"cursor\":{\"source\":\"feed \\\"x\\\"\",\"value\":\"é\"}}\n");
    seal(&text, events)
}

/// Appends the last line.
fn seal(text: &str, events: u64) -> String {
    format!(
        "{text}{{\"end\":{{\"lines\":{},\"topics\":2,\"subscriptions\":2,\"events\":{events},\"cursors\":1,\"crc32\":\"{:08x}\"}}}}\n",
        text.lines().count(),
        crc32(text.as_bytes())
    )
}

//! A plugin that one line adds to the registry: its keys, messages, documentation and events follow.

use std::time::Duration;

use example_clock::PLUGIN;

use super::*;
use crate::assembly::{Broker, Stopped};
use crate::registry::Entry;

fn registry() -> Registry {
    let mut registry = Registry::built_in();
    registry.sources.push(Entry::built("clock", "clock", PLUGIN));
    registry
}

fn load_clock(dir: &std::path::Path, keys: &str) -> Result<Loaded, String> {
    let path = dir.join("herald.toml");
    let data = dir.join("data");
    let file = format!(
        "[storage]\npath = \"{}\"\n[transports.tcp]\nlisten = \"127.0.0.1:0\"\n[[sources]]\nkind = \"clock\"\nname = \"c\"\n{keys}\n",
        data.display()
    );
    std::fs::write(&path, file).unwrap();
    let inputs = Inputs { file: FileLayer::Named(path), ..Inputs::default() };
    let at = format!("{}/", dir.display());
    load_for(&registry(), &inputs).map_err(|error| error.to_string().replace(&at, ""))
}

#[test]
fn its_keys_are_checked_shown_and_documented_by_its_declaration() {
    let dir = tempfile::tempdir().unwrap();
    for (keys, expected) in [
        ("topic = \"t\"\nevery_ms = 0", "sources[0].every_ms: expected an integer from 1 to 60000, found 0"),
        ("topic = \"t\"\nevery = 5", "sources[0].every: unknown key: expected one of kind, name, topic, every_ms"),
        ("", "sources[0].topic: this key is missing: expected a string"),
        ("topic = \"a b\"", "sources[0].topic: "),
        ("topic = \"t\"\nkind = \"clok\"", "not valid TOML: "),
    ] {
        let error = load_clock(dir.path(), keys).unwrap_err();
        assert!(error.starts_with(&format!("configuration: herald.toml: {expected}")), "{keys}: {error}");
    }
    let shown = show(&load_clock(dir.path(), "topic = \"t\"").unwrap());
    assert!(shown.contains("kind = \"clock\"") && shown.contains("every_ms = 1000"), "{shown}");
    let page = reference(&registry());
    let row = "| `sources[].every_ms` | integer, 1 to 60000 | `1000` | Milliseconds between two events. |";
    assert!(page.contains(row), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_events_reach_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load_clock(dir.path(), "topic = \"t\"\nevery_ms = 1").unwrap();
    let broker = Broker::start(&loaded.settings).await.unwrap();
    let published = async {
        while broker.source_stats().all(|(name, stats)| name != "c" || stats.published < 3) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), published).await.expect("three events");
    assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Clean);
}

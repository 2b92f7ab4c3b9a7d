//! Power cuts in cases that a campaign rarely meets.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use herald_tests::campaign::Backend;
use herald_tests::power_cut::{PowerCut, Survival};
use herald_tests::{TestBroker, delivery, publish};

/// The data directory and all its files are new, and its parent directory does not belong to the broker.
#[test]
fn the_first_confirmed_event_survives_together_with_its_new_directory() {
    for kind in Backend::ALL.map(Backend::kind) {
        let config = format!("[storage]\nkind = \"{kind}\"\npath = \"store/made/by/it\"\n");
        cut_after_the_first_event(&config, &Survival::Nothing);
    }
}

/// sled creates its file of settings with the database, and does not sync it.
#[test]
fn sleds_own_files_are_synced_before_anything_is_confirmed() {
    let config = "[storage]\nkind = \"sled\"\npath = \"store/data\"\n";
    for seed in 4..8 {
        cut_after_the_first_event(config, &Survival::Scattered { block: 512, percent: 50, seed });
    }
}

fn cut_after_the_first_event(config: &str, survival: &Survival) {
    let mut broker = TestBroker::prepare(config);
    let store = broker.dir().join("store");
    std::fs::create_dir(&store).unwrap();
    let mut power = PowerCut::new(&mut broker, &store, false);
    power.arm();
    broker.run();
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello"));
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    client.asks(&publish("t", "1", 0), "published t 1 synced");
    broker.kill();
    power.cut_sparing(survival).unwrap();
    broker.run();
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.expect(&delivery("t", "1", 0));
}

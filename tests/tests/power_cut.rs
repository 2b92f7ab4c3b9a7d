//! What a power cut leaves, in cases that a campaign seldom meets.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use herald_tests::campaign::Backend;
use herald_tests::power_cut::{PowerCut, Survival};
use herald_tests::{TestBroker, delivery, publish};

/// The data directory is new, so are all its files, and the directory that it is in is not the broker's.
#[test]
fn the_first_event_that_is_confirmed_survives_with_the_directory_that_it_is_in() {
    for kind in Backend::ALL.map(Backend::kind) {
        let config = format!("[storage]\nkind = \"{kind}\"\npath = \"store/made/by/it\"\n");
        cut_after_the_first_event(&config, &Survival::Nothing);
    }
}

/// sled's own file of settings is made with the database, and sled does not sync it.
#[test]
fn what_sled_writes_beside_its_database_is_synced_before_anything_is_confirmed() {
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

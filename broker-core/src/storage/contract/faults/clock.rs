//! Claims about a wall clock that jumps between two starts. A clock that is set while the broker runs has no effect: from its
//! start on the engine uses the monotonic clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::ContractBackend;
use super::super::client::{Client, drop_engine, id_of, new_event, open_engine};
use super::preload::Faults;
use super::workload::{runtime, scratch};
use crate::engine::{Engine, Outcome};
use crate::local::LocalEngine;

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

/// The delays of an event that must not come too early, and of one that must not come too late.
const LONG_MS: u64 = 600_000;
const SHORT_MS: u64 = 300;

type Opened<B> = (LocalEngine<<B as ContractBackend>::Storage>, Arc<<B as ContractBackend>::Storage>);

/// Publishes an event with a time to live and a delay, of which 0 means none.
async fn publish(engine: &dyn Engine, id: &str, ttl_ms: u64, delay_ms: u64) {
    let (topic, mut event) = new_event("t", id, 0, 20);
    (event.ttl_ms, event.delay_ms) = (ttl_ms, delay_ms);
    let outcomes = engine.publish(vec![(topic, event)], None).await.expect("it is stored");
    assert!(matches!(outcomes[..], [Outcome::Published { .. }]), "{outcomes:?}");
}

async fn next(client: &mut Client) -> String {
    let delivery = tokio::time::timeout(Duration::from_secs(20), client.delivery()).await;
    id_of(delivery.expect("what is due is delivered"))
}

async fn start<B: ContractBackend>(faults: &Faults, dir: &Path, ahead_ms: i64) -> Opened<B> {
    faults.set_clock(ahead_ms);
    open_engine::<B>(dir, 1 << 20).await
}

/// With the clock set back an hour, and forward a year, events keep their order, no delay grows, and exactly the events past
/// their time to live expire.
pub fn order_delays_and_expiry_survive_a_clock_that_jumps<B: ContractBackend>(faults: &Faults) {
    let dir = scratch();
    runtime().block_on(async {
        // Block in place needs a task of the runtime.
        let (engine, storage) = start::<B>(faults, dir.path(), 0).await;
        Client::new(&engine).subscribe("t", "s", 1).await;
        publish(&engine, "first", 0, 0).await;
        publish(&engine, "lives long", LONG_MS, 0).await;
        publish(&engine, "soon", 0, SHORT_MS).await;
        publish(&engine, "much later", 0, LONG_MS).await;
        drop_engine::<B>(engine, storage).await;

        let (engine, storage) = start::<B>(faults, dir.path(), -HOUR_MS).await;
        publish(&engine, "second", 0, 0).await;
        publish(&engine, "soon too", 0, SHORT_MS).await;
        let mut client = Client::new(&engine);
        client.subscribe("t", "s", 10).await;
        let mut got = Vec::new();
        for _ in 0..5 {
            got.push(next(&mut client).await);
        }
        let undelayed: Vec<_> = got.iter().filter(|id| !id.starts_with("soon")).collect();
        assert_eq!(undelayed, ["first", "lives long", "second"], "they keep their order");
        assert!(got.contains(&"soon".to_owned()) && got.contains(&"soon too".to_owned()), "{got:?}");
        assert_eq!(client.waiting("t").await, (1, 5), "what is delayed for long waits");
        drop(client);
        drop_engine::<B>(engine, storage).await;

        let (engine, storage) = start::<B>(faults, dir.path(), YEAR_MS).await;
        publish(&engine, "third", 0, 0).await;
        publish(&engine, "a year ahead", 0, SHORT_MS).await;
        let mut client = Client::new(&engine);
        client.subscribe("t", "s", 10).await;
        let mut got = Vec::new();
        for _ in 0..7 {
            got.push(next(&mut client).await);
        }
        assert!(!got.contains(&"lives long".to_owned()), "it has expired: {got:?}");
        assert!(got.contains(&"much later".to_owned()), "it is due: {got:?}");
        let at = |id: &str| got.iter().position(|other| other == id);
        assert!(at("first") < at("second") && at("second") < at("third"), "they keep their order: {got:?}");
        drop(client);
        drop_engine::<B>(engine, storage).await;

        let (engine, storage) = start::<B>(faults, dir.path(), 0).await;
        publish(&engine, "back again", 0, SHORT_MS).await;
        publish(&engine, "fourth", LONG_MS, 0).await;
        let mut client = Client::new(&engine);
        client.subscribe("t", "s", 20).await;
        let mut got = Vec::new();
        while !(got.contains(&"back again".to_owned()) && got.contains(&"fourth".to_owned())) {
            got.push(next(&mut client).await);
        }
        let at = |id: &str| got.iter().position(|other| other == id);
        assert!(at("first") < at("third") && at("third") < at("fourth"), "they keep their order: {got:?}");
        drop(client);
        drop_engine::<B>(engine, storage).await;
    });
}

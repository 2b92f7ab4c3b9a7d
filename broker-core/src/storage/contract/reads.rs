//! Claims about reading events by key.

use std::sync::Arc;

use super::ContractBackend;
use super::bench::{Bench, PATIENCE, durable, event, key, settle, subscribe, topic};
use crate::event::{EventKey, Payload};
use crate::storage::{Batch, Mutation, ReadKey, Storage};

async fn read<B: ContractBackend>(bench: &Bench<B>, keys: &[EventKey]) -> Vec<Option<Payload>> {
    let keys = keys.iter().map(|key| bench.read_key("t", *key)).collect();
    let read = tokio::time::timeout(PATIENCE, bench.storage().read(keys));
    read.await.expect("a read ends").expect("the storage can read")
}

fn payloads(keys: &[EventKey]) -> Vec<Option<Payload>> {
    keys.iter().map(|key| Some(event("t", key.priority.0, key.seq.0, 200).payload)).collect()
}

/// In any order, across priorities, repeated, or none at all; before and after a restart.
pub async fn events_are_read_in_the_order_of_the_keys<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let all: Vec<_> = (1..=700).map(|seq| key((seq % 7) as i32 - 3, seq)).collect();
    for part in all.chunks(100) {
        let publish = part.iter().map(|key| Mutation::Publish(event("t", key.priority.0, key.seq.0, 200)));
        bench.commit(publish.collect()).await;
    }
    for when in ["as written", "after a restart"] {
        assert_eq!(read(&bench, &all).await, payloads(&all), "{when}");
        let backwards: Vec<_> = all.iter().rev().copied().collect();
        assert_eq!(read(&bench, &backwards).await, payloads(&backwards), "{when}");
        let mut by_urgency = all.clone();
        by_urgency.sort();
        assert_eq!(read(&bench, &by_urgency).await, payloads(&by_urgency), "{when}");
        let twice = [all[3], all[3], all[600], all[3]];
        assert_eq!(read(&bench, &twice).await, payloads(&twice), "{when}");
        assert!(read(&bench, &[]).await.is_empty(), "{when}");
        bench.check_after_close(when).await;
    }
}

/// An unknown event reads as `None`. A released one reads as `None` or as itself, never as another, and is no error.
pub async fn nothing_is_read_for_what_is_gone<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let places = bench.commit((1..=9).map(|seq| Mutation::Publish(event("t", 0, seq, 200))).collect()).await;
    let mut batch = vec![settle("t", "s", [2, 5])];
    for seq in [2, 5] {
        batch.push(Mutation::Release { topic: topic("t"), key: key(0, seq), place: places[seq as usize - 1] });
    }
    bench.commit(batch).await;
    let keys = [key(0, 1), key(0, 2), key(0, 99), key(0, 5), key(0, 9)];
    let expected = payloads(&keys);
    let found = read(&bench, &keys).await;
    for (at, found) in found.iter().enumerate() {
        match at {
            0 | 4 => assert_eq!(*found, expected[at], "it still waits"),
            2 => assert_eq!(*found, None, "it never was"),
            _ => assert!(found.is_none() || *found == expected[at], "another event: {found:?}"),
        }
    }
    let nowhere = ReadKey { topic: topic("nowhere"), key: key(0, 1), place: Default::default() };
    assert_eq!(bench.storage().read(vec![nowhere]).await.expect("it can read"), [None]);
    assert_eq!(bench.storage().stats().damaged, 0, "what is gone is not damaged");
}

/// An event is readable once its batch is written.
pub async fn an_event_is_readable_as_soon_as_it_is_written<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    for seq in 1..=300 {
        let batch = Batch { mutations: vec![Mutation::Publish(event("t", 0, seq, 200))] };
        let place = bench.storage().submit(batch).written.await.expect("it is written")[0];
        let wanted = vec![ReadKey { topic: topic("t"), key: key(0, seq), place }];
        let found = bench.storage().read(wanted).await.expect("it can read");
        assert_eq!(found, payloads(&[key(0, seq)]));
    }
}

/// Several tasks submit while several read. Each gets the events that it asked for.
pub async fn readers_and_submitters_run_side_by_side<B: ContractBackend>() {
    const EACH: u64 = 1_000;
    let bench = Bench::<B>::new();
    let mut tasks = Vec::new();
    for number in 0..4_u64 {
        let storage = Arc::clone(bench.storage());
        tasks.push(tokio::spawn(async move {
            let name = format!("t{number}");
            let mut keys: Vec<ReadKey> = Vec::new();
            for batch in 0..EACH / 10 {
                let seqs = batch * 10 + 1..=batch * 10 + 10;
                let mutations = seqs.clone().map(|seq| Mutation::Publish(event(&name, 0, seq, 100))).collect();
                let places = durable(storage.submit(Batch { mutations })).await;
                let key_of = |(seq, place)| ReadKey { topic: topic(&name), key: key(0, seq), place };
                keys.extend(seqs.zip(places).map(key_of));
                let wanted: Vec<_> = keys.iter().rev().step_by(17).take(20).cloned().collect();
                let expected: Vec<_> =
                    wanted.iter().map(|key| Some(event(&name, 0, key.key.seq.0, 100).payload)).collect();
                assert_eq!(storage.read(wanted).await.expect("it can read"), expected);
            }
        }));
    }
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").expect("what was read is right");
    }
}

//! Claims about order and atomicity.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;

use super::bench::{self, Bench, PATIENCE, cursor, event, key, settle, subscribe, subscription, topic};
use super::{ContractBackend, Model};
use crate::event::Millis;
use crate::storage::{Batch, Level, MAX_OUTSTANDING, Mutation, Redelivery, Storage};

/// The result of `future` if it is complete, without waiting. Outside tokio's budget, which would make a complete future look
/// incomplete once the task has polled many in a row.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::task::unconstrained(future).now_or_never()
}

/// When a stage is complete, so are all earlier stages of its kind, and `durable` does not complete before `written`.
pub async fn stages_complete_in_the_order_of_submission<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let mut seq = 0;
    for round in 0..20 {
        let mut written = Vec::new();
        let mut durable = Vec::new();
        for _ in 0..MAX_OUTSTANDING {
            seq += 1;
            let commit = bench.storage().submit(Batch { mutations: vec![Mutation::Publish(event("t", 0, seq, 100))] });
            written.push(Some(commit.written));
            durable.push(Some(commit.durable));
        }
        // A different stage each round, since what counts is the state of the others at the moment it completes.
        let at = (round * 13 + 7) % MAX_OUTSTANDING;
        let stage = written[at].take().expect("not awaited yet");
        tokio::time::timeout(PATIENCE, stage).await.expect("it completes").expect("it is written");
        for (before, stage) in written.iter_mut().enumerate().take(at) {
            let stage = stage.take().expect("not awaited yet");
            let done = at_once(stage).unwrap_or_else(|| panic!("{at} is written and {before} is not"));
            done.expect("it is written");
        }
        let stage = durable[at].take().expect("not awaited yet");
        tokio::time::timeout(PATIENCE, stage).await.expect("it completes").expect("it is durable");
        for (before, stage) in durable.iter_mut().enumerate().take(at) {
            let stage = stage.take().expect("not awaited yet");
            let done = at_once(stage).unwrap_or_else(|| panic!("{at} is durable and {before} is not"));
            done.expect("it is durable");
        }
        for (index, (written, durable)) in written.into_iter().zip(durable).enumerate().skip(at + 1) {
            durable.expect("not awaited yet").await.expect("it is durable");
            let done = at_once(written.expect("not awaited yet"));
            let in_memory = bench.storage().level() == Level::Memory;
            assert!(done.is_some() || in_memory, "{index} is durable and not written");
        }
    }
}

/// Polled from the moment of submitting, a durable batch is written. At [`Level::Memory`] durable comes first.
pub async fn nothing_is_durable_before_it_is_written<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    if bench.storage().level() == Level::Memory {
        return;
    }
    for seq in 1..=200 {
        let mutations = vec![Mutation::Publish(event("t", 0, seq, 100))];
        let mut commit = bench.storage().submit(Batch { mutations });
        while at_once(&mut commit.durable).is_none() {
            if seq % 2 == 0 {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(std::time::Duration::from_micros(50)).await;
            }
        }
        let written = at_once(commit.written);
        written.unwrap_or_else(|| panic!("{seq} is durable and not written")).expect("it is written");
    }
}

/// Many tasks submit, and a lock records the order of their calls. The last call decides, for cursors and for counts.
pub async fn batches_take_effect_in_the_order_of_the_calls_whichever_task_makes_them<B: ContractBackend>() {
    const TASKS: u64 = 8;
    const BATCHES: u64 = 150;
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0), Mutation::Publish(event("t", 0, 1, 10))]).await;
    let calls = Arc::new(Mutex::new(0_u32));
    let tasks = (0..TASKS).map(|_| {
        let (storage, calls) = (Arc::clone(bench.storage()), Arc::clone(&calls));
        tokio::spawn(async move {
            for _ in 0..BATCHES {
                let commit = {
                    let mut calls = calls.lock().expect("no task panics with it");
                    *calls += 1;
                    let redelivery = Redelivery { key: key(0, 1), deliveries: *calls, due_at: None, grace_ms: 0 };
                    let mutations = vec![
                        cursor("source", *calls),
                        Mutation::Redeliver {
                            topic: topic("t"),
                            subscription: subscription("s"),
                            events: vec![redelivery],
                        },
                    ];
                    storage.submit(Batch { mutations })
                };
                bench::durable(commit).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("the task ends");
    }
    let last = (TASKS * BATCHES) as u32;
    let found = bench.close_and_reopen().await;
    assert_eq!(found.cursors["source"], last.to_string());
    assert_eq!(found.topics["t"].events[&1].holders["s"], (last, None, 0));
}

/// Of the batches outstanding when a storage is dropped, a prefix is present afterwards, each batch whole, and at least those
/// that were written.
pub async fn a_dropped_storage_holds_whole_batches_and_none_without_those_before_it<B: ContractBackend>() {
    const EACH: u64 = 3;
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("a", "s", 0), subscribe("b", "s", 0)]).await;
    let mut number = 0;
    for round in 1..=8_u64 {
        let mut stages = Vec::new();
        for _ in 0..MAX_OUTSTANDING as u64 {
            number += 1;
            let seqs = (number - 1) * EACH + 1..=number * EACH;
            let of = |name| seqs.clone().map(move |seq| Mutation::Publish(event(name, 0, seq, 50)));
            let mut mutations: Vec<_> = of("a").chain(of("b")).collect();
            mutations.insert(EACH as usize, cursor("source", number));
            stages.push(bench.storage().submit(Batch { mutations }).written);
        }
        let sure = number - MAX_OUTSTANDING as u64 + round * 5;
        stages.drain(..round as usize * 5).next_back().expect("one of them").await.expect("it is written");
        drop(stages);
        let found = bench.drop_and_reopen();
        let there: u64 = found.cursors.get("source").map_or(0, |value| value.parse().expect("a number"));
        assert!((sure..=number).contains(&there), "{sure} of {number} were written, {there} are there");
        for name in ["a", "b"] {
            let seqs: Vec<_> = found.topics[name].events.keys().copied().collect();
            assert_eq!(seqs, (1..=there * EACH).collect::<Vec<_>>(), "the events of {there} batches in {name}");
        }
        number = there;
    }
}

/// Within a batch the later mutation wins, as if each had been submitted alone.
pub async fn mutations_of_a_batch_take_effect_in_their_order<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let redeliver = |seq, deliveries, due: Option<u64>| Mutation::Redeliver {
        topic: topic("t"),
        subscription: subscription("s"),
        events: vec![Redelivery { key: key(0, seq), deliveries, due_at: due.map(Millis), grace_ms: 0 }],
    };
    let unsubscribe = || Mutation::Unsubscribe { topic: topic("t"), subscription: subscription("s") };
    let mut expected = Model::default();
    let mutations = vec![
        subscribe("t", "s", 0),
        Mutation::Publish(event("t", 0, 1, 10)),
        unsubscribe(),
        subscribe("t", "s", 1),
        Mutation::Publish(event("t", 0, 2, 10)),
        Mutation::Publish(event("t", 0, 3, 10)),
        Mutation::Publish(event("t", 0, 4, 10)),
        cursor("c", "first"),
        redeliver(2, 1, Some(99)),
        redeliver(2, 2, None),
        redeliver(3, 5, None),
        settle("t", "s", [3]),
        redeliver(3, 6, None),
        Mutation::Forget { topic: topic("t"), events: vec![key(0, 4)] },
        cursor("c", "second"),
    ];
    mutations.iter().for_each(|mutation| expected.apply(mutation));
    bench.commit(mutations).await;
    bench.check_after_close("after one batch of all kinds").await;
    let topic_now = &bench.expected.needed().topics["t"];
    assert_eq!(topic_now.events.keys().copied().collect::<Vec<_>>(), [2], "only one of the events waits");
    assert_eq!(topic_now.events[&2].holders["s"], (2, None, 0));
}

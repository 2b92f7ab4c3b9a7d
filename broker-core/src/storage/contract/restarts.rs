//! Claims about the state after a clean and an unclean stop.

use super::bench::{Bench, cursor, event, key, settle, subscribe, subscription, topic};
use super::model::TopicModel;
use super::{ContractBackend, Model};
use crate::event::{Millis, Seq};
use crate::storage::{Holder, Mutation, Redelivery, Storage as _};

/// An empty storage stays empty, also after a stop of either kind.
pub async fn a_new_storage_hands_back_nothing<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.check_after_close("closed without use").await;
    bench.check_after_drop("dropped without use");
}

/// A history with every kind of mutation.
fn history() -> Vec<Vec<Mutation>> {
    let redeliver =
        |name, events| Mutation::Redeliver { topic: topic("orders"), subscription: subscription(name), events };
    let again = |priority, seq, deliveries, due: Option<u64>| Redelivery {
        key: key(priority, seq),
        deliveries,
        due_at: due.map(Millis),
        grace_ms: u64::from(deliveries / 2),
    };
    let mut timed = event("orders", 9, 4, 20);
    (timed.expires_at, timed.due_at) = (Some(Millis(u64::MAX)), Some(Millis(1_800_000_000_000)));
    vec![
        vec![subscribe("orders", "billing", 0), subscribe("orders", "audit", 0)],
        (1..=3).map(|seq| Mutation::Publish(event("orders", 0, seq, 300))).collect(),
        vec![Mutation::Publish(timed), cursor("feed", "{\"_data\":\"82\"}")],
        // A later subscription holds only later events.
        vec![subscribe("orders", "late", 4), subscribe("quiet", "nobody-publishes", 0)],
        vec![Mutation::Publish(event("orders", -5, 5, 20)), Mutation::Publish(event("other", 1, 7, 20))],
        vec![settle("orders", "billing", [1, 2])],
        vec![redeliver("billing", vec![again(0, 3, 1, None), again(9, 4, 2, Some(1_900_000_000_000))])],
        vec![redeliver("billing", vec![again(0, 3, 2, Some(77))]), redeliver("audit", vec![again(0, 1, 7, None)])],
        vec![Mutation::Unsubscribe { topic: topic("quiet"), subscription: subscription("nobody-publishes") }],
        vec![settle("orders", "audit", [2]), cursor("feed", "{\"_data\":\"83\"}"), cursor("other feed é", "")],
        vec![Mutation::Publish(event("orders", 0, 6, 20))],
        vec![Mutation::Forget { topic: topic("orders"), events: vec![key(0, 6)] }],
        // References to what does not exist are ignored.
        vec![settle("orders", "nobody", [1]), redeliver("late", vec![again(0, 1, 9, None)])],
    ]
}

/// After a clean stop, and after another one with nothing in between.
pub async fn everything_comes_back_after_a_close<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    for batch in history() {
        bench.commit(batch).await;
    }
    for when in ["closed", "closed again", "closed a third time"] {
        bench.check_after_close(when).await;
    }
    // The sequences continue from there.
    bench.commit(vec![Mutation::Publish(event("orders", 0, 7, 20)), settle("orders", "late", [7])]).await;
    bench.check_after_close("closed after more").await;
}

/// After a stop without `close`. Each batch was awaited.
pub async fn everything_written_comes_back_after_a_drop<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    for (number, batch) in history().into_iter().enumerate() {
        bench.commit(batch).await;
        bench.check_after_drop(&format!("dropped after batch {number}"));
    }
}

/// Pseudo-random histories over two topics and a few subscriptions, with stops of both kinds in between.
pub async fn random_histories_come_back<B: ContractBackend>() {
    for seed in 1..=6_u64 {
        let mut bench = Bench::<B>::new();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for round in 0..10 {
            for _ in 0..random.below(25) {
                let batch = random.batch(&bench.expected);
                bench.commit(batch).await;
                let released = random.releases(&bench.expected);
                bench.commit(released).await;
            }
            let when = format!("seed {seed}, round {round}");
            if random.below(2) == 0 {
                bench.check_after_close(&when).await;
            } else {
                bench.check_after_drop(&when);
            }
        }
    }
}

/// SplitMix64, so that the histories are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Mutations that an engine could submit in the state of `model`.
    fn batch(&mut self, model: &Model) -> Vec<Mutation> {
        let mut model = model.clone();
        let mut batch = Vec::new();
        for _ in 0..=self.below(12) {
            let name = ["a", "b"][self.below(2)];
            let there = model.topics.get(name).cloned().unwrap_or_default();
            let mutation = self.mutation(name, &there);
            model.apply(&mutation);
            batch.push(mutation);
        }
        batch
    }

    fn mutation(&mut self, name: &str, there: &TopicModel) -> Mutation {
        let who = ["x", "y", "z"][self.below(3)];
        let keys: Vec<_> = there.events.values().map(|held| held.event.key).collect();
        let some = |random: &mut Self| {
            let from = random.below(keys.len().max(1));
            keys.iter().skip(from).take(1 + random.below(4)).copied().collect::<Vec<_>>()
        };
        let (topic, subscription) = (topic(name), subscription(who));
        match self.below(16) {
            0 if there.subscriptions.contains_key(who) => Mutation::Unsubscribe { topic, subscription },
            0 | 1 => Mutation::Subscribe { topic, subscription, since: Seq(there.last_seq) },
            2 => Mutation::Forget { topic, events: some(self) },
            3 => cursor(["one", "two"][self.below(2)], self.next()),
            4 | 5 => {
                let due = (self.below(2) == 0).then(|| Millis(self.next() >> 20));
                let deliveries = 1 + self.below(5) as u32;
                let grace_ms = self.below(3) as u64;
                let redelivery = |key| Redelivery { key, deliveries, due_at: due, grace_ms };
                let events = some(self).into_iter().map(redelivery).collect();
                Mutation::Redeliver { topic, subscription, events }
            }
            6..=9 => Mutation::Settle { topic, subscription, events: some(self) },
            10 => match there.events.values().nth(self.below(keys.len().max(1))) {
                Some(held) => Mutation::Rewrite { event: held.event.clone(), holders: holders(held) },
                None => cursor("one", self.next()),
            },
            _ => {
                let (priority, bytes) = (self.below(3) as i32 - 1, self.below(600));
                Mutation::Publish(event(name, priority, there.last_seq + 1, bytes))
            }
        }
    }

    /// Releases most events without holders, as an engine does, which also releases those it found at the start.
    fn releases(&mut self, model: &Model) -> Vec<Mutation> {
        let mut released = Vec::new();
        for (name, there) in &model.topics {
            for held in there.events.values().filter(|held| held.holders.is_empty()) {
                let place = model.places.get(&(name.clone(), held.event.key.seq.0)).copied();
                if let Some(place) = place.filter(|_| self.below(4) > 0) {
                    released.push(Mutation::Release { topic: topic(name), key: held.event.key, place });
                }
            }
        }
        released
    }
}

fn holders(held: &super::model::Held) -> Vec<Holder> {
    let holder = |(name, (deliveries, due_at, grace_ms)): (&String, &(u32, Option<Millis>, u64))| Holder {
        subscription: subscription(name),
        deliveries: *deliveries,
        due_at: *due_at,
        grace_ms: *grace_ms,
    };
    held.holders.iter().map(holder).collect()
}

/// A topic that has been drained, and one that only ever had a subscription.
pub async fn sequences_are_not_used_twice_after_everything_is_gone<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let places = bench.commit((1..=50).map(|seq| Mutation::Publish(event("t", 0, seq, 10))).collect()).await;
    let mut batch = vec![settle("t", "s", 1..=50)];
    let release = |(seq, place)| Mutation::Release { topic: topic("t"), key: key(0, seq), place };
    batch.extend((1..).zip(places).map(release));
    batch.push(Mutation::Unsubscribe { topic: topic("t"), subscription: subscription("s") });
    batch.push(subscribe("moved", "s", 1234));
    batch.push(Mutation::Unsubscribe { topic: topic("moved"), subscription: subscription("s") });
    bench.commit(batch).await;
    for when in ["drained and closed", "closed again"] {
        let found = bench.close_and_reopen().await;
        assert_eq!(found.topics.get("t").map(|topic| topic.last_seq), Some(50), "{when}");
        assert_eq!(found.topics.get("moved").map(|topic| topic.last_seq), Some(1234), "{when}");
        assert!(found.topics["t"].subscriptions.is_empty(), "{when}");
    }
}

/// Unsubscribing and subscribing again under the same name leaves no event, count or settlement of the first subscription.
pub async fn a_subscription_made_again_holds_nothing_from_before<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0), subscribe("t", "other", 0)]).await;
    bench.commit((1..=4).map(|seq| Mutation::Publish(event("t", 0, seq, 10))).collect()).await;
    let redelivery = Redelivery { key: key(0, 2), deliveries: 3, due_at: None, grace_ms: 0 };
    let redeliver =
        Mutation::Redeliver { topic: topic("t"), subscription: subscription("s"), events: vec![redelivery] };
    bench.commit(vec![settle("t", "s", [1]), redeliver]).await;
    bench.commit(vec![Mutation::Unsubscribe { topic: topic("t"), subscription: subscription("s") }]).await;
    bench.check_after_close("unsubscribed").await;
    bench.commit(vec![subscribe("t", "s", 4), Mutation::Publish(event("t", 0, 5, 10))]).await;
    bench.check_after_close("subscribed again").await;
    let holds: Vec<_> = {
        let events = &bench.expected.topics["t"].events;
        events.iter().filter(|(_, held)| held.holders.contains_key("s")).map(|(seq, _)| *seq).collect()
    };
    assert_eq!(holds, [5]);
}

/// Events published while there was no durable subscription, among others.
pub async fn an_event_without_holders_takes_no_other_with_it<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let places = bench.commit((1..=3).map(|seq| Mutation::Publish(event("t", 0, seq, 10))).collect()).await;
    bench.commit(vec![subscribe("t", "s", 3), Mutation::Publish(event("t", 0, 4, 10))]).await;
    bench.check_after_drop("before the release");
    let release = |(seq, place)| Mutation::Release { topic: topic("t"), key: key(0, seq), place };
    bench.commit((1..).zip(places).map(release).collect()).await;
    bench.check_after_drop("after the release");
    assert_eq!(bench.expected.needed().topics["t"].events.len(), 1);
}

/// A rewrite replaces the event and everything recorded about it before.
pub async fn a_moved_event_comes_back_with_exactly_its_holders<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(["a", "b", "c"].map(|name| subscribe("t", name, 0)).to_vec()).await;
    let old = bench.commit((1..=3).map(|seq| Mutation::Publish(event("t", 0, seq, 100))).collect()).await;
    let redelivery = Redelivery { key: key(0, 1), deliveries: 4, due_at: Some(Millis(5)), grace_ms: 6 };
    let redeliver =
        Mutation::Redeliver { topic: topic("t"), subscription: subscription("b"), events: vec![redelivery] };
    bench.commit(vec![settle("t", "a", [1, 2]), redeliver]).await;
    let moved = bench.expected.topics["t"]
        .events
        .values()
        .map(|held| Mutation::Rewrite { event: held.event.clone(), holders: holders(held) });
    let new = bench.commit(moved.collect()).await;
    // The engine releases the old place once it has the new one.
    let left = (1..).zip(old).zip(new).filter(|((_, old), new)| old != new);
    let release = |((seq, place), _)| Mutation::Release { topic: topic("t"), key: key(0, seq), place };
    bench.commit(left.map(release).collect()).await;
    bench.check_after_close("moved").await;
    bench.commit(vec![settle("t", "b", [1]), settle("t", "c", [2])]).await;
    bench.check_after_drop("moved, then settled by some");
    let held = |seq: u64| bench.expected.topics["t"].events[&seq].holders.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (held(1), held(2), held(3)),
        (vec!["c".into()], vec!["b".into()], ["a", "b", "c"].map(String::from).into())
    );
}

/// A cursor is present if and only if the events of its batch are.
pub async fn cursors_come_back_with_the_batch_that_they_came_with<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    for seq in 1..=20 {
        bench.commit(vec![Mutation::Publish(event("t", 0, seq, 10)), cursor("feed", seq)]).await;
        let found = bench.drop_and_reopen();
        assert_eq!(found.cursors["feed"], seq.to_string());
        assert_eq!(found.topics["t"].events.len() as u64, seq);
        bench.expected.places = found.places;
    }
}

/// Once all its events are acknowledged, only the import's mutation says which sequences a topic has used.
pub async fn a_topic_comes_back_with_the_sequence_that_an_import_gave_it<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let used = |name: &str, last_seq| Mutation::Topic { topic: topic(name), last_seq: Seq(last_seq) };
    bench.commit(vec![used("used", 77), used("held", 9), subscribe("held", "s", 0)]).await;
    bench.commit(vec![Mutation::Publish(event("held", 0, 4, 10)), used("used", 5)]).await;
    for when in ["closed", "closed again"] {
        let found = bench.close_and_reopen().await;
        let last_seq = |name: &str| found.topics.get(name).map(|topic| topic.last_seq);
        assert_eq!((last_seq("used"), last_seq("held")), (Some(77), Some(9)), "{when}");
    }
}

/// A topic of which nothing is left does not come back. One of its name begins anew, with the same sequences; where a subscription is
/// left, nothing is forgotten.
pub async fn a_forgotten_topic_is_gone_and_another_of_its_name_keeps_its_events<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let unsubscribe = || Mutation::Unsubscribe { topic: topic("reply"), subscription: subscription("s") };
    let publish = |seq: u64| Mutation::Publish(event("reply", 0, seq, 10));
    bench.commit(vec![subscribe("kept", "s", 0), subscribe("reply", "s", 0)]).await;
    let places = bench.commit(vec![publish(1), publish(2), Mutation::Publish(event("kept", 0, 1, 10))]).await;
    let release = |seq: u64, place| Mutation::Release { topic: topic("reply"), key: key(0, seq), place };
    bench.commit(vec![settle("reply", "s", [1]), release(1, places[0]), Mutation::forgotten(topic("reply"))]).await;
    bench.check_after_close("where a subscription is left").await;
    bench.commit(vec![unsubscribe(), release(2, bench.read_key("reply", key(0, 2)).place)]).await;
    bench.commit(vec![Mutation::forgotten(topic("reply")), Mutation::forgotten(topic("unknown"))]).await;
    assert!(!bench.expected.topics.contains_key("reply"));
    bench.check_after_close("once it is forgotten").await;
    // Forgotten with an event that no subscription held, and used again in the same batch.
    let places = bench.commit(vec![publish(1)]).await;
    let again = vec![
        release(1, places[0]),
        Mutation::forgotten(topic("reply")),
        subscribe("reply", "s", 0),
        publish(1),
        Mutation::Publish(event("reply", 0, 2, 100)),
    ];
    bench.commit(again).await;
    let wanted = [1, 2].map(|seq| bench.read_key("reply", key(0, seq)));
    let found = bench.storage().read(wanted.to_vec()).await.expect("it can read");
    assert!(found.iter().all(Option::is_some), "{found:?}");
    bench.check_after_drop("used again");
    bench.check_after_close("used again").await;
    let found = bench.drop_and_reopen();
    assert_eq!(found.topics["reply"].events.len(), 2);
    bench.commit(vec![unsubscribe(), Mutation::forgotten(topic("reply"))]).await;
    for n in 0..1000 {
        let name = format!("reply{n}");
        bench.commit(vec![subscribe(&name, "s", 0)]).await;
        let unsubscribe = Mutation::Unsubscribe { topic: topic(&name), subscription: subscription("s") };
        bench.commit(vec![unsubscribe, Mutation::forgotten(topic(&name))]).await;
    }
    let found = bench.close_and_reopen().await;
    assert_eq!(found.topics.keys().collect::<Vec<_>>(), ["kept"]);
}

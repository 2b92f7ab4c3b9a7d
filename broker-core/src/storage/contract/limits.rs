//! Claims about names, numbers, events and batches at their limits.

use tokio::sync::RwLock;

use super::ContractBackend;
use super::bench::{Bench, cursor, event, key, settle, subscribe, subscription, topic};
use crate::event::{Millis, Payload, Priority};
use crate::name::MAX_NAME_BYTES;
use crate::storage::{Batch, Mutation, Place, Recovery, Redelivery, Storage, StorageError};

/// Held by the tests that use much memory, so that they run one at a time.
static LARGE: RwLock<()> = RwLock::const_new(());

/// 255 bytes for topic, subscription and id. A source's name and cursor can be longer and hold any text.
pub async fn names_at_the_limit_come_back<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    let long = |first: char| format!("{first}{}", "a.b_c:d-E9".repeat(26)).chars().take(MAX_NAME_BYTES).collect();
    let names: [String; 3] = [long('x'), long('y'), "0".into()];
    for name in &names {
        bench.commit(vec![subscribe(name, &names[0], 0), subscribe(name, &names[1], 0)]).await;
        let mut longest = event(name, 3, 1, 10);
        longest.payload = Payload::encode(name, Priority(3), "null", &"\u{1F980}\"\\".repeat(42));
        bench.commit(vec![Mutation::Publish(longest), settle(name, &names[1], [1])]).await;
    }
    bench.commit(vec![cursor(&"sé'\"\\;-- \u{0}\n".repeat(300), "\u{0}'\"\n€".repeat(9000))]).await;
    bench.check_after_close("with long names").await;
    let name = &names[0];
    let found = bench.storage().read(vec![bench.read_key(name, key(3, 1))]).await.expect("it can read");
    assert_eq!(found[0].as_ref(), Some(&bench.expected.topics[name].events[&1].event.payload));
}

/// Priorities, sequences, times and counts at both ends.
pub async fn numbers_at_the_limit_come_back<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0), subscribe("far", "s", (1 << 62) - 1)]).await;
    let times = [None, Some(Millis(0)), Some(Millis(1)), Some(Millis((1 << 53) + 1)), Some(Millis(u64::MAX))];
    let mut seq = 0;
    for priority in [i32::MIN, -1, 0, 1, i32::MAX] {
        for (at, time) in times.iter().enumerate() {
            seq += 1;
            let mut timed = event("t", priority, seq, 5);
            (timed.expires_at, timed.due_at) = (*time, times[(at + 1) % times.len()]);
            timed.published_at = time.unwrap_or(Millis(42));
            let redelivery = Redelivery {
                key: key(priority, seq),
                deliveries: u32::MAX - at as u32,
                due_at: *time,
                grace_ms: (1 << 53) + 1,
            };
            let redeliver =
                Mutation::Redeliver { topic: topic("t"), subscription: subscription("s"), events: vec![redelivery] };
            bench.commit(vec![Mutation::Publish(timed), redeliver]).await;
        }
    }
    bench.commit(vec![Mutation::Publish(event("far", 0, 1 << 62, 5))]).await;
    bench.check_after_close("with numbers at the limit").await;
    let keys = [i32::MIN, i32::MAX].map(|priority| {
        let events = &bench.expected.topics["t"].events;
        events.values().map(|held| held.event.key).find(|key| key.priority.0 == priority).expect("it is there")
    });
    let found = bench.storage().read(keys.iter().map(|key| bench.read_key("t", *key)).collect()).await;
    assert!(found.expect("it can read").iter().all(Option::is_some));
}

/// Events of one MiB, alone, several in a batch, among small ones.
pub async fn events_of_a_mebibyte_come_back<B: ContractBackend>() {
    let _alone = LARGE.read().await;
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    bench.commit(vec![Mutation::Publish(event("t", 0, 1, 1 << 20))]).await;
    let mixed = (2..=9).map(|seq| Mutation::Publish(event("t", 0, seq, if seq % 2 == 0 { 1 << 20 } else { 10 })));
    bench.commit(mixed.collect()).await;
    bench.check_after_close("with large events").await;
    let keys = (1..=9).rev().map(|seq| bench.read_key("t", key(0, seq))).collect();
    let found = bench.storage().read(keys).await.expect("it can read");
    for (found, seq) in found.iter().zip((1..=9).rev()) {
        let expected = &bench.expected.topics["t"].events[&seq].event.payload;
        assert!(found.as_ref() == Some(expected), "event {seq} is read as it was");
    }
    let mut batch = vec![settle("t", "s", 1..=8)];
    let release =
        |seq| Mutation::Release { topic: topic("t"), key: key(0, seq), place: bench.read_key("t", key(0, seq)).place };
    batch.extend((1..=8).map(release));
    bench.commit(batch).await;
    bench.check_after_drop("after most are gone");
}

/// An empty batch completes, in its place in the order.
pub async fn an_empty_batch_completes<B: ContractBackend>() {
    let mut bench = Bench::<B>::new();
    assert!(bench.commit(Vec::new()).await.is_empty());
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    for _ in 0..10 {
        bench.commit(Vec::new()).await;
    }
    let nothing = Mutation::Settle { topic: topic("t"), subscription: subscription("s"), events: Vec::new() };
    bench.commit(vec![nothing, Mutation::Forget { topic: topic("t"), events: Vec::new() }]).await;
    bench.check_after_close("after empty batches").await;
}

/// One batch of 100,000 events, and one that settles most of them again.
pub async fn a_batch_of_a_hundred_thousand_mutations_is_one_batch<B: ContractBackend>() {
    const EVENTS: u64 = 100_000;
    let _alone = LARGE.read().await;
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let events = (1..=EVENTS).map(|seq| Mutation::Publish(event("t", (seq % 10) as i32, seq, 20)));
    let places = bench.commit(events.collect()).await;
    bench.check_after_drop("a huge batch");
    let gone: Vec<_> = (1..=EVENTS).filter(|seq| seq % 100 != 0).map(|seq| key((seq % 10) as i32, seq)).collect();
    let mut batch = Vec::with_capacity(2 * gone.len());
    for key in &gone {
        let (topic, subscription) = (topic("t"), subscription("s"));
        batch.push(Mutation::Settle { topic: topic.clone(), subscription, events: vec![*key] });
        batch.push(Mutation::Release { topic, key: *key, place: places[key.seq.0 as usize - 1] });
    }
    bench.commit(batch).await;
    bench.check_after_close("a huge batch of settlements").await;
    assert_eq!(bench.expected.needed().topics["t"].events.len() as u64, EVENTS / 100);
}

/// Each with a subscription, an event, and something settled.
pub async fn ten_thousand_topics_come_back<B: ContractBackend>() {
    const TOPICS: u64 = 10_000;
    let _alone = LARGE.read().await;
    let mut bench = Bench::<B>::new();
    for part in (0..TOPICS).collect::<Vec<_>>().chunks(500) {
        let mut batch = Vec::new();
        for number in part {
            let name = format!("topic-{number}");
            batch.push(subscribe(&name, "s", 0));
            batch.push(Mutation::Publish(event(&name, 0, 1, 20)));
            batch.push(Mutation::Publish(event(&name, 0, 2, 20)));
            batch.push(settle(&name, "s", [1 + number % 2]));
        }
        bench.commit(batch).await;
    }
    bench.check_after_drop("ten thousand topics");
    bench.check_after_close("ten thousand topics").await;
}

/// Counts what is handed back, keeps nothing of it, and records the peak of memory use.
#[derive(Default)]
struct Watch {
    events: u64,
    most_bytes: u64,
}

impl Recovery for Watch {
    fn replay(&mut self, mutation: Mutation, _place: Place) -> Result<(), StorageError> {
        if matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. }) {
            self.events += 1;
            if self.events.is_multiple_of(256) {
                self.most_bytes = self.most_bytes.max(resident_bytes());
            }
        }
        Ok(())
    }
}

/// The resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The data directory, in the process that measures.
const MEASURE: &str = "STORAGE_CONTRACT_MEASURE_RECOVERY";

/// Handing back 192 MiB takes less than half of that, caches included. Measured where there is `/proc`, in a process of its own:
/// memory that other tests have left to this one's allocator would hide it.
pub async fn recovery_does_not_hold_the_backlog_in_memory<B: ContractBackend>() {
    const EVENTS: u64 = 48 << 10;
    const EVENT_BYTES: usize = 4 << 10;
    if let Ok(dir) = std::env::var(MEASURE) {
        return measure_recovery::<B>(dir.as_ref()).await;
    }
    let _alone = LARGE.write().await;
    let mut bench = Bench::<B>::new();
    bench.commit(vec![subscribe("t", "s", 0)]).await;
    let seqs: Vec<_> = (1..=EVENTS).collect();
    for part in seqs.chunks(256) {
        let mutations = part.iter().map(|seq| Mutation::Publish(event("t", 0, *seq, EVENT_BYTES))).collect();
        super::bench::durable(bench.storage().submit(Batch { mutations })).await;
    }
    bench.close().await;
    let this_test = std::process::Command::new(std::env::current_exe().expect("the test has a file"))
        .args(["recovery_does_not_hold_the_backlog_in_memory", "--nocapture"])
        .env(MEASURE, bench.path())
        .output()
        .expect("it can be started again");
    let output = String::from_utf8_lossy(&this_test.stdout).into_owned();
    let numbers = output.lines().find_map(|line| line.split_once("measured ")).unwrap_or_else(|| panic!("{output}")).1;
    let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().expect("a number")).collect();
    assert_eq!(numbers[0], EVENTS);
    let (grown, backlog) = (numbers[1] >> 20, (EVENTS * EVENT_BYTES as u64) >> 20);
    assert!(grown < backlog / 2, "recovery of {backlog} MiB took {grown} MiB of memory");
}

#[expect(clippy::print_stdout, reason = "it is how the process that measures says what it found")]
async fn measure_recovery<B: ContractBackend>(dir: &std::path::Path) {
    let before = resident_bytes();
    let storage = super::bench::open_patiently::<B>(dir);
    let mut watch = Watch::default();
    tokio::task::block_in_place(|| storage.recover(&mut watch)).expect("it recovers");
    println!("\nmeasured {} {}", watch.events, watch.most_bytes.saturating_sub(before));
    storage.close().await.expect("it closes");
}

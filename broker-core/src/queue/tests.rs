//! Topics against a naive model of them, in random sequences of operations with crashes between; what each call costs among thousands of
//! events; and, one by one, what the protocol's fine print claims of them.

mod claims;
mod crowd;
mod model;
mod run;
mod slices;

use std::cell::Cell;

use proptest::prelude::*;

use crate::event::{NewEvent, Payload, Priority};
use crate::name::IdKey;
use crate::policy::{DuplicateId, Overflow, TopicPolicy};
use run::{Manner, Replay, Run, Step};

thread_local! {
    /// The events and priorities that were examined in search of the next delivery.
    pub(super) static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// So few ids that most are published again while they wait or are in flight.
const IDS: u8 = 4;

fn name_of(id: u8) -> String {
    format!("id-{id}")
}

fn event_id(id: u8) -> IdKey {
    IdKey::of(&name_of(id))
}

/// An event whose message is `number`, with so many blanks that make it longer.
fn new_event(id: u8, priority: i32, number: u64, padding: u8) -> NewEvent {
    let msg = format!("{number}{:1$}", "", usize::from(padding));
    let payload = Payload::encode("t", Priority(priority), &msg, &name_of(id));
    NewEvent { id: event_id(id), priority: Priority(priority), ttl_ms: 0, delay_ms: 0, payload }
}

/// The number that was published as the message.
fn number(payload: &Payload) -> u64 {
    let json: serde_json::Value = serde_json::from_slice(payload.bytes()).unwrap();
    json["msg"].as_u64().unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..IDS;
    let at = any::<u8>();
    let ms = || prop_oneof![5 => Just(0), 1 => 1..50_u64];
    let priority = prop_oneof![3 => 0..3_i32, 1 => any::<i32>()];
    // Most clients have room most of the time.
    let room = || prop_oneof![3 => Just(u8::MAX), 1 => any::<u8>()];
    let few = 1..6_u8;
    // Mostly none.
    let bits = || prop_oneof![2 => Just(0), 1 => any::<u8>()];
    prop_oneof![
        16 => (id, priority, ms(), ms(), prop_oneof![3 => Just(0), 1 => 0..200_u8]).prop_map(
            |(id, priority, ttl_ms, delay_ms, padding)| Step::Publish { id, priority, ttl_ms, delay_ms, padding }
        ),
        3 => (prop_oneof![3 => (0..3_u8).prop_map(Some), 1 => Just(None)], 1..4_u16).prop_map(|(name, prefetch)| Step::Subscribe { name, prefetch }),
        1 => (at, 1..4_u16).prop_map(|(at, prefetch)| Step::Prefetch { at, prefetch }),
        1 => at.prop_map(Step::Detach),
        2 => at.prop_map(Step::Remove),
        14 => (at, few.clone(), room()).prop_map(|(sub, most, room)| Step::Deliver { sub, most, room }),
        2 => at.prop_map(Step::Resume),
        10 => (at, at).prop_map(|(at, id)| Step::Acknowledge { at, id }),
        2 => at.prop_map(Step::AcknowledgeAll),
        7 => (at, at, ms()).prop_map(|(at, id, delay_ms)| Step::Nack { at, id, delay_ms }),
        2 => (at, at).prop_map(|(at, id)| Step::Touch { at, id }),
        4 => prop_oneof![9 => 1..40_u64, 1 => Just(1000)].prop_map(Step::Pass),
        3 => at.prop_map(Step::Timer),
        8 => Just(Step::Commit),
        8 => few.clone().prop_map(Step::Write),
        8 => few.clone().prop_map(Step::Show),
        4 => at.prop_map(Step::Evict),
        6 => prop_oneof![9 => Just(false), 1 => Just(true)].prop_map(Step::Read),
        4 => (at, any::<bool>()).prop_map(|(at, gone)| Step::Move(at, gone)),
        2 => few.clone().prop_map(Step::Drain),
        4 => at.prop_map(Step::Look),
        4 => (at, at).prop_map(|(at, id)| Step::Terminate { at, id }),
        6 => Just(Step::Send),
        6 => (bits(), bits(), any::<bool>()).prop_map(|(stay, lost, full)| Step::Arrive { stay, lost, full }),
        1 => (at, few).prop_map(|(at, slice)| Step::Purge(at, slice)),
        2 => Just(Step::Expire),
        2 => (at, 0..IDS, 0..3_i32).prop_map(|(sub, id, priority)| Step::Revive { sub, id, priority }),
        1 => (at, any::<bool>()).prop_map(|(bits, arrives)| Step::SendBack(bits, arrives)),
        3 => at.prop_map(Step::Peek),
    ]
}

fn policy() -> impl Strategy<Value = TopicPolicy> {
    let duplicate_id = prop_oneof![
        3 => Just(DuplicateId::Replace),
        1 => Just(DuplicateId::Reject),
        1 => Just(DuplicateId::Keep)
    ];
    let limits = prop_oneof![
        3 => Just((0, 0)),
        1 => (1..8_u64).prop_map(|most| (most, 0)),
        1 => (100..900_u64).prop_map(|bytes| (0, bytes)),
    ];
    let ack_timeout = prop_oneof![2 => Just(0), 1 => 10..60_u64];
    let ttl = prop_oneof![3 => Just(0), 1 => 10..100_u64];
    let overflow = prop_oneof![Just(Overflow::Reject), Just(Overflow::DropLowest), Just(Overflow::DeadLetter)];
    let letters = (prop_oneof![2 => Just(0), 1 => 1..4_u32], any::<bool>());
    (duplicate_id, limits, overflow, ack_timeout, ttl, letters).prop_map(
        |(duplicate_id, limits, overflow, ack_timeout_ms, ttl_ms, (max_deliveries, expired_to_dead_letter))| {
            TopicPolicy {
                duplicate_id,
                max_waiting: limits.0,
                max_waiting_bytes: limits.1,
                overflow,
                ack_timeout_ms,
                ttl_ms,
                max_deliveries,
                expired_to_dead_letter,
                ..TopicPolicy::default()
            }
        },
    )
}

/// Where the log is cut, how it is handed back, which payloads are kept in memory, and the policy from then on.
fn crash() -> impl Strategy<Value = (usize, Replay, u8, Option<TopicPolicy>)> {
    let replay = prop_oneof![2 => Just(Replay::Log), 1 => Just(Replay::Cleaned), 1 => Just(Replay::State)];
    // A cut that is too far back leaves nothing to be compared: most are near the end.
    let back = prop_oneof![4 => Just(0), 1 => 0..4_usize, 1 => any::<usize>()];
    (back, replay, any::<u8>(), proptest::option::of(policy()))
}

fn manner() -> impl Strategy<Value = Manner> {
    (any::<bool>(), any::<bool>()).prop_map(|(looks, at_once)| Manner { looks, at_once })
}

fn steps(least: usize, most: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), least..most)
}

/// Few enough cases to run quickly; `PROPTEST_CASES` asks for more.
fn cases(few: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: few, ..config } }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_topic_behaves_as_its_model(policy in policy(), manner in manner(), steps in steps(0, 150)) {
        let mut run = Run::new(policy, manner);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn a_topic_that_was_killed_goes_on_as_its_model(
        first in policy(),
        manner in manner(),
        lives in proptest::collection::vec((steps(20, 120), crash()), 1..4),
        last in steps(0, 50),
    ) {
        let mut policy = first;
        let mut run = Run::new(policy.clone(), manner);
        for (steps, (back, replay, keep, changed)) in lives {
            steps.iter().for_each(|step| run.step(step));
            policy = changed.unwrap_or(policy);
            run = run.crash(back, replay, keep, policy.clone());
        }
        last.iter().for_each(|step| run.step(step));
        run.finish();
    }
}

//! What each call costs among thousands of events, in random sequences: waiting, delayed, in flight, blocked, come back, and letters.
//!
//! A shard does nothing else during a call, so no call may take longer because there are many events. Time is no measure for a test; the
//! comparisons of sequences are, because every search, look-up and sort compares them.

use proptest::prelude::*;

use super::super::{ConsumerId, Next, SubscriptionId, Topic};
use super::cases;
use crate::event::{COMPARISONS, EventKey, Millis, NewEvent, Payload, Priority};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::{DuplicateId, Overflow, TopicPolicy};
use crate::queue::{ClientId, Fate};
use crate::storage::{Mutation, Place};

/// The events of one step.
const CROWD: u64 = 3000;

/// The comparisons that a change of one event may take in one subscription. It is in a dozen ordered collections at most, each of which
/// takes some twenty among thousands of events.
const EACH: u64 = 400;

/// Work that the shard does in slices, and the events in one.
const SLICE: usize = 100;

/// One step, done to every event of the crowd in turn.
#[derive(Debug, Clone)]
enum Step {
    Publish { delay_ms: u64, ttl_ms: u64, priorities: i32 },
    Deliver,
    Acknowledge,
    Nack { delay_ms: u64 },
    Terminate,
    Touch,
    Detach,
    Pass(u64),
    Purge,
    Remove,
    Policy(TopicPolicy),
    Letters { stay: bool },
}

fn policy() -> impl Strategy<Value = TopicPolicy> {
    let duplicate_id =
        prop_oneof![4 => Just(DuplicateId::Replace), 1 => Just(DuplicateId::Reject), 1 => Just(DuplicateId::Keep)];
    let room = prop_oneof![3 => Just((0, Overflow::Reject)), 1 => Just((CROWD / 2, Overflow::DropLowest)), 1 => Just((CROWD / 2, Overflow::DeadLetter))];
    (duplicate_id, room, 0..3_u32, any::<bool>(), prop_oneof![2 => Just(0), 1 => Just(500)]).prop_map(
        |(duplicate_id, (max_waiting, overflow), max_deliveries, expired_to_dead_letter, ack_timeout_ms)| TopicPolicy {
            duplicate_id,
            max_waiting,
            overflow,
            max_deliveries,
            expired_to_dead_letter,
            ack_timeout_ms,
            ..TopicPolicy::default()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let delay = || prop_oneof![2 => Just(0), 1 => Just(1000)];
    let ttl = prop_oneof![3 => Just(0), 1 => Just(2000)];
    prop_oneof![
        8 => (delay(), ttl, prop_oneof![Just(1), Just(7)])
            .prop_map(|(delay_ms, ttl_ms, priorities)| Step::Publish { delay_ms, ttl_ms, priorities }),
        6 => Just(Step::Deliver),
        2 => Just(Step::Acknowledge),
        3 => delay().prop_map(|delay_ms| Step::Nack { delay_ms }),
        1 => Just(Step::Terminate),
        1 => Just(Step::Touch),
        1 => Just(Step::Detach),
        3 => prop_oneof![Just(1), Just(600), Just(3000)].prop_map(Step::Pass),
        1 => Just(Step::Purge),
        1 => Just(Step::Remove),
        2 => policy().prop_map(Step::Policy),
        3 => any::<bool>().prop_map(|stay| Step::Letters { stay }),
    ]
}

/// A topic with two durable subscriptions, of which only one is consumed.
struct Crowd {
    topic: Topic,
    now: Millis,
    idle: SubscriptionId,
    sub: SubscriptionId,
    consumer: ConsumerId,
    /// The comparisons that searches may take: each event that is published or comes back pays for one look at it in each subscription.
    paid: u64,
    places: u64,
    clients: u64,
}

impl Crowd {
    fn new(policy: TopicPolicy) -> Self {
        let mut topic = Topic::new(TopicName::new("t").unwrap(), policy);
        let name = |name| Some(SubscriptionName::new(name).unwrap());
        let (idle, _) = topic.subscribe(name("idle"));
        let (sub, _) = topic.subscribe(name("s"));
        let consumer = topic.attach(sub, ClientId(0), u16::MAX);
        Self { topic, now: Millis(1000), idle, sub, consumer, paid: 0, places: 0, clients: 0 }
    }

    /// Does something that concerns `events` events.
    fn costs<T>(&mut self, events: usize, what: &str, f: impl FnOnce(&mut Topic, Millis) -> T) -> T {
        COMPARISONS.set(0);
        let result = f(&mut self.topic, self.now);
        let cost = COMPARISONS.get();
        let allowed = EACH * 2 * (1 + events as u64);
        assert!(cost <= allowed, "{what}: {cost} comparisons for {events} events, {allowed} are allowed");
        result
    }

    /// Does something that may look at events which have paid for it before.
    fn searches<T>(&mut self, f: impl FnOnce(&mut Topic, Millis) -> T) -> T {
        COMPARISONS.set(0);
        let result = f(&mut self.topic, self.now);
        self.paid += EACH;
        let cost = COMPARISONS.get();
        assert!(cost <= self.paid, "a search: {cost} comparisons, {} are paid for", self.paid);
        self.paid -= cost;
        result
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish { delay_ms, ttl_ms, priorities } => {
                (0..CROWD).for_each(|n| self.publish(n, *delay_ms, *ttl_ms, *priorities));
            }
            Step::Deliver => while self.deliver() {},
            Step::Acknowledge => {
                for n in 0..CROWD {
                    let (sub, consumer) = (self.sub, self.consumer);
                    self.costs(1, "ack", |topic, _| topic.acknowledge(sub, consumer, id(n)));
                }
            }
            Step::Nack { delay_ms } => {
                for n in 0..CROWD {
                    let (sub, consumer) = (self.sub, self.consumer);
                    self.costs(1, "nack", |topic, now| topic.nack(sub, consumer, id(n), *delay_ms, now));
                    self.paid += EACH;
                }
            }
            Step::Terminate => {
                for n in 0..CROWD {
                    let (sub, consumer) = (self.sub, self.consumer);
                    self.costs(1, "term", |topic, now| topic.terminate(sub, consumer, id(n), None, 0, now));
                }
                let letters = self.topic.take_terminated();
                self.costs(letters.len(), "the end of term", |topic, now| {
                    topic.letters_done(letters.into_iter().map(|letter| (letter, Fate::Gone)).collect(), None, now);
                });
            }
            Step::Touch => {
                for n in 0..CROWD {
                    let (sub, consumer) = (self.sub, self.consumer);
                    self.costs(1, "touch", |topic, now| topic.touch(sub, consumer, id(n), now));
                }
            }
            Step::Detach => {
                let flights = self.topic.in_flight_of(self.sub, self.consumer) as usize;
                let (sub, consumer) = (self.sub, self.consumer);
                self.costs(flights, "detach", |topic, now| topic.detach(sub, consumer, now));
                self.paid += EACH * flights as u64;
                self.attach();
            }
            Step::Pass(ms) => self.now = self.now.plus(*ms),
            Step::Purge => {
                for sub in [self.sub, self.idle] {
                    let flights = self.topic.in_flight_of(self.sub, self.consumer) as usize;
                    self.costs(flights, "purge", |topic, _| topic.purge(sub, 1));
                }
            }
            Step::Remove => {
                let flights = self.topic.in_flight_of(self.sub, self.consumer) as usize;
                let sub = self.sub;
                self.commit();
                self.costs(flights, "unsub", |topic, now| topic.remove(sub, now));
                self.sub = self.topic.subscribe(Some(SubscriptionName::new("s").unwrap())).0;
                self.attach();
            }
            Step::Policy(policy) => self.topic.set_policy(policy.clone()),
            Step::Letters { stay } => {
                let letters = self.costs(256, "letters", Topic::take_letters);
                let fate = if *stay { Fate::Kept } else { Fate::Gone };
                let full = stay.then(|| "it is full".to_owned());
                self.costs(letters.len(), "the answer to letters", |topic, now| {
                    topic.letters_done(letters.into_iter().map(|letter| (letter, fate)).collect(), full, now);
                });
            }
        }
        self.time_passes();
        self.commit();
        let flights = self.topic.in_flight_of(self.sub, self.consumer) as usize;
        // What is in flight is bounded by the prefetch.
        COMPARISONS.set(0);
        let _figures = (self.topic.stats(self.now), self.topic.summary());
        let cost = COMPARISONS.get();
        assert!(cost <= EACH + flights as u64, "stats: {cost} comparisons");
    }

    fn attach(&mut self) {
        self.clients += 1;
        self.consumer = self.topic.attach(self.sub, ClientId(self.clients), u16::MAX);
    }

    fn publish(&mut self, n: u64, delay_ms: u64, ttl_ms: u64, priorities: i32) {
        let priority = Priority((n * 7919 % priorities.unsigned_abs() as u64) as i32);
        let payload = Payload::encode("t", priority, "0", &n.to_string());
        let event = NewEvent { id: id(n), priority, ttl_ms, delay_ms, payload };
        // Where a new policy allows less, so many make room for one at a time.
        let make_room = if self.topic.policy().max_waiting > 0 { 64 } else { 0 };
        let publication = self.costs(1 + make_room, "pub", |topic, now| topic.publish(&event, now));
        self.paid += 2 * EACH;
        if let Ok(Some(stored)) = publication.map(|publication| publication.stored) {
            self.places += 1;
            let place = Place(self.places);
            self.costs(1, "place", |topic, _| topic.set_place(stored.key, place));
            self.costs(1, "show", |topic, _| topic.set_visible(stored.key.seq));
        }
    }

    fn deliver(&mut self) -> bool {
        let sub = self.sub;
        let next = self.searches(|topic, now| topic.next(sub, now, |_| true));
        let more = self.topic.next_change(sub).is_some_and(|at| at <= self.now);
        if matches!(next, Next::Nothing) && more {
            self.searches(|topic, now| topic.promote(sub, now));
            self.costs(SLICE, "time-outs", |topic, now| topic.take_back_overdue(sub, SLICE, now));
            self.costs(SLICE, "a review", |topic, now| topic.bury_exhausted(sub, SLICE, now));
        }
        more || matches!(next, Next::Delivery { .. })
    }

    /// Timers, and the drain, each a slice at a time.
    fn time_passes(&mut self) {
        for _ in 0..20 * CROWD as usize / SLICE {
            let own = self.topic.next_own_change().is_some_and(|at| at <= self.now);
            if own {
                self.costs(SLICE, "expiry", |topic, now| topic.expire(now, SLICE));
                self.costs(SLICE, "the end of delays", |topic, now| topic.come_due(now, SLICE));
            }
            let sub = self.sub;
            self.costs(SLICE, "time-outs", |topic, now| topic.take_back_overdue(sub, SLICE, now));
            self.costs(SLICE, "a review", |topic, now| topic.bury_exhausted(sub, SLICE, now));
            let more = self.costs(SLICE, "a slice of a backlog", |topic, _| topic.settle_backlogs(SLICE));
            if !own && !more {
                break;
            }
        }
    }

    /// The turn ends: as many mutations as events were changed.
    fn commit(&mut self) {
        let mut mutations = Vec::new();
        self.topic.drain_changes(&mut mutations);
        while self.topic.has_deliveries_to_record() {
            self.costs(SLICE, "recording deliveries", |topic, _| topic.record_deliveries(SLICE, &mut mutations));
        }
        let _copies: Vec<EventKey> = mutations
            .iter()
            .filter_map(|mutation| if let Mutation::Release { key, .. } = mutation { Some(*key) } else { None })
            .collect();
    }
}

fn id(n: u64) -> IdKey {
    IdKey::of(&n.to_string())
}

proptest! {
    // A case takes a while: a failure is shown before it is made short.
    #![proptest_config(ProptestConfig { max_shrink_iters: 30, ..cases(12) })]

    #[test]
    fn no_call_takes_longer_because_there_are_thousands_of_events(
        policy in policy(),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let mut crowd = Crowd::new(policy);
        steps.iter().for_each(|step| crowd.step(step));
    }
}

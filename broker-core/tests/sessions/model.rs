//! The protocol as a naive model: every subscription has its own copy of every event, every search starts at the beginning, and
//! nothing is stored that can be counted.
//!
//! The model takes a step and the broker's output, and removes from the output what it predicts. One thing the protocol leaves
//! open: which of several connections that share a subscription gets an event. There the model looks at who got it. All else it
//! predicts.

mod commands;
mod deliveries;
mod operations;
pub(crate) mod publishing;

use std::collections::{BTreeMap, BTreeSet};

use broker_core::policy::{DuplicateId, TopicPolicy};

use crate::seen::{Expect, Seen};

/// A connection's options.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) prefetch: usize,
    quiet: bool,
    confirm: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) connection: usize,
    since: u64,
    deadline: Option<u64>,
}

/// An event as one subscription holds it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    sequence: u64,
    pub(crate) id: String,
    priority: i64,
    msg: String,
    published: u64,
    expires: Option<u64>,
    due: u64,
    /// The time in flight so far, in milliseconds, which its time to live does not count.
    flown: u64,
    deliveries: u32,
    /// The order of its latest delivery among all.
    order: u64,
    pub(crate) flight: Option<Flight>,
    /// Whether another event with its id has replaced it while it was in flight.
    replaced: bool,
    /// The origin of a dead letter, and its encoding in a delivery.
    origin: Option<(String, Option<String>)>,
    dead: String,
}

impl Held {
    fn line(&self, topic: &str) -> String {
        let Self { priority, msg, dead, deliveries, .. } = self;
        let id = serde_json::to_string(&self.id).expect("a string");
        let redelivered = if *deliveries > 0 { format!(r#","redelivered":{deliveries}"#) } else { String::new() };
        format!(r#"{{"topic":"{topic}","priority":{priority},"msg":{msg},"id":{id}{redelivered}{dead}}}"#)
    }

    fn is_in_flight_on(&self, connection: usize) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.connection == connection)
    }

    fn waits(&self) -> bool {
        self.flight.is_none()
    }

    /// The order of delivery.
    fn place(&self) -> (i64, u64) {
        (-self.priority, self.sequence)
    }
}

/// A delivery that has timed out.
#[derive(Debug, Clone)]
struct Late {
    connection: usize,
    id: String,
    sequence: u64,
    /// Whether its event has been acknowledged since.
    acknowledged: bool,
}

#[derive(Debug, Default, Clone)]
struct Counters {
    delivered: u64,
    acknowledged: u64,
    redelivered: u64,
    expired: u64,
    dropped: u64,
    dead_lettered: u64,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Subscription {
    pub(crate) name: Option<String>,
    pub(crate) attached: Vec<usize>,
    pub(crate) events: Vec<Held>,
    /// Deliveries that have timed out, which their connections may still acknowledge.
    late: Vec<Late>,
    /// The ids whose acknowledgement connections were refused, and of which they have been sent nothing since.
    refused: BTreeSet<(usize, String)>,
    counters: Counters,
}

impl Subscription {
    fn in_flight_on(&self, connection: usize) -> usize {
        self.events.iter().filter(|held| held.is_in_flight_on(connection)).count()
    }

    /// Removes events that are acknowledged. Returns how many that are.
    fn acknowledge(&mut self, which: impl Fn(&Held) -> bool) -> usize {
        let gone: Vec<u64> = self.events.iter().filter(|held| which(held)).map(|held| held.sequence).collect();
        self.events.retain(|held| !gone.contains(&held.sequence));
        self.counters.acknowledged += gone.len() as u64;
        self.late.iter_mut().for_each(|late| late.acknowledged |= gone.contains(&late.sequence));
        gone.len()
    }

    /// The event to deliver next.
    fn next(&self, policy: &TopicPolicy, now: u64) -> Option<usize> {
        let is_blocked = |held: &Held| {
            policy.duplicate_id != DuplicateId::Keep
                && self.events.iter().any(|other| other.id == held.id && !other.waits())
        };
        let deliverable = |held: &Held| held.waits() && held.due <= now && !is_blocked(held);
        let candidates = self.events.iter().enumerate().filter(|(_, held)| deliverable(held));
        candidates.min_by_key(|(_, held)| held.place()).map(|(at, _)| at)
    }

    /// The event in flight on a connection under an id; of several, the one that was delivered first.
    fn flight(&self, connection: usize, id: &str) -> Option<usize> {
        let mine = |held: &Held| held.id == id && held.is_in_flight_on(connection);
        let mine = self.events.iter().enumerate().filter(|(_, held)| mine(held));
        mine.min_by_key(|(_, held)| held.order).map(|(at, _)| at)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Topic {
    published: u64,
    sequence: u64,
    /// A new subscription takes the slot freed last, as in the engine. This decides one thing that the protocol leaves open: the
    /// order in which events of several subscriptions become dead letters at the same moment.
    pub(crate) subscriptions: Vec<Option<Subscription>>,
    vacant: Vec<usize>,
}

impl Topic {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter().flatten()
    }

    fn add(&mut self, name: Option<String>) -> usize {
        let subscription = Some(Subscription { name, ..Subscription::default() });
        match self.vacant.pop() {
            Some(at) => {
                self.subscriptions[at] = subscription;
                at
            }
            None => {
                self.subscriptions.push(subscription);
                self.subscriptions.len() - 1
            }
        }
    }

    fn find(&self, is_it: impl Fn(&Subscription) -> bool) -> Option<usize> {
        self.subscriptions.iter().position(|subscription| subscription.as_ref().is_some_and(&is_it))
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.find(|subscription| subscription.name.as_deref() == Some(name))
    }

    fn of(&self, connection: usize) -> Option<usize> {
        self.find(|subscription| subscription.attached.contains(&connection))
    }
}

/// An event that is to become a dead letter and has not reached its dead-letter topic.
#[derive(Debug)]
struct Letter {
    topic: String,
    subscription: usize,
    held: Held,
    reason: &'static str,
    note: Option<String>,
}

/// The model of one broker.
#[derive(Debug)]
pub(crate) struct Model {
    policy: TopicPolicy,
    now: u64,
    pub(crate) connections: Vec<Option<Options>>,
    pub(crate) topics: BTreeMap<String, Topic>,
    letters: Vec<Letter>,
    deliveries: u64,
}

type Checked = Result<(), String>;

impl Model {
    pub(crate) fn new(policy: TopicPolicy, connections: usize) -> Self {
        let connections = vec![None; connections];
        Self { policy, now: 0, connections, topics: BTreeMap::new(), letters: Vec::new(), deliveries: 0 }
    }

    /// Whether publishing is independent of the backlog.
    pub(crate) fn limits_nothing(&self) -> bool {
        self.policy.max_waiting == 0
    }

    /// The policy of a topic. All share one, except that a pattern does not limit dead-letter topics.
    fn policy(&self, topic: &str) -> TopicPolicy {
        let mut policy = self.policy.clone();
        if is_dead_letter_topic(topic) {
            (policy.max_waiting, policy.ttl_ms, policy.max_deliveries) = (0, 0, 0);
        }
        policy
    }

    fn subscription(&mut self, topic: &str, at: usize) -> &mut Subscription {
        let topic = self.topics.get_mut(topic).expect("the topic is there");
        topic.subscriptions[at].as_mut().expect("the subscription is there")
    }

    // ---- Connections ----

    pub(crate) fn connect(&mut self, connection: usize, seen: &mut Seen) -> Checked {
        self.connections[connection] = Some(Options { prefetch: 1, quiet: false, confirm: false });
        seen.reply(connection, &Expect::line("Successfully connected to message_broker"))
    }

    pub(crate) fn lose(&mut self, connection: usize, seen: &mut Seen) -> Checked {
        self.connections[connection] = None;
        let topics: Vec<String> = self.topics.keys().cloned().collect();
        for topic in topics {
            self.let_go(&topic, connection);
        }
        self.settle(seen)
    }

    /// Detaches a connection from its subscription to a topic, if it has one.
    fn let_go(&mut self, topic: &str, connection: usize) {
        let Some(at) = self.topics.get(topic).and_then(|topic| topic.of(connection)) else { return };
        if self.subscription(topic, at).name.is_none() {
            self.remove(topic, at);
            return;
        }
        while let Some(held) =
            self.subscription(topic, at).events.iter().position(|held| held.is_in_flight_on(connection))
        {
            self.come_back(topic, at, held, 0);
        }
        let subscription = self.subscription(topic, at);
        subscription.attached.retain(|other| *other != connection);
        subscription.late.retain(|late| late.connection != connection);
        subscription.refused.retain(|(other, _)| *other != connection);
    }

    fn remove(&mut self, topic: &str, at: usize) -> Option<Subscription> {
        let topic = self.topics.get_mut(topic)?;
        topic.vacant.push(at);
        topic.subscriptions[at].take()
    }
}

fn is_dead_letter_topic(topic: &str) -> bool {
    topic.ends_with(".dead")
}

//! What has been sent and answered, and what must not happen after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::{Event, message};

/// How much later than asked for an event may become due: the broker's clock begins when it reads the command.
const SLACK: Duration = Duration::from_secs(1);

/// What a publisher knows of one of its events.
struct Published {
    priority: i32,
    /// Before it was sent for the first time.
    sent: Instant,
    /// After the confirmation was read.
    confirmed: Option<Instant>,
    /// Published more than once, since a confirmation did not come: it may be two events.
    retried: bool,
}

/// What the consumers of a subscription know of one event.
#[derive(Default)]
struct Consumed {
    /// How often it was read from a socket.
    deliveries: u64,
    /// How often a `nack` was answered.
    given_back: u64,
    /// The life of the broker in which it was read last, and which count it had.
    last: Option<(u64, u64)>,
    ack_sent: bool,
    ack_answered: bool,
    /// Given back with an answer, and not delivered since: when it may come at the earliest.
    due: Option<Instant>,
    /// Given back with a delay, whether or not the answer came: until when it may be delayed.
    delayed: Option<Instant>,
}

/// One subscription's side of the story.
#[derive(Default)]
struct Side {
    events: HashMap<String, Consumed>,
    /// How many connections were attached so far.
    sessions: u64,
}

#[derive(Default)]
struct State {
    published: HashMap<String, Published>,
    sides: HashMap<&'static str, Side>,
    /// Grows with each kill. An orderly stop ends no life: it forgets nothing.
    life: u64,
    redeliveries: u64,
    violations: Vec<String>,
}

/// The history of a campaign.
#[derive(Default)]
pub(crate) struct History(Mutex<State>);

/// What must hold among events that are taken one after the other while nobody publishes.
pub(crate) struct Order {
    name: &'static str,
    began: Instant,
    /// The priority of the event before.
    previous: Option<i32>,
    /// For each priority and publisher, the last event that was taken.
    last_of: HashMap<(i32, String), String>,
    /// For each priority, when the event was sent that was sent last of those taken.
    sent: HashMap<i32, Instant>,
}

impl State {
    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    fn event(&mut self, name: &'static str, id: &str) -> &mut Consumed {
        self.sides.entry(name).or_default().events.entry(id.to_owned()).or_default()
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// An event is about to be published.
    pub(crate) fn sent(&self, id: &str, priority: i32) {
        let published = Published { priority, sent: Instant::now(), confirmed: None, retried: false };
        self.state().published.insert(id.to_owned(), published);
    }

    /// An event is about to be published again.
    pub(crate) fn sent_again(&self, id: &str) {
        self.state().published.get_mut(id).unwrap().retried = true;
    }

    pub(crate) fn confirmed(&self, id: &str) {
        self.state().published.get_mut(id).unwrap().confirmed = Some(Instant::now());
    }

    /// The broker has been killed, and all that it had sent has been read.
    pub(crate) fn killed(&self) {
        self.state().life += 1;
    }

    pub(crate) fn violation(&self, text: String) {
        self.state().violation(text);
    }

    /// A connection is about to attach.
    pub(crate) fn attaching(&self, name: &'static str) {
        self.state().sides.entry(name).or_default().sessions += 1;
    }

    /// A delivery has been read.
    pub(crate) fn delivered(&self, name: &'static str, event: &Event) {
        let mut state = self.state();
        let Event { id, priority, redelivered, line } = event;
        let Some(published) = state.published.get(id) else {
            return state.violation(format!("{name}: {id} was never published"));
        };
        let unique = !published.retried;
        let wrong_priority = published.priority != *priority;
        let times = if *redelivered > 0 { format!(",\"redelivered\":{redelivered}") } else { String::new() };
        let expected =
            format!("{{\"topic\":\"t\",\"priority\":{priority},\"msg\":{},\"id\":\"{id}\"{times}}}", message(id));
        if wrong_priority || *line != expected {
            return state.violation(format!("{name}: {line} instead of {expected}"));
        }
        state.redeliveries += u64::from(*redelivered > 0);
        let life = state.life;
        let sessions = state.sides.entry(name).or_default().sessions;
        let known = state.event(name, id);
        let mut violations = Vec::new();
        if unique {
            if known.ack_answered {
                violations.push("came back after its acknowledgement was answered".to_owned());
            }
            if *redelivered < known.given_back {
                violations.push(format!("was given back {} times, and counts {redelivered}", known.given_back));
            }
            if let Some((of, count)) = known.last
                && (*redelivered < count || of == life && *redelivered == count)
            {
                violations.push(format!("counted {count} in life {of}, and counts {redelivered} in life {life}"));
            }
            // What was sent to a connection and not read there is one delivery more for each connection at most.
            if *redelivered > known.deliveries + sessions {
                violations.push(format!(
                    "counts {redelivered} after {} deliveries read over {sessions} connections",
                    known.deliveries
                ));
            }
            if known.due.is_some_and(|due| Instant::now() < due) {
                violations.push("came before its delay was over".to_owned());
            }
        }
        known.due = None;
        known.deliveries += 1;
        known.last = Some((life, *redelivered));
        for violation in violations {
            state.violation(format!("{name}: {id} {violation}"));
        }
    }

    pub(crate) fn ack_sent(&self, name: &'static str, id: &str) {
        self.state().event(name, id).ack_sent = true;
    }

    pub(crate) fn ack_answered(&self, name: &'static str, id: &str) {
        self.state().event(name, id).ack_answered = true;
    }

    /// A `nack` with a delay is being sent: the kill may come before its answer.
    pub(crate) fn delay_sent(&self, name: &'static str, id: &str, until: Instant) {
        self.state().event(name, id).delayed = Some(until);
    }

    /// The answer to a `nack` has been read; the event is not to come before `due`.
    pub(crate) fn requeued(&self, name: &'static str, id: &str, due: Instant) {
        let mut state = self.state();
        let event = state.event(name, id);
        event.due = Some(due);
        event.given_back += 1;
    }

    /// Nobody publishes from now on, until what is taken in this order is taken.
    pub(crate) fn order(&self, name: &'static str) -> Order {
        let began = Instant::now();
        Order { name, began, previous: None, last_of: HashMap::new(), sent: HashMap::new() }
    }

    /// The next event of an order: the most urgent comes first, and among equals each publisher's in its order, and none that was
    /// confirmed before another was sent comes after that.
    pub(crate) fn taken(&self, order: &mut Order, event: &Event) {
        let mut state = self.state();
        let (name, Event { id, priority, .. }) = (order.name, event);
        // What becomes due in the middle of it comes when it comes.
        if state.event(name, id).delayed.is_some_and(|due| due + SLACK >= order.began) {
            return;
        }
        if order.previous.is_some_and(|previous| previous < *priority) {
            state.violation(format!("{name}: {id} of priority {priority} came after a less urgent one"));
        }
        order.previous = Some(*priority);
        let Some(published) = state.published.get(id) else { return };
        if published.retried {
            // Each time it goes to the end of its priority, so its place is not known.
            return;
        }
        let (sent, confirmed) = (published.sent, published.confirmed);
        let publisher = id.split('-').next().unwrap_or_default().to_owned();
        if let Some(last) = order.last_of.insert((*priority, publisher), id.clone())
            && last >= *id
        {
            state.violation(format!("{name}: {id} came after {last}"));
        }
        let latest = order.sent.entry(*priority).or_insert(sent);
        if confirmed.is_some_and(|confirmed| confirmed < *latest) {
            state.violation(format!("{name}: {id} came after an event that was sent when it was already confirmed"));
        }
        *latest = (*latest).max(sent);
    }

    pub(crate) fn check(&self) {
        let state = self.state();
        let all = &state.violations;
        assert!(all.is_empty(), "{} violations: {:#?}", all.len(), &all[..all.len().min(20)]);
    }

    /// Every confirmed event was acknowledged, or was there in the end.
    pub(crate) fn check_complete(&self, name: &'static str, drained: &HashSet<String>) {
        let state = self.state();
        let side = &state.sides[name];
        let confirmed = state.published.iter().filter(|(_, published)| published.confirmed.is_some());
        let mut lost: Vec<&String> = confirmed
            .map(|(id, _)| id)
            .filter(|id| !side.events.get(*id).is_some_and(|event| event.ack_sent) && !drained.contains(*id))
            .collect();
        lost.sort();
        assert!(lost.is_empty(), "{name}: {} confirmed events are lost: {:?}", lost.len(), &lost[..lost.len().min(20)]);
    }

    pub(crate) fn totals(&self) -> Totals {
        let state = self.state();
        let events = || state.sides.values().flat_map(|side| side.events.values());
        Totals {
            published: state.published.len(),
            confirmed: state.published.values().filter(|published| published.confirmed.is_some()).count(),
            retried: state.published.values().filter(|published| published.retried).count(),
            acknowledged: events().filter(|event| event.ack_answered).count(),
            given_back: events().map(|event| event.given_back).sum(),
            redeliveries: state.redeliveries,
        }
    }
}

/// How much of everything a campaign has seen.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) published: usize,
    pub(crate) confirmed: usize,
    pub(crate) retried: usize,
    pub(crate) acknowledged: usize,
    pub(crate) given_back: u64,
    pub(crate) redeliveries: u64,
}

//! The history of commands and answers, and the checks against it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::event::{Event, Queue, delivery};
use super::settings::Mode;
use super::tally::Tally;

/// A publisher's knowledge of one of its events.
pub(super) struct Published {
    pub(super) topic: &'static str,
    pub(super) priority: i32,
    /// The time just before it was first sent.
    pub(super) sent: Instant,
    /// The delay after `sent` during which it may not be delivered.
    pub(super) delay: Duration,
    /// The time at which the confirmation was read.
    pub(super) confirmed: Option<Instant>,
    /// Whether it was published again for lack of a confirmation, so that there may be two events.
    pub(super) retried: bool,
}

/// A delivery read from a socket.
#[derive(Clone, Copy)]
struct Read {
    life: u64,
    /// Its `redelivered` count.
    count: u64,
    at: Instant,
}

/// A subscription's knowledge of one event, from its consumers.
#[derive(Default)]
pub(super) struct Consumed {
    /// How often it was read from a socket.
    deliveries: u64,
    /// The number of answered `nack`s, and the time of the last.
    given_back: u64,
    given_back_at: Option<Instant>,
    last: Option<Read>,
    pub(super) ack_sent: bool,
    /// The time at which the acknowledgement's answer was read.
    pub(super) ack_answered: Option<Instant>,
    /// The earliest time of the next delivery, if it was given back with an answer and not delivered since.
    due: Option<Instant>,
    /// The latest end of its delay, if it was given back with one, answered or not.
    pub(super) delayed: Option<Instant>,
    /// The session that has it in flight.
    held_by: Option<u64>,
}

/// The history of one subscription.
#[derive(Default)]
pub(super) struct Side {
    pub(super) events: HashMap<String, Consumed>,
    /// The time at which its creation was answered; it receives every event sent later.
    pub(super) since: Option<Instant>,
    /// The number of connections attached so far.
    sessions: u64,
    /// The number of confirmed events sent since it exists.
    confirmed: u64,
    /// The number of events for which an `ack` was sent.
    ack_sent: u64,
    /// The number of events whose `ack` was answered.
    ack_answered: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) published: HashMap<String, Published>,
    pub(super) sides: HashMap<Queue, Side>,
    /// The number of crashes so far. An orderly stop does not count, because it loses nothing.
    life: u64,
    /// The sessions whose client has not closed its connection.
    open: HashSet<u64>,
    last_session: u64,
    /// Whether the broker is closing its connections one by one, so that an event in flight on one may go to another.
    is_stopping: bool,
    /// The events that consumers of this life have acted on; the actions may not be synced.
    touched: HashSet<(Queue, String)>,
    /// For each topic, the latest time at which a confirmed event was sent. Everything answered before is as durable as that event,
    /// because batches become durable in order.
    safe_until: HashMap<&'static str, Instant>,
    pub(super) redeliveries: u64,
    pub(super) retried: u64,
    pub(super) sent: HashMap<&'static str, u64>,
    violations: Vec<String>,
}

/// The history of a campaign.
pub(crate) struct History {
    mode: Mode,
    state: Mutex<State>,
}

impl State {
    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    pub(super) fn event(&mut self, queue: Queue, id: &str) -> &mut Consumed {
        // Avoids cloning the id of a known event.
        let events = &mut self.sides.entry(queue).or_default().events;
        if !events.contains_key(id) {
            events.insert(id.to_owned(), Consumed::default());
        }
        events.get_mut(id).unwrap()
    }
}

impl History {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An event is about to be published.
    pub(crate) fn sent(&self, topic: &'static str, id: &str, priority: i32, delay_ms: u64) {
        let (sent, delay) = (Instant::now(), Duration::from_millis(delay_ms));
        let published = Published { topic, priority, sent, delay, confirmed: None, retried: false };
        let mut state = self.state();
        *state.sent.entry(topic).or_default() += 1;
        state.published.insert(id.to_owned(), published);
    }

    /// An event is about to be published again.
    pub(crate) fn sent_again(&self, id: &str) {
        let mut state = self.state();
        let published = state.published.get_mut(id).unwrap();
        let first = !std::mem::replace(&mut published.retried, true);
        state.retried += u64::from(first);
    }

    pub(crate) fn confirmed(&self, id: &str) {
        let mut state = self.state();
        let published = state.published.get_mut(id).unwrap();
        published.confirmed = Some(Instant::now());
        let (topic, sent, retried) = (published.topic, published.sent, published.retried);
        if !retried {
            // The confirmation of an event that was sent again may belong to the later copy, so its time proves less.
            let safe = state.safe_until.entry(topic).or_insert(sent);
            *safe = (*safe).max(sent);
        }
        let sides = state
            .sides
            .iter_mut()
            .filter(|(queue, side)| queue.topic == topic && side.since.is_some_and(|since| since <= sent));
        sides.for_each(|(_, side)| side.confirmed += 1);
    }

    /// The creation of a subscription was answered.
    pub(crate) fn subscribed(&self, queue: Queue) {
        self.state().sides.entry(queue).or_default().since = Some(Instant::now());
    }

    /// The broker has crashed, and everything it sent has been read.
    ///
    /// After a power cut, actions that were answered but not synced may be undone.
    pub(crate) fn crashed(&self) {
        let mut state = self.state();
        state.life += 1;
        state.open.clear();
        let touched = std::mem::take(&mut state.touched);
        let safe_until = std::mem::take(&mut state.safe_until);
        if self.mode == Mode::Kill {
            return;
        }
        for (queue, id) in touched {
            let safe =
                |at: Option<Instant>| at.is_none_or(|at| safe_until.get(queue.topic).is_some_and(|safe| at < *safe));
            let event = state.event(queue, &id);
            if !safe(event.given_back_at) {
                (event.given_back, event.given_back_at, event.due) = (0, None, None);
            }
            if !safe(event.last.map(|last| last.at)) {
                event.last = None;
            }
            if !safe(event.ack_answered) {
                event.ack_answered = None;
                state.sides.get_mut(&queue).unwrap().ack_answered -= 1;
            }
        }
    }

    /// The broker is about to be asked to stop.
    pub(crate) fn stopping(&self) {
        self.state().is_stopping = true;
    }

    /// The broker has stopped in an orderly way: everything is durable, and all connections are closed.
    pub(crate) fn stopped(&self) {
        let mut state = self.state();
        state.is_stopping = false;
        state.safe_until.clear();
        state.open.clear();
        state.touched.clear();
    }

    /// Whether this life has confirmed any event sent after `instant`.
    pub(crate) fn is_safe(&self, topic: &str, instant: Instant) -> bool {
        self.state().safe_until.get(topic).is_some_and(|safe| instant < *safe)
    }

    pub(crate) fn violation(&self, text: String) {
        self.state().violation(text);
    }

    /// A connection is about to attach; returns the number of its session.
    pub(crate) fn attaching(&self, queue: Queue) -> u64 {
        let mut state = self.state();
        state.sides.entry(queue).or_default().sessions += 1;
        state.last_session += 1;
        let session = state.last_session;
        state.open.insert(session);
        session
    }

    /// A consumer is about to close its connection.
    pub(crate) fn leaving(&self, session: u64) {
        self.state().open.remove(&session);
    }

    /// A delivery has been read.
    pub(crate) fn delivered(&self, queue: Queue, session: u64, event: &Event) {
        let mut state = self.state();
        let Event { id, priority, redelivered, line } = event;
        let name = queue.name;
        let Some(published) = state.published.get(id) else {
            return state.violation(format!("{name}: {id} was never published"));
        };
        let unique = !published.retried;
        let expected = delivery(queue.topic, id, published.priority, *redelivered);
        if published.priority != *priority || *line != expected {
            let cut = |text: &str| text.chars().take(300).collect::<String>();
            return state.violation(format!("{name}: {} instead of {}", cut(line), cut(&expected)));
        }
        let mut violations = Vec::new();
        // If the event was sent again, each later copy is delayed even longer.
        if published.sent.elapsed() < published.delay {
            violations.push("came before the delay of its publication was over".to_owned());
        }
        state.redeliveries += u64::from(*redelivered > 0);
        let life = state.life;
        let sessions = state.sides.entry(queue).or_default().sessions;
        state.touched.insert((queue, id.clone()));
        let holder = state.event(queue, id).held_by;
        let is_held =
            holder.is_some_and(|holder| holder != session && state.open.contains(&holder)) && !state.is_stopping;
        let is_stopping = state.is_stopping;
        let known = state.event(queue, id);
        if is_stopping && known.last.is_some_and(|last| last.life == life && *redelivered < last.count) {
            // It was sent to a connection that the broker has since closed; another consumer has already read its redelivery.
            known.deliveries += 1;
            return;
        }
        if unique {
            if known.ack_answered.is_some() {
                violations.push("came back after its acknowledgement was answered".to_owned());
            }
            if is_held {
                violations.push("came while it was in flight on another connection".to_owned());
            }
            if *redelivered < known.given_back {
                violations.push(format!("was given back {} times, but counts {redelivered}", known.given_back));
            }
            if let Some(Read { life: of, count, .. }) = known.last
                && (*redelivered < count || of == life && *redelivered == count)
            {
                violations.push(format!("counted {count} in life {of}, and counts {redelivered} in life {life}"));
            }
            // Each connection can add at most one delivery that was sent but never read.
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
        known.last = Some(Read { life, count: *redelivered, at: Instant::now() });
        known.held_by = Some(session);
        for violation in violations {
            state.violation(format!("{name}: {id} {violation}"));
        }
    }

    pub(crate) fn ack_sent(&self, queue: Queue, id: &str) {
        let mut state = self.state();
        let event = state.event(queue, id);
        event.held_by = None;
        let first = !std::mem::replace(&mut event.ack_sent, true);
        state.sides.get_mut(&queue).unwrap().ack_sent += u64::from(first);
    }

    pub(crate) fn ack_answered(&self, queue: Queue, id: &str) {
        let mut state = self.state();
        let first = state.event(queue, id).ack_answered.replace(Instant::now()).is_none();
        state.sides.get_mut(&queue).unwrap().ack_answered += u64::from(first);
        state.touched.insert((queue, id.to_owned()));
    }

    /// A `nack` is being sent, with the end of its delay if it has one. The crash may come before its answer.
    pub(crate) fn nack_sent(&self, queue: Queue, id: &str, delayed: Option<Instant>) {
        let mut state = self.state();
        let event = state.event(queue, id);
        event.held_by = None;
        if delayed.is_some() {
            event.delayed = delayed;
        }
    }

    /// The answer to a `nack` has been read; the event may not come before `due`.
    pub(crate) fn requeued(&self, queue: Queue, id: &str, due: Instant) {
        let mut state = self.state();
        let event = state.event(queue, id);
        event.due = Some(due);
        event.given_back += 1;
        event.given_back_at = Some(Instant::now());
        state.touched.insert((queue, id.to_owned()));
    }

    /// Whether any violation has been found and not taken yet.
    pub(crate) fn found_something(&self) -> bool {
        !self.state().violations.is_empty()
    }

    /// Takes the violations found since the last call.
    pub(crate) fn findings(&self) -> Vec<String> {
        std::mem::take(&mut self.state().violations)
    }

    /// The least and the most events of a subscription that may wait, according to the history, before its consumers attach.
    pub(crate) fn bounds(&self, queue: Queue) -> (u64, u64) {
        let state = self.state();
        let sent = state.sent.get(queue.topic).copied().unwrap_or_default();
        let Some(side) = state.sides.get(&queue) else { return (0, sent) };
        (side.confirmed.saturating_sub(side.ack_sent), (sent + state.retried).saturating_sub(side.ack_answered))
    }

    /// Compares the drained events of a subscription with everything that was confirmed.
    ///
    /// Every confirmed event was acknowledged or was still waiting. For some, it is unknown whether their acknowledgement arrived.
    pub(crate) fn settle_up(&self, queue: Queue, drained: &HashSet<String>) -> Tally {
        let mut state = self.state();
        let mut tally = Tally::default();
        let mut lost = Vec::new();
        let Some(side) = state.sides.get(&queue) else { return tally };
        let held = |published: &Published| {
            published.topic == queue.topic && side.since.is_some_and(|since| since <= published.sent)
        };
        for (id, published) in state.published.iter().filter(|(_, published)| held(published)) {
            if published.confirmed.is_none() {
                continue;
            }
            tally.confirmed += 1;
            let event = side.events.get(id);
            if drained.contains(id) {
                tally.waiting += 1;
            } else if event.is_some_and(|event| event.ack_answered.is_some()) {
                tally.acknowledged += 1;
            } else if event.is_some_and(|event| event.ack_sent) {
                tally.undecided += 1;
            } else {
                tally.lost += 1;
                lost.push(id.clone());
            }
        }
        if tally.lost > 0 {
            lost.sort();
            lost.truncate(20);
            state.violation(format!("{}: {} confirmed events are lost: {lost:?}", queue.name, tally.lost));
        }
        tally
    }

    /// Writes the whole history, one event per line, for the investigation of a finding.
    pub(crate) fn write_to(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        let state = self.state();
        let began = state.published.values().map(|published| published.sent).min();
        let ms = |at: Option<Instant>| {
            at.zip(began).map_or(-1, |(at, began)| i64::try_from((at.max(began) - began).as_millis()).unwrap_or(-1))
        };
        let mut ids: Vec<_> = state.published.iter().collect();
        ids.sort_by_key(|(id, _)| *id);
        for (id, published) in ids {
            let Published { topic, priority, sent, delay, confirmed, retried } = published;
            write!(out, "{topic} {id} priority={priority} sent={} confirmed={} ", ms(Some(*sent)), ms(*confirmed))?;
            write!(out, "delay={} retried={retried}", delay.as_millis())?;
            for (queue, side) in &state.sides {
                if let Some(event) = side.events.get(id) {
                    let Consumed { deliveries, given_back, ack_sent, ack_answered, .. } = event;
                    let (last, acked) = (ms(event.last.map(|last| last.at)), ms(*ack_answered));
                    write!(out, " {}: deliveries={deliveries} given_back={given_back}", queue.name)?;
                    write!(out, " last={last} ack_sent={ack_sent} acknowledged={acked}")?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

//! What has been sent and answered, and what must not happen after it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much later than asked for an event may become due: the broker's clock begins when it reads the command.
const SLACK: Duration = Duration::from_secs(1);

/// One subscription's side of the story.
#[derive(Default)]
pub(crate) struct Side {
    ack_sent: HashSet<String>,
    ack_answered: HashSet<String>,
    /// Given back with an answer, and not delivered since: when it may come at the earliest.
    requeued: HashMap<String, Instant>,
    /// Given back with a delay, whether or not the answer came: until when it may be delayed.
    delayed: HashMap<String, Instant>,
}

#[derive(Default)]
struct State {
    sent: HashSet<String>,
    confirmed: BTreeSet<String>,
    /// Published more than once, since a confirmation did not come: it may be two events.
    retried: HashSet<String>,
    sides: HashMap<&'static str, Side>,
    violations: Vec<String>,
}

/// The history of a campaign.
#[derive(Default)]
pub(crate) struct History(Mutex<State>);

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn sent(&self, id: &str, again: bool) {
        let mut state = self.state();
        state.sent.insert(id.to_owned());
        if again {
            state.retried.insert(id.to_owned());
        }
    }

    pub(crate) fn confirmed(&self, id: &str) {
        self.state().confirmed.insert(id.to_owned());
    }

    pub(crate) fn violation(&self, text: String) {
        self.state().violations.push(text);
    }

    /// A delivery has been read.
    pub(crate) fn delivered(&self, name: &'static str, id: &str, redelivered: u64) {
        let mut state = self.state();
        let unique = !state.retried.contains(id);
        let known = state.sent.contains(id);
        let side = state.sides.entry(name).or_default();
        let mut violations = Vec::new();
        if !known {
            violations.push(format!("{name}: {id} was never published"));
        }
        if unique && side.ack_answered.contains(id) {
            violations.push(format!("{name}: {id} came back after its acknowledgement was answered"));
        }
        if let Some(due) = side.requeued.remove(id) {
            if unique && redelivered == 0 {
                violations.push(format!("{name}: {id} was given back, and comes as if for the first time"));
            }
            if unique && Instant::now() < due {
                violations.push(format!("{name}: {id} came before its delay was over"));
            }
        }
        state.violations.append(&mut violations);
    }

    pub(crate) fn ack_sent(&self, name: &'static str, id: &str) {
        self.state().sides.entry(name).or_default().ack_sent.insert(id.to_owned());
    }

    pub(crate) fn ack_answered(&self, name: &'static str, id: &str) {
        self.state().sides.entry(name).or_default().ack_answered.insert(id.to_owned());
    }

    /// A `nack` with a delay is being sent: the kill may come before its answer.
    pub(crate) fn delay_sent(&self, name: &'static str, id: &str, until: Instant) {
        self.state().sides.entry(name).or_default().delayed.insert(id.to_owned(), until);
    }

    /// The answer to a `nack` has been read; the event is not to come before `due`.
    pub(crate) fn requeued(&self, name: &'static str, id: &str, due: Instant) {
        self.state().sides.entry(name).or_default().requeued.insert(id.to_owned(), due);
    }

    /// Whether an event may become due in the middle of what is being looked at.
    pub(crate) fn may_be_delayed(&self, name: &'static str, id: &str, at: Instant) -> bool {
        self.state().sides.get(name).and_then(|side| side.delayed.get(id)).is_some_and(|due| *due + SLACK >= at)
    }

    /// Whether an event was published again: each time it goes to the end of its priority, so its place is not known.
    pub(crate) fn was_retried(&self, id: &str) -> bool {
        self.state().retried.contains(id)
    }

    pub(crate) fn check(&self) {
        let state = self.state();
        assert!(state.violations.is_empty(), "{:#?}", &state.violations[..state.violations.len().min(20)]);
    }

    /// Every confirmed event was acknowledged, or was there in the end.
    pub(crate) fn check_complete(&self, name: &'static str, drained: &HashSet<String>) {
        let state = self.state();
        let side = &state.sides[name];
        let lost: Vec<_> =
            state.confirmed.iter().filter(|id| !side.ack_sent.contains(*id) && !drained.contains(*id)).collect();
        assert!(lost.is_empty(), "{name}: {} confirmed events are lost: {:?}", lost.len(), &lost[..lost.len().min(20)]);
    }

    pub(crate) fn totals(&self) -> (usize, u64, usize) {
        let state = self.state();
        let answered = state.sides.values().map(|side| side.ack_answered.len()).sum();
        (state.sent.len(), state.confirmed.len() as u64, answered)
    }
}

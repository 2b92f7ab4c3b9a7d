//! Checks the order of events that are taken one by one without publishers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::event::{Event, Queue};
use super::history::History;

/// How much later than requested an event may become due: the broker's clock starts when it reads the command.
const SLACK: Duration = Duration::from_secs(1);

/// The events taken so far.
pub(crate) struct Order {
    queue: Queue,
    began: Instant,
    /// The priority of the previous event.
    previous: Option<i32>,
    /// For each priority and publisher, the last event taken.
    last_of: HashMap<(i32, String), String>,
    /// For each priority, the latest time at which one of the taken events was sent.
    sent: HashMap<i32, Instant>,
}

impl Order {
    /// Starts a check. No client may publish until its last event is taken.
    pub(crate) fn new(queue: Queue) -> Self {
        let began = Instant::now();
        Self { queue, began, previous: None, last_of: HashMap::new(), sent: HashMap::new() }
    }

    /// Checks the next event. Events must come in the order of priority, then in each publisher's order; and an event confirmed before
    /// another was sent must come before it.
    pub(crate) fn taken(&mut self, history: &History, event: &Event) {
        let mut state = history.state();
        let (name, Event { id, priority, .. }) = (self.queue.name, event);
        let Some(published) = state.published.get(id) else { return };
        let (sent, delay, confirmed, retried) =
            (published.sent, published.delay, published.confirmed, published.retried);
        // An event that becomes due during the check may come at any time. The delay of one that was sent again starts anew.
        let by_publisher = !delay.is_zero() && (retried || sent + delay + SLACK >= self.began);
        let by_consumer = state.event(self.queue, id).delayed.is_some_and(|due| due + SLACK >= self.began);
        if by_publisher || by_consumer {
            return;
        }
        if self.previous.is_some_and(|previous| previous < *priority) {
            state.violation(format!("{name}: {id} of priority {priority} came after a less urgent one"));
        }
        self.previous = Some(*priority);
        if retried {
            // Each copy goes to the end of its priority, so its position is unknown.
            return;
        }
        let publisher = id.split('-').next().unwrap_or_default().to_owned();
        if let Some(last) = self.last_of.insert((*priority, publisher), id.clone())
            && last >= *id
        {
            state.violation(format!("{name}: {id} came after {last}"));
        }
        let latest = self.sent.entry(*priority).or_insert(sent);
        if confirmed.is_some_and(|confirmed| confirmed < *latest) {
            state.violation(format!("{name}: {id} came after an event that was sent when it was already confirmed"));
        }
        *latest = (*latest).max(sent);
    }
}

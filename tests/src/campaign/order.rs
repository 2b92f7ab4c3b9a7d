//! What must hold among events that are taken one after the other while nobody publishes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::event::{Event, Queue};
use super::history::History;

/// How much later than asked for an event may become due: the broker's clock begins when it reads the command.
const SLACK: Duration = Duration::from_secs(1);

/// The events taken so far.
pub(crate) struct Order {
    queue: Queue,
    began: Instant,
    /// The priority of the event before.
    previous: Option<i32>,
    /// For each priority and publisher, the last event that was taken.
    last_of: HashMap<(i32, String), String>,
    /// For each priority, when the event was sent that was sent last of those taken.
    sent: HashMap<i32, Instant>,
}

impl Order {
    /// Nobody publishes from now on, until what is taken in this order is taken.
    pub(crate) fn new(queue: Queue) -> Self {
        let began = Instant::now();
        Self { queue, began, previous: None, last_of: HashMap::new(), sent: HashMap::new() }
    }

    /// The next event: the most urgent comes first, and among equals each publisher's in its order, and none that was confirmed
    /// before another was sent comes after that.
    pub(crate) fn taken(&mut self, history: &History, event: &Event) {
        let mut state = history.state();
        let (name, Event { id, priority, .. }) = (self.queue.name, event);
        let Some(published) = state.published.get(id) else { return };
        let (sent, delay, confirmed, retried) =
            (published.sent, published.delay, published.confirmed, published.retried);
        // What becomes due in the middle of it comes when it comes; one that was sent again is delayed from then on.
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
            // Each time it goes to the end of its priority, so its place is not known.
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

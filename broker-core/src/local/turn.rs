//! What leaves a shard, and when: replies and deliveries when their turn is written, confirmations when it is safe.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::message::PublishReply;
use crate::engine::{Delivery, LinkEvent, Outcome, Slot};
use crate::event::{EventKey, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::queue::ClientId;
use crate::storage::{Commit, MAX_OUTSTANDING, Place, Stage, StorageError};
use crate::table::Table;

/// A topic's place in its shard. Not used again while the shard runs.
pub(super) type TopicAt = usize;

/// Events for clients, in order for each.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    clients: Vec<(ClientId, Vec<LinkEvent>)>,
    index: Table<ClientId, usize>,
    last: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    fn of(&mut self, client: ClientId) -> &mut Vec<LinkEvent> {
        // Most of the time one client follows itself.
        if self.clients.get(self.last).is_none_or(|(id, _)| *id != client) {
            self.last = *self.index.entry(client).or_insert_with(|| {
                self.clients.push((client, Vec::new()));
                self.clients.len() - 1
            });
        }
        &mut self.clients[self.last].1
    }

    pub(super) fn outcome(&mut self, client: ClientId, slot: Slot, outcome: Outcome) {
        let events = self.of(client);
        match events.last_mut() {
            Some(LinkEvent::Outcomes(outcomes)) => outcomes.push((slot, outcome)),
            _ => events.push(LinkEvent::Outcomes(vec![(slot, outcome)])),
        }
    }

    pub(super) fn delivery(&mut self, client: ClientId, delivery: Delivery) {
        let events = self.of(client);
        match events.last_mut() {
            Some(LinkEvent::Deliveries(deliveries)) => deliveries.push(delivery),
            _ => events.push(LinkEvent::Deliveries(vec![delivery])),
        }
    }

    pub(super) fn removed(&mut self, client: ClientId, topic: TopicName, subscription: SubscriptionName) {
        self.of(client).push(LinkEvent::Removed { topic, subscription });
    }

    fn append(&mut self, other: Self) {
        for (client, events) in other.clients {
            self.of(client).extend(events);
        }
    }

    pub(super) fn into_events(self) -> impl Iterator<Item = (ClientId, Vec<LinkEvent>)> {
        self.clients.into_iter()
    }
}

/// Tells somebody that a turn has been written.
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// What a turn causes besides its mutations.
#[derive(Default)]
pub(super) struct Effects {
    /// The events among the mutations that get a place, in their order.
    pub(super) keys: Vec<(TopicAt, EventKey)>,
    /// What leaves when the turn is written.
    pub(super) outbox: Outbox,
    /// What leaves when the turn is safe.
    pub(super) confirms: Outbox,
    /// Up to where topics become visible when the turn is safe.
    pub(super) visible: Vec<(TopicAt, Seq)>,
    /// Publishers within the process, answered when the turn is safe.
    pub(super) publishers: Vec<(PublishReply, Vec<Outcome>)>,
    /// The storage's own requests, answered when the turn is safe.
    pub(super) rewrites: Vec<oneshot::Sender<Result<(), StorageError>>>,
    /// Other shards' requests, answered when the turn is written. Dropped, they tell whoever waits that it failed.
    pub(super) answers: Vec<Answer>,
}

impl Effects {
    /// Whether anything waits for the turn to be safe.
    fn needs_safety(&self) -> bool {
        !self.confirms.is_empty()
            || !self.visible.is_empty()
            || !self.publishers.is_empty()
            || !self.rewrites.is_empty()
    }
}

struct Turn {
    written: Option<Stage<Vec<Place>>>,
    safe: Option<Stage<()>>,
    effects: Effects,
}

/// The turns whose batches are on their way, oldest first.
#[derive(Default)]
pub(super) struct Turns {
    turns: VecDeque<Turn>,
    /// How many of them, from the front, are written.
    written: usize,
}

/// Something that has happened to the oldest turn that it could happen to.
pub(super) enum Progress {
    /// A turn was written: the places of its events, what leaves now, and who is told.
    Written(Vec<((TopicAt, EventKey), Place)>, Outbox, Vec<Answer>),
    /// A turn is safe: what it confirms and makes visible.
    Safe(Effects),
    /// The storage failed: what waited for it.
    Failed(StorageError, Effects),
}

impl Turns {
    /// Whether the storage can be given another batch.
    pub(super) fn have_room(&self) -> bool {
        self.turns.len() - self.written < MAX_OUTSTANDING && self.turns.len() < 4 * MAX_OUTSTANDING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds a turn whose batch has been submitted.
    pub(super) fn push(&mut self, commit: Commit, effects: Effects) {
        let safe = effects.needs_safety().then_some(commit.safe);
        self.turns.push_back(Turn { written: Some(commit.written), safe, effects });
    }

    /// Adds what leaves without a batch of its own: after what has been said before, or at once (then it is returned).
    pub(super) fn follow(&mut self, outbox: Outbox) -> Option<Outbox> {
        match self.turns.back_mut().filter(|turn| turn.written.is_some()) {
            Some(turn) => {
                turn.effects.outbox.append(outbox);
                None
            }
            None => Some(outbox),
        }
    }

    /// Waits for the next thing to happen. Cancel-safe. Never completes when there are no turns.
    pub(super) fn progress(&mut self) -> impl Future<Output = Progress> + '_ {
        std::future::poll_fn(|cx| self.poll(cx))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if self.written > 0
            && let Poll::Ready(progress) = self.poll_safe(cx)
        {
            return Poll::Ready(progress);
        }
        let Some(turn) = self.turns.get_mut(self.written) else { return Poll::Pending };
        let Some(stage) = turn.written.as_mut() else { return Poll::Pending };
        match ready!(Pin::new(stage).poll(cx)) {
            Ok(places) => {
                turn.written = None;
                let keys = std::mem::take(&mut turn.effects.keys);
                let outbox = std::mem::take(&mut turn.effects.outbox);
                let answers = std::mem::take(&mut turn.effects.answers);
                self.written += 1;
                Poll::Ready(Progress::Written(keys.into_iter().zip(places).collect(), outbox, answers))
            }
            Err(error) => {
                let turn = self.turns.remove(self.written);
                let effects = turn.map(|turn| turn.effects).unwrap_or_default();
                Poll::Ready(Progress::Failed(error, effects))
            }
        }
    }

    fn poll_safe(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let Some(turn) = self.turns.front_mut() else { return Poll::Pending };
        let result = match turn.safe.as_mut() {
            Some(stage) => ready!(Pin::new(stage).poll(cx)),
            None => Ok(()),
        };
        let effects = self.turns.pop_front().map(|turn| turn.effects).unwrap_or_default();
        self.written -= 1;
        Poll::Ready(match result {
            Ok(()) => Progress::Safe(effects),
            Err(error) => Progress::Failed(error, effects),
        })
    }
}

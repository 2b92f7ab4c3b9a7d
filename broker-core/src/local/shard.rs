//! A shard: the one task that owns some of the topics, with all their queues.
//!
//! | to find | look in |
//! | --- | --- |
//! | which requests wait, who answers them | [`requests`] |
//! | events coming in | [`publishing`] |
//! | subscriptions and clients coming and going | [`subscribing`] |
//! | acknowledgements | [`settling`] |
//! | dead letters on their way to another shard, and those that come from one | [`letters`] |
//! | dead letters on their way back | [`redriving`] |
//! | looking at what waits, dropping it | [`operating`] |
//! | events going out, reading back, timers | [`delivering`] |
//! | the end of a turn | [`turns`] |

mod delivering;
mod letters;
mod operating;
mod publishing;
mod redriving;
mod requests;
mod resuming;
mod settling;
mod subscribing;
mod turns;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::message::{ShardMessage, ShardRequest};
use super::shared::Shared;
use super::turn::{Effects, TopicAt, Turns};
use crate::engine::{Gauge, LinkEvent, Slot};
use crate::event::{Millis, Seq};
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::{ClientId, ConsumerId, Memory, SubscriptionId, Topic};
use crate::storage::{Mutation, Storage};
use crate::table::Table;
use delivering::{DRAIN, DRAIN_BESIDES, Loaded};
use letters::Done;
use resuming::Unserved;
use settling::Undecided;

/// Messages taken in one turn: what arrives while a batch is being prepared joins the next.
const TURN: usize = 64;

/// A client, as far as this shard knows it.
struct Client {
    name: Arc<str>,
    events: mpsc::Sender<Vec<LinkEvent>>,
    gauge: Arc<Gauge>,
    attachments: Table<TopicAt, Attachment>,
    /// Requests that wait until an event which they are about has become visible, and those after them.
    parked: VecDeque<(ShardRequest, Barrier)>,
    unserved: Unserved,
}

/// What has to be visible before a request is looked at: what was published before it.
type Barrier = Option<(TopicAt, Seq)>;

#[derive(Clone, Copy)]
struct Attachment {
    sub: SubscriptionId,
    consumer: ConsumerId,
    /// The latest event that the client published to the topic itself.
    published: Seq,
}

pub(super) struct Shard<S: Storage + ?Sized> {
    storage: Arc<S>,
    shared: Arc<Shared>,
    policies: Policies,
    topics: Vec<Option<Box<Topic>>>,
    /// Places of topics that have gone; used again once nothing on its way can name them.
    vacant: Vec<TopicAt>,
    by_name: Table<TopicName, TopicAt>,
    clients: Table<ClientId, Client>,
    /// Clients with parked requests.
    parked: Vec<ClientId>,
    turns: Turns,
    loads: FuturesUnordered<BoxFuture<'static, Loaded>>,
    /// What waits for other shards, or for the storage, so that the shard does not.
    errands: FuturesUnordered<BoxFuture<'static, Done>>,
    /// All shards. Weak, so that they end with their engine.
    peers: Arc<[mpsc::WeakSender<ShardMessage>]>,
    /// Purges under way: who asked, and how many events they are about.
    purges: Table<u64, (ClientId, Slot, u64)>,
    purges_made: u64,
    /// Acknowledgements that are not answered yet.
    undecided: Vec<Undecided>,
    /// When the log last said that dead letters find no room.
    said_full: Option<Millis>,
    /// When subscriptions change by the passing of time, and for each when it is in there.
    timers: BTreeSet<(Millis, TopicAt, SubscriptionId)>,
    timer_of: Table<(TopicAt, SubscriptionId), Millis>,
    /// Topics with ended subscriptions that still hold events.
    leaving: Vec<TopicAt>,
    /// What events that wait may cost in memory, and what they do.
    budget: usize,
    memory: Memory,
    /// Nothing is delivered any more: what comes back must not go out to the next client that is about to leave.
    closing: bool,
    // ---- This turn ----
    now: Millis,
    mutations: Vec<Mutation>,
    effects: Effects,
    touched: Vec<TopicAt>,
}

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn new(
        storage: Arc<S>,
        shared: Arc<Shared>,
        peers: Arc<[mpsc::WeakSender<ShardMessage>]>,
        topics: Vec<Topic>,
        budget: usize,
    ) -> Self {
        let by_name = topics.iter().enumerate().map(|(at, topic)| (topic.name().clone(), at)).collect();
        let mut shard = Self {
            storage,
            now: shared.clock.now(),
            policies: shared.policies(),
            shared,
            // Whatever recovery found to be gone is released with the first turn.
            touched: (0..topics.len()).collect(),
            memory: topics.iter().map(Topic::memory).sum(),
            topics: topics.into_iter().map(|topic| Some(Box::new(topic))).collect(),
            vacant: Vec::new(),
            by_name,
            clients: Table::default(),
            parked: Vec::new(),
            turns: Turns::default(),
            loads: FuturesUnordered::new(),
            errands: FuturesUnordered::new(),
            peers,
            purges: Table::default(),
            purges_made: 0,
            undecided: Vec::new(),
            said_full: None,
            timers: BTreeSet::new(),
            timer_of: Table::default(),
            leaving: Vec::new(),
            budget,
            closing: false,
            mutations: Vec::new(),
            effects: Effects::default(),
        };
        // What is due later has to be found when it is, although nobody is attached yet.
        for at in 0..shard.topics.len() {
            for sub in shard.topics[at].as_ref().map(|topic| topic.subscription_ids()).unwrap_or_default() {
                shard.schedule(at, sub);
            }
        }
        shard.end_turn();
        shard
    }

    /// Runs until it is closed or its engine is dropped. Should it panic, `emergency` stops the broker.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ShardMessage>, emergency: DropGuard) {
        let mut messages = Vec::with_capacity(TURN);
        let mut closing: Option<oneshot::Sender<()>> = None;
        loop {
            if closing.is_some() && self.turns.is_empty() {
                break;
            }
            let wake = self.timers.first().map(|(at, ..)| self.shared.clock.instant(*at));
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let more_to_drain = !self.leaving.is_empty();
            let drain =
                async { if more_to_drain { tokio::task::yield_now().await } else { std::future::pending().await } };
            let ready_for_more = closing.is_none() && self.turns.have_room();
            tokio::select! {
                biased;
                progress = self.turns.progress() => {
                    self.now = self.shared.clock.now();
                    self.progress(progress);
                }
                Some(loaded) = self.loads.next() => {
                    self.now = self.shared.clock.now();
                    self.loaded(loaded);
                }
                Some(done) = self.errands.next() => {
                    self.now = self.shared.clock.now();
                    self.errand_done(done);
                }
                count = inbox.recv_many(&mut messages, TURN), if ready_for_more => {
                    self.now = self.shared.clock.now();
                    if count == 0 {
                        // The engine was dropped without being closed: as after a kill, the storage has all that was answered.
                        break;
                    }
                    for message in messages.drain(..) {
                        self.message(message, &mut closing).await;
                    }
                }
                () = timer => self.now = self.shared.clock.now(),
                () = drain => {
                    self.now = self.shared.clock.now();
                    self.drain_leaving(DRAIN);
                }
            }
            // However much comes in: what is due is due, and a purge comes to its end.
            self.time_passed();
            if more_to_drain {
                self.drain_leaving(DRAIN_BESIDES);
            }
            self.end_turn();
        }
        emergency.disarm();
        if let Some(done) = closing {
            self.clients.clear();
            let _the_engine_was_dropped = done.send(());
        }
    }

    async fn message(&mut self, message: ShardMessage, closing: &mut Option<oneshot::Sender<()>>) {
        match message {
            ShardMessage::Connect { client, name, events, gauge } => {
                let (attachments, parked, unserved) = (Table::default(), VecDeque::new(), Unserved::default());
                self.clients.insert(client, Client { name, events, gauge, attachments, parked, unserved });
            }
            ShardMessage::Requests { client, requests } => {
                for request in requests {
                    let barrier = self.barrier(&request);
                    self.request_or_park(client, request, barrier);
                }
            }
            ShardMessage::Disconnect { client } => self.disconnect(client),
            ShardMessage::Publish { part, reply } => self.publish_part(part, reply).await,
            ShardMessage::Bury(bury) => self.bury(bury),
            ShardMessage::Revive(revive) => self.revive(revive),
            ShardMessage::Rewrite { events, done } => self.rewrite(events, done),
            ShardMessage::Policies { policies, done } => {
                self.set_policies(policies);
                let _nobody_waits_any_more = done.send(());
            }
            ShardMessage::Close(done) => {
                self.closing = true;
                let clients: Vec<ClientId> = self.clients.keys().copied().collect();
                for client in clients {
                    self.give_back(client);
                }
                *closing = Some(done);
            }
        }
    }
}

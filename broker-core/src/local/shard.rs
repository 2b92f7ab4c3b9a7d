//! A shard: the one task that owns some of the topics, with all their queues.
//!
//! The task waits for messages, commits, reads and timers, applies what has arrived to its queues as one turn, and ends the turn by
//! submitting the changes. Requests that are not decided yet, searches, drains and errands are kept in types of their own, so that
//! nothing a client does holds up the others.
//!
//! | to find | look in |
//! | --- | --- |
//! | which function carries out a request | [`requests`] |
//! | the topics and the turn that changes them | [`queues`] |
//! | publishing | [`publish`] |
//! | subscribing, attaching, disconnecting | [`subscribe`], [`clients`] |
//! | deliveries, reading payloads back, resuming | [`deliver`], [`unserved`] |
//! | acknowledgements, nack, touch | [`settle`], [`idle`] |
//! | requests that wait for an event to become visible | [`parking`] |
//! | time-outs, delays, expiry | [`expiry`], [`timers`] |
//! | delivery counts that outlive a kill | [`recordings`] |
//! | dead letters, and their way back | [`dead_letters`], [`redrive`] |
//! | peek, purge, stats | [`peek`], [`purge`], [`stats`] |
//! | events that the storage moves | [`rewrite`] |
//! | work that the shard does not wait for | [`errands`] |
//! | the end of a turn, and what leaves it when | [`commit`] |

mod clients;
mod commit;
mod dead_letters;
mod deliver;
mod errands;
mod expiry;
mod idle;
mod parking;
mod peek;
mod publish;
mod purge;
mod queues;
mod recordings;
mod redrive;
mod requests;
mod rewrite;
mod settle;
mod stats;
mod subscribe;
mod timers;
mod unserved;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::message::{Peers, ShardMessage};
use super::shared::Shared;
use super::topics::TopicTable;
use super::turn::Commits;
use crate::storage::Storage;
use clients::Clients;
use dead_letters::FullNotice;
use errands::{Done, Errands};
use idle::IdleAnswers;
use parking::Parking;
use purge::{DRAIN, DRAIN_BESIDES, Purges};
use queues::Queues;
use recordings::Recordings;
use rewrite::Rewrite;

/// Messages taken in one turn. What arrives while a batch is being prepared joins the next one.
const MESSAGES: usize = 64;

/// The owner of some of an engine's topics. Its parts keep their own invariants; the functions of the modules below connect them.
pub(super) struct Shard<S: Storage + ?Sized> {
    storage: Arc<S>,
    shared: Arc<Shared>,
    peers: Peers,
    queues: Queues,
    clients: Clients,
    parking: Parking,
    idle: IdleAnswers,
    purges: Purges,
    errands: Errands,
    recordings: Recordings,
    commits: Commits,
    full_notice: FullNotice,
    /// Nothing is delivered any more: an event that returns from one client must not go out to the next one that is about to be
    /// detached.
    closing: bool,
}

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn new(storage: Arc<S>, shared: Arc<Shared>, peers: Peers, topics: TopicTable) -> Self {
        let mut shard = Self {
            queues: Queues::new(topics, Arc::clone(&shared)),
            storage,
            shared,
            peers,
            clients: Clients::default(),
            parking: Parking::default(),
            idle: IdleAnswers::default(),
            purges: Purges::default(),
            errands: Errands::default(),
            recordings: Recordings::default(),
            commits: Commits::default(),
            full_notice: FullNotice::default(),
            closing: false,
        };
        shard.end_turn();
        shard
    }

    /// Runs until it is closed or its engine is dropped. If it panics, `emergency` stops the broker.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ShardMessage>, emergency: DropGuard) {
        let mut messages = Vec::with_capacity(MESSAGES);
        let mut closing: Option<oneshot::Sender<()>> = None;
        loop {
            if closing.is_some() && self.commits.is_empty() {
                break;
            }
            let wake = self
                .queues
                .timers
                .first()
                .into_iter()
                .chain(self.recordings.due())
                .min()
                .map(|at| self.shared.clock.instant(at));
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let has_to_drain = self.queues.draining.can_go_on();
            let drain =
                async { if has_to_drain { tokio::task::yield_now().await } else { std::future::pending().await } };
            // While the storage is behind, messages stay in the inbox, and their senders wait.
            let has_room = closing.is_none() && self.commits.have_room();
            tokio::select! {
                biased;
                progress = self.commits.progress() => {
                    self.begin_turn();
                    self.progress(progress);
                }
                done = self.errands.next() => {
                    self.begin_turn();
                    self.errand_done(done);
                }
                count = inbox.recv_many(&mut messages, MESSAGES), if has_room => {
                    self.begin_turn();
                    if count == 0 {
                        // The engine was dropped without being closed. As after a kill, the storage has everything that was answered.
                        break;
                    }
                    for message in messages.drain(..) {
                        self.message(message, &mut closing).await;
                    }
                }
                () = timer => self.begin_turn(),
                () = drain => {
                    self.begin_turn();
                    self.drain(DRAIN);
                }
            }
            // In every turn, so that a flood of messages delays neither timers nor purges.
            self.time_passed();
            if has_to_drain {
                self.drain(DRAIN_BESIDES);
            }
            self.end_turn();
        }
        emergency.disarm();
        if let Some(done) = closing {
            self.clients.clear();
            let _the_engine_was_dropped = done.send(());
        }
    }

    fn begin_turn(&mut self) {
        self.queues.turn.begin(self.shared.clock.now());
    }

    async fn message(&mut self, message: ShardMessage, closing: &mut Option<oneshot::Sender<()>>) {
        if self.commits.is_empty() && self.errands.is_empty() && !self.queues.turn.stores_events() {
            self.queues.topics.reclaim();
        }
        match message {
            ShardMessage::Connect { client, name, events, gauge } => self.clients.connect(client, name, events, gauge),
            ShardMessage::Requests { client, requests } => {
                for request in requests {
                    self.accept(client, request);
                }
            }
            ShardMessage::Disconnect { client } => self.disconnect(client),
            ShardMessage::Publish { part, reply } => self.publish_part(part, reply).await,
            // After a failure these are dropped, which tells the sending shard.
            ShardMessage::Bury(_) | ShardMessage::Revive(_) if self.shared.failure().is_some() => {}
            ShardMessage::Bury(bury) => self.queues.bury(bury),
            ShardMessage::Revive(revive) => self.queues.revive(revive),
            ShardMessage::Rewrite { events, done } => self.rewrite(Rewrite { events, done }),
            ShardMessage::ForgetTopics => self.queues.forget_topics(),
            ShardMessage::Policies { policies, done } => {
                self.set_policies(policies);
                let _the_caller_has_gone = done.send(());
            }
            ShardMessage::Close(done) => {
                self.closing = true;
                for client in self.clients.ids() {
                    self.detach_all(client);
                }
                *closing = Some(done);
            }
        }
    }

    fn errand_done(&mut self, done: Done) {
        match done {
            Done::Loaded(loaded) => self.loaded(loaded),
            Done::Buried(buried) => self.buried(buried),
            Done::Peeked(result) => self.peeked(result),
            Done::LettersRead(job, letters) => self.letters_read(job, letters),
            Done::SentBack(job, sent) => self.letters_sent_back(job, sent),
            Done::Rewrite(rewrite) => self.rewrite(rewrite),
        }
    }
}

//! A shard: the one task that owns some of the topics, with all their queues.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::message::{PublishPart, PublishReply, ShardMessage, ShardRequest};
use super::shared::Shared;
use super::turn::{Effects, Outbox, Progress, TopicAt, Turns};
use crate::engine::{Delivery, Gauge, LinkEvent, Op, Outcome, Refusal, Request, Slot, Stats};
use crate::event::{EventKey, Millis, NewEvent, Payload, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::{Acknowledged, ClientId, ConsumerId, Next, SubscriptionId, Topic};
use crate::storage::{Batch, Mutation, Place, ReadKey, Storage, StorageError, StoredEvent};

/// Messages taken in one turn: what arrives while a batch is being prepared joins the next.
const TURN: usize = 64;

/// Events that ended subscriptions let go of between two turns.
const DRAIN: usize = 4096;

/// How long after a failed read it is tried again.
const READ_RETRY: Duration = Duration::from_millis(500);

/// A client, as far as this shard knows it.
struct Client {
    name: Arc<str>,
    events: mpsc::Sender<LinkEvent>,
    gauge: Arc<Gauge>,
    attachments: HashMap<TopicAt, Attachment>,
    /// Requests that wait until an event which they are about has become visible, and those after them.
    parked: VecDeque<ShardRequest>,
}

#[derive(Clone, Copy)]
struct Attachment {
    sub: SubscriptionId,
    consumer: ConsumerId,
    /// The latest event that the client published to the topic itself.
    published: Seq,
}

/// Payloads that were read for a subscription.
struct Loaded {
    topic: TopicAt,
    sub: SubscriptionId,
    payloads: Result<Vec<(EventKey, Place, Option<Payload>)>, StorageError>,
}

pub(super) struct Shard<S: Storage + ?Sized> {
    storage: Arc<S>,
    shared: Arc<Shared>,
    topics: Vec<Option<Box<Topic>>>,
    /// Places of topics that have gone; used again once nothing on its way can name them.
    vacant: Vec<TopicAt>,
    by_name: HashMap<TopicName, TopicAt>,
    clients: HashMap<ClientId, Client>,
    /// Clients with parked requests.
    parked: Vec<ClientId>,
    turns: Turns,
    loads: FuturesUnordered<BoxFuture<'static, Loaded>>,
    /// When subscriptions change by the passing of time, and for each when it is in there.
    timers: BTreeSet<(Millis, TopicAt, SubscriptionId)>,
    timer_of: HashMap<(TopicAt, SubscriptionId), Millis>,
    /// Topics with ended subscriptions that still hold events.
    leaving: Vec<TopicAt>,
    /// What payloads in memory may cost, and what they do.
    budget: usize,
    cached: usize,
    /// Nothing is delivered any more: what comes back must not go out to the next client that is about to leave.
    closing: bool,
    // ---- This turn ----
    now: Millis,
    mutations: Vec<Mutation>,
    effects: Effects,
    touched: Vec<TopicAt>,
}

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn new(storage: Arc<S>, shared: Arc<Shared>, topics: Vec<Topic>, budget: usize) -> Self {
        let by_name = topics.iter().enumerate().map(|(at, topic)| (topic.name().clone(), at)).collect();
        let mut shard = Self {
            storage,
            now: shared.clock.now(),
            shared,
            // Whatever recovery found to be gone is released with the first turn.
            touched: (0..topics.len()).collect(),
            cached: topics.iter().map(Topic::cached).sum(),
            topics: topics.into_iter().map(|topic| Some(Box::new(topic))).collect(),
            vacant: Vec::new(),
            by_name,
            clients: HashMap::new(),
            parked: Vec::new(),
            turns: Turns::default(),
            loads: FuturesUnordered::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            leaving: Vec::new(),
            budget,
            closing: false,
            mutations: Vec::new(),
            effects: Effects::default(),
        };
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
                () = timer => {
                    self.now = self.shared.clock.now();
                    self.time_passed();
                }
                () = drain => {
                    self.now = self.shared.clock.now();
                    self.drain_leaving();
                }
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
                let attachments = HashMap::new();
                self.clients.insert(client, Client { name, events, gauge, attachments, parked: VecDeque::new() });
            }
            ShardMessage::Requests { client, requests } => {
                for request in requests {
                    self.request_or_park(client, request);
                }
            }
            ShardMessage::Disconnect { client } => self.disconnect(client),
            ShardMessage::Publish { part, reply } => self.publish_part(part, reply).await,
            ShardMessage::Rewrite { events, done } => self.rewrite(events, done),
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

    // ---- Turns ----

    /// Submits what the turn has changed, and lets out what may leave.
    fn end_turn(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
        for at in std::mem::take(&mut self.touched) {
            if let Some(topic) = &mut self.topics[at] {
                topic.drain_changes(&mut self.mutations);
            }
        }
        self.stay_in_budget();
        let effects = std::mem::take(&mut self.effects);
        if self.shared.failure().is_some() {
            self.mutations.clear();
            self.refuse(effects);
            return;
        }
        if !self.mutations.is_empty() {
            let mutations = std::mem::take(&mut self.mutations);
            let commit = self.storage.submit(Batch { mutations });
            self.turns.push(commit, effects);
        } else {
            debug_assert!(effects.keys.is_empty() && effects.visible.is_empty(), "a stored event is a mutation");
            for (reply, outcomes) in effects.publishers {
                let _the_publisher_has_gone = reply.send(Ok(outcomes));
            }
            for done in effects.rewrites {
                let _the_storage_has_gone = done.send(Ok(()));
            }
            if let Some(outbox) = self.turns.follow(effects.outbox) {
                self.send(outbox);
            }
        }
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Written(places, outbox) => {
                for ((at, key), place) in places {
                    if let Some(topic) = &mut self.topics[at] {
                        topic.set_place(key, place);
                        self.touched.push(at);
                    }
                }
                self.send(outbox);
            }
            Progress::Safe(effects) => {
                self.send(effects.confirms);
                for (reply, outcomes) in effects.publishers {
                    let _the_publisher_has_gone = reply.send(Ok(outcomes));
                }
                for done in effects.rewrites {
                    let _the_storage_has_gone = done.send(Ok(()));
                }
                for (at, seq) in effects.visible {
                    self.show(at, seq);
                }
                self.unpark();
            }
            Progress::Failed(error, effects) => {
                self.shared.fail(&error);
                self.refuse(effects);
                self.unpark();
            }
        }
    }

    /// Answers what will not be stored. What it would have delivered is not delivered.
    fn refuse(&mut self, effects: Effects) {
        let Some(reason) = self.shared.failure() else { return };
        let mut outbox = Outbox::default();
        for (client, events) in effects.outbox.into_events().chain(effects.confirms.into_events()) {
            for event in events {
                let LinkEvent::Outcomes(outcomes) = event else { continue };
                for (slot, outcome) in outcomes {
                    let outcome = match outcome {
                        Outcome::Topics(_) | Outcome::Stats(_) | Outcome::Refused(_) => outcome,
                        _ => Outcome::Refused(Refusal::Unavailable(reason.clone())),
                    };
                    outbox.outcome(client, slot, outcome);
                }
            }
        }
        self.send(outbox);
        for (reply, _) in effects.publishers {
            let _the_publisher_has_gone = reply.send(Err(reason.clone()));
        }
        for done in effects.rewrites {
            let _the_storage_has_gone = done.send(Err(StorageError::closed()));
        }
    }

    fn send(&mut self, outbox: Outbox) {
        for (id, events) in outbox.into_events() {
            let Some(client) = self.clients.get(&id) else { continue };
            for event in events {
                if let Err(mpsc::error::TrySendError::Full(_)) = client.events.try_send(event) {
                    tracing::warn!(client = %client.name, "a client that does not take its output is cut off");
                    self.disconnect(id);
                    break;
                }
            }
        }
    }

    /// Drops payloads from memory when they cost more than they may, and then some, so that it is not done at every turn.
    fn stay_in_budget(&mut self) {
        if self.cached <= self.budget {
            return;
        }
        let mut excess = self.cached - self.budget + self.budget / 8;
        // The topic with the most in memory gives first; a few rounds reach the goal or find that nothing can be read back yet.
        for _ in 0..8 {
            let largest = self.topics.iter_mut().flatten().max_by_key(|topic| topic.cached());
            let Some(topic) = largest else { return };
            let freed = topic.evict(excess);
            self.cached -= freed;
            excess = excess.saturating_sub(freed);
            if freed == 0 || excess == 0 {
                return;
            }
        }
    }

    /// Does something with a topic of this turn.
    fn with<T>(&mut self, at: TopicAt, f: impl FnOnce(&mut Topic, Millis) -> T) -> Option<T> {
        let topic = self.topics[at].as_mut()?;
        let before = topic.cached();
        let result = f(topic, self.now);
        self.cached = self.cached + topic.cached() - before;
        self.touched.push(at);
        Some(result)
    }

    // ---- Requests ----

    fn request_or_park(&mut self, client: ClientId, request: ShardRequest) {
        let must_wait = self.must_wait(client, &request);
        let Some(state) = self.clients.get_mut(&client) else { return };
        if !state.parked.is_empty() || must_wait {
            if state.parked.is_empty() {
                self.parked.push(client);
            }
            state.parked.push_back(request);
            return;
        }
        self.request(client, request);
    }

    /// Whether a request is about an event that its own client has published and that is not visible yet. It waits until the
    /// event has been delivered, as if publishing took no time: what one client says takes effect in the order it says it.
    fn must_wait(&self, client: ClientId, request: &ShardRequest) -> bool {
        let ShardRequest::One(Request { op, .. }) = request else { return false };
        if self.shared.failure().is_some() {
            // Nothing will become visible any more; the request gets its refusal.
            return false;
        }
        let topic = match op {
            Op::Ack { topic, .. } | Op::AckAll { topic } | Op::Nack { topic, .. } | Op::Touch { topic, .. } => topic,
            _ => return false,
        };
        let Some(at) = self.by_name.get(topic).copied() else { return false };
        let Some(topic) = &self.topics[at] else { return false };
        let attachment = self.clients.get(&client).and_then(|client| client.attachments.get(&at));
        let Some(attachment) = attachment.filter(|attachment| topic.is_invisible(attachment.published)) else {
            return false;
        };
        let waits = |id: &IdKey| topic.awaits_visibility(attachment.sub, *id);
        match op {
            Op::Ack { ids, .. } => ids.iter().any(waits),
            Op::Nack { id, .. } | Op::Touch { id, .. } => waits(id),
            _ => true,
        }
    }

    /// Goes on with parked requests as far as it can.
    fn unpark(&mut self) {
        for client in std::mem::take(&mut self.parked) {
            let parked = self.clients.get_mut(&client).map(|state| std::mem::take(&mut state.parked));
            for request in parked.unwrap_or_default() {
                self.request_or_park(client, request);
            }
        }
    }

    fn request(&mut self, client: ClientId, request: ShardRequest) {
        let Request { slot, op } = match request {
            ShardRequest::One(request) => request,
            ShardRequest::Topics(slot, gather) => {
                let summaries = self.topics.iter().flatten().map(|topic| topic.summary()).collect();
                if let Some(mut all) = gather.add(summaries) {
                    all.sort_by(|a, b| a.topic.cmp(&b.topic));
                    self.effects.outbox.outcome(client, slot, Outcome::Topics(all));
                }
                return;
            }
            ShardRequest::Stats(slot, gather) => {
                let now = self.now;
                let stats = self.topics.iter().flatten().map(|topic| topic.stats(now)).collect();
                if let Some(mut all) = gather.add(stats) {
                    all.sort_by(|a, b| a.topic.cmp(&b.topic));
                    self.answer_stats(client, slot, all);
                }
                return;
            }
        };
        let changes = !matches!(op, Op::Stats(_) | Op::Prefetch(_) | Op::Resume | Op::Topics);
        if let Some(reason) = self.shared.failure().filter(|_| changes) {
            self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::Unavailable(reason)));
            return;
        }
        let outcome = match op {
            Op::Publish { topic, event, confirm } => return self.publish(client, slot, topic, &event, confirm),
            Op::Subscribe { topic, name, prefetch } => return self.subscribe(client, slot, topic, name, prefetch),
            Op::Unsubscribe { topic, name } => self.unsubscribe(client, &topic, name.as_ref()),
            Op::Detach { topic } => self.detach(client, &topic),
            Op::Ack { topic, ids } => return self.acknowledge(client, slot, topic, &ids),
            Op::AckAll { topic } => return self.acknowledge_all(client, slot, topic),
            Op::Nack { topic, id, delay_ms } => return self.requeue(client, slot, topic, id, delay_ms),
            Op::Touch { topic, id } => match self.attachment(client, &topic) {
                None => Outcome::Refused(Refusal::NotSubscribed(topic)),
                Some((at, Attachment { sub, consumer, .. })) => {
                    let found = self.with(at, |topic, now| topic.touch(sub, consumer, id, now)).unwrap_or(false);
                    self.schedule(at, sub);
                    Outcome::Settled { found }
                }
            },
            Op::Prefetch(prefetch) => {
                for (at, attachment) in self.attachments(client) {
                    let Attachment { sub, consumer, .. } = attachment;
                    self.with(at, |topic, _| topic.set_prefetch(sub, consumer, prefetch));
                    self.pump(at, sub);
                }
                return;
            }
            Op::Resume => {
                for (at, Attachment { sub, consumer, .. }) in self.attachments(client) {
                    self.with(at, |topic, _| topic.resume(sub, consumer));
                    self.pump(at, sub);
                }
                return;
            }
            Op::Stats(Some(topic)) => match self.by_name.get(&topic).and_then(|at| self.topics[*at].as_ref()) {
                None => Outcome::Refused(Refusal::NoSuchTopic(topic)),
                Some(topic) => {
                    let stats = vec![topic.stats(self.now)];
                    return self.answer_stats(client, slot, stats);
                }
            },
            // Questions about all topics come as gathers.
            Op::Stats(None) | Op::Topics => return,
        };
        self.effects.outbox.outcome(client, slot, outcome);
    }

    fn answer_stats(&mut self, client: ClientId, slot: Slot, topics: Vec<crate::engine::TopicStats>) {
        let stats = Stats {
            version: self.shared.version,
            uptime_ms: self.shared.clock.uptime_ms(),
            connections: self.shared.connections.load(Ordering::Relaxed),
            topics,
        };
        self.effects.outbox.outcome(client, slot, Outcome::Stats(Box::new(stats)));
    }

    /// The topic's place; makes the topic if the configuration lets its use make it.
    fn topic(&mut self, name: &TopicName) -> Result<TopicAt, Refusal> {
        if let Some(at) = self.by_name.get(name) {
            return Ok(*at);
        }
        let policy = self.shared.policies.of(name);
        if !policy.auto_create && !self.shared.policies.names(name) {
            return Err(Refusal::UnknownTopic(name.clone()));
        }
        if self.shared.topics.take().is_err() {
            self.forget_idle_topics();
            self.shared.topics.take().map_err(|most| Refusal::TooMany(format!("there are {most} topics already")))?;
        }
        let nothing_on_its_way = self.turns.is_empty() && self.loads.is_empty() && self.effects.keys.is_empty();
        let topic = Some(Box::new(Topic::new(name.clone(), policy)));
        let at = match if nothing_on_its_way { self.vacant.pop() } else { None } {
            Some(at) => {
                self.topics[at] = topic;
                at
            }
            None => {
                self.topics.push(topic);
                self.topics.len() - 1
            }
        };
        self.by_name.insert(name.clone(), at);
        Ok(at)
    }

    /// Makes room for new topics by forgetting those that have neither subscriptions nor events.
    fn forget_idle_topics(&mut self) {
        for (at, slot) in self.topics.iter_mut().enumerate() {
            if let Some(topic) = slot.take_if(|topic| topic.is_idle()) {
                self.by_name.remove(topic.name());
                self.vacant.push(at);
                self.shared.topics.give_back();
            }
        }
    }

    fn attachment(&self, client: ClientId, topic: &TopicName) -> Option<(TopicAt, Attachment)> {
        let at = self.by_name.get(topic).copied()?;
        self.clients.get(&client)?.attachments.get(&at).map(|attachment| (at, *attachment))
    }

    fn attachments(&self, client: ClientId) -> Vec<(TopicAt, Attachment)> {
        let attachments = self.clients.get(&client).map(|client| &client.attachments);
        attachments.into_iter().flatten().map(|(at, attachment)| (*at, *attachment)).collect()
    }

    // ---- Publishing ----

    fn publish(&mut self, client: ClientId, slot: Slot, topic: TopicName, event: &NewEvent, confirm: bool) {
        match self.publish_one(&topic, event) {
            Err(refusal) => self.effects.outbox.outcome(client, slot, Outcome::Refused(refusal)),
            Ok((at, stored, replaced)) => {
                let outcome = Outcome::Published { replaced };
                if let Some(seq) = stored
                    && let Some(attachment) = self.clients.get_mut(&client).and_then(|c| c.attachments.get_mut(&at))
                {
                    attachment.published = seq;
                }
                if confirm && stored.is_some() {
                    self.effects.confirms.outcome(client, slot, outcome);
                } else {
                    self.effects.outbox.outcome(client, slot, outcome);
                }
            }
        }
    }

    /// Takes an event in. Returns its sequence if it has to be stored, and whether it replaced another.
    fn publish_one(&mut self, name: &TopicName, event: &NewEvent) -> Result<(TopicAt, Option<Seq>, bool), Refusal> {
        let at = self.topic(name)?;
        let Some(publication) = self.with(at, |topic, now| topic.publish(event, now)) else {
            return Err(Refusal::UnknownTopic(name.clone()));
        };
        let publication = publication?;
        let Some(stored) = publication.stored else { return Ok((at, None, false)) };
        if !publication.replaces.is_empty() {
            self.mutations.push(Mutation::Forget { topic: name.clone(), events: publication.replaces });
        }
        let key = stored.key;
        self.effects.keys.push((at, key));
        match self.effects.visible.last_mut().filter(|(other, _)| *other == at) {
            Some((_, seq)) => *seq = key.seq,
            None => self.effects.visible.push((at, key.seq)),
        }
        self.mutations.push(Mutation::Publish(stored));
        Ok((at, Some(key.seq), publication.replaced))
    }

    /// Publishes for somebody in this process.
    async fn publish_part(&mut self, part: PublishPart, reply: PublishReply) {
        if let Some(reason) = self.shared.failure() {
            // A joint batch is then never complete, and whoever waits for it is told by its end.
            let _the_publisher_has_gone = reply.send(Err(reason));
            return;
        }
        let Some((joint, number)) = part.joint.clone() else {
            let outcomes = match self.refusal_of_all(&part) {
                Some(refusal) => vec![Outcome::Refused(refusal); part.events.len()],
                None => self.apply_part(part),
            };
            self.effects.publishers.push((reply, outcomes));
            return;
        };
        // What this turn has done so far stands before the joint batch.
        self.end_turn();
        let outcomes = self.apply_part(part);
        for at in std::mem::take(&mut self.touched) {
            if let Some(topic) = &mut self.topics[at] {
                topic.drain_changes(&mut self.mutations);
            }
        }
        self.effects.publishers.push((reply, outcomes));
        let effects = std::mem::take(&mut self.effects);
        let mutations = std::mem::take(&mut self.mutations);
        let (commit, submitted) = joint.contribute(&*self.storage, number, mutations, effects.keys.len());
        drop(joint);
        let _never_submitted_fails_the_commit = submitted.await;
        self.turns.push(commit, effects);
    }

    fn apply_part(&mut self, part: PublishPart) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(part.events.len());
        for (topic, event) in &part.events {
            outcomes.push(match self.publish_one(topic, event) {
                Ok((_, _, replaced)) => Outcome::Published { replaced },
                Err(refusal) => Outcome::Refused(refusal),
            });
        }
        if let Some(cursor) = part.cursor {
            self.mutations.push(Mutation::Cursor { source: cursor.source, value: cursor.value });
        }
        outcomes
    }

    /// A source's batch is taken whole or not at all: its cursor must not move past an event for which there was no room.
    fn refusal_of_all(&mut self, part: &PublishPart) -> Option<Refusal> {
        part.cursor.as_ref()?;
        let mut ahead: HashMap<TopicAt, (u64, u64)> = HashMap::new();
        for (name, event) in &part.events {
            let Some(at) = self.by_name.get(name).copied() else { continue };
            let Some(topic) = &self.topics[at] else { continue };
            let (count, bytes) = ahead.entry(at).or_default();
            if let Err(refusal) = topic.check_room(event, *count, *bytes) {
                return Some(refusal);
            }
            *count += 1;
            *bytes += event.payload.len() as u64;
        }
        None
    }

    fn rewrite(&mut self, events: Vec<(StoredEvent, Place)>, done: oneshot::Sender<Result<(), StorageError>>) {
        for (event, place) in events {
            let Some(at) = self.by_name.get(&event.topic).copied() else { continue };
            let Some(topic) = &self.topics[at] else { continue };
            if let Some(holders) = topic.holders(event.key, place) {
                self.effects.keys.push((at, event.key));
                self.mutations.push(Mutation::Rewrite { event, holders });
            }
        }
        self.effects.rewrites.push(done);
    }

    // ---- Subscriptions ----

    fn subscribe(
        &mut self,
        client: ClientId,
        slot: Slot,
        name: TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) {
        let outcome = match self.try_subscribe(client, &name, subscription, prefetch) {
            Ok(attached) => {
                self.effects.outbox.outcome(client, slot, Outcome::Subscribed);
                if let Some((at, sub)) = attached {
                    self.pump(at, sub);
                }
                return;
            }
            Err(refusal) => Outcome::Refused(refusal),
        };
        self.effects.outbox.outcome(client, slot, outcome);
    }

    fn try_subscribe(
        &mut self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) -> Result<Option<(TopicAt, SubscriptionId)>, Refusal> {
        let at = self.topic(name)?;
        let Some(topic) = self.topics[at].as_mut() else { return Err(Refusal::UnknownTopic(name.clone())) };
        let Some(state) = self.clients.get_mut(&client) else { return Ok(None) };
        if let Some(attachment) = state.attachments.get(&at) {
            let attached_to = topic.subscription_name(attachment.sub);
            if attached_to == subscription.as_ref() {
                return Ok(None);
            }
            return Err(Refusal::AlreadySubscribed { topic: name.clone(), name: attached_to.cloned() });
        }
        let sub = match subscription.as_ref().and_then(|subscription| topic.find(subscription)) {
            Some(sub) => sub,
            None => {
                let too_many = |most| Refusal::TooMany(format!("there are {most} subscriptions already"));
                self.shared.subscriptions.take().map_err(too_many)?;
                let (sub, mutation) = topic.subscribe(subscription);
                self.mutations.extend(mutation);
                sub
            }
        };
        let consumer = topic.attach(sub, client, prefetch);
        state.attachments.insert(at, Attachment { sub, consumer, published: Seq(0) });
        Ok(Some((at, sub)))
    }

    fn unsubscribe(&mut self, client: ClientId, name: &TopicName, subscription: Option<&SubscriptionName>) -> Outcome {
        let Some(at) = self.by_name.get(name).copied() else { return Outcome::Unsubscribed };
        let sub = match subscription {
            Some(subscription) => self.topics[at].as_ref().and_then(|topic| topic.find(subscription)),
            None => self.attachment(client, name).map(|(_, attachment)| attachment.sub),
        };
        if let Some(sub) = sub {
            self.remove_subscription(at, sub, Some(client));
        }
        Outcome::Unsubscribed
    }

    /// Removes a subscription; whoever is attached to it and did not ask for that is told.
    fn remove_subscription(&mut self, at: TopicAt, sub: SubscriptionId, by: Option<ClientId>) {
        // Changes name the subscription by its place, which may be used again.
        if let Some(topic) = &mut self.topics[at] {
            topic.drain_changes(&mut self.mutations);
        }
        let Some((clients, mutation)) = self.with(at, |topic, now| topic.remove(sub, now)) else { return };
        self.shared.subscriptions.give_back();
        self.unschedule(at, sub);
        for client in clients {
            let Some(state) = self.clients.get_mut(&client) else { continue };
            state.attachments.remove(&at);
            if let Some(Mutation::Unsubscribe { topic, subscription }) =
                mutation.as_ref().filter(|_| by != Some(client))
            {
                self.effects.outbox.removed(client, topic.clone(), subscription.clone());
            }
        }
        self.mutations.extend(mutation);
        if !self.leaving.contains(&at) {
            self.leaving.push(at);
        }
    }

    fn detach(&mut self, client: ClientId, name: &TopicName) -> Outcome {
        if let Some((at, attachment)) = self.attachment(client, name) {
            self.let_go(client, at, attachment);
        }
        Outcome::Detached
    }

    /// Ends one attachment: the events in flight come back, and a nameless subscription ends.
    fn let_go(&mut self, client: ClientId, at: TopicAt, attachment: Attachment) {
        let Attachment { sub, consumer, .. } = attachment;
        let durable = self.topics[at].as_ref().is_some_and(|topic| topic.is_durable(sub));
        if durable {
            if let Some(state) = self.clients.get_mut(&client) {
                state.attachments.remove(&at);
            }
            self.with(at, |topic, now| topic.detach(sub, consumer, now));
            self.pump(at, sub);
        } else {
            self.remove_subscription(at, sub, Some(client));
        }
    }

    fn give_back(&mut self, client: ClientId) {
        for (at, attachment) in self.attachments(client) {
            self.let_go(client, at, attachment);
        }
    }

    fn disconnect(&mut self, client: ClientId) {
        self.give_back(client);
        self.clients.remove(&client);
    }

    // ---- Settling ----

    fn acknowledge(&mut self, client: ClientId, slot: Slot, name: TopicName, ids: &[IdKey]) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let answers: Vec<_> = ids.iter().map(|id| topic.acknowledge(sub, consumer, *id)).collect();
            let made_room = answers.contains(&Acknowledged::InFlight);
            let found = answers.into_iter().map(|answer| answer != Acknowledged::NotFound).collect();
            Outcome::Acknowledged { found, idle: made_room && is_idle(topic, sub, consumer, now) }
        });
        if let Some(outcome) = answer {
            self.effects.outbox.outcome(client, slot, outcome);
            self.pump(at, sub);
        }
    }

    fn acknowledge_all(&mut self, client: ClientId, slot: Slot, name: TopicName) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let count = topic.acknowledge_all(sub, consumer);
            Outcome::AcknowledgedAll { count, idle: count > 0 && is_idle(topic, sub, consumer, now) }
        });
        if let Some(outcome) = answer {
            self.effects.outbox.outcome(client, slot, outcome);
            self.pump(at, sub);
        }
    }

    fn requeue(&mut self, client: ClientId, slot: Slot, name: TopicName, id: IdKey, delay_ms: u64) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let found = self.with(at, |topic, now| topic.requeue(sub, consumer, id, delay_ms, now)).unwrap_or(false);
        self.effects.outbox.outcome(client, slot, Outcome::Settled { found });
        self.pump(at, sub);
    }

    // ---- Delivering ----

    /// Makes a topic's events up to `seq` visible, one after the other as they were published: a consumer that waits gets the
    /// first of them, as if committing took no time, and not whichever of the batch is the most urgent.
    fn show(&mut self, at: TopicAt, seq: Seq) {
        let Some(topic) = self.topics[at].as_mut() else { return };
        let all = topic.hungry();
        let mut hungry = all.clone();
        while !hungry.is_empty()
            && let Some(next) =
                self.topics[at].as_ref().and_then(|topic| topic.next_invisible()).filter(|next| *next < seq)
        {
            if let Some(topic) = &mut self.topics[at] {
                topic.set_visible(next);
            }
            for sub in &hungry {
                self.deliver_next(at, *sub);
            }
            if let Some(topic) = &self.topics[at] {
                hungry.retain(|sub| topic.is_hungry(*sub));
            }
        }
        if let Some(topic) = &mut self.topics[at] {
            topic.set_visible(seq);
        }
        for sub in all {
            self.pump(at, sub);
        }
    }

    /// Delivers whatever a subscription has for consumers that can take it.
    fn pump(&mut self, at: TopicAt, sub: SubscriptionId) {
        while self.deliver_next(at, sub) {}
        self.touched.push(at);
        self.schedule(at, sub);
    }

    /// Delivers the next event of a subscription, if there is one and somebody to take it.
    fn deliver_next(&mut self, at: TopicAt, sub: SubscriptionId) -> bool {
        if self.closing || self.shared.failure().is_some() {
            return false;
        }
        let Some(topic) = self.topics[at].as_mut() else { return false };
        let clients = &self.clients;
        let has_room = |client| clients.get(&client).is_some_and(|client: &Client| client.gauge.has_room());
        // Looking for the next event settles those that have expired.
        let before = topic.cached();
        let next = topic.next(sub, self.now, has_room);
        self.cached = self.cached + topic.cached() - before;
        match next {
            Next::Delivery { client, payload, redelivered } => {
                let delivery = Delivery { payload, redelivered };
                if let Some(state) = self.clients.get(&client) {
                    state.gauge.add(delivery.cost());
                }
                self.effects.outbox.delivery(client, delivery);
                true
            }
            Next::Load(keys) => {
                self.load(at, sub, keys);
                false
            }
            Next::Nothing => false,
        }
    }

    /// Reads payloads back for a subscription.
    fn load(&mut self, at: TopicAt, sub: SubscriptionId, keys: Vec<(EventKey, Place)>) {
        let Some(topic) = &self.topics[at] else { return };
        let name = topic.name().clone();
        let storage = Arc::clone(&self.storage);
        self.loads.push(Box::pin(async move {
            let read =
                keys.iter().map(|(key, place)| ReadKey { topic: name.clone(), key: *key, place: *place }).collect();
            let payloads = storage.read(read).await;
            if payloads.is_err() {
                tokio::time::sleep(READ_RETRY).await;
            }
            let payloads = payloads.map(|payloads| {
                keys.into_iter().zip(payloads).map(|((key, place), payload)| (key, place, payload)).collect()
            });
            Loaded { topic: at, sub, payloads }
        }));
    }

    fn loaded(&mut self, loaded: Loaded) {
        let payloads = match loaded.payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                tracing::warn!(%error, "reading events back failed; trying again");
                Vec::new()
            }
        };
        let lost = self.with(loaded.topic, |topic, _| topic.loaded(Some(loaded.sub), payloads)).unwrap_or(0);
        if lost > 0 {
            let topic = self.topics[loaded.topic].as_ref().map(|topic| topic.name());
            tracing::error!(?topic, lost, "events whose records are damaged were dropped");
        }
        if self.topics[loaded.topic].as_ref().is_some_and(|topic| topic.has(loaded.sub)) {
            self.pump(loaded.topic, loaded.sub);
        }
    }

    // ---- Time ----

    fn schedule(&mut self, at: TopicAt, sub: SubscriptionId) {
        let next = self.topics[at].as_ref().and_then(|topic| topic.next_change(sub));
        if next.is_none() && self.timers.is_empty() {
            return;
        }
        let scheduled = self.timer_of.get(&(at, sub)).copied();
        if next == scheduled {
            return;
        }
        self.unschedule(at, sub);
        if let Some(next) = next {
            self.timers.insert((next, at, sub));
            self.timer_of.insert((at, sub), next);
        }
    }

    fn unschedule(&mut self, at: TopicAt, sub: SubscriptionId) {
        if let Some(time) = self.timer_of.remove(&(at, sub)) {
            self.timers.remove(&(time, at, sub));
        }
    }

    fn time_passed(&mut self) {
        while let Some((_, at, sub)) = self.timers.first().copied().filter(|(time, ..)| *time <= self.now) {
            self.unschedule(at, sub);
            self.with(at, |topic, now| {
                topic.take_back_overdue(sub, now);
                topic.promote(sub, now);
            });
            self.pump(at, sub);
        }
    }

    fn drain_leaving(&mut self) {
        let Some(at) = self.leaving.pop() else { return };
        if self.with(at, |topic, _| topic.drain_leaving(DRAIN)).unwrap_or(false) {
            self.leaving.push(at);
        }
    }
}

/// Whether nothing is in flight on the consumer and nothing is deliverable now.
fn is_idle(topic: &mut Topic, sub: SubscriptionId, consumer: ConsumerId, now: Millis) -> bool {
    topic.in_flight_of(sub, consumer) == 0 && !topic.is_deliverable(sub, now)
}

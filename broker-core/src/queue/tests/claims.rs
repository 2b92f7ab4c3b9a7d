//! The sentences of the protocol about replacing, acknowledging and coming back, each by itself; and what an event costs.

use super::super::{Acknowledged, ClientId, ConsumerId, Next, SubscriptionId, Topic};
use super::{STEPS, event_id, new_event, number};
use crate::engine::Refusal;
use crate::event::{EventKey, Millis, NewEvent, Priority, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::{DuplicateId, TopicPolicy};
use crate::storage::{Mutation, Place, Redelivery};

/// A topic whose events are durable as soon as they are published.
pub(super) struct Queue {
    pub(super) topic: Topic,
    pub(super) now: Millis,
    numbers: u64,
}

/// A client and the subscription that it is attached to.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) sub: SubscriptionId,
    pub(super) consumer: ConsumerId,
    client: ClientId,
}

impl Queue {
    pub(super) fn new(policy: TopicPolicy) -> Self {
        Self { topic: Topic::new(TopicName::new("t").unwrap(), policy), now: Millis(1_000), numbers: 0 }
    }

    pub(super) fn with(duplicate_id: DuplicateId) -> Self {
        Self::new(TopicPolicy { duplicate_id, ..TopicPolicy::default() })
    }

    pub(super) fn subscribe(&mut self, name: Option<&str>) -> SubscriptionId {
        let name = name.map(|name| SubscriptionName::new(name).unwrap());
        if let Some(sub) = name.as_ref().and_then(|name| self.topic.find(name)) {
            return sub;
        }
        self.topic.subscribe(name).0
    }

    pub(super) fn attach(&mut self, sub: SubscriptionId, client: u64, prefetch: u16) -> At {
        let client = ClientId(client);
        At { sub, consumer: self.topic.attach(sub, client, prefetch), client }
    }

    /// One client with a subscription of its own.
    pub(super) fn alone(&mut self, prefetch: u16) -> At {
        let sub = self.subscribe(None);
        self.attach(sub, 0, prefetch)
    }

    pub(super) fn event(&mut self, id: u8, priority: i32) -> NewEvent {
        self.numbers += 1;
        new_event(id, priority, self.numbers, 0)
    }

    pub(super) fn take(&mut self, event: &NewEvent) -> Result<(EventKey, bool), Refusal> {
        let publication = self.topic.publish(event, self.now)?;
        let key = publication.stored.map_or(EventKey { priority: Priority(0), seq: Seq(0) }, |stored| stored.key);
        self.topic.set_place(key, Place(key.seq.0));
        self.topic.set_visible(key.seq);
        Ok((key, publication.replaced))
    }

    /// Publishes an event. Returns its number, and whether it replaced another.
    pub(super) fn publish(&mut self, id: u8, priority: i32) -> (u64, bool) {
        let event = self.event(id, priority);
        let (_, replaced) = self.take(&event).unwrap();
        (self.numbers, replaced)
    }

    /// The next delivery: the client, the event's number, and the deliveries before this one.
    pub(super) fn next(&mut self, sub: SubscriptionId) -> Option<(u64, u64, u32)> {
        match self.topic.next(sub, self.now, |_| true) {
            Next::Delivery { client, payload, redelivered } => Some((client.0, number(&payload), redelivered)),
            Next::Nothing => None,
            Next::Load(keys) => panic!("{keys:?} are in memory"),
        }
    }

    pub(super) fn acknowledge(&mut self, at: At, id: u8) -> Acknowledged {
        self.topic.acknowledge(at.sub, at.consumer, event_id(id))
    }

    pub(super) fn nack(&mut self, at: At, id: u8, delay_ms: u64) -> bool {
        self.topic.nack(at.sub, at.consumer, event_id(id), delay_ms, self.now)
    }

    pub(super) fn is_deliverable(&mut self, at: At) -> bool {
        self.topic.is_deliverable(at.sub, self.now) == Some(true)
    }

    pub(super) fn changes(&mut self) -> Vec<Mutation> {
        let mut mutations = Vec::new();
        self.topic.drain_changes(&mut mutations);
        mutations
    }
}

// ---- Replacing ----

#[test]
fn a_replacing_event_takes_the_message_and_the_priority_and_goes_to_the_end_of_it() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = queue.alone(9);
    queue.publish(1, 5);
    let (second, _) = queue.publish(2, 5);
    let (third, replaced) = queue.publish(1, 5);
    assert!(replaced);
    let (fourth, replaced) = queue.publish(2, 4);
    assert!(replaced);
    assert_eq!(queue.next(at.sub), Some((0, third, 0)));
    assert_eq!(queue.next(at.sub), Some((0, fourth, 0)), "not {second}");
    assert_eq!(queue.next(at.sub), None);
}

#[test]
fn replaced_is_answered_if_it_replaced_in_any_subscription() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let (a, b) = (queue.alone(1), queue.alone(1));
    queue.publish(1, 0);
    assert_eq!(queue.next(a.sub), Some((0, 1, 0)));
    assert!(queue.publish(1, 0).1, "it waited for one of the two");
    assert_eq!(queue.next(b.sub), Some((0, 2, 0)));
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::InFlight);
    queue.topic.acknowledge_all(a.sub, a.consumer);
    assert_eq!(queue.next(a.sub), Some((0, 2, 0)));
    assert!(!queue.publish(1, 0).1, "it was in flight where it was not settled");
}

#[test]
fn the_successor_of_an_event_in_flight_is_deliverable_nowhere_in_a_shared_subscription() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let (a, b) = (queue.attach(sub, 1, 9), queue.attach(sub, 2, 9));
    queue.publish(1, 0);
    let (client, ..) = queue.next(sub).unwrap();
    let (has, other) = if client == 1 { (a, b) } else { (b, a) };
    let (successor, replaced) = queue.publish(1, 7);
    assert!(!replaced, "nothing waited");
    assert!(!queue.is_deliverable(other));
    assert_eq!(queue.next(sub), None);
    assert_eq!(queue.acknowledge(other, 1), Acknowledged::NotHeld, "it is in flight elsewhere");
    assert_eq!(queue.acknowledge(has, 1), Acknowledged::InFlight);
    assert_eq!(queue.next(sub).map(|(_, number, count)| (number, count)), Some((successor, 0)));
}

#[test]
fn an_event_that_comes_back_after_it_was_replaced_is_gone() {
    for how in ["nack", "time-out", "lost connection"] {
        let mut queue = Queue::new(TopicPolicy { ack_timeout_ms: 10, ..TopicPolicy::default() });
        let sub = queue.subscribe(Some("s"));
        let (a, b) = (queue.attach(sub, 1, 1), queue.attach(sub, 2, 1));
        queue.publish(1, 0);
        let (client, ..) = queue.next(sub).unwrap();
        let has = if client == 1 { a } else { b };
        let (successor, _) = queue.publish(1, 0);
        assert!(!queue.is_deliverable(a), "{how}: the older one is in flight");
        match how {
            "nack" => assert!(queue.nack(has, 1, 0)),
            "time-out" => {
                queue.now = queue.now.plus(10);
                queue.topic.take_back_overdue(sub, usize::MAX, queue.now);
            }
            _ => queue.topic.detach(sub, has.consumer, queue.now),
        }
        assert_eq!(queue.next(sub).map(|(_, number, count)| (number, count)), Some((successor, 0)), "{how}");
        assert_eq!(queue.next(sub), None, "{how}");
    }
}

#[test]
fn an_id_that_is_in_flight_counts_as_present_where_duplicates_are_rejected() {
    let mut queue = Queue::with(DuplicateId::Reject);
    let at = queue.alone(1);
    queue.publish(1, 0);
    for _ in ["waiting", "in flight"] {
        let again = queue.event(1, 3);
        let got = queue.take(&again);
        assert!(matches!(got, Err(Refusal::DuplicateId)), "{got:?}");
        queue.next(at.sub);
    }
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::InFlight);
    queue.publish(1, 0);
}

#[test]
fn of_kept_duplicates_the_one_delivered_first_is_acknowledged() {
    let mut queue = Queue::with(DuplicateId::Keep);
    let at = queue.alone(9);
    let (first, _) = queue.publish(1, 0);
    assert_eq!(queue.next(at.sub), Some((0, first, 0)));
    // More urgent, delivered in the same millisecond, but later.
    let (second, _) = queue.publish(1, 5);
    assert_eq!(queue.next(at.sub), Some((0, second, 0)));
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::InFlight);
    queue.topic.nack(at.sub, at.consumer, event_id(1), 0, queue.now);
    assert_eq!(queue.next(at.sub), Some((0, second, 1)), "the first one was acknowledged");
}

#[test]
fn of_kept_duplicates_that_came_back_the_one_delivered_first_is_acknowledged_late() {
    let mut queue =
        Queue::new(TopicPolicy { duplicate_id: DuplicateId::Keep, ack_timeout_ms: 10, ..Default::default() });
    let at = queue.alone(9);
    let (first, _) = queue.publish(1, 0);
    assert_eq!(queue.next(at.sub), Some((0, first, 0)));
    let (second, _) = queue.publish(1, 5);
    assert_eq!(queue.next(at.sub), Some((0, second, 0)));
    queue.now = queue.now.plus(10);
    queue.topic.take_back_overdue(at.sub, usize::MAX, queue.now);
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::Waiting);
    assert_eq!(queue.next(at.sub), Some((0, second, 1)), "the first one was acknowledged");
    assert_eq!(queue.next(at.sub), None);
}

// ---- Who acknowledges ----

#[test]
fn what_was_never_delivered_or_is_in_flight_elsewhere_cannot_be_acknowledged() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let a = queue.attach(sub, 1, 1);
    queue.publish(1, 0);
    queue.publish(2, 0);
    assert_eq!(queue.next(sub), Some((1, 1, 0)));
    let b = queue.attach(sub, 2, 1);
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::NotHeld);
    assert!(!queue.nack(b, 1, 0));
    assert!(!queue.topic.touch(sub, b.consumer, event_id(1), queue.now));
    assert_eq!(queue.topic.acknowledge_all(sub, b.consumer), 0);
    assert_eq!(queue.acknowledge(b, 2), Acknowledged::NotHeld, "it waits and was delivered to none");
    assert_eq!(queue.next(sub), Some((2, 2, 0)));
    assert!(!queue.nack(a, 2, 0));
    assert_eq!(queue.acknowledge(a, 1), Acknowledged::InFlight);
    assert_eq!(queue.acknowledge(a, 9), Acknowledged::NotHeld);
}

#[test]
fn what_came_back_can_be_acknowledged_by_any_consumer_and_after_a_reconnect() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let a = queue.attach(sub, 1, 2);
    queue.publish(1, 0);
    queue.publish(2, 0);
    assert_eq!((queue.next(sub), queue.next(sub)), (Some((1, 1, 0)), Some((1, 2, 0))));
    assert!(queue.nack(a, 1, 1000), "it is not yet due");
    queue.topic.detach(sub, a.consumer, queue.now);
    let b = queue.attach(sub, 2, 1);
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::Waiting);
    assert_eq!(queue.acknowledge(b, 2), Acknowledged::Waiting);
    assert_eq!(queue.next(sub), None);
}

#[test]
fn the_acknowledgement_of_a_replaced_version_leaves_the_new_one() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let a = queue.attach(sub, 1, 1);
    queue.publish(1, 0);
    assert_eq!(queue.next(sub), Some((1, 1, 0)));
    queue.topic.detach(sub, a.consumer, queue.now);
    let (new, replaced) = queue.publish(1, 0);
    assert!(replaced);
    let b = queue.attach(sub, 2, 1);
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::NotHeld);
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::NoLongerHeld);
    assert_eq!(queue.next(sub), Some((2, new, 0)));
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::InFlight);
    assert_eq!(queue.acknowledge(b, 1), Acknowledged::NotHeld, "it was delivered since");
}

/// Delivers an event, lets it time out, lets `end` decide what becomes of it, and acknowledges it.
fn acknowledged_after(policy: TopicPolicy, end: impl FnOnce(&mut Queue, At)) -> [Acknowledged; 3] {
    let mut queue = Queue::new(TopicPolicy { ack_timeout_ms: 10, ..policy });
    let sub = queue.subscribe(Some("s"));
    let slow = queue.attach(sub, 1, 1);
    queue.publish(1, 0);
    assert_eq!(queue.next(sub), Some((1, 1, 0)));
    queue.now = queue.now.plus(10);
    queue.topic.take_back_overdue(sub, usize::MAX, queue.now);
    end(&mut queue, slow);
    [1, 1, 1].map(|id| queue.acknowledge(slow, id))
}

#[test]
fn a_late_acknowledgement_is_answered_as_usual_only_if_another_acknowledged_the_event() {
    let gone = [Acknowledged::NotHeld, Acknowledged::NoLongerHeld, Acknowledged::NoLongerHeld];
    let other_gets_it = |queue: &mut Queue, at: At| {
        let other = queue.attach(at.sub, 2, 1);
        while queue.next(at.sub).is_some_and(|(client, ..)| client != 2) {
            assert!(queue.nack(at, 1, 0));
        }
        other
    };
    let late = acknowledged_after(TopicPolicy::default(), |queue, at| {
        let other = other_gets_it(queue, at);
        assert_eq!(queue.acknowledge(other, 1), Acknowledged::InFlight);
    });
    assert_eq!(late, [Acknowledged::Late, Acknowledged::NotHeld, Acknowledged::NoLongerHeld]);
    let elsewhere = acknowledged_after(TopicPolicy::default(), |queue, at| {
        other_gets_it(queue, at);
    });
    assert_eq!(elsewhere, gone);
    let terminated = acknowledged_after(TopicPolicy::default(), |queue, at| {
        let other = other_gets_it(queue, at);
        assert!(queue.topic.terminate(other.sub, other.consumer, event_id(1), None, 0, queue.now));
    });
    assert_eq!(terminated, gone);
    let dead = TopicPolicy { max_deliveries: 1, ..TopicPolicy::default() };
    assert_eq!(acknowledged_after(dead, |queue, _| assert_eq!(queue.topic.take_letters(queue.now).len(), 1)), gone);
    let purged = acknowledged_after(TopicPolicy::default(), |queue, at| assert_eq!(queue.topic.purge(at.sub, 1), 1));
    assert_eq!(purged, gone);
    let replaced = acknowledged_after(TopicPolicy::default(), |queue, _| assert!(queue.publish(1, 0).1));
    assert_eq!(replaced, gone);
    let short = TopicPolicy { ttl_ms: 50, ..TopicPolicy::default() };
    let expired = acknowledged_after(short, |queue, _| {
        queue.now = queue.now.plus(100);
        queue.topic.expire(queue.now, 10);
    });
    assert_eq!(expired, gone);
}

#[test]
fn an_event_that_is_not_visible_cannot_be_acknowledged() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = queue.alone(1);
    let other = queue.alone(1);
    let event = queue.event(1, 4);
    let key = queue.topic.publish(&event, queue.now).unwrap().stored.unwrap().key;
    assert!(!queue.is_deliverable(at), "it is not visible");
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::NotHeld);
    queue.topic.set_place(key, Place(1));
    queue.topic.set_visible(key.seq);
    assert_eq!(queue.next(at.sub), Some((0, 1, 0)));
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::InFlight);
    assert_eq!(queue.next(other.sub), Some((0, 1, 0)));
    // The lane goes with its last event, and comes again with the next.
    assert_eq!(queue.acknowledge(other, 1), Acknowledged::InFlight);
    let (next, _) = queue.publish(1, 4);
    assert_eq!(queue.next(at.sub), Some((0, next, 0)));
    assert_eq!(queue.next(other.sub), Some((0, next, 0)));
}

#[test]
fn an_event_that_has_gone_back_and_is_acknowledged_late_is_acknowledged_all_the_same() {
    let mut queue = Queue::new(TopicPolicy { ack_timeout_ms: 10, ..TopicPolicy::default() });
    let at = queue.alone(1);
    queue.publish(1, 0);
    queue.next(at.sub);
    queue.now = queue.now.plus(10);
    queue.topic.take_back_overdue(at.sub, usize::MAX, queue.now);
    assert_eq!(queue.topic.in_flight_of(at.sub, at.consumer), 0);
    assert_eq!(queue.acknowledge(at, 1), Acknowledged::Waiting);
    assert_eq!(queue.next(at.sub), None);
}

// ---- Coming back ----

#[test]
fn a_nacked_event_is_next_among_its_priority_and_says_how_often_it_was_delivered() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = queue.alone(2);
    (1..=3).for_each(|id| assert!(!queue.publish(id, 0).1));
    assert_eq!(queue.next(at.sub), Some((0, 1, 0)));
    assert_eq!(queue.next(at.sub), Some((0, 2, 0)));
    assert!(queue.nack(at, 1, 0));
    assert_eq!(queue.next(at.sub), Some((0, 1, 1)), "before the third, which is newer");
    queue.publish(4, 1);
    assert!(queue.nack(at, 1, 0));
    assert_eq!(queue.next(at.sub), Some((0, 4, 0)), "the more urgent is first all the same");
    assert_eq!(queue.acknowledge(at, 4), Acknowledged::InFlight);
    assert_eq!(queue.next(at.sub), Some((0, 1, 2)));
}

#[test]
fn a_delayed_event_takes_nobodys_prefetch_and_comes_after_its_delay_in_its_prioritys_order() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = queue.alone(1);
    queue.publish(1, 3);
    queue.publish(2, 3);
    queue.publish(3, 3);
    assert_eq!(queue.next(at.sub), Some((0, 1, 0)));
    assert!(queue.nack(at, 1, 50));
    assert_eq!(queue.next(at.sub), Some((0, 2, 0)));
    assert_eq!(queue.acknowledge(at, 2), Acknowledged::InFlight);
    let due = queue.topic.next_change(at.sub).expect("its delay ends");
    assert!(due >= queue.now.plus(50), "a delay is never short");
    queue.now = due;
    assert_eq!(queue.next(at.sub), Some((0, 1, 1)), "it keeps its place");
}

#[test]
fn a_touch_starts_the_time_out_again() {
    let mut queue = Queue::new(TopicPolicy { ack_timeout_ms: 10, ..TopicPolicy::default() });
    let at = queue.alone(1);
    queue.publish(1, 0);
    queue.next(at.sub);
    queue.now = queue.now.plus(9);
    assert!(queue.topic.touch(at.sub, at.consumer, event_id(1), queue.now));
    queue.now = queue.now.plus(9);
    queue.topic.take_back_overdue(at.sub, usize::MAX, queue.now);
    assert_eq!(queue.topic.in_flight_of(at.sub, at.consumer), 1);
    queue.now = queue.now.plus(1);
    queue.topic.take_back_overdue(at.sub, usize::MAX, queue.now);
    assert_eq!(queue.topic.in_flight_of(at.sub, at.consumer), 0);
}

#[test]
fn a_time_to_live_does_not_run_while_in_flight() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = queue.alone(1);
    let mut event = queue.event(1, 0);
    event.ttl_ms = 20;
    queue.take(&event).unwrap();
    queue.now = queue.now.plus(10);
    assert_eq!(queue.next(at.sub), Some((0, 1, 0)));
    queue.now = queue.now.plus(1_000);
    assert!(queue.nack(at, 1, 0));
    queue.now = queue.now.plus(9);
    assert!(queue.is_deliverable(at), "it has waited for 19 ms");
    queue.now = queue.now.plus(1);
    assert!(!queue.is_deliverable(at), "it has waited for 20 ms");
    assert_eq!(queue.topic.stats(queue.now).subscriptions[0].expired, 1);
}

// ---- What is deliverable: `no available message` ----

#[test]
fn neither_delayed_events_nor_those_in_flight_elsewhere_are_deliverable_now() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let a = queue.attach(sub, 1, 1);
    assert!(!queue.is_deliverable(a), "there is nothing");
    queue.publish(1, 0);
    assert!(queue.is_deliverable(a));
    assert_eq!(queue.next(sub), Some((1, 1, 0)));
    let b = queue.attach(sub, 2, 1);
    assert!(!queue.is_deliverable(b), "it is in flight elsewhere");
    assert!(queue.nack(a, 1, 50));
    assert!(!queue.is_deliverable(b), "it is delayed");
    queue.now = queue.topic.next_change(sub).expect("its delay ends");
    assert!(queue.is_deliverable(b));
}

// ---- Consumers ----

#[test]
fn consumers_take_turns_and_one_that_left_gets_none() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let all: Vec<At> = (1..=3).map(|client| queue.attach(sub, client, 9)).collect();
    (0..6).for_each(|id| assert!(!queue.publish(id, 0).1));
    let clients = |queue: &mut Queue, n| (0..n).map(|_| queue.next(sub).unwrap().0).collect::<Vec<_>>();
    assert_eq!(clients(&mut queue, 4), [1, 2, 3, 1]);
    queue.topic.detach(sub, all[1].consumer, queue.now);
    // The one in its place in the slab is another, and its turn is its own.
    let new = queue.attach(sub, 4, 9);
    assert_eq!(new.consumer, all[1].consumer);
    assert_eq!(clients(&mut queue, 3), [3, 1, 4]);
}

#[test]
fn a_client_without_room_loses_its_turn_until_it_can_take_more_again() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let (a, b) = (queue.attach(sub, 1, 9), queue.attach(sub, 2, 9));
    (0..4).for_each(|id| assert!(!queue.publish(id, 0).1));
    let to = |queue: &mut Queue, room: fn(ClientId) -> bool| match queue.topic.next(sub, queue.now, room) {
        Next::Delivery { client, .. } => Some(client),
        _ => None,
    };
    assert_eq!(to(&mut queue, |client| client == ClientId(2)), Some(b.client));
    assert_eq!(to(&mut queue, |_| true), Some(b.client), "the first one is out of the ring");
    queue.topic.resume(sub, a.consumer);
    assert_eq!(to(&mut queue, |_| false), None);
    assert!(!queue.topic.is_hungry(sub));
    queue.topic.resume(sub, a.consumer);
    assert_eq!(to(&mut queue, |_| true), Some(a.client));
}

// ---- What could not be read ----

#[test]
fn an_event_that_cannot_be_read_is_dropped_where_it_waits_and_stays_where_it_is_in_flight() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let (a, b) = (queue.alone(1), queue.alone(1));
    queue.publish(1, 0);
    assert_eq!(queue.next(a.sub), Some((0, 1, 0)));
    queue.topic.evict(usize::MAX);
    let Next::Load(keys) = queue.topic.next(b.sub, queue.now, |_| true) else { panic!("it is not in memory") };
    let read = keys.into_iter().map(|(key, place)| (key, place, None)).collect();
    assert_eq!(queue.topic.loaded(Some(b.sub), read), 1);
    assert_eq!(queue.next(b.sub), None);
    assert_eq!(queue.acknowledge(a, 1), Acknowledged::InFlight);
    assert!(matches!(queue.changes()[..], [Mutation::Release { .. }]));
}

#[test]
fn an_event_that_was_replaced_before_it_could_not_be_read_is_still_held_by_whom_it_is_in_flight_to() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let (a, b) = (queue.alone(1), queue.alone(1));
    queue.publish(1, 0);
    assert_eq!(queue.next(a.sub), Some((0, 1, 0)));
    queue.topic.evict(usize::MAX);
    let Next::Load(keys) = queue.topic.next(b.sub, queue.now, |_| true) else { panic!("it is not in memory") };
    let (successor, _) = queue.publish(1, 0);
    let read = keys.into_iter().map(|(key, place)| (key, place, None)).collect();
    assert_eq!(queue.topic.loaded(Some(b.sub), read), 0, "nobody waits for it");
    assert_eq!(queue.changes(), [], "it is still in flight");
    let stats = queue.topic.stats(queue.now);
    let counts: Vec<_> = stats.subscriptions.iter().map(|sub| (sub.waiting, sub.in_flight, sub.dropped)).collect();
    assert_eq!(counts, [(1, 1, 0), (1, 0, 0)]);
    assert_eq!(queue.next(b.sub), Some((0, successor, 0)));
}

// ---- Leaving ----

#[test]
fn who_leaves_does_not_settle_what_was_replaced_and_is_in_flight_to_another() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let (stays, leaves) = (queue.alone(1), queue.alone(1));
    queue.publish(1, 0);
    assert!(queue.next(stays.sub).is_some());
    assert!(queue.next(leaves.sub).is_some());
    // The event returns to the leaving subscription, which is not drained yet when the event is replaced.
    queue.topic.remove(leaves.sub, queue.now);
    let (successor, _) = queue.publish(1, 0);
    while queue.topic.settle_backlogs(1) {}
    assert_eq!(queue.changes(), [], "it is still in flight");
    assert!(queue.nack(stays, 1, 0));
    assert!(matches!(queue.changes()[..], [Mutation::Release { .. }]), "its successor has replaced it");
    assert_eq!(queue.next(stays.sub), Some((0, successor, 0)));
}

// ---- Memory ----

#[test]
fn a_chunk_whose_latest_event_was_freed_before_it_was_written_can_be_evicted() {
    let mut queue = Queue::with(DuplicateId::Replace);
    queue.alone(1);
    queue.publish(1, 0);
    let event = NewEvent { ttl_ms: 1, ..queue.event(2, 0) };
    queue.topic.publish(&event, queue.now).unwrap();
    queue.now = queue.now.plus(1);
    queue.topic.expire(queue.now, 10);
    assert_eq!(queue.topic.inside().0.live, 1);
    let cached = queue.topic.memory().payloads;
    assert!(cached > 0);
    assert_eq!(queue.topic.evict(1), cached);
}

#[test]
fn what_a_subscription_remembers_does_not_grow_with_what_waits_in_it_or_with_what_was() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let others: Vec<At> = (0..10).map(|_| queue.alone(1)).collect();
    let remembered = |queue: &Queue, at: &At| queue.topic.inside().1[at.sub].remembered();
    for n in 0..2_000 {
        queue.publish((n % 250) as u8, n % 4);
    }
    for at in &others {
        assert!(remembered(&queue, at) <= 4, "positions are all there is");
    }
    // All subscriptions settle everything, each before its position comes to it and in lanes that go with it.
    for n in 0..5_000 {
        let event = NewEvent { ttl_ms: 1, ..queue.event(1, n) };
        let key = queue.topic.publish(&event, queue.now).unwrap().stored.unwrap().key;
        queue.now = queue.now.plus(1);
        queue.topic.expire(queue.now, 100);
        assert!(queue.topic.inside().0.get(key).is_none());
        queue.topic.set_place(key, Place(1));
        queue.topic.set_visible(key.seq);
    }
    for at in &others {
        let live = queue.topic.inside().0.live;
        let remembered = remembered(&queue, at);
        assert!(remembered <= 2 * live + 1024 + 8, "{remembered} for {live} events");
    }
}

#[test]
fn next_looks_at_a_few_things_only_whatever_the_subscriptions_positions_and_the_priorities() {
    const SUBSCRIPTIONS: usize = 10_000;
    const EVENTS: usize = 40;
    let mut queue = Queue::with(DuplicateId::Replace);
    let all: Vec<At> = (0..SUBSCRIPTIONS).map(|_| queue.alone(1)).collect();
    // Every event has its own priority, the latest the highest.
    (0..EVENTS).for_each(|n| assert!(!queue.publish(n as u8, n as i32).1));
    let (cached, live) = (queue.topic.memory().payloads, queue.topic.inside().0.live);
    for (number, at) in all.iter().enumerate() {
        for _ in 0..number % EVENTS {
            assert!(queue.next(at.sub).is_some());
            queue.topic.acknowledge_all(at.sub, at.consumer);
        }
    }
    assert_eq!((queue.topic.memory().payloads, queue.topic.inside().0.live), (cached, live), "an event is there once");
    assert_eq!(queue.changes(), [], "nobody has settled an event that others hold");
    let (urgent, _) = queue.publish(200, i32::MAX);
    let most = all.iter().map(|at| {
        STEPS.set(0);
        assert_eq!(queue.next(at.sub).map(|(_, number, _)| number), Some(urgent));
        queue.topic.acknowledge_all(at.sub, at.consumer);
        assert!(queue.is_deliverable(*at));
        // All but those that had looked at nothing yet, and meet every priority once.
        if at.sub.0 % EVENTS == 0 { 0 } else { STEPS.get() }
    });
    let most = most.max().unwrap();
    assert!(most <= 8, "{most} steps");
}

#[test]
fn next_looks_at_a_few_things_only_however_many_events_came_back_or_were_settled_out_of_order() {
    const EVENTS: u64 = 10_000;
    let mut queue = Queue::with(DuplicateId::Keep);
    let at = queue.alone(u16::MAX);
    let other = queue.alone(1);
    (0..EVENTS).for_each(|n| assert!(!queue.publish((n % 250) as u8, (n % 3) as i32).1));
    while queue.next(at.sub).is_some() {}
    // Every other one comes back, the rest is settled; for the other subscription all of them wait.
    for n in 0..EVENTS {
        if n % 2 == 0 {
            assert!(queue.nack(at, (n % 250) as u8, 0));
        } else {
            assert_eq!(queue.acknowledge(at, (n % 250) as u8), Acknowledged::InFlight);
        }
    }
    let mut most = 0;
    for _ in 0..EVENTS / 2 {
        STEPS.set(0);
        assert!(queue.next(at.sub).is_some());
        assert!(queue.next(other.sub).is_some());
        queue.topic.acknowledge_all(other.sub, other.consumer);
        most = most.max(STEPS.get());
    }
    assert_eq!(queue.next(at.sub), None);
    assert!(most <= 12, "{most} steps");
}

// ---- Figures, and events that are published again and again ----

#[test]
fn an_event_that_is_dropped_before_it_is_due_is_counted_down_once() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    for (id, ttl_ms) in [(1, 0), (2, 5), (3, 0)] {
        let event = NewEvent { ttl_ms, delay_ms: 1000, ..queue.event(id, 0) };
        queue.take(&event).unwrap();
    }
    queue.now = queue.now.plus(5);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.stats(queue.now).subscriptions[0].delayed, 2);
    assert_eq!(queue.topic.stats(queue.now).subscriptions[0].waiting, 0);
    assert!(queue.topic.has(sub));
}

#[test]
fn publishing_many_ids_that_are_in_flight_takes_a_few_steps_for_each() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let at = queue.attach(sub, 1, u16::MAX);
    let many = |queue: &mut Queue| {
        for n in 0..20_000_u32 {
            let event = NewEvent { id: IdKey::of(&n.to_string()), ..queue.event(1, 0) };
            queue.take(&event).unwrap();
            STEPS.set(0);
            while queue.next(sub).is_some() {}
            assert!(STEPS.get() <= 64, "{} steps", STEPS.get());
        }
    };
    (0..4).for_each(|_| many(&mut queue));
    assert_eq!(queue.topic.acknowledge_all(sub, at.consumer), 20_000);
}

// ---- After a restart ----

fn changes_of(queue: &mut Queue, name: &str) -> (Vec<EventKey>, Vec<Redelivery>) {
    let (mut settled, mut back) = (Vec::new(), Vec::new());
    for mutation in queue.changes() {
        match mutation {
            Mutation::Settle { subscription, events, .. } if subscription.as_str() == name => settled.extend(events),
            Mutation::Redeliver { subscription, events, .. } if subscription.as_str() == name => back.extend(events),
            Mutation::Release { .. } => {}
            other => panic!("{other:?} belongs to no subscription"),
        }
    }
    (settled, back)
}

#[test]
fn only_durable_subscriptions_have_something_stored() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let own = queue.alone(1);
    let sub = queue.subscribe(Some("s"));
    let named = queue.attach(sub, 1, 1);
    queue.publish(1, 0);
    queue.publish(2, 0);
    assert!(queue.next(own.sub).is_some());
    assert_eq!(queue.acknowledge(own, 1), Acknowledged::InFlight);
    assert!(queue.next(sub).is_some());
    assert!(queue.nack(named, 1, 0));
    assert_eq!(queue.acknowledge(named, 1), Acknowledged::Waiting);
    let (settled, back) = changes_of(&mut queue, "s");
    assert_eq!(settled.iter().map(|key| key.seq.0).collect::<Vec<_>>(), [1]);
    assert_eq!(back.iter().map(|back| (back.key.seq.0, back.deliveries)).collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(queue.changes(), [], "it is handed over once");
}

#[test]
fn a_moved_event_keeps_the_deliveries_before_the_one_that_is_under_way() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let sub = queue.subscribe(Some("s"));
    let at = queue.attach(sub, 1, 1);
    let event = queue.event(1, 0);
    let (key, _) = queue.take(&event).unwrap();
    let deliveries = |queue: &Queue| queue.topic.holders(key, Place(1)).unwrap()[0].deliveries;
    assert_eq!(deliveries(&queue), 0);
    queue.next(sub);
    assert_eq!(deliveries(&queue), 0);
    assert!(queue.nack(at, 1, 0));
    assert_eq!(deliveries(&queue), 1);
    queue.next(sub);
    assert_eq!(deliveries(&queue), 1);
    assert_eq!(queue.topic.holders(key, Place(2)), None, "it is not there");
}

#[test]
fn a_moved_event_is_held_by_exactly_those_who_held_it_then_whatever_is_left_of_its_past() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let names = ["a", "b", "c"].map(|name| SubscriptionName::new(name).unwrap());
    let at: Vec<At> = ["a", "b", "c"]
        .map(|name| {
            let sub = queue.subscribe(Some(name));
            queue.attach(sub, 1, 1)
        })
        .to_vec();
    let event = queue.event(1, 0);
    let stored = queue.topic.publish(&event, queue.now).unwrap().stored.unwrap();
    queue.topic.set_place(stored.key, Place(1));
    queue.topic.set_visible(stored.key.seq);
    at.iter().for_each(|at| assert!(queue.next(at.sub).is_some()));
    assert_eq!(queue.acknowledge(at[0], 1), Acknowledged::InFlight);
    assert!(queue.nack(at[1], 1, 0));
    let holders = queue.topic.holders(stored.key, Place(1)).unwrap();
    // The records of what was settled and what came back are gone, and that of the older copy is not.
    let mut topic = Topic::new(TopicName::new("t").unwrap(), TopicPolicy::default());
    names.iter().for_each(|name| topic.restore_subscription(name.clone(), Seq(0)));
    topic.restore_event(&stored, event_id(1), Place(1), None, true);
    topic.restore_event(&stored, event_id(1), Place(2), Some(&holders), true);
    topic.finish_recovery();
    assert_eq!(topic.take_released().map(|released| released.place).collect::<Vec<_>>(), [Place(1)]);
    let next = names.map(|name| {
        let sub = topic.find(&name).unwrap();
        topic.attach(sub, ClientId(1), 1);
        match topic.next(sub, queue.now, |_| true) {
            Next::Delivery { redelivered, .. } => Some(redelivered),
            _ => None,
        }
    });
    assert_eq!(next, [None, Some(1), Some(0)]);
}

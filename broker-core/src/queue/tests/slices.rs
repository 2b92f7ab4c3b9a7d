//! Work in slices: a million delayed events, expiry, dead letters, drops and purges, each in pieces and in few steps.

use super::super::{Acknowledged, Fate};
use super::STEPS;
use super::claims::{At, Queue};
use super::event_id;
use crate::event::{EventKey, NewEvent, Payload, Priority};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName};
use crate::policy::{DuplicateId, Overflow, TopicPolicy};
use crate::storage::{Mutation, Place};

fn event(n: u64, priority: i32) -> NewEvent {
    let id = n.to_string();
    let payload = Payload::encode("t", Priority(priority), &id, &id);
    NewEvent { id: IdKey::of(&id), priority: Priority(priority), ttl_ms: 0, delay_ms: 0, payload }
}

fn named(queue: &mut Queue, name: &str, prefetch: u16) -> At {
    let sub = queue.subscribe(Some(name));
    queue.attach(sub, 0, prefetch)
}

#[test]
fn the_lanes_of_distinct_priorities_are_counted_as_memory_until_they_are_gone() {
    const EVENTS: usize = 10_000;
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = named(&mut queue, "s", 1);
    let mut index = Vec::new();
    for distinct in [true, false] {
        for n in 0..EVENTS as u64 {
            let priority = if distinct { n as i32 } else { 0 };
            let key = queue.topic.publish(&event(n, priority), queue.now).unwrap().stored.unwrap().key;
            queue.topic.set_place(key, Place(key.seq.0));
        }
        index.push(queue.topic.memory().index);
        queue.topic.purge(at.sub, 1);
        while queue.topic.settle_backlogs(1000) {}
    }
    // An event alone in its lane pays for the lane, and has room for itself only.
    let each = (index[0] - index[1]) / EVENTS;
    assert!((150..400).contains(&each), "a lane costs {each} bytes more: {index:?}");
    assert!(queue.topic.memory().index < EVENTS, "{:?}", queue.topic.memory());
}

#[test]
fn a_million_delayed_events_need_one_timer_and_are_set_aside_and_delivered_in_pieces() {
    const EVENTS: u64 = 1_000_000;
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = named(&mut queue, "s", 1);
    for n in 0..EVENTS {
        // All due within one second, in an order of their own.
        let delayed = NewEvent { delay_ms: 600_000 + n * 7919 % 1000, ..event(n, 0) };
        let key = queue.topic.publish(&delayed, queue.now).unwrap().stored.unwrap().key;
        queue.topic.set_place(key, Place(key.seq.0));
        queue.topic.set_visible(key.seq);
        if n % 8192 == 0 {
            queue.topic.evict(usize::MAX);
        }
    }
    queue.topic.evict(usize::MAX);
    let memory = queue.topic.memory();
    let each = (memory.payloads + memory.index) as u64 / EVENTS;
    assert!(each < 300, "{each} bytes for each event");
    let _subscribe_only = queue.changes();
    // A look finds that nothing is due; however many there are, it is done after a few thousand, and says that there is more.
    let mut rounds = 0;
    loop {
        STEPS.set(0);
        let deliverable = queue.topic.is_deliverable(at.sub, queue.now);
        assert!(STEPS.get() < 20_000, "{} steps at once", STEPS.get());
        rounds += 1;
        match queue.topic.next_change(at.sub) {
            Some(now) if now <= queue.now => {
                assert_eq!(deliverable, None, "it has not been looked at all of them");
                assert!(rounds < 1000);
            }
            next => {
                assert_eq!(deliverable, Some(false));
                break assert_eq!(next, Some(queue.now.after_delay(600_000)));
            }
        }
    }
    assert!(rounds > 100, "{rounds} rounds");
    queue.now = queue.now.after_delay(600_000);
    queue.topic.promote(at.sub, queue.now);
    let figures = |queue: &Queue| {
        let stats = queue.topic.stats(queue.now);
        (stats.subscriptions[0].delayed, stats.subscriptions[0].waiting)
    };
    assert_eq!(figures(&queue), (EVENTS - 1000, 1000));
    // All events fall due at once. They become deliverable in pieces, and the first can be delivered before the last piece.
    queue.now = queue.now.after_delay(1000);
    assert_eq!(queue.topic.is_deliverable(at.sub, queue.now), Some(true));
    let (delayed, waiting) = figures(&queue);
    assert!((1001..10_000).contains(&waiting), "{waiting} at once");
    let mut rounds = 0;
    while queue.topic.next_change(at.sub).is_some_and(|at| at <= queue.now) {
        queue.topic.promote(at.sub, queue.now);
        rounds += 1;
    }
    assert_eq!(figures(&queue), (0, EVENTS));
    assert!(rounds > delayed / 10_000, "{rounds} rounds");
}

#[test]
fn what_expires_in_subscriptions_that_nobody_consumes_goes_in_slices_at_its_time() {
    const EVENTS: u64 = 10_000;
    let policy = TopicPolicy { ttl_ms: 1000, ..TopicPolicy::default() };
    let mut queue = Queue::new(policy);
    let (one, two) = (queue.subscribe(Some("one")), queue.subscribe(Some("two")));
    for n in 0..EVENTS {
        let key = queue.topic.publish(&event(n, 0), queue.now).unwrap().stored.unwrap().key;
        queue.topic.set_visible(key.seq);
    }
    assert_eq!(queue.topic.next_own_change(), Some(queue.now.plus(1000)));
    queue.topic.expire(queue.now, usize::MAX);
    assert_eq!(queue.topic.inside().0.live as u64, EVENTS, "not before its time");
    queue.now = queue.now.plus(1000);
    let mut slices = 0;
    while queue.topic.next_own_change().is_some() {
        let before = queue.topic.inside().0.live;
        queue.topic.expire(queue.now, 300);
        assert!(before - queue.topic.inside().0.live <= 150, "a slice of 300 holds");
        slices += 1;
    }
    assert_eq!(slices, 100);
    for sub in [one, two] {
        assert!(queue.topic.inside().1[sub].remembered() <= 2);
    }
    let settled: usize = queue
        .changes()
        .iter()
        .map(|mutation| if let Mutation::Settle { events, .. } = mutation { events.len() } else { 0 })
        .sum();
    assert_eq!(settled as u64, 2 * EVENTS);
}

#[test]
fn an_event_in_flight_expires_when_it_has_waited_long_enough_in_all() {
    let mut queue = Queue::new(TopicPolicy { ttl_ms: 100, ..TopicPolicy::default() });
    let at = named(&mut queue, "s", 1);
    queue.publish(0, 0);
    assert!(queue.next(at.sub).is_some());
    queue.now = queue.now.plus(5000);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.next_own_change(), None, "what is in flight does not expire");
    assert!(queue.nack(at, 0, 600_000));
    assert_eq!(queue.topic.next_own_change(), Some(queue.now.plus(100)));
    queue.now = queue.now.plus(99);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.inside().0.live, 1);
    queue.now = queue.now.plus(1);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.inside().0.live, 0);
}

#[test]
fn letters_are_sent_in_order_a_few_hundred_at_a_time_and_one_load_after_the_other() {
    let policy = TopicPolicy { ttl_ms: 10, expired_to_dead_letter: true, ..TopicPolicy::default() };
    let mut queue = Queue::new(policy);
    let _sub = queue.subscribe(Some("s"));
    for n in 0..10_000 {
        let key = queue.topic.publish(&event(n, 0), queue.now).unwrap().stored.unwrap().key;
        queue.topic.set_visible(key.seq);
    }
    queue.now = queue.now.plus(10);
    queue.topic.expire(queue.now, usize::MAX);
    let stats = queue.topic.stats(queue.now);
    assert_eq!(stats.subscriptions[0].expired, 4096, "the rest waits until some of these have gone");
    assert_eq!(queue.topic.next_own_change(), None);
    let letters = queue.topic.take_letters(queue.now);
    let seqs: Vec<u64> = letters.iter().map(|letter| letter.key.seq.0).collect();
    assert_eq!(seqs, (1..=256).collect::<Vec<_>>());
    assert!(letters.iter().all(|letter| letter.reason == Reason::Expired && letter.payload.is_some()));
    assert!(queue.topic.take_letters(queue.now).is_empty(), "those before are under way");
    // The other topic has no room for the last of them: these are tried again later.
    let fates = letters.into_iter().enumerate().map(|(n, letter)| {
        let fate = if n < 200 { Fate::Gone } else { Fate::Kept };
        (letter, fate)
    });
    queue.topic.letters_done(fates.collect(), Some("it is full".to_owned()), queue.now);
    assert!(queue.topic.take_letters(queue.now).is_empty());
    queue.topic.expire(queue.now, usize::MAX);
    assert_eq!(queue.topic.stats(queue.now).subscriptions[0].expired, 4296);
    let again = queue.topic.next_own_change().unwrap();
    assert_eq!(again, queue.now.plus(1000));
    assert_eq!(queue.topic.take_letters(again)[0].key.seq.0, 201);
}

#[test]
fn a_letter_that_waits_can_be_acknowledged_and_replaced_and_one_that_is_under_way_cannot() {
    let mut queue = Queue::new(TopicPolicy { max_deliveries: 1, ..TopicPolicy::default() });
    let at = named(&mut queue, "s", 5);
    for id in 0..3 {
        queue.publish(id, 0);
        assert!(queue.next(at.sub).is_some());
        assert!(queue.nack(at, id, 0));
    }
    assert_eq!(queue.next(at.sub), None, "it came back often enough");
    assert_eq!(queue.acknowledge(at, 0), Acknowledged::Waiting);
    assert!(queue.publish(1, 0).1, "it waited");
    assert!(queue.next(at.sub).is_some());
    let letters = queue.topic.take_letters(queue.now);
    assert_eq!(letters.len(), 1);
    assert_eq!(queue.acknowledge(at, 2), Acknowledged::NotHeld);
    assert!(!queue.publish(2, 0).1, "it waits no more");
    let key = letters[0].key;
    assert!(queue.topic.is_moving(key));
    assert!(queue.next(at.sub).is_some(), "the successor comes");
    let fates = letters.into_iter().map(|letter| (letter, Fate::Kept)).collect();
    queue.topic.letters_done(fates, None, queue.now);
    assert!(queue.topic.take_letters(queue.now).is_empty(), "the successor has replaced it");
    assert!(queue.topic.inside().0.get(key).is_none());
}

#[test]
fn the_answer_about_a_letter_is_not_taken_for_one_of_the_next_subscription_in_its_place() {
    let mut queue = Queue::new(TopicPolicy { max_deliveries: 1, ..TopicPolicy::default() });
    let at = named(&mut queue, "s", 5);
    queue.publish(0, 0);
    assert!(queue.next(at.sub).is_some());
    assert!(queue.topic.terminate(at.sub, at.consumer, event_id(0), None, 0, queue.now));
    let letters = queue.topic.take_terminated();
    queue.topic.remove(at.sub, queue.now);
    while queue.topic.settle_backlogs(10) {}
    let next = named(&mut queue, "s", 1);
    assert_eq!(next.sub, at.sub, "the place is used again");
    queue.publish(1, 0);
    assert!(queue.next(next.sub).is_some());
    let fates = letters.into_iter().map(|letter| (letter, Fate::Kept)).collect();
    queue.topic.letters_done(fates, None, queue.now);
    assert_eq!(queue.acknowledge(next, 0), Acknowledged::NotHeld);
    assert_eq!(queue.acknowledge(next, 1), Acknowledged::InFlight);
    assert_eq!(queue.topic.inside().0.live, 0);
}

#[test]
fn finding_the_least_urgent_takes_a_few_steps_and_dropping_it_leaves_nothing_behind() {
    const MOST: u64 = 5000;
    let policy = TopicPolicy { max_waiting: MOST, overflow: Overflow::DropLowest, ..TopicPolicy::default() };
    let mut queue = Queue::new(policy);
    let full = queue.subscribe(Some("full"));
    // Somebody else who has hardly anything, so that what is dropped for one stays for the other.
    let quick = named(&mut queue, "quick", u16::MAX);
    let mut most = 0;
    for n in 0..40_000_u64 {
        STEPS.set(0);
        // Visible or not, as it happens.
        let publication = queue.topic.publish(&event(n, (n * 7919 % 100) as i32), queue.now).unwrap();
        most = most.max(STEPS.get());
        let Some(stored) = publication.stored else { continue };
        queue.topic.set_place(stored.key, Place(n));
        if n % 10 == 0 {
            queue.topic.set_visible(stored.key.seq);
            while queue.next(quick.sub).is_some() {}
            queue.topic.acknowledge_all(quick.sub, quick.consumer);
        }
    }
    assert!(most < 1500, "{most} steps for one event");
    let stats = queue.topic.stats(queue.now);
    let stats = stats.subscriptions.iter().find(|sub| sub.name.as_deref() == Some("full")).unwrap();
    assert_eq!(stats.waiting, MOST);
    let remembered = queue.topic.inside().1[full].remembered();
    assert!(remembered < 500, "{remembered} entries");
}

#[test]
fn a_purge_goes_in_slices_and_says_of_each_what_it_settled() {
    let mut queue = Queue::with(DuplicateId::Replace);
    let at = named(&mut queue, "s", 2);
    let other = named(&mut queue, "other", 1);
    for n in 0..1000 {
        let key = queue.topic.publish(&event(n, (n % 3) as i32), queue.now).unwrap().stored.unwrap().key;
        queue.topic.set_place(key, Place(key.seq.0));
        queue.topic.set_visible(key.seq);
    }
    assert!(queue.next(at.sub).is_some());
    assert!(queue.next(at.sub).is_some());
    assert_eq!(queue.topic.acknowledge(at.sub, at.consumer, IdKey::of("2")), Acknowledged::InFlight);
    queue.changes();
    assert_eq!(queue.topic.purge(at.sub, 9), 998);
    assert_eq!(queue.next(at.sub), None);
    let new = queue.topic.publish(&event(5000, 0), queue.now).unwrap().stored.unwrap().key;
    queue.topic.set_visible(new.seq);
    assert_eq!(queue.topic.stats(queue.now).subscriptions.iter().map(|sub| sub.waiting).max(), Some(1001));
    let mut settled: Vec<EventKey> = Vec::new();
    let mut slices = 0;
    loop {
        let more = queue.topic.settle_backlogs(100);
        slices += 1;
        for mutation in queue.changes() {
            let Mutation::Settle { subscription, events, .. } = mutation else { panic!("{mutation:?}") };
            assert_eq!(subscription, SubscriptionName::new("s").unwrap());
            assert!(events.len() <= 100);
            settled.extend(events);
        }
        if !more {
            break;
        }
        assert!(queue.topic.take_purged().is_empty(), "it has not come to its end");
    }
    assert_eq!(queue.topic.take_purged(), [9]);
    assert!(slices >= 10, "{slices} slices");
    settled.sort_unstable();
    settled.dedup();
    assert_eq!(settled.len(), 998);
    assert_eq!(queue.topic.inside().0.live, 1001, "the other one has them all");
    assert!(queue.next(at.sub).is_some(), "what came later is there");
    assert!(queue.next(other.sub).is_some());
}

#[test]
fn a_late_acknowledgement_is_answered_once_for_each_delivery_that_was_taken_back() {
    let mut queue = Queue::new(TopicPolicy { ack_timeout_ms: 10, ..TopicPolicy::default() });
    let at = named(&mut queue, "s", 1);
    let other = queue.attach(at.sub, 1, 1);
    queue.publish(0, 0);
    for _ in 0..3 {
        assert!(queue.next(at.sub).is_some());
        queue.now = queue.now.plus(10);
        queue.topic.take_back_overdue(at.sub, usize::MAX, queue.now);
    }
    // The consumers took turns: two of these were one's, one the other's.
    assert_eq!(queue.acknowledge(at, 0), Acknowledged::Waiting);
    assert_eq!(queue.acknowledge(at, 0), Acknowledged::Late);
    assert_eq!(queue.acknowledge(at, 0), Acknowledged::NotHeld);
    assert_eq!(queue.acknowledge(other, 0), Acknowledged::Late);
    assert_eq!(queue.acknowledge(other, 0), Acknowledged::NotHeld);
}

#[test]
fn a_letter_that_stays_where_it_is_expires_at_its_time_all_the_same() {
    let mut queue = Queue::new(TopicPolicy { ttl_ms: 100, ..TopicPolicy::default() });
    let _sub = queue.subscribe(Some("dead"));
    let stored = queue.topic.publish(&event(1, 0), queue.now).unwrap().stored.unwrap();
    queue.topic.set_visible(stored.key.seq);
    assert!(queue.topic.send_back(stored.key, IdKey::of("1")));
    queue.now = queue.now.plus(100);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.inside().0.live, 1, "it is on its way");
    queue.topic.sent_back(vec![(stored.key, false)], queue.now);
    queue.topic.expire(queue.now, 100);
    assert_eq!(queue.topic.inside().0.live, 0);
}

use std::collections::HashSet;
use std::sync::Arc;

use super::*;

/// An event on the stream `stream`: with an id of its own, or after an event with this id.
fn event(stream: u64, has_own_id: bool, id: &str, data: &str) -> SseEvent {
    let event_type = SseEvent::DEFAULT_TYPE.into();
    SseEvent { event_type, data: data.to_owned(), last_event_id: Arc::from(id), has_own_id, stream }
}

fn own(stream: u64, id: &str, data: &str) -> SseEvent {
    event(stream, true, id, data)
}

fn without(stream: u64, last_id: &str, data: &str) -> SseEvent {
    event(stream, false, last_id, data)
}

fn ids(of: &mut EventIds, events: &[SseEvent]) -> Vec<String> {
    events.iter().map(|event| of.next(event)).collect()
}

fn start() -> EventIds {
    EventIds::new("feed", &SseCursor::default())
}

/// The same source in a new process, which starts from the stored cursor.
fn restarted(ids: &EventIds, last_event_id: &str) -> EventIds {
    let stored = ids.cursor(last_event_id, last_event_id).encode();
    EventIds::new("feed", &SseCursor::parse(&stored).unwrap())
}

fn are_distinct(ids: &[String]) -> bool {
    ids.iter().collect::<HashSet<_>>().len() == ids.len()
}

#[test]
fn the_feeds_id_is_the_events_id_or_its_digest() {
    let mut of = start();
    assert_eq!(of.next(&own(0, "7", "a")), "7");
    for id in ["x".repeat(300), "two words".to_owned()] {
        let derived = of.next(&own(0, &id, "a"));
        assert_eq!(derived.len(), 32);
        assert_eq!(start().next(&own(0, &id, "a")), derived);
    }
}

#[test]
fn new_events_without_ids_after_a_restart_have_new_ids() {
    let mut of = start();
    let mut all = ids(&mut of, &[own(0, "hello", "0"), without(0, "hello", "1"), without(0, "hello", "2")]);
    let mut of = restarted(&of, "hello");
    all.extend(ids(&mut of, &[without(0, "hello", "3"), without(0, "hello", "4")]));
    assert!(are_distinct(&all), "{all:?}");
}

#[test]
fn a_replay_has_the_same_ids_after_a_reconnect_and_after_a_restart() {
    let replay = |stream| [own(stream, "hello", "0"), without(stream, "hello", "x"), without(stream, "hello", "x")];
    let mut of = start();
    let first = ids(&mut of, &replay(0));
    assert!(are_distinct(&first), "two equal events of one connection are two events: {first:?}");
    assert_eq!(ids(&mut of, &replay(1)), first);
    assert_eq!(ids(&mut of, &replay(2)[1..]), first[1..], "the server may begin behind the id");
    assert_eq!(ids(&mut restarted(&of, "hello"), &replay(0)), first);
}

#[test]
fn in_a_feed_without_ids_every_event_has_a_new_id() {
    let mut of = start();
    let mut all = Vec::new();
    for _process in 0..3 {
        for stream in 0..3 {
            all.extend(ids(&mut of, &[without(stream, "", "tick"), without(stream, "", "tick")]));
        }
        of = restarted(&of, "");
    }
    assert!(are_distinct(&all), "{all:?}");
}

#[test]
fn an_id_with_other_data_is_another_event() {
    let numbered = |stream, word: &str| {
        let event = |n: u32| own(stream, &n.to_string(), &format!("{word} {n}"));
        (1..=5000).map(event).collect::<Vec<_>>()
    };
    for restart in [false, true] {
        let mut of = start();
        let mut all = ids(&mut of, &numbered(0, "a"));
        assert_eq!(all[4], "5");
        if restart {
            of = restarted(&of, "5000");
        }
        let second = ids(&mut of, &numbered(1, "b"));
        all.extend_from_slice(&second);
        assert!(are_distinct(&all), "restart: {restart}");
        assert_eq!(ids(&mut of, &numbered(2, "b")), second, "a replay is recognised here too");
        all.extend(ids(&mut restarted(&of, "5000"), &numbered(0, "c")));
        assert!(are_distinct(&all), "restart: {restart}");
    }
}

#[test]
fn the_first_ids_are_known_after_a_restart_that_brought_no_id() {
    let mut of = start();
    for n in 1..=100 {
        of.next(&own(0, &n.to_string(), "a"));
    }
    let mut again = restarted(&of, "100");
    again.next(&without(0, "100", "b"));
    assert_ne!(restarted(&again, "100").next(&own(0, "1", "c")), "1");
}

#[test]
fn a_repeated_id_on_one_connection_loses_nothing() {
    let mut of = start();
    let stream =
        |stream| [("7", "a"), ("8", "b"), ("7", "c"), ("7", "c"), ("9", "d")].map(|(id, data)| own(stream, id, data));
    let got = ids(&mut of, &stream(0));
    assert!(are_distinct(&got), "{got:?}");
    assert_eq!((got[0].as_str(), got[1].as_str(), got[4].as_str()), ("7", "8", "9"));
    assert_eq!(ids(&mut of, &stream(1)), got);
}

#[test]
fn the_memory_of_ids_is_bounded() {
    let mut of = start();
    for n in 0..3 * REMEMBERED {
        of.next(&own(0, &n.to_string(), "x"));
    }
    assert_eq!((of.owners.entries.len(), of.owners.order.len()), (REMEMBERED, REMEMBERED));
    assert_eq!(of.times.entries.len(), REMEMBERED);
    assert_eq!(of.cursor("", "").known.len(), STORED_FIRST + STORED_LAST);
}

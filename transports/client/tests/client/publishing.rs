//! Confirmations, batching, and what a lost connection does to them.

use std::time::Duration;

use serde_json::json;
use transport_client::{Client, ClientConfig, ConnectionState, Error, Event, Level, Outcome};

use crate::peer::{Peer, Wire, soon, topic};

fn event(msg: u32) -> Event {
    Event::json(&msg).unwrap()
}

fn event_with_id(id: &str) -> Event {
    event(0).with_id(id.parse().unwrap())
}

async fn connected(peer: &Peer, config: ClientConfig) -> (Client, Wire) {
    let (client, (wire, _)) = soon(async { tokio::join!(Client::connect(config), peer.greet()) }).await;
    (client.unwrap(), wire)
}

#[tokio::test]
async fn each_answer_reaches_its_publish() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let publish = client.publish_many(topic(), ["1", "2", "3", "4"].map(event_with_id));
    let script = async {
        for id in ["1", "2", "3", "4"] {
            assert_eq!(wire.published().await.1["id"], id);
        }
        wire.send("published t 1 synced\r\nerror: topic t is full: 9\r\nreplaced t 3 written\r\ndropped t 4\r\n").await;
    };
    let (answers, ()) = soon(async { tokio::join!(publish, script) }).await;
    let first = answers[0].as_ref().unwrap();
    assert_eq!((first.id.as_str(), first.outcome, first.level), ("1", Outcome::Published, Some(Level::Synced)));
    assert!(matches!(&answers[1], Err(Error::Refused { reason }) if reason == "topic t is full: 9"), "{answers:?}");
    let third = answers[2].as_ref().unwrap();
    assert_eq!((third.outcome, third.level), (Outcome::Replaced, Some(Level::Written)));
    let fourth = answers[3].as_ref().unwrap();
    assert_eq!((fourth.outcome, fourth.level), (Outcome::Dropped, None));
}

#[tokio::test]
async fn what_is_queued_goes_out_in_one_write() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let mut pending = Vec::new();
    // One thread, and none of these waits: the client's task sees them all at once.
    for n in 0..30 {
        pending.push(client.send(topic(), event(n)).await.unwrap());
    }
    assert_eq!(wire.chunk().await.matches("publish t ").count(), 30);
    for n in 0..30 {
        assert_eq!(wire.confirm_one().await["msg"], n);
    }
    for pending in pending {
        soon(pending).await.unwrap();
    }
}

#[tokio::test]
async fn unconfirmed_publishes_are_sent_again_in_order_before_new_ones() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let mut pending = Vec::new();
    for n in 0..4 {
        pending.push(client.send(topic(), event(n)).await.unwrap());
    }
    wire.confirm_one().await;
    let lost: Vec<_> = [wire.published().await.1, wire.published().await.1].into();
    soon(pending.remove(0)).await.unwrap();
    drop(wire);
    let mut state = client.state();
    soon(state.wait_for(|state| !state.is_connected())).await.unwrap();
    pending.push(client.send(topic(), event(4)).await.unwrap());

    let (mut wire, _) = peer.greet().await;
    let again = [wire.confirm_one().await, wire.confirm_one().await];
    // The same ids, which makes the repetition harmless.
    assert_eq!(again, *lost);
    assert_eq!(wire.confirm_one().await["msg"], 3);
    assert_eq!(wire.confirm_one().await["msg"], 4);
    for pending in pending {
        soon(pending).await.unwrap();
    }
    let state = state.borrow().clone();
    assert!(matches!(state, ConnectionState::Connected { connection: 2 }), "{state:?}");
}

#[tokio::test]
async fn a_publish_that_was_there_already_is_confirmed_after_a_reconnect_only() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let pending = client.send(topic(), event_with_id("7")).await.unwrap();
    wire.published().await;
    wire.send("error: duplicate id 7\r\n").await;
    assert!(matches!(soon(pending).await, Err(Error::Refused { .. })));

    let pending = client.send(topic(), event_with_id("8")).await.unwrap();
    wire.published().await;
    drop(wire);
    let (mut wire, _) = peer.greet().await;
    wire.published().await;
    wire.send("error: duplicate id 8\r\n").await;
    let confirmation = soon(pending).await.unwrap();
    assert_eq!((confirmation.outcome, confirmation.level), (Outcome::AlreadyThere, None));
}

#[tokio::test]
async fn a_confirmation_of_something_else_costs_the_connection_and_confirms_nothing() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let pending = client.send(topic(), event_with_id("1")).await.unwrap();
    wire.published().await;
    wire.send("published t 2 synced\r\n").await;
    wire.closed().await;
    let (mut wire, _) = peer.greet().await;
    wire.confirm_one().await;
    assert_eq!(soon(pending).await.unwrap().id.as_str(), "1");
}

#[tokio::test]
async fn half_an_answer_and_an_endless_one_cost_the_connection() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config().max_line_bytes(8192)).await;
    let pending = client.send(topic(), event_with_id("1")).await.unwrap();
    wire.published().await;
    wire.send("published t 1 sync").await;
    drop(wire);
    let (mut wire, _) = peer.greet().await;
    wire.published().await;
    wire.send(&"published t 1 ".repeat(10_000)).await;
    wire.closed().await;
    let (mut wire, _) = peer.greet().await;
    wire.confirm_one().await;
    soon(pending).await.unwrap();
}

#[tokio::test]
async fn no_more_than_the_limit_is_unconfirmed() {
    let peer = Peer::bind().await;
    for config in [peer.config().max_unconfirmed(2), peer.config().max_unconfirmed_bytes(700)] {
        let (client, mut wire) = connected(&peer, config).await;
        let first = client.send(topic(), event(0)).await.unwrap();
        let _second = client.send(topic(), event(1)).await.unwrap();
        let mut third = Box::pin(client.send(topic(), event(2)));
        // Polled once: there is no room.
        assert!(futures_util::poll!(&mut third).is_pending());
        wire.confirm_one().await;
        soon(first).await.unwrap();
        soon(third).await.unwrap();
        assert_eq!(wire.published_msg().await, json!(1));
        assert_eq!(wire.published_msg().await, json!(2));
    }
}

#[tokio::test]
async fn a_single_event_larger_than_the_limit_of_bytes_goes_alone() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config().max_unconfirmed_bytes(1)).await;
    let (answer, _) = soon(async { tokio::join!(client.publish(topic(), event(5)), wire.confirm_one()) }).await;
    answer.unwrap();
}

#[tokio::test]
async fn a_line_too_long_for_the_broker_is_not_sent() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let error = client.publish(topic(), Event::json(&"x".repeat(4096)).unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4096, .. }), "{error:?}");
    let (answer, _) = soon(async { tokio::join!(client.publish(topic(), event(5)), wire.confirm_one()) }).await;
    answer.unwrap();
}

#[tokio::test]
async fn a_token_refused_after_a_reconnect_ends_publishing_and_everybody_hears_why() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let pending = client.send(topic(), event(0)).await.unwrap();
    wire.published().await;
    drop(wire);
    let mut wire = peer.accept().await;
    wire.send(crate::peer::GREETING).await;
    wire.line().await;
    wire.send("error: authentication failed\r\n").await;
    assert!(matches!(soon(pending).await, Err(Error::Auth { .. })));
    let later = soon(client.publish(topic(), event(1))).await;
    assert!(matches!(later, Err(Error::Auth { .. })), "{later:?}");
    assert!(matches!(soon(client.flush()).await, Err(Error::Auth { .. })));
    assert!(matches!(soon(client.close()).await, Err(Error::Auth { .. })));
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_full_server_and_a_strange_greeting_are_waited_out_once_there_was_a_broker() {
    let peer = Peer::bind().await;
    let (client, wire) = connected(&peer, peer.config()).await;
    drop(wire);
    for says in [
        "HTTP/1.1 502 Bad Gateway\r\n".to_owned(),
        format!("{}error: server is full: 1 connections\r\n", crate::peer::GREETING),
    ] {
        let mut wire = peer.accept().await;
        wire.send(&says).await;
    }
    let (mut wire, _) = peer.greet().await;
    let (answer, _) = soon(async { tokio::join!(client.publish(topic(), event(5)), wire.confirm_one()) }).await;
    answer.unwrap();
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_left_and_the_event_sent_again() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config().response_timeout(Duration::from_millis(100))).await;
    let pending = client.send(topic(), event(0)).await.unwrap();
    wire.published().await;
    wire.closed().await;
    let (mut wire, _) = peer.greet().await;
    wire.confirm_one().await;
    soon(pending).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_and_left_when_it_is_dead() {
    let peer = Peer::bind().await;
    let config = peer.config().keepalive(Some(Duration::from_millis(50))).response_timeout(Duration::from_millis(100));
    let (_client, mut wire) = connected(&peer, config).await;
    for _ in 0..2 {
        assert_eq!(wire.line().await, "ping");
        wire.send("pong\r\n").await;
    }
    assert_eq!(wire.line().await, "ping");
    wire.closed().await;
    peer.greet().await;
}

#[tokio::test]
async fn flush_waits_for_everything_before_it() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    // Nobody waits for these.
    drop(client.send(topic(), event(0)).await.unwrap());
    drop(client.send(topic(), event(1)).await.unwrap());
    let mut flush = Box::pin(client.flush());
    assert!(futures_util::poll!(&mut flush).is_pending());
    wire.confirm_one().await;
    wire.confirm_one().await;
    soon(flush).await.unwrap();
}

#[tokio::test]
async fn close_waits_for_what_is_due_and_says_quit() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let pending = client.send(topic(), event(0)).await.unwrap();
    let script = async {
        wire.confirm_one().await;
        assert_eq!(wire.line().await, "quit");
        wire.send("bye\r\n").await;
        wire.closed().await;
    };
    let (closed, ()) = soon(async { tokio::join!(client.close(), script) }).await;
    closed.unwrap();
    soon(pending).await.unwrap();
    assert!(matches!(client.publish(topic(), event(1)).await, Err(Error::Closed)));
    soon(client.close()).await.unwrap();
}

#[tokio::test]
async fn close_gives_up_after_its_timeout_and_what_is_due_fails() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config().close_timeout(Duration::from_millis(50))).await;
    let pending = client.send(topic(), event(0)).await.unwrap();
    let closed = soon(client.close()).await;
    assert!(matches!(closed, Err(Error::Timeout { .. })), "{closed:?}");
    assert!(matches!(soon(pending).await, Err(Error::Closed)));
    wire.closed().await;
}

#[tokio::test]
async fn the_last_handle_closes_the_socket() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config()).await;
    let publisher = client.publisher(topic().clone());
    drop(client);
    let (answer, _) = soon(async { tokio::join!(publisher.publish(event(5)), wire.confirm_one()) }).await;
    answer.unwrap();
    let pending = publisher.send(event(6)).await.unwrap();
    drop(publisher);
    wire.closed().await;
    assert!(matches!(soon(pending).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_lazy_client_connects_when_it_publishes() {
    let peer = Peer::bind().await;
    let client = Client::lazy(peer.config()).unwrap();
    assert!(peer.is_left_alone().await);
    assert!(matches!(*client.state().borrow(), ConnectionState::Idle));
    let script = async {
        let (mut wire, _) = peer.greet().await;
        wire.confirm_one().await;
        wire
    };
    let (answer, _wire) = soon(async { tokio::join!(client.publish(topic(), event(5)), script) }).await;
    answer.unwrap();
    let idle = Client::lazy(peer.config()).unwrap();
    soon(idle.close()).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_will_not_read_before_it_is_read_from_does_not_stop_both() {
    let peer = Peer::bind().await;
    let (client, mut wire) = connected(&peer, peer.config().max_unconfirmed(20_000)).await;
    let count = 20_000;
    let script = async {
        // One line at a time, each answered before the next is read: with both socket buffers full of what the other
        // has not read, only a client that reads while it writes gets on.
        for _ in 0..count {
            wire.confirm_one().await;
        }
    };
    let text = "x".repeat(1000);
    let events = (0..count).map(|_| Event::json(&text).unwrap());
    let (answers, ()) = tokio::join!(client.publish_many(topic(), events), script);
    assert_eq!(answers.len(), count);
    assert!(answers.iter().all(Result::is_ok));
}

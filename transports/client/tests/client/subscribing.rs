//! Deliveries, acknowledgements, back-pressure, and what a lost connection does to them.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt as _;
use transport_client::{Client, ClientConfig, ConnectionState, Error, Settled, SubscribeOptions, Subscription};

use crate::peer::{Peer, Wire, delivery, next, soon, topic};

async fn subscribed_with(peer: &Peer, config: ClientConfig, options: SubscribeOptions) -> (Subscription, Wire, String) {
    let client = Client::lazy(config).unwrap();
    let (subscription, (wire, line)) =
        soon(async { tokio::join!(client.subscribe(topic().clone(), options), peer.subscribed()) }).await;
    (subscription.unwrap(), wire, line)
}

async fn subscribed(peer: &Peer, options: SubscribeOptions) -> (Subscription, Wire) {
    let (subscription, wire, _) = subscribed_with(peer, peer.config(), options).await;
    (subscription, wire)
}

fn durable() -> SubscribeOptions {
    SubscribeOptions::durable("s".parse().unwrap()).prefetch(10)
}

fn nameless() -> SubscribeOptions {
    SubscribeOptions::default().prefetch(10)
}

#[tokio::test]
async fn prefetch_and_name_are_asked_for_and_deliveries_are_kept_as_received() {
    let peer = Peer::bind().await;
    let client = Client::lazy(peer.config()).unwrap();
    let script = async {
        let (mut wire, hello) = peer.greet().await;
        assert_eq!(hello, serde_json::json!({"prefetch": 10, "replies": "quiet"}));
        assert_eq!(wire.line().await, "subscribe t s");
        // The answer and the first deliveries in one segment.
        wire.send(&format!("successfully subscribed to topic t\r\n{}{}", delivery("1"), delivery("2"))).await;
        wire
    };
    let (subscription, _wire) =
        soon(async { tokio::join!(client.subscribe(topic().clone(), durable()), script) }).await;
    let mut subscription = subscription.unwrap();
    let first = soon(StreamExt::next(&mut subscription)).await.unwrap();
    assert_eq!(first.line(), delivery("1").trim_end());
    assert_eq!((first.msg(), first.connection()), ("\"m1\"", 1));
    assert_eq!(next(&mut subscription).await.id().as_str(), "2");
    assert_eq!(subscription.resubscribed(), 0);
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_and_not_retried() {
    let peer = Peer::bind().await;
    let client = Client::lazy(peer.config().retry_first_connect(true)).unwrap();
    for (says, expected) in [
        ("error: not allowed to subscribe to topic t\r\n", "Refused"),
        ("error: authentication required\r\n", "Auth"),
        ("successfully subscribed to topic u\r\n", "Protocol"),
    ] {
        let script = async {
            let (mut wire, _) = peer.greet().await;
            wire.line().await;
            wire.send(says).await;
        };
        let (subscription, ()) =
            soon(async { tokio::join!(client.subscribe(topic().clone(), durable()), script) }).await;
        let error = subscription.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        assert!(peer.is_left_alone().await);
    }
}

#[tokio::test]
async fn acknowledgements_that_wait_share_a_line() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    for id in ["1", "2", "3"] {
        wire.deliver(id).await;
    }
    // One thread, and none of these waits.
    let deliveries = [next(&mut subscription).await, next(&mut subscription).await, next(&mut subscription).await];
    subscription.ack(&deliveries[0]).await.unwrap();
    subscription.ack_many(&deliveries[1..]).await.unwrap();
    assert_eq!(wire.command().await, "acknowledge t 1 2 3");
    wire.send("pong\r\n").await;
}

#[tokio::test]
async fn errors_are_told_apart_between_deliveries_and_calls() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    for id in ["1", "2", "3"] {
        wire.deliver(id).await;
    }
    let deliveries = [next(&mut subscription).await, next(&mut subscription).await, next(&mut subscription).await];
    let acker = subscription.acker();
    let script = async {
        assert_eq!(wire.command().await, "acknowledge t 1 2 3");
        wire.deliver("4").await;
        wire.send("no_event_error: 2\r\n").await;
        wire.deliver("no_event_error:").await;
        wire.send("pong\r\n").await;
        assert_eq!(wire.command().await, "acknowledge t 1");
        wire.send("error: not a topic t subscriber\r\npong\r\n").await;
        // The same id twice is two commands, since one error could not be told from the other.
        assert_eq!(wire.command().await, "acknowledge t 1");
        wire.send("pong\r\n").await;
        assert_eq!(wire.command().await, "acknowledge t 1");
        wire.send("no_event_error: 1\r\npong\r\n").await;
    };
    let calls = async {
        let settled = acker.ack_confirmed(&deliveries).await.unwrap();
        assert_eq!(settled, [Settled::Done, Settled::NotInFlight, Settled::Done]);
        let error = acker.ack_confirmed(&deliveries[..1]).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason } if reason == "not a topic t subscriber"), "{error:?}");
        let twice = [deliveries[0].clone(), deliveries[0].clone()];
        assert_eq!(acker.ack_confirmed(&twice).await.unwrap(), [Settled::Done, Settled::NotInFlight]);
    };
    soon(async { tokio::join!(script, calls) }).await;
    assert_eq!(next(&mut subscription).await.id().as_str(), "4");
    // A delivery stays one, whatever its id looks like.
    assert_eq!(next(&mut subscription).await.id().as_str(), "no_event_error:");
}

#[tokio::test]
async fn nack_touch_and_term_have_their_own_lines_and_answers() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.deliver("1").await;
    let delivery = next(&mut subscription).await;
    let acker = subscription.acker();
    let script = async {
        assert_eq!(wire.command().await, "nack t 1 250");
        wire.send("pong\r\n").await;
        assert_eq!(wire.command().await, "nack t 1");
        wire.send("no_event_error: 1\r\npong\r\n").await;
        assert_eq!(wire.command().await, "touch t 1");
        wire.send("touched ev_id=1\r\npong\r\n").await;
        assert_eq!(wire.command().await, "term t 1 too odd");
        wire.send("terminated ev_id=1\r\npong\r\n").await;
    };
    let calls = async {
        assert_eq!(acker.nack(&delivery, Some(Duration::from_millis(250))).await.unwrap(), Settled::Done);
        assert_eq!(acker.nack(&delivery, None).await.unwrap(), Settled::NotInFlight);
        assert_eq!(acker.touch(&delivery).await.unwrap(), Settled::Done);
        assert_eq!(acker.term(&delivery, Some(" too odd ")).await.unwrap(), Settled::Done);
        let error = acker.term(&delivery, Some("a\nquit")).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    };
    soon(async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn ack_all_acknowledges_what_was_handed_out_and_nothing_else() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    for id in ["1", "2", "3", "4"] {
        wire.deliver(id).await;
    }
    let first = next(&mut subscription).await;
    next(&mut subscription).await;
    next(&mut subscription).await;
    subscription.ack(&first).await.unwrap();
    let script = async {
        assert_eq!(wire.command().await, "acknowledge t 1 2 3");
        wire.send("no_event_error: 3\r\npong\r\n").await;
    };
    let (acknowledged, ()) = soon(async { tokio::join!(subscription.ack_all(), script) }).await;
    assert_eq!(acknowledged.unwrap(), 1);
    // Nothing is left, so nothing is sent.
    assert_eq!(soon(subscription.ack_all()).await.unwrap(), 0);
    assert_eq!(next(&mut subscription).await.id().as_str(), "4");
}

#[tokio::test]
async fn an_id_that_means_all_is_not_acknowledged() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.deliver("*").await;
    let delivery = next(&mut subscription).await;
    assert!(matches!(subscription.ack(&delivery).await, Err(Error::Invalid(_))));
    assert_eq!(soon(subscription.ack_all()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_durable_subscription_goes_on_and_leaves_out_what_comes_again() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.deliver("1").await;
    wire.deliver("2").await;
    wire.deliver("3").await;
    let first = next(&mut subscription).await;
    // Behind the deliveries, so they have all been read when it is answered.
    let script = async {
        assert_eq!(wire.line().await, "ping");
        wire.send("pong\r\n").await;
    };
    let acker = subscription.acker();
    let (flushed, ()) = soon(async { tokio::join!(acker.flush(), script) }).await;
    flushed.unwrap();
    drop(wire);
    let mut state = subscription.state();
    soon(state.wait_for(|state| !state.is_connected())).await.unwrap();

    let (mut wire, line) = peer.subscribed().await;
    assert_eq!(line, "subscribe t s");
    soon(state.wait_for(ConnectionState::is_connected)).await.unwrap();
    assert_eq!(subscription.resubscribed(), 1);
    wire.deliver("1").await;
    let again = next(&mut subscription).await;
    assert_eq!((again.id().as_str(), again.connection()), ("1", 2));
    // The first copy is not acknowledged over the new connection; the second is.
    assert_eq!(soon(subscription.ack_confirmed(&[first])).await.unwrap(), [Settled::ConnectionLost]);
    subscription.ack(&again).await.unwrap();
    assert_eq!(wire.command().await, "acknowledge t 1");
}

#[tokio::test]
async fn a_subscription_without_a_name_keeps_what_it_has_and_tells_of_the_gap() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, nameless()).await;
    for id in ["1", "2", "3"] {
        wire.deliver(id).await;
    }
    assert_eq!(next(&mut subscription).await.id().as_str(), "1");
    drop(wire);
    let (mut wire, line) = peer.subscribed().await;
    assert_eq!(line, "subscribe t");
    wire.deliver("9").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut subscription).await;
        seen.push((delivery.id().to_string(), delivery.connection()));
    }
    assert_eq!(seen, [("2".to_owned(), 1), ("3".to_owned(), 1), ("9".to_owned(), 2)]);
    assert_eq!(subscription.resubscribed(), 1);
}

#[tokio::test]
async fn late_acknowledgements_are_sent_if_asked_for() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable().late_acks(true)).await;
    wire.deliver("1").await;
    wire.deliver("2").await;
    let deliveries = [next(&mut subscription).await, next(&mut subscription).await];
    subscription.ack(&deliveries[0]).await.unwrap();
    // On its way when the connection is lost.
    assert_eq!(wire.command().await, "acknowledge t 1");
    drop(wire);
    let mut state = subscription.state();
    soon(state.wait_for(|state| !state.is_connected())).await.unwrap();
    subscription.ack(&deliveries[1]).await.unwrap();
    let (mut wire, _) = peer.subscribed().await;
    assert_eq!(wire.command().await, "acknowledge t 1 2");
    wire.send("no_event_error: 1\r\npong\r\n").await;
}

#[tokio::test]
async fn an_acknowledgement_on_its_way_when_the_connection_is_lost_is_answered() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.deliver("1").await;
    let delivery = next(&mut subscription).await;
    let deliveries = [delivery];
    let script = async {
        assert_eq!(wire.command().await, "acknowledge t 1");
        drop(wire);
    };
    let (settled, ()) = soon(async { tokio::join!(subscription.ack_confirmed(&deliveries), script) }).await;
    assert_eq!(settled.unwrap(), [Settled::ConnectionLost]);
    // While there is no connection there is nothing to flush either.
    soon(subscription.acker().flush()).await.unwrap();
}

#[tokio::test]
async fn a_removed_subscription_is_over() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.send("error: subscription \"s\" of topic t was removed\r\n").await;
    assert!(soon(subscription.next()).await.is_none());
    let reason = subscription.end_reason();
    assert!(matches!(reason, Some(Error::Removed { .. })), "{reason:?}");
    assert!(matches!(soon(subscription.acker().flush()).await, Err(Error::Removed { .. })));
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_refused_resubscription_ends_the_stream_after_what_was_there() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, nameless().prefetch(2)).await;
    for id in ["1", "2", "3", "4"] {
        wire.deliver(id).await;
    }
    assert_eq!(next(&mut subscription).await.id().as_str(), "1");
    assert_eq!(next(&mut subscription).await.id().as_str(), "2");
    assert_eq!(next(&mut subscription).await.id().as_str(), "3");
    drop(wire);
    let (mut wire, _) = peer.greet().await;
    wire.line().await;
    wire.send("error: not allowed to subscribe to topic t\r\n").await;
    assert_eq!(next(&mut subscription).await.id().as_str(), "4");
    assert!(soon(subscription.next()).await.is_none());
    let reason = subscription.end_reason();
    assert!(matches!(reason, Some(Error::Refused { .. })), "{reason:?}");
}

#[tokio::test]
async fn a_slow_consumer_stops_the_reading_and_still_gets_its_answers() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable().prefetch(2)).await;
    // Far more than the prefetch allows, as a stream of repeated deliveries may be.
    const COUNT: usize = 60_000;
    let flood = tokio::spawn(async move {
        let line = format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":\"{}\",\"id\":\"7\"}}\r\n", "x".repeat(200));
        let chunk = line.repeat(100);
        for _ in 0..COUNT / 100 {
            wire.writer.write_all(chunk.as_bytes()).await.unwrap();
        }
        // Behind all of them: the consumer asks before it has taken what is ahead of the answer.
        assert_eq!(wire.command().await, "acknowledge t 7");
        wire.send("pong\r\n").await;
        wire
    });
    let first = next(&mut subscription).await;
    // A negative: given time, the peer does not get rid of it all.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!flood.is_finished());
    assert_eq!(soon(subscription.ack_confirmed(&[first])).await.unwrap(), [Settled::Done]);
    let _wire = soon(flood).await.unwrap();
    for _ in 1..COUNT {
        next(&mut subscription).await;
    }
}

#[tokio::test]
async fn one_read_with_more_than_the_prefetch_reaches_the_consumer_to_its_last_line() {
    // It once waited for the socket with complete lines in its own buffer.
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable().prefetch(1)).await;
    let all: String = (0..10).map(|n| delivery(&n.to_string())).collect();
    wire.send(&all).await;
    for n in 0..10 {
        assert_eq!(next(&mut subscription).await.id().as_str(), n.to_string());
    }
}

#[tokio::test]
async fn one_subscription_serves_many_tasks_at_once() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable().prefetch(100)).await;
    let script = tokio::spawn(async move {
        // A broker in small: keeps a hundred in flight, and counts.
        let (mut sent, mut acknowledged) = (0_u32, 0_u32);
        while acknowledged < 2000 {
            while sent < 2000 && sent - acknowledged < 100 {
                wire.deliver(&sent.to_string()).await;
                sent += 1;
            }
            let line = wire.line().await;
            if line == "ping" {
                wire.send("pong\r\n").await;
            } else {
                acknowledged += u32::try_from(line.split(' ').count()).unwrap() - 2;
            }
        }
        wire
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2000 {
        let (acker, delivery) = (subscription.acker(), next(&mut subscription).await);
        tasks.spawn(async move { acker.ack(&delivery).await });
    }
    for acknowledged in soon(tasks.join_all()).await {
        acknowledged.unwrap();
    }
    soon(script).await.unwrap();
}

#[tokio::test]
async fn a_delivery_that_would_inject_a_command_costs_the_connection() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.send("{\"topic\":\"t\",\"priority\":0,\"msg\":1,\"id\":\"a\\nunsubscribe t\"}\r\n").await;
    wire.closed().await;
    let (mut wire, _) = peer.subscribed().await;
    wire.deliver("1").await;
    assert_eq!(next(&mut subscription).await.id().as_str(), "1");
}

#[tokio::test]
async fn words_of_a_newer_broker_and_verbose_ones_do_no_harm() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.send("no available message\r\nnotice: maintenance at noon\r\n\r\nerror: odd\r\npong\r\nno_event_error: 5\r\n")
        .await;
    wire.deliver("1").await;
    let delivery = [next(&mut subscription).await];
    let script = async {
        assert_eq!(wire.command().await, "acknowledge t 1");
        wire.send("acknowledged from logs ev_id=1\r\nno available message\r\npong\r\n").await;
    };
    let (settled, ()) = soon(async { tokio::join!(subscription.ack_confirmed(&delivery), script) }).await;
    assert_eq!(settled.unwrap(), [Settled::Done]);
}

#[tokio::test]
async fn leaving_sends_what_waits_first() {
    let peer = Peer::bind().await;
    for (options, how, expected) in [
        (durable(), "unsubscribe", Some("unsubscribe t s")),
        (nameless(), "unsubscribe", Some("unsubscribe t")),
        (durable(), "detach", Some("detach t")),
        (durable(), "close", None),
    ] {
        let (mut subscription, mut wire) = subscribed(&peer, options).await;
        wire.deliver("1").await;
        let delivery = next(&mut subscription).await;
        subscription.ack(&delivery).await.unwrap();
        let script = async {
            assert_eq!(wire.command().await, "acknowledge t 1");
            wire.send("pong\r\n").await;
            match expected {
                Some(command) => {
                    assert_eq!(wire.command().await, command);
                    wire.deliver("2").await;
                    wire.send("successfully unsubscribe from topic t\r\npong\r\n").await;
                }
                None => {
                    assert_eq!(wire.line().await, "ping");
                    wire.send("pong\r\n").await;
                }
            }
            assert_eq!(wire.line().await, "quit");
            wire.send("bye\r\n").await;
            wire.closed().await;
        };
        let leave = async {
            match how {
                "unsubscribe" => subscription.unsubscribe().await,
                "detach" => subscription.detach().await,
                _ => subscription.close().await,
            }
        };
        let (left, ()) = soon(async { tokio::join!(leave, script) }).await;
        left.unwrap();
    }
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn an_unsubscribe_that_is_lost_is_sent_again() {
    let peer = Peer::bind().await;
    let (subscription, mut wire) = subscribed(&peer, durable()).await;
    let script = async {
        assert_eq!(wire.command().await, "unsubscribe t s");
        drop(wire);
        let (mut wire, _) = peer.subscribed().await;
        assert_eq!(wire.command().await, "unsubscribe t s");
        wire.send("error: not allowed to subscribe to topic t\r\npong\r\n").await;
        assert_eq!(wire.line().await, "quit");
    };
    let (left, ()) = soon(async { tokio::join!(subscription.unsubscribe(), script) }).await;
    assert!(matches!(left, Err(Error::Refused { .. })), "{left:?}");
}

#[tokio::test]
async fn dropping_it_closes_the_socket_and_its_ackers() {
    let peer = Peer::bind().await;
    let (mut subscription, mut wire) = subscribed(&peer, durable()).await;
    wire.deliver("1").await;
    let delivery = next(&mut subscription).await;
    let acker = subscription.acker();
    drop(subscription);
    wire.closed().await;
    assert!(matches!(soon(acker.ack_confirmed(&[delivery])).await, Err(Error::Closed)));
    assert!(peer.is_left_alone().await);
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_left() {
    let peer = Peer::bind().await;
    let config = peer.config().keepalive(Some(Duration::from_millis(50))).response_timeout(Duration::from_millis(100));
    let (mut subscription, mut wire, _) = subscribed_with(&peer, config, durable()).await;
    assert_eq!(wire.line().await, "ping");
    wire.send("pong\r\n").await;
    assert_eq!(wire.line().await, "ping");
    wire.closed().await;
    let (mut wire, _) = peer.subscribed().await;
    wire.deliver("1").await;
    assert_eq!(next(&mut subscription).await.id().as_str(), "1");
}

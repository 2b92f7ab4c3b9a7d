//! Sessions against an engine whose answers the tests write by hand.

mod access;
mod hostile;
mod tokens;

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::{Session, SessionSettings};
use crate::engine::{
    Delivery, Found, Gauge, LinkEvent, OUTPUT_LIMIT, Op, Outcome, Refusal, Request, Stats, TopicSummary,
};
use crate::event::{Payload, Priority};
use crate::name::{SubscriptionName, TopicName};
use crate::protocol::command::CommandWords;
use crate::storage::Level;

struct Client {
    session: Session,
    gauge: Arc<Gauge>,
}

impl Client {
    fn with(settings: SessionSettings) -> Self {
        let gauge = Arc::new(Gauge::default());
        let session = Session::new(Arc::new(settings), Level::Synced, Arc::clone(&gauge));
        let mut client = Self { session, gauge };
        assert_eq!(client.said(), "Successfully connected to message_broker\r\n");
        client
    }

    fn new() -> Self {
        Self::with(SessionSettings::default())
    }

    fn send(&mut self, text: &str) {
        self.session.input(&mut BytesMut::from(text));
    }

    fn said(&mut self) -> String {
        let output = self.session.output();
        let mut bytes = Vec::new();
        while output.has_remaining() {
            let chunk = output.chunk().to_vec();
            bytes.extend_from_slice(&chunk);
            output.advance(chunk.len());
        }
        self.session.output_written();
        // Telnet negotiation is not text.
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn requests(&mut self) -> Vec<Request> {
        self.session.take_requests()
    }

    fn outcome(&mut self, slot: u64, outcome: Outcome) {
        self.session.event(LinkEvent::Outcomes(vec![(slot, outcome)]));
    }

    fn deliver(&mut self, id: &str, redelivered: u32) {
        let payload = Payload::encode("t", Priority(0), "1", id);
        let delivery = Delivery { payload, redelivered };
        self.gauge.add(delivery.cost());
        self.session.event(LinkEvent::Deliveries(vec![delivery]));
    }

    /// Sends a line that is answered at once.
    fn answer(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n"));
        assert!(self.requests().is_empty(), "{line}");
        self.said()
    }

    /// Sends a line that causes one request, and answers that with `outcome`.
    fn exchange(&mut self, line: &str, outcome: Outcome) -> String {
        self.send(&format!("{line}\n"));
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{line}");
        assert_eq!(self.said(), "", "{line}");
        self.outcome(requests[0].slot, outcome);
        self.said()
    }
}

const PUBLISHED: Outcome = Outcome::Published { replaced: false };

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

#[test]
fn every_outcome_has_its_reply() {
    let mut client = Client::new();
    let (held, not, no_longer) = (Found::Settled, Found::NotHeld, Found::NoLongerHeld);
    let acknowledged = |found: &[Found], idle| Outcome::Acknowledged { found: found.to_vec(), idle };
    let summary = TopicSummary { topic: "t".into(), subscriptions: 1, waiting: 2, in_flight: 3, published: 4 };
    let stats = Stats { version: "1", uptime_ms: 2, connections: 3, sources: None, topics: Vec::new() };
    for (line, outcome, words) in [
        ("sub t", Outcome::Subscribed, "successfully subscribed to topic t\r\n"),
        ("unsub t", Outcome::Unsubscribed, "successfully unsubscribe from topic t\r\n"),
        ("detach t", Outcome::Detached, "detached from topic t\r\n"),
        ("pub t {}", PUBLISHED, ""),
        ("ack t 1", acknowledged(&[held], false), "acknowledged from logs ev_id=1\r\n"),
        ("ack t 1", acknowledged(&[held], true), "acknowledged from logs ev_id=1\r\nno available message\r\n"),
        ("ack t 1", acknowledged(&[not], false), "no_event_error: 1\r\n"),
        ("ack t 1", acknowledged(&[no_longer], false), "error: event 1 is no longer held here\r\n"),
        (
            "ack t é 2 3",
            acknowledged(&[held, not, held], true),
            "acknowledged from logs ev_id=é\r\nno_event_error: 2\r\nacknowledged from logs ev_id=3\r\nno available message\r\n",
        ),
        ("ack t *", Outcome::AcknowledgedAll { count: 0, idle: false }, "acknowledged 0 events\r\n"),
        (
            "ack t *",
            Outcome::AcknowledgedAll { count: 2, idle: true },
            "acknowledged 2 events\r\nno available message\r\n",
        ),
        ("nack t 1 5", Outcome::Settled { found: true }, "requeued ev_id=1\r\n"),
        ("nack t 1", Outcome::Settled { found: false }, "no_event_error: 1\r\n"),
        ("touch t 1", Outcome::Settled { found: true }, "touched ev_id=1\r\n"),
        (
            "topics",
            Outcome::Topics(vec![summary]),
            "[{\"topic\":\"t\",\"subscriptions\":1,\"waiting\":2,\"in_flight\":3,\"published\":4}]\r\n",
        ),
        (
            "stats",
            Outcome::Stats(Box::new(stats)),
            "{\"version\":\"1\",\"uptime_ms\":2,\"connections\":3,\"topics\":[]}\r\n",
        ),
        ("ack t 1", Outcome::Refused(Refusal::NotSubscribed(topic())), "error: not a topic t subscriber\r\n"),
        (
            "sub t",
            Outcome::Refused(Refusal::AlreadySubscribed { topic: topic(), name: None }),
            "error: already subscribed to topic t as its own; unsub or detach first\r\n",
        ),
        (
            "sub t",
            Outcome::Refused(Refusal::AlreadySubscribed { topic: topic(), name: SubscriptionName::new("s").ok() }),
            "error: already subscribed to topic t as \"s\"; unsub or detach first\r\n",
        ),
        ("pub t {\"id\":\"a\\\"b\"}", Outcome::Refused(Refusal::DuplicateId), "error: duplicate id a\"b\r\n"),
    ] {
        assert_eq!(client.exchange(line, outcome), words, "{line}");
    }
}

#[test]
fn commands_that_need_no_engine_are_answered_at_once() {
    let mut client = Client::with(SessionSettings { max_line_bytes: 100, ..SessionSettings::default() });
    assert_eq!(client.answer("ping"), "pong\r\n");
    assert_eq!(client.answer("subb t"), "error: unknown command: \"subb t\"; type help for the commands\r\n");
    assert_eq!(
        client.answer("pub ../x {}"),
        "error: invalid topic name \"../x\": a name does not begin with a dot\r\n"
    );
    assert_eq!(
        client.answer("sub t ../x"),
        "error: invalid subscription name \"../x\": a name does not begin with a dot\r\n"
    );
    assert_eq!(client.answer(&"x".repeat(101)), "error: line exceeds 100 bytes\r\n");
    let help = client.answer("help");
    assert!(help.ends_with("\r\n\r\n") && help.contains("ack tweets 042"), "{help}");
    client.session.input(&mut BytesMut::from(&b"\xc3\n"[..]));
    assert_eq!(client.said(), "error: line is not valid UTF-8\r\n");
}

#[test]
fn an_error_of_the_topic_is_reported_before_one_of_the_event() {
    let mut client = Client::new();
    let error = client.exchange("pub t [1]", Outcome::Known);
    assert!(error.starts_with("error: event is not of an accepted format: "), "{error}");
    let error = client.exchange("pub t [1]", Outcome::Refused(Refusal::UnknownTopic(topic())));
    assert!(error.starts_with("error: unknown topic \"t\""), "{error}");
}

#[test]
fn replies_come_in_the_order_of_the_commands() {
    let mut client = Client::new();
    client.send("hello {\"confirm\":true}\n");
    client.said();
    client.send("pub t {\"id\":1}\nping\npub t {\"id\":2}\nbad\n");
    let slots: Vec<u64> = client.requests().iter().map(|request| request.slot).collect();
    client.outcome(slots[1], Outcome::Published { replaced: true });
    assert_eq!(client.said(), "");
    client.outcome(slots[0], PUBLISHED);
    assert_eq!(
        client.said(),
        "published t 1 synced\r\npong\r\nreplaced t 2 synced\r\nerror: unknown command: \"bad\"; type help for the commands\r\n"
    );
    assert!(client.session.wants_input());
}

#[test]
fn a_delivery_never_overtakes_an_answer_that_came_before_it_and_waits_for_nothing_else() {
    let mut client = Client::new();
    client.send("hello {\"confirm\":true}\n");
    client.said();
    client.send("pub u {\"id\":1}\nsub t\n");
    let slots: Vec<u64> = client.requests().iter().map(|request| request.slot).collect();
    client.deliver("early", 0);
    assert_eq!(client.said(), "{\"topic\":\"t\",\"priority\":0,\"msg\":1,\"id\":\"early\"}\r\n");
    client.outcome(slots[1], Outcome::Subscribed);
    client.deliver("late", 2);
    let removed = LinkEvent::Removed { topic: topic(), subscription: SubscriptionName::new("s").unwrap() };
    client.session.event(removed);
    assert_eq!(client.said(), "");
    client.outcome(slots[0], PUBLISHED);
    assert_eq!(
        client.said(),
        "published u 1 synced\r\nsuccessfully subscribed to topic t\r\n\
         {\"topic\":\"t\",\"priority\":0,\"msg\":1,\"id\":\"late\",\"redelivered\":2}\r\n\
         error: subscription \"s\" of topic t was removed\r\n"
    );
}

#[test]
fn quiet_leaves_out_successes_and_keeps_errors_and_confirmations() {
    let mut client = Client::new();
    let answer = client.answer("hello {\"replies\":\"quiet\",\"confirm\":true,\"prefetch\":1}");
    assert!(answer.starts_with("hello {\"server\":\"herald\",\"version\":\""), "{answer}");
    assert!(
        answer.contains(",\"protocol\":1,\"session\":\"")
            && answer.ends_with("\",\"max_line_bytes\":1048576,\"max_output_line_bytes\":1048576}\r\n"),
        "{answer}"
    );
    let acknowledged = Outcome::Acknowledged { found: vec![Found::Settled, Found::NotHeld], idle: true };
    assert_eq!(client.exchange("ack t 1 2", acknowledged), "no_event_error: 2\r\n");
    assert_eq!(client.exchange("ack t *", Outcome::AcknowledgedAll { count: 3, idle: true }), "");
    assert_eq!(client.exchange("nack t 1", Outcome::Settled { found: true }), "");
    assert_eq!(client.exchange("sub t", Outcome::Subscribed), "successfully subscribed to topic t\r\n");
    assert_eq!(client.exchange("pub t {\"id\":7}", PUBLISHED), "published t 7 synced\r\n");
}

#[test]
fn a_wrong_hello_changes_nothing_and_a_new_prefetch_reaches_the_engine() {
    let mut client = Client::new();
    assert_eq!(
        client.answer("hello {\"confirm\":true,\"prefetch\":0}"),
        "error: hello: prefetch must be an integer from 1 to 65535\r\n"
    );
    assert_eq!(client.exchange("pub t {}", PUBLISHED), "");
    client.send("hello {\"prefetch\":9}\nsub t\n");
    let requests = client.requests();
    assert!(matches!(requests[0].op, Op::Prefetch(9)), "{requests:?}");
    assert!(matches!(requests[1].op, Op::Subscribe { prefetch: 9, .. }), "{requests:?}");
}

#[test]
fn quit_answers_everything_before_it_and_nothing_after() {
    let mut client = Client::new();
    client.send("topics\nquit\nping\n");
    let requests = client.requests();
    assert_eq!(requests.len(), 1);
    assert!(!client.session.is_finished());
    client.outcome(requests[0].slot, Outcome::Topics(Vec::new()));
    assert_eq!(client.said(), "[]\r\nbye\r\n");
    assert!(client.session.is_finished());
}

#[test]
fn after_the_end_of_input_pending_commands_are_still_answered() {
    let mut client = Client::new();
    client.send("topics\nunfinished");
    client.session.end_of_input();
    assert!(!client.session.is_finished() && !client.session.wants_input());
    let requests = client.requests();
    client.outcome(requests[0].slot, Outcome::Topics(Vec::new()));
    assert_eq!(client.said(), "[]\r\n");
    assert!(client.session.is_finished());
}

#[test]
fn a_client_that_asks_faster_than_the_engine_answers_is_not_read() {
    let mut client = Client::new();
    let many = "pub t {}\n".repeat(super::MAX_UNANSWERED + 10);
    client.send(&many);
    assert!(!client.session.wants_input());
    let requests = client.requests();
    assert_eq!(requests.len(), super::MAX_UNANSWERED);
    client.session.event(LinkEvent::Outcomes(requests.iter().map(|request| (request.slot, PUBLISHED)).collect()));
    assert_eq!(client.requests().len(), 10, "the rest had been read already");
    assert!(client.session.wants_input());

    let mut client = Client::new();
    let big = format!("pub t {{\"msg\":\"{}\"}}\n", "x".repeat(1 << 20));
    for _ in 0..5 {
        client.send(&big[..big.len() - 100]);
        client.send(&big[big.len() - 100..]);
    }
    assert!(client.requests().len() <= 5);
    let mut client = Client::new();
    for _ in 0..5 {
        client.send("pub t {\"msg\":\"");
        client.send(&"x".repeat(1_000_000));
        client.send("\"}\n");
    }
    assert_eq!(client.requests().len(), 5);
    assert!(!client.session.wants_input(), "five million bytes are unanswered");
}

#[test]
fn the_engine_is_told_when_a_slow_client_has_taken_its_output() {
    let mut client = Client::new();
    let payload = Payload::encode("t", Priority(0), &format!("\"{}\"", "x".repeat(OUTPUT_LIMIT)), "big");
    let delivery = Delivery { payload, redelivered: 0 };
    client.gauge.add(delivery.cost());
    client.session.event(LinkEvent::Deliveries(vec![delivery]));
    assert!(!client.gauge.has_room());
    client.said();
    let requests = client.requests();
    assert!(matches!(requests.as_slice(), [Request { op: Op::Resume, .. }]), "{requests:?}");
    assert!(client.gauge.has_room());
}

#[test]
fn renamed_commands_are_in_help_and_in_errors() {
    let words = CommandWords { publish: "say".into(), ..CommandWords::default() };
    let mut client = Client::with(SessionSettings { words, ..SessionSettings::default() });
    assert!(client.answer("help").contains("say <topic> <event>"));
    assert_eq!(client.answer("publish t"), "error: usage: say <topic> <event>\r\n");
}

proptest! {
    /// The result does not depend on how a client's bytes are split.
    #[test]
    fn cuts_in_the_input_change_nothing(cuts in proptest::collection::vec(1_usize..40, 0..40)) {
        let script = b"hello {\"client\":\"c\"}\r\npub t {\"id\":\"a\",\"msg\":[1, 2]}\npi\xff\xfd\x06ng\r\n\r\n  sub t s \r\n\
            ack t a b\nack t *\nnack t a 10\nnonsense \x80\xff\xf4\n\xc3\xa4\nstats t\ntopics\nping\nquit\nping\n";
        let run = |pieces: Vec<&[u8]>| {
            let mut client = Client::new();
            let mut asked = Vec::new();
            for piece in pieces {
                client.session.input(&mut BytesMut::from(piece));
                for request in client.requests() {
                    let outcome = match &request.op {
                        Op::Publish { .. } => PUBLISHED,
                        Op::Subscribe { .. } => Outcome::Subscribed,
                        Op::Ack { ids, .. } => Outcome::Acknowledged { found: vec![Found::Settled; ids.len()], idle: false },
                        Op::AckAll { .. } => Outcome::AcknowledgedAll { count: 0, idle: false },
                        Op::Nack { .. } => Outcome::Settled { found: true },
                        Op::Topics => Outcome::Topics(Vec::new()),
                        _ => Outcome::Refused(Refusal::NoSuchTopic(topic())),
                    };
                    let op = match &request.op {
                        // Compared in its encoding, without the random parts.
                        Op::Publish { event, .. } => format!("{:?}", event.payload),
                        other => format!("{other:?}"),
                    };
                    asked.push(op);
                    client.outcome(request.slot, outcome);
                }
            }
            let session = client.session.id.clone();
            (asked, client.said().replace(&session, "…"))
        };
        let whole = run(vec![script]);
        let mut rest = &script[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(run(pieces), whole);
    }
}

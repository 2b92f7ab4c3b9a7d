//! Sessions against an engine that the tests play by hand.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::{Session, SessionSettings};
use crate::engine::{Delivery, Gauge, LinkEvent, OUTPUT_LIMIT, Op, Outcome, Refusal, Request, Stats, TopicSummary};
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
        String::from_utf8(bytes).unwrap()
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

    /// Sends a line that is one request, and gives it its outcome.
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
fn every_outcome_has_its_words() {
    let mut client = Client::new();
    let acknowledged = |found: &[bool], idle| Outcome::Acknowledged { found: found.to_vec(), idle };
    let summary = TopicSummary { topic: "t".into(), subscriptions: 1, waiting: 2, in_flight: 3, published: 4 };
    let stats = Stats { version: "1", uptime_ms: 2, connections: 3, topics: Vec::new() };
    for (line, outcome, words) in [
        ("sub t", Outcome::Subscribed, "successfully subscribed to topic t\r\n"),
        ("unsub t", Outcome::Unsubscribed, "successfully unsubscribe from topic t\r\n"),
        ("detach t", Outcome::Detached, "detached from topic t\r\n"),
        ("pub t {}", PUBLISHED, ""),
        ("ack t 1", acknowledged(&[true], false), "acknowledged from logs ev_id=1\r\n"),
        ("ack t 1", acknowledged(&[true], true), "acknowledged from logs ev_id=1\r\nno available message\r\n"),
        ("ack t 1", acknowledged(&[false], false), "no_event_error: 1\r\n"),
        (
            "ack t é 2 3",
            acknowledged(&[true, false, true], true),
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
fn what_needs_no_engine_is_answered_at_once() {
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
        answer.contains(",\"protocol\":1,\"session\":\"") && answer.ends_with("\",\"max_line_bytes\":1048576}\r\n"),
        "{answer}"
    );
    let acknowledged = Outcome::Acknowledged { found: vec![true, false], idle: true };
    assert_eq!(client.exchange("ack t 1 2", acknowledged), "no_event_error: 2\r\n");
    assert_eq!(client.exchange("ack t *", Outcome::AcknowledgedAll { count: 3, idle: true }), "");
    assert_eq!(client.exchange("nack t 1", Outcome::Settled { found: true }), "");
    assert_eq!(client.exchange("sub t", Outcome::Subscribed), "successfully subscribed to topic t\r\n");
    assert_eq!(client.exchange("pub t {\"id\":7}", PUBLISHED), "published t 7 synced\r\n");
}

#[test]
fn a_hello_that_is_wrong_changes_nothing_and_one_with_more_prefetch_tells_the_engine() {
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
fn after_the_end_of_input_what_was_asked_is_still_answered() {
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
    /// However a client's bytes are cut, what comes of them is the same.
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
                        Op::Ack { ids, .. } => Outcome::Acknowledged { found: vec![true; ids.len()], idle: false },
                        Op::AckAll { .. } => Outcome::AcknowledgedAll { count: 0, idle: false },
                        Op::Nack { .. } => Outcome::Settled { found: true },
                        Op::Topics => Outcome::Topics(Vec::new()),
                        _ => Outcome::Refused(Refusal::NoSuchTopic(topic())),
                    };
                    let op = match &request.op {
                        // Its time of arrival is part of what is compared, its random parts are not.
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

// ---- Hostile clients ----

#[test]
fn an_error_never_quotes_more_than_a_little() {
    let mut client = Client::new();
    let long = "x".repeat(500_000);
    let said = client.exchange(&format!("pub t \"{long}\""), Outcome::Known);
    assert!(said.starts_with("error: ") && said.len() < 300, "{} bytes: {:.200}", said.len(), said);
    for line in [format!("hello {{\"{long}\":1}}"), format!("hello {long}"), long] {
        let said = client.answer(&line);
        assert!(said.starts_with("error: ") && said.len() < 300, "{} bytes: {:.200}", said.len(), said);
    }
}

#[test]
fn short_commands_with_long_answers_are_executed_as_the_answers_are_taken() {
    let mut client = Client::new();
    client.send(&"help\n".repeat(1000));
    assert!(client.session.output().remaining() < 300_000 && !client.session.wants_input());
    let mut answers = 0;
    while client.session.output().has_remaining() {
        answers += client.said().matches("\r\n\r\n").count();
    }
    assert_eq!(answers, 1000);
    assert!(client.session.wants_input());
}

#[test]
fn answers_that_wait_for_an_earlier_one_are_bounded() {
    let mut client = Client::new();
    client.send("sub t\n");
    client.send(&"help\n".repeat(10_000));
    assert!(!client.session.wants_input());
    let request = client.requests().remove(0);
    client.outcome(request.slot, Outcome::Subscribed);
    let mut text = String::new();
    while client.session.output().has_remaining() {
        text += &client.said();
    }
    assert_eq!(text.matches("\r\n\r\n").count(), 10_000);
    assert!(client.session.wants_input());
}

#[test]
fn figures_are_asked_a_few_at_a_time() {
    let mut client = Client::new();
    client.send(&"topics\nstats\n".repeat(4500));
    let mut answered = 0;
    loop {
        let requests = client.requests();
        if requests.is_empty() {
            break;
        }
        assert!(requests.len() <= 4, "{}", requests.len());
        for request in requests {
            client.outcome(request.slot, Outcome::Topics(Vec::new()));
            answered += 1;
        }
        client.said();
    }
    assert_eq!(answered, 9000);
}

#[test]
fn unanswered_acknowledgements_are_bounded_and_make_room_when_they_are_answered() {
    let mut client = Client::new();
    let line = format!("ack t {}\n", "a ".repeat(500_000));
    client.send(&line);
    assert!(!client.session.wants_input());
    let request = client.requests().remove(0);
    client.outcome(request.slot, Outcome::Acknowledged { found: vec![true; 500_000], idle: false });
    assert_eq!(client.said().lines().count(), 500_000);
    assert!(client.session.wants_input());
}

#[test]
fn a_client_whose_engine_has_gone_is_told_once_and_finished() {
    let mut client = Client::new();
    client.send("hello {\"confirm\":true}\npub t {\"id\":\"1\",\"msg\":1}\n");
    let asked = client.requests().len();
    assert_eq!(asked, 1);
    client.deliver("held back by nothing", 0);
    client.said();
    client.send("ack t 1\n");
    client.session.engine_gone();
    // Its requests have nobody to go to, and what comes in is not executed any more.
    assert!(client.requests().is_empty());
    client.send("ping\n");
    client.session.engine_gone();
    let said = client.said();
    assert!(said.starts_with("error: the storage was opened again") && said.ends_with("connect again\r\n"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(client.session.is_finished());
}

/// Sessions that ask for tokens.
mod tokens {
    use super::*;
    use crate::auth::{Rights, Tokens};

    fn rights(publish: &str, subscribe: &str) -> Rights {
        Rights { name: "r".into(), publish: vec![publish.into()], subscribe: vec![subscribe.into()], admin: false }
    }

    fn client(tokens: &Arc<Tokens>) -> Client {
        Client::with(SessionSettings { tokens: Arc::clone(tokens), ..SessionSettings::default() })
    }

    fn one() -> Arc<Tokens> {
        Arc::new(Tokens::new([("right", rights("in.*", "out.*"))]))
    }

    #[test]
    fn before_a_right_token_every_command_is_refused_and_the_lines_after_it_wait_for_its_check() {
        let mut client = client(&one());
        for line in ["ping", "quit", "nonsense", "pub a b", "sub in.a", "topics", "hello {\"prefetch\":2}"] {
            assert_eq!(client.answer(line), "error: authentication required\r\n", "{line}");
        }
        assert!(client.answer("hello {\"token\":7}").starts_with("error: hello: token must be a string"));
        assert!(client.answer(&"x".repeat(20_000)).starts_with("error: line exceeds 16384 bytes"));
        client.send("hello {\"token\":\"right\",\"confirm\":true}\r\nping\r\n");
        assert!(client.session.has_claim() && !client.session.wants_input() && !client.session.is_finished());
        assert_eq!(client.said(), "");
        assert!(client.session.check_claim());
        let said = client.said();
        assert!(said.starts_with("hello {") && said.ends_with("}\r\npong\r\n"), "{said}");
        assert!(client.answer(&"x".repeat(20_000)).starts_with("error: unknown command"));
    }

    #[test]
    fn a_wrong_token_ends_the_session_also_after_a_right_one() {
        for before in ["", "hello {\"token\":\"right\"}\n"] {
            let mut client = client(&one());
            client.send(before);
            client.session.check_claim();
            client.said();
            client.send("hello {\"token\":\"wrong\"}\nping\n");
            assert!(!client.session.check_claim());
            assert_eq!(client.said(), "error: authentication failed\r\n");
            assert!(client.session.is_finished() && client.session.is_turned_away());
        }
    }

    #[test]
    fn rights_are_those_of_the_patterns() {
        let mut client = client(&one());
        client.send("hello {\"token\":\"right\"}\n");
        assert!(client.session.check_claim());
        client.said();
        assert_eq!(client.answer("pub other not-even-json"), "error: not allowed to publish to topic other\r\n");
        assert_eq!(client.answer("pub out.a {}"), "error: not allowed to publish to topic out.a\r\n");
        assert_eq!(client.answer("sub in.a"), "error: not allowed to subscribe to topic in.a\r\n");
        assert_eq!(client.answer("unsub in.a name"), "error: not allowed to subscribe to topic in.a\r\n");
        assert_eq!(client.answer("stats other"), "error: not allowed to subscribe to topic other\r\n");
        for (command, what) in [("peek", "peek into"), ("purge", "purge"), ("redrive", "redrive")] {
            let refused = client.answer(&format!("{command} in.a"));
            assert_eq!(refused, "error: not allowed to subscribe to topic in.a\r\n");
            let refused = client.answer(&format!("{command} out.a"));
            assert_eq!(refused, format!("error: not allowed to {what} topic out.a\r\n"));
        }
        for line in ["pub in.a {}", "sub out.a", "unsub out.a name", "stats in.a"] {
            client.send(&format!("{line}\n"));
            assert_eq!(client.requests().len(), 1, "{line}");
        }
    }

    #[test]
    fn operators_look_drop_and_move_back_where_they_may_subscribe() {
        let tokens = Arc::new(Tokens::new([("right", Rights { admin: true, ..rights("in.*", "out.*") })]));
        for command in ["peek", "purge", "redrive"] {
            let mut client = client(&tokens);
            client.send("hello {\"token\":\"right\"}\n");
            assert!(client.session.check_claim());
            client.said();
            let refused = client.answer(&format!("{command} in.a"));
            assert_eq!(refused, "error: not allowed to subscribe to topic in.a\r\n");
            client.send(&format!("{command} out.a\n"));
            assert_eq!(client.requests().len(), 1, "{command}");
        }
    }

    #[test]
    fn only_topics_that_one_has_to_do_with_are_seen() {
        let mut client = client(&one());
        client.send("hello {\"token\":\"right\"}\n");
        client.session.check_claim();
        client.said();
        client.send("topics\n");
        let slot = client.requests()[0].slot;
        let topic =
            |name: &str| TopicSummary { topic: name.into(), subscriptions: 0, waiting: 0, in_flight: 0, published: 0 };
        client.outcome(slot, Outcome::Topics(vec![topic("in.a"), topic("other"), topic("out.b")]));
        let said = client.said();
        assert!(said.contains("in.a") && said.contains("out.b") && !said.contains("other"), "{said}");
    }

    #[test]
    fn other_tokens_end_the_sessions_that_they_change_something_for() {
        let tokens = Arc::new(Tokens::default());
        let mut anyone = client(&tokens);
        tokens.replace([("right", rights("*", "*"))]);
        anyone.session.tokens_changed();
        assert_eq!(anyone.said(), "error: tokens have changed: connect again\r\n");
        assert!(anyone.session.is_finished());
        let mut bearer = client(&tokens);
        bearer.send("hello {\"token\":\"right\"}\n");
        assert!(bearer.session.check_claim());
        bearer.said();
        tokens.replace([("right", rights("*", "*")), ("another", rights("*", "*"))]);
        bearer.session.tokens_changed();
        assert_eq!(bearer.answer("ping"), "pong\r\n");
        tokens.replace([("another", rights("*", "*"))]);
        bearer.session.tokens_changed();
        assert_eq!(bearer.said(), "error: tokens have changed: connect again\r\n");
    }
}

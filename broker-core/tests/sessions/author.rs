//! Generates scripts: random steps that reach interesting states, because the generator looks at the model.

use broker_core::policy::{DuplicateId, Overflow, TopicPolicy};

use crate::model::publishing::BAD_EVENTS;
use crate::model::{Model, Subscription, Topic};
use crate::random::Random;
use crate::script::{CONNECTIONS, MAX_LINE, NO_OPERATION, Script, Step};

const TOPICS: [&str; 10] = ["a", "a", "a", "a", "a", "a", "b", "a.dead", "a.dead", "a.dead.dead"];
const NAMES: [&str; 5] = ["x", "x", "x", "y", "dead"];
const IDS: [&str; 7] = ["1", "2", "3", "4", "5", "*", "é\u{22}\\"];
const PRIORITIES: [&str; 6] = ["0", "0", "1", "5", "-1", "-2147483648"];

/// A generator of scripts.
#[derive(Debug)]
pub(crate) struct Author {
    random: Random,
    /// A counter that makes every message different.
    messages: usize,
    /// Whether lines may be sent together.
    bursts: bool,
    /// The number of ids used.
    ids: usize,
}

#[derive(Clone, Copy)]
enum Idea {
    Publish,
    Burst,
    Subscribe,
    Unsubscribe,
    Detach,
    Acknowledge,
    AcknowledgeMany,
    AcknowledgeAll,
    Nack,
    Touch,
    Terminate,
    Peek,
    Purge,
    Redrive,
    Look,
    Hello,
    Nonsense,
    Anonymous,
    TooLong,
    Quit,
    Lose,
    Pass,
}

const IDEAS: [(usize, Idea); 22] = [
    (28, Idea::Publish),
    (4, Idea::Burst),
    (12, Idea::Subscribe),
    (2, Idea::Unsubscribe),
    (3, Idea::Detach),
    (14, Idea::Acknowledge),
    (3, Idea::AcknowledgeMany),
    (2, Idea::AcknowledgeAll),
    (10, Idea::Nack),
    (2, Idea::Touch),
    (5, Idea::Terminate),
    (4, Idea::Peek),
    (1, Idea::Purge),
    (4, Idea::Redrive),
    (5, Idea::Look),
    (6, Idea::Hello),
    (4, Idea::Nonsense),
    (2, Idea::Anonymous),
    (1, Idea::TooLong),
    (1, Idea::Quit),
    (3, Idea::Lose),
    (12, Idea::Pass),
];

/// Lines that are wrong or empty.
const NONSENSE: [&str; 27] = [
    "ping",
    "PING",
    "ping pong",
    "",
    " \t ",
    "what",
    "pub",
    "pub a",
    "sub",
    "sub a b c",
    "sub .bad",
    "sub a .bad",
    "pub .bad {",
    "ack a",
    "ack .bad 1",
    "nack a",
    "nack a 1 soon",
    "touch a",
    "touch a 1 2",
    "term a",
    "detach",
    "redrive a 0",
    "peek a x 1 2",
    "topics all",
    "quit now",
    "ping\u{f8fe}",
    "\u{f8ff}",
];

const HELLOS: [&str; 14] = [
    r#"{"prefetch":1}"#,
    r#"{"prefetch":2}"#,
    r#"{"prefetch":2,"confirm":true}"#,
    r#"{"prefetch":3}"#,
    r#"{"prefetch":10}"#,
    r#"{"confirm":true}"#,
    r#"{"confirm":true,"replies":"quiet"}"#,
    r#"{"confirm":false}"#,
    r#"{"replies":"quiet"}"#,
    r#"{"replies":"verbose"}"#,
    r#"{"client":"me","token":"nobody asks"}"#,
    r#"{"prefetch":0}"#,
    r#"{"prefetch":5,"replies":"loud"}"#,
    "[]",
];

impl Author {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), messages: 0, bursts: true, ids: IDS.len() }
    }

    /// Chooses the settings of a script.
    pub(crate) fn setting(&mut self) -> Script {
        let random = &mut self.random;
        let duplicate_id = *random.pick(&[DuplicateId::Replace, DuplicateId::Reject, DuplicateId::Keep]);
        let overflow = *random.pick(&[Overflow::Reject, Overflow::DropLowest, Overflow::DeadLetter]);
        let policy = TopicPolicy {
            duplicate_id,
            overflow,
            max_waiting: *random.pick(&[0, 0, 1, 2, 3, 4]),
            ack_timeout_ms: *random.pick(&[0, 0, 50, 120]),
            ttl_ms: *random.pick(&[0, 0, 0, 150]),
            max_deliveries: *random.pick(&[0, 0, 1, 2, 3]),
            expired_to_dead_letter: random.one_in(2),
            ..TopicPolicy::default()
        };
        let lag = *random.pick(&[(0, 0), (0, 0), (1, 3), (2, 9)]);
        let (shards, forgets) = (1 + random.below(3), random.one_in(4));
        let mut script = Script { shards, forgets, lag, policy, steps: Vec::new() };
        self.ids = *random.pick(&[3, 5, IDS.len()]);
        if script.forgets {
            // An event that has to be read back can be overtaken by others arriving at that moment, to an extent left open.
            self.bursts = false;
            (script.policy.max_deliveries, script.policy.expired_to_dead_letter) = (0, false);
            script.policy.overflow = if overflow == Overflow::DeadLetter { Overflow::Reject } else { overflow };
        }
        script
    }

    /// Chooses the next step of a script that has led to `model`.
    pub(crate) fn step(&mut self, model: &Model) -> Step {
        let at = self.random.below(CONNECTIONS);
        if model.connections[at].is_none() {
            return Step::Connect(at);
        }
        let topic = *self.random.pick(&TOPICS);
        let has_none = model.topics.values().flat_map(Topic::all).all(|one| !one.attached.contains(&at));
        if has_none && self.random.one_in(2) {
            let line = format!("sub {topic} {}", self.random.pick(&NAMES));
            return self.send(at, vec![line]);
        }
        let line = match *self.random.weighted(&IDEAS) {
            Idea::Lose => return Step::Lose(at),
            Idea::Pass => {
                let random = &mut self.random;
                return Step::Pass(*random.pick(&[1, 10, 49, 50, 51, 100, 119, 150, 400, 5_000]));
            }
            Idea::Burst if self.bursts && model.limits_nothing() => return self.burst(model, at),
            Idea::Publish | Idea::Burst => {
                let id = *self.random.pick(&IDS[..self.ids]);
                self.publish(topic, id)
            }
            Idea::Subscribe if self.random.one_in(3) => format!("sub {topic}"),
            Idea::Subscribe => format!("sub {topic} {}", self.random.pick(&NAMES)),
            Idea::Unsubscribe if self.random.one_in(2) => format!("unsub {topic}"),
            Idea::Unsubscribe => format!("unsub {topic} {}", self.random.pick(&NAMES)),
            Idea::Detach => format!("detach {topic}"),
            Idea::Acknowledge => {
                let (topic, id) = self.something(model, at);
                format!("ack {topic} {id}")
            }
            Idea::AcknowledgeMany => {
                let (topic, id) = self.something(model, at);
                format!(
                    "ack {topic} {id} {} {}",
                    self.random.pick(&IDS[..self.ids]),
                    self.random.pick(&IDS[..self.ids])
                )
            }
            Idea::AcknowledgeAll => format!("ack {topic} *"),
            Idea::Nack => {
                let (topic, id) = self.something(model, at);
                format!("nack {topic} {id}{}", self.random.pick(&["", "", " 0", " 1", " 60", " 200"]))
            }
            Idea::Touch => {
                let (topic, id) = self.something(model, at);
                format!("touch {topic} {id}")
            }
            Idea::Terminate => {
                let (topic, id) = self.something(model, at);
                format!("term {topic} {id}{}", self.random.pick(&["", " no", " of no \"use\""]))
            }
            Idea::Peek => format!("peek {topic}{}", self.random.pick(&["", " x", " y 1", " 2", " dead"])),
            Idea::Purge => format!("purge {topic}{}", self.random.pick(&["", " x", " dead"])),
            Idea::Redrive => format!("redrive {}{}", self.random.pick(&["a", "a", "b", "a.dead"]), {
                self.random.pick(&["", "", " 1", " 2"])
            }),
            Idea::Look => (*self.random.pick(&["topics", "stats", "stats a", "stats b", "stats nowhere"])).to_owned(),
            Idea::Hello => format!("hello {}", self.random.pick(&HELLOS)),
            Idea::Nonsense if self.random.one_in(2) => format!("pub {topic} {}", self.random.pick(&BAD_EVENTS)),
            Idea::Nonsense => (*self.random.pick(&NONSENSE)).to_owned(),
            Idea::Anonymous => {
                let id = if self.random.one_in(2) { "" } else { r#""id":null,"# };
                let line = self.publish(topic, "?").replace(r#""id":"?","#, id);
                // Without a confirmation its generated id would be unknown.
                return self.send(at, vec![r#"hello {"confirm":true}"#.to_owned(), line]);
            }
            Idea::TooLong => "x".repeat(MAX_LINE + self.random.below(2)),
            Idea::Quit => "quit".to_owned(),
        };
        let line = self.dress(line);
        self.send(at, vec![line])
    }

    fn send(&mut self, at: usize, lines: Vec<String>) -> Step {
        let whole = self.random.one_in(2);
        let cuts = (0..4).map(|_| if whole { usize::MAX } else { 1 + self.random.below(24) }).collect();
        Step::Send(at, lines, cuts)
    }

    /// Rewrites a line in another form with the same meaning.
    fn dress(&mut self, line: String) -> String {
        match self.random.below(14) {
            12 => format!("{NO_OPERATION}{line}"),
            13 => line.replacen(' ', &format!("{NO_OPERATION} "), 1),
            0 => format!("  {line} \t"),
            1 => line.replacen(' ', " \t ", 1),
            2 => match line.split_once(' ') {
                Some((verb, rest)) => format!("{} {rest}", verb.to_ascii_uppercase()),
                None => line,
            },
            3 if line.starts_with("pub ") => line.replacen("pub", "Publish", 1),
            4 if line.starts_with("ack ") => line.replacen("ack", "ACKNOWLEDGE", 1),
            _ => line,
        }
    }

    fn publish(&mut self, topic: &str, id: &str) -> String {
        self.messages += 1;
        let random = &mut self.random;
        let id = match id.parse::<u8>() {
            Ok(number) if random.one_in(4) => number.to_string(),
            _ => serde_json::to_string(id).expect("a string"),
        };
        let priority =
            if random.one_in(8) { String::new() } else { format!(r#","priority":{}"#, random.pick(&PRIORITIES)) };
        let ttl =
            if random.one_in(5) { format!(r#","ttl_ms":{}"#, random.pick(&[0, 40, 100, 300])) } else { String::new() };
        let delay =
            if random.one_in(5) { format!(r#","delay_ms":{}"#, random.pick(&[0, 1, 50, 130])) } else { String::new() };
        let msg = random
            .pick(&[r#"["é {",#"#, r#"{"msg":#"#, r#"[{"id":"1"},#"#, "#"])
            .replace('#', &self.messages.to_string());
        let end = if msg.starts_with('[') {
            "]"
        } else if msg.starts_with('{') {
            "}"
        } else {
            ""
        };
        format!(r#"pub {topic} {{"id":{id}{priority}{ttl}{delay},"msg":{msg}{end}}}"#)
    }

    /// Lines to send together whose outcome does not depend on the broker's progress with earlier ones: events with new ids,
    /// acknowledgements, and commands that are answered at once.
    fn burst(&mut self, model: &Model, at: usize) -> Step {
        let mut lines = Vec::new();
        let topic = *self.random.pick(&TOPICS);
        if topic != "b" && self.random.one_in(2) {
            // The answer has to wait for a confirmation, and what is delivered for the answer.
            lines.push(r#"hello {"confirm":true}"#.to_owned());
            let id = format!("n{}", self.messages);
            lines.push(self.publish("b", &id));
            lines.push(format!("sub {topic} x"));
        }
        for _ in 0..2 + self.random.below(6) {
            let line = match self.random.below(8) {
                0 => "ping".to_owned(),
                1 => "what".to_owned(),
                2 => r#"hello {"confirm":true}"#.to_owned(),
                3 | 4 if !lines.iter().any(|line: &String| line.starts_with("ack")) => {
                    let (topic, id) = self.something(model, at);
                    format!("ack {topic} {id}")
                }
                _ => {
                    let id = format!("n{}", self.messages);
                    let topic = *self.random.pick(&TOPICS);
                    self.publish(topic, &id)
                }
            };
            lines.push(line);
        }
        self.send(at, lines)
    }

    /// A topic and an id, mostly of an event in flight on the connection.
    fn something(&mut self, model: &Model, at: usize) -> (String, String) {
        let subscriptions = model.topics.iter().flat_map(|(name, topic)| topic.all().map(move |one| (name, one)));
        let mut in_flight = Vec::new();
        for (name, subscription) in subscriptions {
            for held in &subscription.events {
                if held.flight.as_ref().is_some_and(|flight| flight.connection == at) {
                    in_flight.push((name.clone(), held.id.clone()));
                }
            }
        }
        if in_flight.is_empty() || self.random.one_in(5) {
            let attached = |topic: &Topic| topic.all().any(|one: &Subscription| one.attached.contains(&at));
            let topics: Vec<&String> =
                model.topics.iter().filter(|(_, topic)| attached(topic)).map(|(name, _)| name).collect();
            let topic = if topics.is_empty() {
                (*self.random.pick(&TOPICS)).to_owned()
            } else {
                (*self.random.pick(&topics)).clone()
            };
            return (topic, (*self.random.pick(&IDS[..self.ids])).to_owned());
        }
        self.random.pick(&in_flight).clone()
    }
}

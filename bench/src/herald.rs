//! Herald under load: a `herald serve` child process, or a broker that is already running.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memchr;

use crate::Error;
use crate::connection::Opening;
use crate::event::{Events, Found, ID_LEN, index_of_id, integer};
use crate::process::Process;
use crate::target::{Confirmation, Consumer, Delivered, Opened, Order, Publisher, Target};

/// The time limit for a start, recovery of existing data included.
const START: Duration = Duration::from_secs(120);

/// Commands sent at a time while many topics are created: few enough to fit into the socket buffer if the peer does not read.
const AT_ONCE: usize = 100;

/// The location of the broker.
#[derive(Debug, Clone)]
pub enum Place {
    /// A child process.
    Own {
        /// The binary.
        program: PathBuf,
        /// `storage.kind`; `None` means the binary's default.
        storage: Option<String>,
        /// `storage.durability`.
        durability: String,
        /// Further `--set key=value`.
        set: Vec<String>,
    },
    /// A broker that is already running; the run leaves it as it was.
    Remote {
        /// Its address.
        addr: SocketAddr,
        /// The credentials it requires.
        token: Option<String>,
        /// Its process, if it runs on this machine.
        pid: Option<u32>,
    },
}

/// Herald.
#[derive(Debug)]
pub struct Herald {
    place: Place,
    process: Option<Process>,
    dir: PathBuf,
    addr: Option<SocketAddr>,
    version: String,
    /// The number of topics, and their names.
    topics: usize,
    names: Rc<[String]>,
    subscriptions: usize,
    runs: usize,
}

impl Herald {
    /// Creates the target without starting it.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            place,
            process: None,
            dir: PathBuf::new(),
            addr: None,
            version: String::new(),
            topics: 1,
            names: Rc::new([]),
            subscriptions: 0,
            runs: 0,
        }
    }

    /// Starts the process on the existing data, and waits until it answers.
    fn serve(&mut self) -> Result<(), Error> {
        let Place::Own { program, storage, durability, set } = &self.place else { return Ok(()) };
        let mut command = Command::new(program);
        command.current_dir(&self.dir).arg("serve");
        let storage = storage.as_ref().map(|kind| format!("storage.kind={kind}"));
        let mut settings = vec![
            format!("storage.durability={durability}"),
            "storage.path=data".to_owned(),
            "transports.tcp.listen=127.0.0.1:0".to_owned(),
        ];
        settings.extend(storage);
        settings.extend(set.iter().cloned());
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        // Settings in the caller's environment are meant for another broker.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HERALD_") {
                command.env_remove(name);
            }
        }
        let process = Process::start("herald", command)?;
        let line = process.wait_for("listening transport=tcp addr=", START)?;
        let addr = line.rsplit_once("addr=").and_then(|(_, addr)| addr.trim().parse().ok());
        self.addr = Some(addr.ok_or(Error::Protocol(line))?);
        self.process = Some(process);
        Ok(())
    }

    /// Opens a connection, waits for the greeting, and sends `hello` with these options.
    fn open(&mut self, options: &str) -> Result<Opening, Error> {
        let addr = self.addr.ok_or_else(|| Error::Options("the broker is not running".to_owned()))?;
        let mut connection = Opening::connect(addr)?;
        let greeting = connection.line()?;
        if greeting != "Successfully connected to message_broker" {
            return Err(Error::Protocol(format!("{addr} is no Herald: {greeting}")));
        }
        let token = match &self.place {
            Place::Remote { token: Some(token), .. } => {
                format!(",\"token\":{}", serde_json::Value::from(token.as_str()))
            }
            _ => String::new(),
        };
        let answer = connection.ask(&format!("hello {{\"client\":\"herald bench\"{token}{options}}}"))?;
        let json = answer.strip_prefix("hello ").ok_or_else(|| Error::Protocol(answer.clone()))?;
        let json: serde_json::Value = serde_json::from_str(json).map_err(|_| Error::Protocol(answer.clone()))?;
        json["version"].as_str().unwrap_or("?").clone_into(&mut self.version);
        Ok(connection)
    }

    /// Sends a command with a known answer.
    fn command(connection: &mut Opening, command: &str, answer: &str) -> Result<(), Error> {
        let said = connection.ask(command)?;
        if said == answer { Ok(()) } else { Err(Error::Protocol(format!("{said} (to: {command})"))) }
    }

    /// Opens a connection that sends `hello` and then stays idle. It closes when dropped.
    pub(crate) fn idle(&mut self) -> Result<TcpStream, Error> {
        self.open("").map(|connection| connection.done().0)
    }

    fn name(subscription: usize) -> String {
        format!("s{subscription}")
    }

    /// Names the topics: a single one has the plain name, several have a number appended.
    fn name_topics(&mut self, name: &str) {
        self.names = match self.topics {
            1 => Rc::new([name.to_owned()]),
            many => (0..many).map(|topic| format!("{name}-{topic}")).collect(),
        };
    }
}

impl Target for Herald {
    fn name(&self) -> &'static str {
        "Herald"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn level(&self) -> String {
        let level = match &self.place {
            Place::Remote { .. } => "unknown",
            Place::Own { durability, .. } => match durability.as_str() {
                "always" => "synced",
                "interval" => "written",
                _ => "memory",
            },
        };
        level.to_owned()
    }

    fn notes(&self) -> String {
        match &self.place {
            Place::Own { storage, set, .. } => {
                let parts: Vec<&str> = storage.iter().chain(set).map(String::as_str).collect();
                parts.join(", ")
            }
            Place::Remote { addr, .. } => format!("running at {addr}"),
        }
    }

    fn order(&self) -> Order {
        Order::Priority
    }

    fn spread(&mut self, topics: usize) -> bool {
        self.topics = topics;
        topics > 0
    }

    fn start(&mut self, dir: &Path) -> Result<(), Error> {
        dir.clone_into(&mut self.dir);
        self.runs += 1;
        match &self.place {
            Place::Own { .. } => {
                self.name_topics("bench");
                self.serve()?;
            }
            Place::Remote { addr, .. } => {
                self.addr = Some(*addr);
                // A topic that no other client uses, different for each run.
                self.name_topics(&format!("herald-bench-{}-{}", std::process::id(), self.runs));
            }
        }
        self.open("").map(drop)
    }

    fn restart(&mut self) -> Result<Option<Duration>, Error> {
        let Some(process) = &mut self.process else { return Ok(None) };
        process.kill();
        let began = Instant::now();
        self.serve()?;
        self.open("")?;
        Ok(Some(began.elapsed()))
    }

    fn pid(&self) -> Option<u32> {
        match &self.place {
            Place::Own { .. } => self.process.as_ref().map(Process::pid),
            Place::Remote { pid, .. } => *pid,
        }
    }

    fn prepare(&mut self, subscriptions: usize, _prefetch: usize) -> Result<(), Error> {
        let mut connection = self.open("")?;
        for subscription in 0..subscriptions {
            let name = Self::name(subscription);
            for topics in self.names.chunks(AT_ONCE) {
                let commands: Vec<String> =
                    topics.iter().map(|topic| format!("sub {topic} {name}\r\ndetach {topic}\r\n")).collect();
                connection.send(commands.concat().as_bytes())?;
                for topic in topics {
                    for answer in [format!("{SUBSCRIBED}{topic}"), format!("detached from topic {topic}")] {
                        let said = connection.line()?;
                        if said != answer {
                            return Err(Error::Protocol(format!("{said} (instead of: {answer})")));
                        }
                    }
                }
            }
            self.subscriptions = subscription + 1;
        }
        Ok(())
    }

    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error> {
        let connection = self.open(",\"confirm\":true,\"replies\":\"quiet\"")?;
        let end = HeraldPublisher { topics: Rc::clone(&self.names), level: Vec::new() };
        let (stream, input) = connection.done();
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn consumer(&mut self, subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error> {
        let mut connection = self.open(&format!(",\"prefetch\":{prefetch},\"replies\":\"quiet\""))?;
        let name = Self::name(subscription);
        let mut joining = Vec::new();
        match &*self.names {
            [topic] => {
                Self::command(&mut connection, &format!("sub {topic} {name}"), &format!("{SUBSCRIBED}{topic}"))?;
            }
            // By then the first subscriptions deliver, so subscribing is part of the measurement.
            topics => topics.iter().for_each(|topic| joining.extend(format!("sub {topic} {name}\n").bytes())),
        }
        let end = HeraldConsumer { topics: Rc::clone(&self.names), joining, finished: false };
        let (stream, input) = connection.done();
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn stop(&mut self) {
        if matches!(self.place, Place::Remote { .. })
            && let Ok(mut connection) = self.open("")
        {
            for subscription in 0..self.subscriptions {
                for topic in &*self.names {
                    let _it_may_be_gone = connection.ask(&format!("unsub {topic} {}", Self::name(subscription)));
                }
            }
        }
        self.subscriptions = 0;
        // Its data is discarded, so no orderly shutdown is needed.
        self.process = None;
    }
}

/// The answer to `sub`, up to the topic.
const SUBSCRIBED: &str = "successfully subscribed to topic ";

/// The topic of an event.
fn topic_of(index: u64, topics: &[String]) -> &[u8] {
    topics[usize::try_from(index % topics.len() as u64).unwrap_or(0)].as_bytes()
}

struct HeraldPublisher {
    topics: Rc<[String]>,
    level: Vec<u8>,
}

impl Publisher for HeraldPublisher {
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"pub ");
        out.extend_from_slice(topic_of(index, &self.topics));
        out.push(b' ');
        events.write(index, out);
        out.push(b'\n');
    }

    fn receive(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error> {
        lines(input, |line| {
            // `published <topic> <id> <level>`; a replaced event would be an error, since every id is new.
            let (index, level) = confirmation(line, &self.topics).ok_or_else(|| Error::unexpected(line))?;
            if self.level != level {
                if !self.level.is_empty() {
                    return Err(Error::unexpected(line));
                }
                self.level = level.to_vec();
            }
            confirmed(Confirmation::Index(index));
            Ok(())
        })
    }

    fn level(&self) -> Option<String> {
        (!self.level.is_empty()).then(|| String::from_utf8_lossy(&self.level).into_owned())
    }
}

/// The event's number and the level from a confirmation that names the event's topic.
fn confirmation<'a>(line: &'a [u8], topics: &[String]) -> Option<(u64, &'a [u8])> {
    let rest = line.strip_prefix(b"published ")?;
    let (topic, rest) = rest.split_at_checked(memchr(b' ', rest)?)?;
    let (id, level) = rest.get(1..)?.split_at_checked(ID_LEN)?;
    let index = index_of_id(id).filter(|index| topic_of(*index, topics) == topic)?;
    Some((index, level.strip_prefix(b" ")?))
}

struct HeraldConsumer {
    topics: Rc<[String]>,
    /// Subscribes, unless already subscribed.
    joining: Vec<u8>,
    finished: bool,
}

impl Consumer for HeraldConsumer {
    fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.joining);
    }

    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error> {
        let Self { topics, joining, finished } = self;
        let mut acknowledging: &[u8] = b"";
        let used = lines(input, |line| {
            let Some(rest) = line.strip_prefix(DELIVERY) else {
                let joined = !joining.is_empty() && line.starts_with(SUBSCRIBED.as_bytes());
                *finished |= line == b"pong";
                return if joined || line == b"pong" { Ok(()) } else { Err(Error::unexpected(line)) };
            };
            let parsed = parse(rest).ok_or_else(|| Error::unexpected(line))?;
            // One acknowledgement covers all events of a topic that arrived together.
            if acknowledging != parsed.topic {
                if !acknowledging.is_empty() {
                    out.push(b'\n');
                }
                acknowledging = parsed.topic;
                out.extend_from_slice(b"ack ");
                out.extend_from_slice(acknowledging);
            }
            out.push(b' ');
            out.extend_from_slice(parsed.id);
            let is_it = |index: &u64| {
                topic_of(*index, topics) == parsed.topic && events.is(*index, parsed.priority, parsed.msg)
            };
            let index = index_of_id(parsed.id).filter(is_it);
            let event = index.map(|index| Found { index, priority: parsed.priority });
            delivered(Delivered { event, again: parsed.again });
            Ok(())
        })?;
        if !acknowledging.is_empty() {
            out.push(b'\n');
        }
        Ok(used)
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        // The server answers this after everything before it.
        out.extend_from_slice(b"ping\n");
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

/// The beginning of a delivery.
const DELIVERY: &[u8] = b"{\"topic\":\"";

struct Parsed<'a> {
    topic: &'a [u8],
    priority: i32,
    msg: &'a [u8],
    id: &'a [u8],
    again: bool,
}

/// `<topic>","priority":<priority>,"msg":"…","id":"…"}`, optionally with `,"redelivered":<n>` before the brace.
fn parse(rest: &[u8]) -> Option<Parsed<'_>> {
    const ID: &[u8] = b"\",\"id\":\"";
    let (topic, rest) = rest.split_at_checked(memchr(b'"', rest)?)?;
    let (priority, rest) = integer(rest.strip_prefix(b"\",\"priority\":")?)?;
    let rest = rest.strip_prefix(b",\"msg\":\"")?.strip_suffix(b"}")?;
    let (rest, again) = match rest.strip_suffix(b"\"") {
        Some(rest) => (rest, false),
        None => {
            let at = memchr::memmem::rfind(rest, b"\",\"redelivered\":")?;
            (&rest[..at], true)
        }
    };
    let (rest, id) = rest.split_at_checked(rest.len().checked_sub(ID_LEN)?)?;
    Some(Parsed { topic, priority, msg: rest.strip_suffix(ID)?, id, again })
}

/// Calls `take` for each complete line, without its ending, and returns their total length in bytes.
fn lines<'a>(input: &'a [u8], mut take: impl FnMut(&'a [u8]) -> Result<(), Error>) -> Result<usize, Error> {
    let mut used = 0;
    while let Some(end) = memchr(b'\n', &input[used..]) {
        let line = &input[used..used + end];
        take(line.strip_suffix(b"\r").unwrap_or(line))?;
        used += end + 1;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_parsed_and_acknowledged_together() {
        let events = Events::new(64, &(0..=6), 1).unwrap();
        let mut input = Vec::new();
        for index in [3, 4] {
            let mut event = Vec::new();
            events.write(index, &mut event);
            let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
            let (priority, msg, id) = (&event["priority"], &event["msg"], &event["id"]);
            input.extend(format!("{{\"topic\":\"t\",\"priority\":{priority},\"msg\":{msg},\"id\":{id}}}\r\n").bytes());
        }
        let again = String::from_utf8(input.clone()).unwrap().replace("4\"}", "4\",\"redelivered\":2}");
        let topics = Rc::new(["t".to_owned()]);
        let mut consumer = HeraldConsumer { topics, joining: Vec::new(), finished: false };
        for (input, redelivered) in [(input, false), (again.into_bytes(), true)] {
            let (mut out, mut got) = (Vec::new(), Vec::new());
            let used = consumer.receive(&events, &input, &mut out, &mut |one| got.push(one)).unwrap();
            assert_eq!(used, input.len());
            assert_eq!(String::from_utf8(out).unwrap(), "ack t e000000003 e000000004\n");
            let found: Vec<_> = got.iter().map(|one| (one.event.map(|event| event.index), one.again)).collect();
            assert_eq!(found, [(Some(3), false), (Some(4), redelivered)]);
        }
        for line in [&b"error: no\r\n"[..], b"successfully subscribed to topic t\r\n"] {
            assert!(consumer.receive(&events, line, &mut Vec::new(), &mut |_| {}).is_err());
        }
    }

    #[test]
    fn events_of_many_topics_are_acknowledged_in_theirs_and_damaged_in_another() {
        let events = Events::new(64, &(0..=0), 1).unwrap();
        let topics: Rc<[String]> = Rc::new(["a", "b"].map(str::to_owned));
        let mut consumer = HeraldConsumer { topics, joining: b"sub a s0\nsub b s0\n".to_vec(), finished: false };
        let mut input = b"successfully subscribed to topic a\r\n".to_vec();
        for (topic, index) in [("a", 0), ("a", 2), ("b", 1), ("a", 3)] {
            let mut event = Vec::new();
            events.write(index, &mut event);
            let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
            let (msg, id) = (&event["msg"], &event["id"]);
            input.extend(format!("{{\"topic\":\"{topic}\",\"priority\":0,\"msg\":{msg},\"id\":{id}}}\r\n").bytes());
        }
        let (mut out, mut got) = (Vec::new(), Vec::new());
        consumer.start(&mut out);
        consumer.receive(&events, &input, &mut out, &mut |one| got.push(one)).unwrap();
        let sent = "sub a s0\nsub b s0\nack a e000000000 e000000002\nack b e000000001\nack a e000000003\n";
        assert_eq!(String::from_utf8(out).unwrap(), sent);
        let found: Vec<_> = got.iter().map(|one| one.event.map(|event| event.index)).collect();
        assert_eq!(found, [Some(0), Some(2), Some(1), None]);
    }

    #[test]
    fn confirmations_name_the_event_and_the_level() {
        let mut publisher = HeraldPublisher { topics: Rc::new(["t".to_owned()]), level: Vec::new() };
        let mut got = Vec::new();
        let input = b"published t e000000007 synced\r\npublished t e0000";
        let used = publisher.receive(input, &mut Vec::new(), &mut |one| got.push(one)).unwrap();
        assert_eq!((used, got.as_slice()), (31, &[Confirmation::Index(7)][..]));
        assert_eq!(publisher.level().as_deref(), Some("synced"));
        for wrong in [
            "published t e000000008 written\r\n",
            "published u e000000008 synced\r\n",
            "replaced t e000000007 synced\r\n",
            "error: full\r\n",
        ] {
            assert!(publisher.receive(wrong.as_bytes(), &mut Vec::new(), &mut |_| {}).is_err(), "{wrong}");
        }
    }
}

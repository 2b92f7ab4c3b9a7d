//! Consumers that acknowledge most events, give some back, keep some, and sometimes disconnect.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::event::{Event, Queue};
use super::history::History;

/// Signals to the clients of a round.
#[derive(Default)]
pub(crate) struct Signals {
    /// The crash is near; clients do not reconnect.
    pub(crate) ending: AtomicBool,
    /// Clients close their connections now.
    pub(crate) leave: AtomicBool,
}

impl Signals {
    pub(crate) fn told_to_leave(&self) -> bool {
        self.leave.load(Ordering::SeqCst)
    }
}

pub(crate) struct Consumer {
    pub(crate) addr: SocketAddr,
    pub(crate) queue: Queue,
    pub(crate) prefetch: u16,
    pub(crate) seed: u64,
}

impl Consumer {
    /// Consumes until the broker has ended, over any number of connections.
    pub(crate) fn run(&self, history: &History, signals: &Signals) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        while !signals.ending.load(Ordering::SeqCst) && !signals.told_to_leave() {
            let Ok(stream) = TcpStream::connect(self.addr) else { return };
            let session = history.attaching(self.queue);
            if self.session(session, history, signals, &mut rng, &stream).is_none() {
                return;
            }
            history.leaving(session);
        }
    }

    /// Serves one connection. Returns `None` if the broker ended it, `Some` if the consumer did.
    fn session(
        &self,
        session: u64,
        history: &History,
        signals: &Signals,
        rng: &mut StdRng,
        stream: &TcpStream,
    ) -> Option<()> {
        let Self { queue, prefetch, .. } = *self;
        let Queue { topic, name } = queue;
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut out = stream;
        let mut reader = BufReader::new(stream);
        write!(out, "hello {{\"prefetch\":{prefetch}}}\nsub {topic} {name}\n").ok()?;
        // The earliest time at which each event that was given back may come again.
        let mut given_back: HashMap<String, Instant> = HashMap::new();
        let mut line = String::new();
        loop {
            match reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if signals.told_to_leave() {
                        return Some(());
                    }
                    // A partial line stays in `line`. Everything answered before the crash counts.
                    continue;
                }
                Err(_) => return None,
            }
            let text = line.trim_end().to_owned();
            line.clear();
            if let Some(event) = Event::parse(&text) {
                history.delivered(queue, session, &event);
                let id = event.id;
                match rng.random_range(0..1000) {
                    0..850 => {
                        history.ack_sent(queue, &id);
                        writeln!(out, "ack {topic} {id}").ok()?;
                    }
                    850..930 => {
                        given_back.insert(id.clone(), Instant::now());
                        history.nack_sent(queue, &id, None);
                        writeln!(out, "nack {topic} {id}").ok()?;
                    }
                    930..980 => {
                        // Some delays end before the broker has restarted, some later.
                        let short = rng.random_range(0..3) > 0;
                        let delay = if short { rng.random_range(10..80) } else { rng.random_range(500..2500) };
                        let due = Instant::now() + Duration::from_millis(delay);
                        given_back.insert(id.clone(), due);
                        history.nack_sent(queue, &id, Some(due));
                        writeln!(out, "nack {topic} {id} {delay}").ok()?;
                    }
                    980..995 => {}
                    // Disconnects with events in flight and unread.
                    _ => return Some(()),
                }
                if signals.told_to_leave() {
                    return Some(());
                }
            } else if let Some(id) = text.strip_prefix("acknowledged from logs ev_id=") {
                history.ack_answered(queue, id);
            } else if let Some(id) = text.strip_prefix("requeued ev_id=") {
                match given_back.remove(id) {
                    Some(due) => history.requeued(queue, id, due),
                    None => history.violation(format!("{name}: {text:?} without a nack")),
                }
            } else if !is_courtesy(&text, topic) {
                history.violation(format!("{name}: {text:?}"));
            }
        }
    }
}

/// Whether a line is one of the broker's courtesy messages.
fn is_courtesy(line: &str, topic: &str) -> bool {
    line == "no available message"
        || line == "Successfully connected to message_broker"
        || line.starts_with("hello ")
        || line.strip_prefix("successfully subscribed to topic ") == Some(topic)
}

//! A publisher that pipelines its events, and publishes unconfirmed ones again after the connection breaks.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::consumer::Signals;
use super::event::{BULK, publication};
use super::history::History;

/// An unconfirmed event.
struct Outstanding {
    id: String,
    priority: i32,
    delay_ms: u64,
}

pub(crate) struct Publisher {
    topic: &'static str,
    /// The prefix of its events' ids.
    name: String,
    next: u64,
    /// The events sent and not confirmed, in order.
    unconfirmed: VecDeque<Outstanding>,
}

impl Publisher {
    pub(crate) fn new(topic: &'static str, name: String) -> Self {
        Self { topic, name, next: 0, unconfirmed: VecDeque::new() }
    }

    pub(crate) fn topic(&self) -> &'static str {
        self.topic
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The most unconfirmed events. After a crash these are sent again and may exist twice, which weakens the checks. So only one
    /// publisher has a large window.
    fn window(&self) -> usize {
        match (self.topic, &*self.name) {
            (BULK, _) => 4,
            (_, "0") => 64,
            _ => 6,
        }
    }

    /// Publishes until the connection breaks, the signal to leave comes, or `most` events are confirmed and none is outstanding.
    pub(crate) fn run(&mut self, addr: SocketAddr, history: &History, signals: &Signals, seed: u64, most: usize) {
        let mut rng = StdRng::seed_from_u64(seed);
        let Ok(stream) = TcpStream::connect(addr) else { return };
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut out = stream;
        let mut batch = String::from("hello {\"confirm\":true}\n");
        for Outstanding { id, priority, delay_ms } in &self.unconfirmed {
            history.sent_again(id);
            batch += &publication(self.topic, id, *priority, *delay_ms);
        }
        if out.write_all(batch.as_bytes()).is_err() {
            return;
        }
        let most = most.max(self.unconfirmed.len());
        let mut confirmed = 0;
        while confirmed < most && !signals.told_to_leave() {
            let room = self.window().min(most - confirmed).saturating_sub(self.unconfirmed.len());
            if room > 0 {
                let mut batch = String::new();
                for _ in 0..rng.random_range(1..=room) {
                    batch += &self.new_event(history, &mut rng);
                }
                if out.write_all(batch.as_bytes()).is_err() {
                    return;
                }
            }
            let Some(Ok(answer)) = lines.next() else { return };
            let answer = answer.trim_end();
            if answer.starts_with("hello ") || answer.starts_with("Successfully connected") {
                continue;
            }
            let mut words = answer.split(' ');
            let (verb, id) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
            let expected = self.unconfirmed.front().map(|event| event.id.as_str());
            if !matches!(verb, "published" | "replaced") || expected != Some(id) {
                history.violation(format!("{answer:?} instead of a confirmation of {expected:?}"));
                return;
            }
            history.confirmed(id);
            confirmed += 1;
            self.unconfirmed.pop_front();
            if self.topic != BULK && rng.random_range(0..8) == 0 {
                // Consumers, which check every event, must keep up.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn new_event(&mut self, history: &History, rng: &mut StdRng) -> String {
        // The ids are in order, so that a consumer can check it.
        let (id, priority) = (format!("{}-{:07}", self.name, self.next), rng.random_range(0..7));
        let delay_ms = if rng.random_range(0..40) == 0 { rng.random_range(5..600) } else { 0 };
        self.next += 1;
        history.sent(self.topic, &id, priority, delay_ms);
        let line = publication(self.topic, &id, priority, delay_ms);
        self.unconfirmed.push_back(Outstanding { id, priority, delay_ms });
        line
    }
}

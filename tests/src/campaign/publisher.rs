//! A publisher that pipelines, and publishes again what was not confirmed when the connection broke.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::History;
use crate::message;

/// Events on their way without a confirmation.
const WINDOW: usize = 64;

pub(crate) struct Publisher {
    number: usize,
    next: u64,
    /// Sent and not confirmed, with their priorities, in order.
    unconfirmed: VecDeque<(String, i32)>,
}

impl Publisher {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, next: 0, unconfirmed: VecDeque::new() }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Publishes until the connection breaks.
    pub(crate) fn run(&mut self, addr: SocketAddr, history: &History, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let Ok(stream) = TcpStream::connect(addr) else { return };
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut out = stream;
        let mut batch = String::from("hello {\"confirm\":true}\n");
        for (id, priority) in &self.unconfirmed {
            history.sent_again(id);
            batch += &line(id, *priority);
        }
        if out.write_all(batch.as_bytes()).is_err() {
            return;
        }
        loop {
            let room = WINDOW.saturating_sub(self.unconfirmed.len());
            if room > 0 {
                let mut batch = String::new();
                for _ in 0..rng.random_range(1..=room) {
                    // Their order is in their ids, so that a consumer can check it.
                    let (id, priority) = (format!("{}-{:07}", self.number, self.next), rng.random_range(0..7));
                    self.next += 1;
                    history.sent(&id, priority);
                    batch += &line(&id, priority);
                    self.unconfirmed.push_back((id, priority));
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
            let expected = self.unconfirmed.front().map(|(id, _)| id.as_str());
            if !matches!(verb, "published" | "replaced") || expected != Some(id) {
                history.violation(format!("{answer:?} instead of a confirmation of {expected:?}"));
                return;
            }
            history.confirmed(id);
            self.unconfirmed.pop_front();
            if rng.random_range(0..8) == 0 {
                // Consumers that look at every event one by one must keep up.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn line(id: &str, priority: i32) -> String {
    format!("pub t {{\"id\":\"{id}\",\"priority\":{priority},\"msg\":{}}}\n", message(id))
}

//! An SSE feed of numbers that misbehaves.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A feed whose event n has the id n and the data `{"n":n}`. It drops connections in the middle of a line, sometimes answers 503, and
/// sends comments and events without data in between.
pub struct NumberFeed {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

/// The feed's record of its clients.
struct Seen {
    events: u64,
    connections: AtomicU64,
    resumed_at: Mutex<Vec<u64>>,
}

impl NumberFeed {
    /// Starts a feed of this many events.
    #[must_use]
    pub fn start(events: u64, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen { events, connections: AtomicU64::new(0), resumed_at: Mutex::default() });
        let its_own = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            for stream in listener.incoming() {
                let (seen, seed) = (Arc::clone(&its_own), rng.random());
                std::thread::spawn(move || {
                    let _the_client_has_gone = serve(&stream.unwrap(), &seen, seed);
                });
            }
        });
        Self { addr, seen }
    }

    /// The feed's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The `Last-Event-ID` of each connection; 0 if it had none.
    #[must_use]
    pub fn resumed_at(&self) -> Vec<u64> {
        self.seen.resumed_at.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, seen: &Seen, seed: u64) -> std::io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut last_id = 0;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(id) = line.to_ascii_lowercase().strip_prefix("last-event-id: ") {
            last_id = id.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut out = stream;
    let number = seen.connections.fetch_add(1, Ordering::SeqCst);
    seen.resumed_at.lock().unwrap().push(last_id);
    if number % 7 == 3 {
        return out.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
    }
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\xef\xbb\xbfretry: 1\n\n")?;
    // The event at which this connection is dropped.
    let end = if last_id == seen.events { u64::MAX } else { last_id + rng.random_range(1..1500) };
    for id in last_id + 1..=seen.events.min(end) {
        let line_end = ["\n", "\r\n", "\r"][rng.random_range(0..3)];
        let event = format!("id: {id}{line_end}data: {{\"n\":{id}}}{line_end}{line_end}");
        if id == end {
            return out.write_all(&event.as_bytes()[..event.len() / 2]);
        }
        out.write_all(event.as_bytes())?;
        if rng.random_range(0..50) == 0 {
            out.write_all(b": still here\n\nevent: nothing\n\n")?;
        }
        if rng.random_range(0..20) == 0 {
            // Slow enough for kills to happen in the middle of the stream.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // All events are sent; the stream stays open.
    loop {
        std::thread::sleep(Duration::from_millis(200));
        out.write_all(b":\n")?;
    }
}

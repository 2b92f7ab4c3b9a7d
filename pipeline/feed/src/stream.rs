//! The body of one response: events when they are due, heartbeats in between.
//!
//! Nothing is generated ahead of demand. The HTTP layer asks for the next chunk when its write buffer has room, so a slow client slows
//! down only its own stream and costs at most a chunk and that buffer. No task runs behind a stream: it ends with its connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::counters::{FeedCounters, OpenGuard};
use super::event::FeedStream;
use super::pacer::Pacer;
use super::script::Script;

/// A chunk ends with the event that takes it beyond this: about 20 tweets, at most this and the longest line of a file.
const CHUNK_BYTES: usize = 64 << 10;

/// The time a client should wait before it reconnects, sent once at the beginning.
const PROLOGUE: &str = "retry: 1000\n\n";

/// An SSE comment. Clients ignore it, but it shows both ends that the connection is alive.
const HEARTBEAT: &str = ":\n\n";

/// The state shared by all connections of a feed.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) script: Script,
    pub(super) rate: f64,
    pub(super) limit: Option<u64>,
    pub(super) heartbeat: Duration,
    pub(super) counters: Arc<FeedCounters>,
    /// Ends all streams.
    pub(super) stop: CancellationToken,
}

/// One client's position in one stream.
#[derive(Debug)]
pub(super) struct EventStream {
    shared: Arc<Shared>,
    stream: FeedStream,
    /// The number of the next event.
    next: u64,
    pacer: Pacer,
    started: Instant,
    /// The time of the last chunk; `None` before the first.
    last: Option<Instant>,
    _open: OpenGuard,
}

impl EventStream {
    /// Starts after the event with `last_event_id`, or at the first event.
    pub(super) fn new(shared: Arc<Shared>, stream: FeedStream, last_event_id: Option<&str>) -> Self {
        Self {
            next: shared.script.resume(stream, last_event_id),
            pacer: Pacer::new(shared.rate),
            started: Instant::now(),
            last: None,
            _open: shared.counters.open_one(),
            shared,
            stream,
        }
    }

    /// The next bytes for the client, or `None` once the feed stops. Cancel-safe: only returned events count as sent.
    pub(super) async fn next_chunk(&mut self) -> Option<Bytes> {
        let Some(last) = self.last else {
            self.last = Some(Instant::now());
            return Some(Bytes::from_static(PROLOGUE.as_bytes()));
        };
        let heartbeat_at = last + self.shared.heartbeat;
        loop {
            if self.shared.stop.is_cancelled() {
                return None;
            }
            let now = Instant::now();
            if let Some(chunk) = self.due_events(now) {
                self.last = Some(now);
                return Some(chunk);
            }
            if now >= heartbeat_at {
                self.last = Some(now);
                return Some(Bytes::from_static(HEARTBEAT.as_bytes()));
            }
            let wake_at = if self.left() == 0 {
                heartbeat_at
            } else {
                heartbeat_at.min(self.started + self.pacer.next(now - self.started))
            };
            tokio::select! {
                () = self.shared.stop.cancelled() => return None,
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// The number of events left before the limit.
    fn left(&self) -> u64 {
        self.shared.limit.map_or(u64::MAX, |limit| limit.saturating_add(1).saturating_sub(self.next))
    }

    /// One chunk of the events that are due; `None` if there are none.
    fn due_events(&mut self, now: Instant) -> Option<Bytes> {
        let due = self.pacer.due(now - self.started).min(self.left());
        if due == 0 {
            return None;
        }
        // An estimate of a tweet's size; the text grows if it is too low.
        let mut chunk = String::with_capacity(due.min(20) as usize * 3_500);
        let mut count = 0;
        while count < due && chunk.len() < CHUNK_BYTES {
            self.shared.script.push_event(self.stream, self.next + count, &mut chunk);
            count += 1;
        }
        self.next += count;
        self.pacer.sent(count);
        self.shared.counters.add_events(count);
        Some(Bytes::from(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::super::FeedConfig;
    use super::*;

    fn open(config: &FeedConfig) -> EventStream {
        let shared = Shared {
            script: Script::new(config).unwrap(),
            rate: config.rate,
            limit: config.limit,
            heartbeat: config.heartbeat,
            counters: Arc::default(),
            stop: CancellationToken::new(),
        };
        EventStream::new(Arc::new(shared), FeedStream::One, None)
    }

    async fn next(stream: &mut EventStream) -> String {
        String::from_utf8(stream.next_chunk().await.unwrap().to_vec()).unwrap()
    }

    fn events(chunk: &str) -> usize {
        chunk.matches("\ndata: ").count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_feed_fills_the_time_with_heartbeats() {
        let mut stream = open(&FeedConfig { rate: 0.1, heartbeat: Duration::from_secs(4), ..FeedConfig::default() });
        let began = Instant::now();
        let mut got = Vec::new();
        for _ in 0..7 {
            let chunk = next(&mut stream).await;
            got.push((began.elapsed().as_secs(), chunk.split(' ').next().unwrap().to_owned()));
        }
        let expected =
            [(0, "retry:"), (0, "id:"), (4, ":\n\n"), (8, ":\n\n"), (10, "id:"), (14, ":\n\n"), (18, ":\n\n")];
        assert_eq!(got, expected.map(|(at, what)| (at, what.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn at_100000_per_second_events_come_in_bursts_and_none_is_missing() {
        let mut stream = open(&FeedConfig { rate: 100_000.0, ..FeedConfig::default() });
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < Duration::from_millis(20) {
            count += events(&next(&mut stream).await);
        }
        // The chunk that reached 20 ms is one of several for that millisecond.
        assert!((1_900..=2_001).contains(&count), "{count}");
        assert_eq!(stream.shared.counters.events(), count as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_did_not_read_for_an_hour_gets_chunks_of_bounded_size() {
        let mut stream = open(&FeedConfig { rate: 1_000.0, ..FeedConfig::default() });
        next(&mut stream).await;
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let (mut count, now) = (0, Instant::now());
        while Instant::now() == now {
            let chunk = next(&mut stream).await;
            assert!(chunk.len() < CHUNK_BYTES + 10_000, "{}", chunk.len());
            count += events(&chunk);
        }
        assert!((1_000..=1_002).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_limit_there_are_heartbeats_only() {
        let mut stream = open(&FeedConfig { limit: Some(3), ..FeedConfig::default() });
        let mut count = 0;
        for _ in 0..4 {
            count += events(&next(&mut stream).await);
        }
        assert_eq!(count, 3);
        for _ in 0..3 {
            assert_eq!(next(&mut stream).await, HEARTBEAT);
        }
        let mut nothing = open(&FeedConfig { limit: Some(0), ..FeedConfig::default() });
        next(&mut nothing).await;
        assert_eq!(next(&mut nothing).await, HEARTBEAT);
        let mut all = open(&FeedConfig { limit: Some(u64::MAX), ..FeedConfig::default() });
        next(&mut all).await;
        assert_eq!(events(&next(&mut all).await), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_wakes_a_stream_that_waits() {
        let mut stream =
            open(&FeedConfig { limit: Some(0), heartbeat: Duration::from_secs(1_000_000), ..FeedConfig::default() });
        next(&mut stream).await;
        let stop = stream.shared.stop.clone();
        let began = Instant::now();
        let (chunk, ()) = tokio::join!(stream.next_chunk(), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            stop.cancel();
        });
        assert!(chunk.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}

//! The feed over HTTP on a loopback socket. The requests are written by hand, so that no client library hides anything.
//!
//! Time-outs only end a hang; no test asserts a duration.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's helper fails the test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pipeline_feed::{Feed, FeedConfig, FeedCounters, FeedError, FeedStream, serve, tweet};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PANIC: &str = r#"{"message": panic}"#;

/// Fails a test that would otherwise hang.
async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// Waits for a condition.
async fn until(what: &str, condition: impl Fn() -> bool) {
    in_time(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

struct TestFeed {
    addr: SocketAddr,
    counters: Arc<FeedCounters>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), FeedError>>,
}

impl TestFeed {
    async fn start(config: FeedConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let feed = Feed::new(config).unwrap();
        let counters = feed.counters();
        let task = tokio::spawn(feed.serve(listener, shutdown.clone()));
        Self { addr, counters, shutdown, task }
    }

    async fn open(&self, path: &str) -> Client {
        Client::open(self.addr, path, None).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        in_time("the feed's end", self.task).await.unwrap().unwrap();
        assert_eq!(self.counters.open(), 0, "a stream is left");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    id: String,
    data: String,
}

/// One HTTP/1.1 request and its response.
struct Client {
    socket: BufReader<TcpStream>,
    head: String,
    /// The part of the body that has arrived and is not consumed yet.
    body: Vec<u8>,
    at: usize,
}

impl Client {
    async fn send(addr: SocketAddr, path: &str, last_event_id: Option<&str>) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that it fills soon when the client does not read.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let mut socket = socket.connect(addr).await.unwrap();
        let resume = last_event_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: feed.test\r\n{resume}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    async fn response(socket: TcpStream) -> Self {
        let mut client = Self { socket: BufReader::new(socket), head: String::new(), body: Vec::new(), at: 0 };
        while !client.head.ends_with("\r\n\r\n") {
            let n = in_time("the response's head", client.socket.read_line(&mut client.head)).await;
            assert_ne!(n.unwrap(), 0, "the connection ended: {}", client.head);
        }
        client
    }

    async fn open(addr: SocketAddr, path: &str, last_event_id: Option<&str>) -> Self {
        Self::response(Self::send(addr, path, last_event_id).await).await
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// Reads another chunk of the body; false at its orderly end.
    async fn chunk(&mut self) -> bool {
        let mut size = String::new();
        in_time("a chunk's size", self.socket.read_line(&mut size)).await.unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|e| panic!("{e}: {size:?}"));
        let mut chunk = vec![0; size + 2];
        in_time("a chunk", self.socket.read_exact(&mut chunk)).await.unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        self.body.extend_from_slice(&chunk[..size]);
        size > 0
    }

    /// The next block up to an empty line; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(n) = self.body[self.at..].windows(2).position(|two| two == b"\n\n") {
                let block = self.body[self.at..self.at + n].to_vec();
                self.at += n + 2;
                if self.at > 1 << 20 {
                    self.body.drain(..self.at);
                    self.at = 0;
                }
                return Some(String::from_utf8(block).unwrap());
            }
            if !self.chunk().await {
                assert_eq!(self.at, self.body.len(), "the stream ended within an event");
                return None;
            }
        }
    }

    /// The next event, skipping heartbeats and `retry`.
    async fn event(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if let Some((id, data)) = block.split_once('\n') {
                return Some(Event {
                    id: id.strip_prefix("id: ").unwrap().to_owned(),
                    data: data.strip_prefix("data: ").unwrap().to_owned(),
                });
            }
        }
    }

    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            events.push(self.event().await.expect("the stream continues"));
        }
        events
    }

    /// The whole body of a response with a length.
    async fn text(mut self) -> String {
        let length = self.head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        in_time("the body", self.socket.read_exact(&mut body)).await.unwrap();
        String::from_utf8(body).unwrap()
    }
}

fn fast() -> FeedConfig {
    FeedConfig { rate: 10_000.0, ..FeedConfig::default() }
}

#[tokio::test]
async fn both_paths_stream_their_own_tweets_with_ids() {
    let feed = TestFeed::start(fast()).await;
    for (path, stream) in [("/tweets/1", FeedStream::One), ("/tweets/2", FeedStream::Two)] {
        let mut client = feed.open(path).await;
        assert_eq!(client.status(), "200");
        assert!(client.head.contains("content-type: text/event-stream\r\n"), "{}", client.head);
        assert_eq!(client.block().await.unwrap(), "retry: 1000");
        let events = client.events(50).await;
        for (n, event) in events.iter().enumerate() {
            assert_eq!(event.data, tweet(1, stream, n as u64));
            assert!(event.id.ends_with(&format!("-{}", n + 1)), "{}", event.id);
            assert!(event.id.starts_with(&format!("{}-", stream.number())), "{}", event.id);
        }
    }
    assert_eq!(feed.counters.connections(), 2);
    assert!(feed.counters.events() >= 100);
    feed.stop().await;
}

#[tokio::test]
async fn an_id_resumes_with_exactly_what_comes_after_it_even_at_another_server() {
    let config = FeedConfig { panic_every: 7, ..fast() };
    let first = TestFeed::start(config.clone()).await;
    let events = first.open("/tweets/2").await.events(40).await;
    first.stop().await;
    let second = TestFeed::start(config).await;
    // After a tweet, after a panic, before one.
    for seen in [1, 7, 13, 30] {
        let mut client = Client::open(second.addr, "/tweets/2", Some(&events[seen - 1].id)).await;
        assert_eq!(client.events(40 - seen).await, events[seen..], "after {seen}");
    }
    second.stop().await;
}

#[tokio::test]
async fn an_id_that_is_unknown_or_malformed_starts_afresh() {
    let feed = TestFeed::start(fast()).await;
    let events = feed.open("/tweets/1").await.events(3).await;
    let other = TestFeed::start(FeedConfig { seed: 2, ..fast() }).await;
    let foreign = other.open("/tweets/1").await.events(2).await.remove(1).id;
    let of_the_other_stream = feed.open("/tweets/2").await.events(2).await.remove(1).id;
    for id in [&foreign, &of_the_other_stream, "", "17", "1-00000000-5", "\u{e9}", &"9".repeat(5_000)] {
        let mut client = Client::open(feed.addr, "/tweets/1", Some(id)).await;
        assert_eq!(client.status(), "200");
        assert_eq!(client.events(3).await, events, "after {id:?}");
    }
    feed.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn every_nth_event_is_a_panic_with_an_id_and_no_tweet_is_lost() {
    let feed = TestFeed::start(FeedConfig { panic_every: 4, ..fast() }).await;
    let events = feed.open("/tweets/1").await.events(20).await;
    let mut tweets = 0;
    for (n, event) in events.iter().enumerate() {
        assert!(event.id.ends_with(&format!("-{}", n + 1)), "{}", event.id);
        if (n + 1) % 4 == 0 {
            assert_eq!(event.data, PANIC);
        } else {
            assert_eq!(event.data, tweet(1, FeedStream::One, tweets));
            tweets += 1;
        }
    }
    feed.stop().await;
}

/// A temporary file, removed at the end of the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("herald-feed-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn files_are_served_in_order_on_both_streams_and_again_with_new_ids() {
    let a = TempFile::new("a.json", "{\"message\":{\"tweet\":{\"text\":\"eins\"}}}\r\n\n{\"n\":\t2}\n");
    let b = TempFile::new("b.json", "{\"n\":3,\"text\":\"日本 😂\"}");
    let config = FeedConfig { files: vec![a.0.clone(), b.0.clone()], panic_every: 5, ..fast() };
    let feed = TestFeed::start(config).await;
    let lines = ["{\"message\":{\"tweet\":{\"text\":\"eins\"}}}", "{\"n\":\t2}", "{\"n\":3,\"text\":\"日本 😂\"}"];
    for path in ["/tweets/1", "/tweets/2"] {
        let events = feed.open(path).await.events(10).await;
        let data: Vec<&str> = events.iter().map(|e| e.data.as_str()).collect();
        let [one, two, three] = lines;
        assert_eq!(data, [one, two, three, one, PANIC, two, three, one, two, PANIC]);
        let ids: std::collections::HashSet<_> = events.iter().map(|e| &e.id).collect();
        assert_eq!(ids.len(), 10);
        let mut resumed = Client::open(feed.addr, path, Some(&events[3].id)).await;
        assert_eq!(resumed.events(6).await, events[4..]);
    }
    feed.stop().await;
}

#[tokio::test]
async fn a_bad_file_or_setting_is_an_error_before_anything_is_served() {
    let bad = TempFile::new("bad.json", "{}\n{oops}\n");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = FeedConfig { files: vec![bad.0.clone()], ..fast() };
    let error = serve(listener, config, CancellationToken::new()).await.unwrap_err();
    let place = format!("{}:2: ", bad.0.display());
    assert!(error.to_string().starts_with(&place), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = FeedConfig { rate: -1.0, ..FeedConfig::default() };
    let got = serve(listener, config, CancellationToken::new()).await;
    assert!(matches!(got, Err(FeedError::Config { .. })), "{got:?}");
}

#[tokio::test]
async fn other_paths_say_what_there_is() {
    let feed = TestFeed::start(fast()).await;
    for path in ["/tweets/3", "/tweets", "/tweets/1/", "/favicon.ico", "/%2e%2e/x"] {
        let client = feed.open(path).await;
        assert_eq!(client.status(), "404");
        let text = client.text().await;
        assert!(text.contains("/tweets/1") && text.contains("/tweets/2") && text.lines().count() == 1, "{text}");
    }
    let about = feed.open("/").await;
    assert_eq!(about.status(), "200");
    let text = about.text().await;
    assert!(text.contains("curl -N http://feed.test/tweets/1"), "{text}");
    assert_eq!(feed.counters.connections(), 0, "pages are no streams");
    feed.stop().await;
}

#[tokio::test]
async fn after_the_limit_the_stream_stays_open_and_idle() {
    let feed = TestFeed::start(FeedConfig { limit: Some(5), heartbeat: Duration::from_millis(10), ..fast() }).await;
    let mut client = feed.open("/tweets/1").await;
    let events = client.events(5).await;
    for _ in 0..5 {
        assert_eq!(client.block().await.unwrap(), ":");
    }
    let mut again = Client::open(feed.addr, "/tweets/1", Some(&events[4].id)).await;
    assert_eq!(again.block().await.unwrap(), "retry: 1000");
    assert_eq!(again.block().await.unwrap(), ":");
    assert_eq!(feed.counters.events(), 5);
    feed.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_buffered_for_and_loses_nothing() {
    let feed = TestFeed::start(FeedConfig { rate: 1_000_000.0, ..FeedConfig::default() }).await;
    let mut slow = feed.open("/tweets/1").await;
    // Wait until the stream stalls because the buffers in between are full.
    let mut before = 0;
    in_time("a standstill", async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = feed.counters.events();
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
    })
    .await;
    // The kernel buffers some megabytes for both ends. At a million tweets per second of over 2,000 bytes each, a few
    // seconds without back-pressure would have been gigabytes.
    assert!(before < 20_000, "{before} events for a client that does not read");
    // Other connections are not affected.
    let brisk = feed.open("/tweets/1").await.events(500).await;
    let late = slow.events(before as usize + 500).await;
    assert_eq!(late[..500], brisk);
    for (n, event) in late.iter().enumerate() {
        assert!(event.id.ends_with(&format!("-{}", n + 1)), "{} at {n}", event.id);
    }
    feed.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream_even_if_nothing_is_sent() {
    let feed =
        TestFeed::start(FeedConfig { rate: 0.000_1, heartbeat: Duration::from_secs(100_000), ..FeedConfig::default() })
            .await;
    let mut client = feed.open("/tweets/1").await;
    client.events(1).await;
    assert_eq!(feed.counters.open(), 1);
    drop(client);
    until("the stream's end", || feed.counters.open() == 0).await;
    feed.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let feed = TestFeed::start(FeedConfig { max_connections: 1, ..fast() }).await;
    let mut first = feed.open("/tweets/1").await;
    let waiting = Client::send(feed.addr, "/tweets/2", None).await;
    first.events(200).await;
    assert_eq!(feed.counters.connections(), 1);
    drop(first);
    let mut second = Client::response(waiting).await;
    assert_eq!(second.events(1).await[0].data, tweet(1, FeedStream::Two, 0));
    feed.stop().await;
}

#[tokio::test]
async fn shutdown_ends_the_streams_in_an_orderly_way() {
    let feed =
        TestFeed::start(FeedConfig { rate: 0.000_1, heartbeat: Duration::from_secs(100_000), ..FeedConfig::default() })
            .await;
    let mut idle = feed.open("/tweets/1").await;
    let mut other = feed.open("/tweets/2").await;
    // Connected, without a request.
    let _silent = TcpStream::connect(feed.addr).await.unwrap();
    idle.events(1).await;
    other.events(1).await;
    let addr = feed.addr;
    feed.shutdown.cancel();
    // The stream ends with the last chunk, not just with a closed connection.
    assert_eq!(idle.block().await, None);
    assert_eq!(other.block().await, None);
    feed.stop().await;
    assert!(TcpStream::connect(addr).await.is_err(), "still listening");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_client_that_does_not_read() {
    let feed = TestFeed::start(FeedConfig { rate: 1_000_000.0, ..FeedConfig::default() }).await;
    let _stuck = feed.open("/tweets/1").await;
    until("a chunk", || feed.counters.events() > 0).await;
    feed.stop().await;
}

#[tokio::test]
async fn dropping_the_server_ends_its_connections() {
    let feed = TestFeed::start(fast()).await;
    let mut client = feed.open("/tweets/1").await;
    client.events(1).await;
    feed.task.abort();
    until("the stream's end", || feed.counters.open() == 0).await;
}

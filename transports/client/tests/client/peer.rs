//! The scripted peer.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use transport_client::{BackoffSettings, ClientConfig, Delivery, Subscription, TopicName};

pub(crate) const GREETING: &str = "Successfully connected to message_broker\r\n";
pub(crate) const HELLO: &str =
    "hello {\"server\":\"herald\",\"version\":\"0\",\"protocol\":1,\"session\":\"s\",\"max_line_bytes\":4096}\r\n";

/// A failing test must not hang; a passing one never waits for so long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("it happens soon")
}

pub(crate) struct Peer {
    listener: TcpListener,
}

impl Peer {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// A configuration for this peer, with backoff that a test can wait for.
    pub(crate) fn config(&self) -> ClientConfig {
        let address = self.listener.local_addr().unwrap().to_string();
        ClientConfig::new(address.parse().unwrap()).backoff(BackoffSettings {
            initial: Duration::from_millis(1),
            max: Duration::from_millis(5),
            max_attempts: None,
        })
    }

    pub(crate) async fn accept(&self) -> Wire {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Wire::new(stream)
    }

    /// Accepts, greets, and answers `hello`, which is returned.
    pub(crate) async fn greet(&self) -> (Wire, serde_json::Value) {
        let mut wire = self.accept().await;
        let hello = wire.greet().await;
        (wire, hello)
    }

    /// The same for a subscription's connection, whose `subscribe` line is returned.
    pub(crate) async fn subscribed(&self) -> (Wire, String) {
        let (mut wire, hello) = self.greet().await;
        assert_eq!(hello["replies"], "quiet");
        let line = wire.line().await;
        wire.send("successfully subscribed to topic t\r\n").await;
        (wire, line)
    }

    /// True if no client connects within 50 ms.
    pub(crate) async fn is_left_alone(&self) -> bool {
        timeout(Duration::from_millis(50), self.listener.accept()).await.is_err()
    }
}

/// The peer's end of one connection.
pub(crate) struct Wire {
    reader: BufReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::with_capacity(256 * 1024, reader), writer }
    }

    pub(crate) async fn greet(&mut self) -> serde_json::Value {
        self.send(GREETING).await;
        let line = self.line().await;
        self.send(HELLO).await;
        serde_json::from_str(line.strip_prefix("hello ").unwrap()).unwrap()
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.writer.write_all(text.as_bytes())).await.unwrap();
    }

    pub(crate) async fn deliver(&mut self, id: &str) {
        self.send(&delivery(id)).await;
    }

    /// The next line the client sends.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.reader.read_line(&mut line)).await.unwrap();
        assert!(line.ends_with('\n'), "the stream has ended after {line:?}");
        line.trim_end().to_owned()
    }

    /// The next line, which has its fence behind it; the fence is answered by the caller.
    pub(crate) async fn command(&mut self) -> String {
        let line = self.line().await;
        assert_eq!(self.line().await, "ping");
        line
    }

    /// The topic and the event of the next line, a `publish`.
    pub(crate) async fn published(&mut self) -> (String, serde_json::Value) {
        let line = self.line().await;
        let rest = line.strip_prefix("publish ").unwrap_or_else(|| panic!("no publish: {line}"));
        let (topic, event) = rest.split_once(' ').unwrap();
        (topic.to_owned(), serde_json::from_str(event).unwrap())
    }

    pub(crate) async fn published_msg(&mut self) -> serde_json::Value {
        self.published().await.1["msg"].take()
    }

    /// Takes a `publish`, and confirms it.
    pub(crate) async fn confirm_one(&mut self) -> serde_json::Value {
        let (topic, event) = self.published().await;
        self.send(&format!("published {topic} {} synced\r\n", event["id"].as_str().unwrap())).await;
        event
    }

    /// The bytes of one read, as text.
    pub(crate) async fn chunk(&mut self) -> String {
        String::from_utf8(soon(self.reader.fill_buf()).await.unwrap().to_vec()).unwrap()
    }

    /// Waits until the client closes, whatever it sends before.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = soon(self.reader.read_to_end(&mut rest)).await;
    }
}

pub(crate) fn topic() -> &'static TopicName {
    static TOPIC: LazyLock<TopicName> = LazyLock::new(|| TopicName::new("t").unwrap());
    &TOPIC
}

pub(crate) fn delivery(id: &str) -> String {
    format!("{{\"topic\":\"t\",\"priority\":0,\"msg\":\"m{id}\",\"id\":\"{id}\"}}\r\n")
}

pub(crate) async fn next(subscription: &mut Subscription) -> Delivery {
    soon(subscription.next()).await.expect("a delivery")
}

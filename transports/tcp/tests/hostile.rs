//! Clients that read slowly or not at all, keep sending after they quit, or send an endless line.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::engine::{
    Cursor, Engine, EngineGone, Gauge, Health, Link, LinkEvent, Outcome, Request, RequestSink, Unavailable,
};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::session::SessionSettings;
use broker_core::storage::{Level, StorageStats};
use broker_core::transport::{Broker, Transport};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transport_tcp::{ListenConfig, TcpTransport};

/// An engine that answers nothing: the commands of these tests need none.
struct Mute;

struct MuteSink(#[expect(dead_code, reason = "keeps the link open")] mpsc::Sender<Vec<LinkEvent>>);

impl RequestSink for MuteSink {
    fn send(&mut self, _: Vec<Request>) -> Pin<Box<dyn Future<Output = Result<(), EngineGone>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[async_trait]
impl Engine for Mute {
    fn connect(&self, _: String) -> Link {
        let (sender, events) = mpsc::channel(8);
        Link { requests: Box::new(MuteSink(sender)), events, gauge: Arc::new(Gauge::default()) }
    }
    async fn publish(&self, _: Vec<(TopicName, NewEvent)>, _: Option<Cursor>) -> Result<Vec<Outcome>, Unavailable> {
        Ok(Vec::new())
    }
    async fn cursor(&self, _: &str) -> Result<Option<String>, Unavailable> {
        Ok(None)
    }
    fn level(&self) -> Level {
        Level::Synced
    }
    fn max_output_line_bytes(&self) -> usize {
        1 << 20
    }

    fn health(&self) -> Health {
        Health { unavailable: None, storage: StorageStats::default() }
    }
    async fn close(&self) {}
}

fn config() -> ListenConfig {
    ListenConfig::new("127.0.0.1:0")
}

async fn serve(config: ListenConfig) -> (SocketAddr, CancellationToken) {
    let transport = TcpTransport::bind(config).await.expect("a free port");
    let (addr, shutdown) = (transport.local_addr(), CancellationToken::new());
    let broker = Broker { engine: Arc::new(Mute), session: Arc::new(SessionSettings::default()) };
    tokio::spawn(Box::new(transport).serve(broker, shutdown.clone()));
    (addr, shutdown)
}

fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an open socket");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_but_steadily_is_not_cut_off() {
    let (addr, _shutdown) = serve(ListenConfig { write_timeout: Duration::from_millis(400), ..config() }).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut stream = client(addr);
        let mut writer = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            for _ in 0..15 {
                if writer.write_all("help\n".repeat(1000).as_bytes()).is_err() {
                    return;
                }
            }
            let _ = writer.write_all(b"quit\n");
        });
        let (mut buffer, mut text) = (vec![0; 64 * 1024], Vec::new());
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..count]);
            std::thread::sleep(Duration::from_millis(10));
        }
        text
    });
    let text = read.await.unwrap();
    assert!(text.ends_with(b"bye\r\n"), "cut off after {} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_reply_arrives_although_the_client_keeps_sending() {
    let (addr, _shutdown) = serve(config()).await;
    let lost = tokio::task::spawn_blocking(move || {
        let mut lost = 0;
        for _ in 0..100 {
            let mut stream = client(addr);
            stream.write_all(b"quit\n").unwrap();
            let _ = stream.write_all("ping\n".repeat(30_000).as_bytes());
            std::thread::sleep(Duration::from_millis(5));
            let mut text = Vec::new();
            let read = stream.read_to_end(&mut text);
            lost += u32::from(read.is_err() || !text.ends_with(b"bye\r\n"));
        }
        lost
    });
    assert_eq!(lost.await.unwrap(), 0, "clients out of 100 that did not receive `bye`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut_off() {
    let (addr, _shutdown) = serve(ListenConfig { write_timeout: Duration::from_millis(300), ..config() }).await;
    let cut = tokio::task::spawn_blocking(move || {
        let mut stream = client(addr);
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        (0..5000).any(|_| {
            matches!(stream.write_all("help\n".repeat(1000).as_bytes()),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
        })
    });
    assert!(cut.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_64_mib_is_refused_and_the_connection_stays_open() {
    let (addr, _shutdown) = serve(config()).await;
    let said = tokio::task::spawn_blocking(move || {
        let mut stream = client(addr);
        for _ in 0..64 {
            stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        stream.write_all(b"\nping\nunfinished").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let said = said.await.unwrap();
    assert_eq!(said, "Successfully connected to message_broker\r\nerror: line exceeds 1048576 bytes\r\npong\r\n");
}

//! A whole broker in this process: serving, stopping, and failures within it.

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;
use crate::settings::{Inputs, load};

fn settings(dir: &std::path::Path) -> Settings {
    settings_at(dir, "127.0.0.1:0")
}

fn settings_at(dir: &std::path::Path, listen: &str) -> Settings {
    let set = vec![format!("storage.path={}", dir.display()), format!("transports.tcp.listen={listen}")];
    load(&Inputs { set, ..Inputs::default() }).unwrap().settings
}

/// Sends lines, and returns the reply lines up to one that begins with `until`.
async fn talk(broker: &Broker, lines: &str, until: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(&broker.listeners()[0].addr).await.unwrap();
    stream.write_all(lines.as_bytes()).await.unwrap();
    let mut replies = Vec::new();
    let mut reader = BufReader::new(stream).lines();
    while let Some(line) = tokio::time::timeout(Duration::from_secs(10), reader.next_line()).await.unwrap().unwrap() {
        let last = line.starts_with(until);
        replies.push(line);
        if last {
            break;
        }
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn published_events_survive_an_orderly_stop_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&settings(dir.path())).await.unwrap();
    let replies =
        talk(&broker, "sub t mine\ndetach t\nhello {\"confirm\":true}\npub t {\"id\":\"1\",\"msg\":7}\n", "published")
            .await;
    assert_eq!(replies.last().unwrap(), "published t 1 synced", "{replies:?}");
    assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Clean);

    let broker = Broker::start(&settings(dir.path())).await.unwrap();
    let replies = talk(&broker, "sub t mine\n", "{").await;
    assert_eq!(replies.last().unwrap(), r#"{"topic":"t","priority":0,"msg":7,"id":"1"}"#, "{replies:?}");
    assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_does_not_delay_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&settings(dir.path())).await.unwrap();
    let _silent = TcpStream::connect(&broker.listeners()[0].addr).await.unwrap();
    let began = Instant::now();
    assert_eq!(broker.stop(Duration::from_secs(4)).await, Stopped::Clean);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_directory_in_use_are_errors_and_leave_nothing_behind() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(&settings(first.path())).await.unwrap();
    let same_port = settings_at(second.path(), &broker.listeners()[0].addr);
    let refused = Broker::start(&same_port).await;
    assert!(matches!(&refused, Err(StartError::Transport(_))), "{refused:?}");
    assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0, "nothing is touched before the port is there");
    let refused = Broker::start(&settings(first.path())).await;
    assert!(
        matches!(&refused, Err(StartError::Storage(error)) if error.kind() == StorageErrorKind::Locked),
        "{refused:?}"
    );
    assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Clean);
}

/// A transport that ends in the given way.
struct Fails(fn() -> Result<(), TransportError>);

#[async_trait]
impl Transport for Fails {
    fn name(&self) -> &'static str {
        "fails"
    }

    fn addr(&self) -> String {
        "127.0.0.1:1".to_owned()
    }

    async fn serve(self: Box<Self>, _broker: Served, _shutdown: CancellationToken) -> Result<(), TransportError> {
        tokio::task::yield_now().await;
        (self.0)()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_that_panics_fails_or_ends_stops_the_broker_instead_of_hiding() {
    for fails in [
        Fails(|| panic!("on purpose")),
        Fails(|| Err(TransportError { transport: "fails", reason: "no".to_owned(), cause: None })),
        Fails(|| Ok(())),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Broker::start(&settings(dir.path())).await.unwrap();
        let served = Served { engine: Arc::clone(broker.engine().unwrap()), session: Arc::default() };
        broker.serve(Box::new(fails), served, false);
        tokio::time::timeout(Duration::from_secs(10), broker.failed()).await.expect("it is noticed");
        assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Unclean);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_end_is_abandoned_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&settings(dir.path())).await.unwrap();
    spawn_vital(&broker.transports, &broker.root, std::future::pending());
    let began = Instant::now();
    assert_eq!(broker.stop(Duration::from_millis(400)).await, Stopped::Clean, "the storage was closed all the same");
    assert!((300..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(feature = "sse")]
async fn a_source_that_is_down_does_not_stop_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = closed.local_addr().unwrap();
    drop(closed);
    let set = vec![
        format!("storage.path={}", dir.path().display()),
        "transports.tcp.listen=127.0.0.1:0".to_owned(),
        format!("sources=[{{ kind = \"sse\", name = \"down\", url = \"http://{addr}/\", topic = \"t\" }}]"),
    ];
    let settings = load(&Inputs { set, ..Inputs::default() }).unwrap().settings;
    let broker = Broker::start(&settings).await.unwrap();
    assert_eq!(talk(&broker, "ping\n", "pong").await.last().unwrap(), "pong");
    let stats: Vec<_> = broker.source_stats().collect();
    assert_eq!(stats, [("down", SourceStats::default())]);
    assert_eq!(broker.stop(Duration::from_secs(10)).await, Stopped::Clean);
}

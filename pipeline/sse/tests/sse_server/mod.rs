//! An HTTP server that misbehaves by script. The n-th connection runs the n-th script, later ones the last script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One step of a script. After the last step the connection is closed.
#[derive(Clone)]
pub(crate) enum Step {
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Sends nothing until the client hangs up.
    Hold,
    /// Writes these bytes this many times, as fast as the client reads.
    Flood(Vec<u8>, usize),
}

/// The server, which ends when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The number of connections that the client has closed during a `Hold` or before its request.
    pub(crate) hung_up: watch::Receiver<usize>,
    /// The bytes that `Flood` has written.
    pub(crate) flooded: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (hang_ups, hung_up) = watch::channel(0);
        let flooded = Arc::new(AtomicU64::new(0));
        let (seen, bytes) = (Arc::clone(&requests), Arc::clone(&flooded));
        let task = tokio::spawn(async move {
            // A running script may hold its connection while the client opens the next one.
            let mut connections = tokio::task::JoinSet::new();
            for turn in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let script = scripts[turn.min(scripts.len() - 1)].clone();
                let (seen, bytes, hang_ups) = (Arc::clone(&seen), Arc::clone(&bytes), hang_ups.clone());
                connections.spawn(async move {
                    if let Some(head) = read_head(&mut stream).await {
                        seen.lock().unwrap().push(head);
                        play(&mut stream, script, &bytes, &hang_ups).await;
                    } else {
                        hang_ups.send_modify(|count| *count += 1);
                    }
                });
            }
        });
        Self { addr, requests, hung_up, flooded, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/feed", self.addr)
    }

    /// The request lines so far.
    pub(crate) fn request_lines(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let first = |head: &Vec<u8>| String::from_utf8_lossy(head).lines().next().unwrap().to_owned();
        requests.iter().map(first).collect()
    }

    /// The value of a header in each request so far.
    pub(crate) fn header(&self, name: &str) -> Vec<Option<String>> {
        let requests = self.requests.lock().unwrap();
        let value = |head: &Vec<u8>| {
            let head = String::from_utf8(head.clone()).expect("the client sends UTF-8");
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        requests.iter().map(value).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

async fn play(stream: &mut TcpStream, script: Vec<Step>, flooded: &AtomicU64, hang_ups: &watch::Sender<usize>) {
    for step in script {
        let sent = match step {
            Step::Send(bytes) => stream.write_all(&bytes).await,
            Step::Hold => {
                let mut rest = Vec::new();
                let end = stream.read_to_end(&mut rest).await;
                hang_ups.send_modify(|count| *count += 1);
                end.map(drop)
            }
            Step::Flood(bytes, times) => {
                let mut sent = Ok(());
                for _ in 0..times {
                    sent = stream.write_all(&bytes).await;
                    if sent.is_err() {
                        break;
                    }
                    flooded.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                }
                sent
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A response without a body, with these header lines.
pub(crate) fn status(line: &str, headers: &[&str]) -> Vec<Step> {
    let mut head = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n");
    for header in headers {
        head = head + header + "\r\n";
    }
    vec![Step::Send((head + "\r\n").into_bytes())]
}

/// The response head of a stream that ends with its connection.
pub(crate) fn head() -> Step {
    Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec())
}

/// A stream that ends with its connection.
pub(crate) fn stream(body: impl AsRef<[u8]>) -> Vec<Step> {
    vec![head(), Step::Send(body.as_ref().to_vec())]
}

/// A stream that stays open without further data.
pub(crate) fn held(body: impl AsRef<[u8]>) -> Vec<Step> {
    let mut steps = stream(body);
    steps.push(Step::Hold);
    steps
}

/// The response head of a chunked stream and some chunks, without the terminating chunk.
pub(crate) fn chunks(bodies: &[&[u8]]) -> Vec<Step> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=UTF-8\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for body in bodies {
        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
        bytes.extend_from_slice(body);
        bytes.extend(b"\r\n");
    }
    vec![Step::Send(bytes)]
}

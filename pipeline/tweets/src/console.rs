//! The console: connect with telnet, type `twitter`, and watch the tweets.
//!
//! The pipeline never waits for a console. One that reads too slowly loses lines, and is told how many.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker_core::protocol::foreign::{Foreign, Opening, write_bad_request};
use broker_core::protocol::framer::{Frame, Framer};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const GREETING: &str = "Type `twitter` to start processing SSE (from Twitter API)\r\n";
/// The maximum number of consoles; one more is refused with a message.
const MAX_CONSOLES: usize = 64;
/// The longest line a console may send, in bytes.
const MAX_LINE: usize = 1_024;
/// The number of lines buffered for the slowest console; beyond it, that console loses the oldest.
const MAX_BEHIND: usize = 1_024;
/// The idle limit for a console that has not typed `twitter`.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// The limit on the time a console may accept none of the bytes written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time during which the rest of a refused request is read.
const LINGER: Duration = Duration::from_secs(1);

/// The display that tweets are sent to, for all connected consoles.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    lines: broadcast::Sender<Arc<str>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { lines: broadcast::Sender::new(MAX_BEHIND) }
    }

    /// Shows a tweet on the consoles, with line breaks as blanks. Never waits.
    pub(super) fn show(&self, worker: u64, text: &str) {
        if self.lines.receiver_count() > 0 {
            let text = text
                .replace("\r\n", " ")
                .replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ");
            // An error means that the last console has just disconnected.
            let _ = self.lines.send(Arc::from(format!("tweet: worker-{worker} {text}\r\n")));
        }
    }
}

/// Serves consoles until `stop`. `start` is cancelled by the first `twitter`.
pub(super) async fn serve(listener: TcpListener, screen: Screen, start: CancellationToken, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONSOLES));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a console connection failed");
                // Usually the process is out of file descriptors, which takes a while to pass.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = Arc::clone(&permits).try_acquire_owned().ok();
        let console = Console { stream, peer, screen: screen.clone(), start: start.clone() };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // An error on a console ends that console and nothing else.
                _ended = console.talk(permit) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

struct Console {
    stream: TcpStream,
    peer: SocketAddr,
    screen: Screen,
    start: CancellationToken,
}

impl Console {
    async fn talk(mut self, permit: Option<OwnedSemaphorePermit>) -> io::Result<()> {
        // Lines are short and should appear at once.
        self.stream.set_nodelay(true)?;
        if permit.is_none() {
            return self.write(&format!("there are {MAX_CONSOLES} consoles already\r\n")).await;
        }
        self.write(GREETING).await?;
        let mut tweets: Option<broadcast::Receiver<Arc<str>>> = None;
        let mut input = BytesMut::with_capacity(MAX_LINE);
        let mut framer = Framer::new(MAX_LINE).with_empty_lines();
        let mut opening = Opening::default();
        loop {
            let shows_tweets = tweets.is_some();
            // Both are cancel-safe; bytes already read are in `input`.
            tokio::select! {
                read = self.stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    if let Some(foreign) = opening.bytes(&input) {
                        return self.refuse(foreign).await;
                    }
                    while !input.is_empty() {
                        framer.push(&mut input);
                        while let Some(frame) = framer.next_frame() {
                            let foreign = match frame {
                                Frame::Line(line) => opening.line(line),
                                Frame::TooLong | Frame::NotUtf8 => opening.unreadable_line(),
                            };
                            match (foreign, frame) {
                                (Some(foreign), _) => return self.refuse(foreign).await,
                                (None, Frame::Line(line)) => {
                                    if self.command(line, &mut tweets).await? {
                                        opening.pass();
                                    }
                                }
                                (None, Frame::NotUtf8) => {
                                    self.command("", &mut tweets).await?;
                                }
                                (None, Frame::TooLong) => {
                                    return self.write(&format!("a line may have {MAX_LINE} bytes\r\n")).await;
                                }
                            }
                        }
                        if let Some(answers) = framer.take_answers() {
                            self.write_bytes(&answers.negotiation).await?;
                            self.write(&"pong\r\n".repeat(answers.pongs as usize)).await?;
                        }
                    }
                    input.reserve(MAX_LINE);
                }
                line = next(&mut tweets) => match line {
                    Ok(line) => self.write(&line).await?,
                    Err(RecvError::Lagged(lost)) => {
                        self.write(&format!("({lost} tweets are not shown: this console reads too slowly)\r\n")).await?;
                    }
                    Err(RecvError::Closed) => return Ok(()),
                },
                () = tokio::time::sleep(IDLE), if !shows_tweets => return self.write("nothing was typed for too long\r\n").await,
            }
        }
    }

    /// Closes the console of a client that speaks another protocol. Nothing that it sends is executed.
    async fn refuse(&mut self, foreign: Foreign) -> io::Result<()> {
        let peer = self.peer;
        match foreign {
            Foreign::Http => {
                tracing::warn!(%peer, "HTTP request refused: the console speaks plain text");
                let mut out = BytesMut::new();
                write_bad_request(&mut out, "the tweet pipeline's console");
                self.write_bytes(&out).await?;
            }
            Foreign::Tls => tracing::warn!(%peer, "TLS hello refused: the console speaks plain text"),
        }
        // Closing with unread input would reset the connection and lose the response.
        self.stream.shutdown().await?;
        let drain = async {
            let mut ignored = [0; MAX_LINE];
            while self.stream.read(&mut ignored).await? > 0 {}
            Ok(())
        };
        timeout(LINGER, drain).await.unwrap_or(Ok(()))
    }

    /// Executes a line. Returns whether it was a command.
    async fn command(&mut self, line: &str, tweets: &mut Option<broadcast::Receiver<Arc<str>>>) -> io::Result<bool> {
        if line.trim() != "twitter" {
            self.write("[Command] run :other\r\n").await?;
            return Ok(false);
        }
        // The answer goes first, so that no tweet precedes it.
        self.write("[Command] run :twitter\r\n").await?;
        if tweets.is_none() {
            *tweets = Some(self.screen.lines.subscribe());
        }
        self.start.cancel();
        Ok(true)
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.write_bytes(text.as_bytes()).await
    }

    async fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.stream.write_all(bytes)).await?
    }
}

/// The next line for this console; never completes if it shows no tweets.
async fn next(tweets: &mut Option<broadcast::Receiver<Arc<str>>>) -> Result<Arc<str>, RecvError> {
    match tweets {
        Some(tweets) => tweets.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

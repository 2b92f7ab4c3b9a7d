//! The console: telnet to it, type `twitter`, and see the tweets go by.
//!
//! A console that does not read fast enough loses lines and is told how many; the pipeline never waits for one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const GREETING: &str = "Type `twitter` to start processing SSE (from Twitter API)\r\n";
/// Consoles at a time; one more is told so.
const MAX_CONSOLES: usize = 64;
/// The longest line a console may send, in bytes.
const MAX_LINE: usize = 1_024;
/// Lines that wait for the slowest console; of more, the oldest are lost to it.
const MAX_BEHIND: usize = 1_024;
/// How long a console that has not typed `twitter` may say nothing.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How long a console may take nothing of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where tweets are shown, to whoever looks.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    lines: broadcast::Sender<Arc<str>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { lines: broadcast::Sender::new(MAX_BEHIND) }
    }

    /// Shows a tweet on the consoles, line breaks as blanks. Never waits.
    pub(super) fn show(&self, worker: u64, text: &str) {
        if self.lines.receiver_count() > 0 {
            let text = text
                .replace("\r\n", " ")
                .replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ");
            // An error means that the last console has just gone.
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the console cannot accept a connection");
                // Most often there are no file descriptors left, which takes a while to pass.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = Arc::clone(&permits).try_acquire_owned().ok();
        let console = Console { stream, screen: screen.clone(), start: start.clone() };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Whatever goes wrong with a console is the end of it and nothing else.
                _ended = console.talk(permit) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

struct Console {
    stream: TcpStream,
    screen: Screen,
    start: CancellationToken,
}

impl Console {
    async fn talk(mut self, permit: Option<OwnedSemaphorePermit>) -> io::Result<()> {
        // Lines are short and each is to be seen at once.
        self.stream.set_nodelay(true)?;
        if permit.is_none() {
            return self.write(&format!("there are {MAX_CONSOLES} consoles already\r\n")).await;
        }
        self.write(GREETING).await?;
        let mut tweets: Option<broadcast::Receiver<Arc<str>>> = None;
        let mut input = Vec::with_capacity(MAX_LINE);
        loop {
            let shows_tweets = tweets.is_some();
            // Both are cancel-safe; what has been read is in `input`.
            tokio::select! {
                read = self.stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    while let Some(end) = memchr::memchr(b'\n', &input) {
                        let line: Vec<u8> = input.drain(..=end).collect();
                        self.command(&String::from_utf8_lossy(&line), &mut tweets).await?;
                    }
                    if input.len() > MAX_LINE {
                        return self.write(&format!("a line may have {MAX_LINE} bytes\r\n")).await;
                    }
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

    async fn command(&mut self, line: &str, tweets: &mut Option<broadcast::Receiver<Arc<str>>>) -> io::Result<()> {
        if line.trim() != "twitter" {
            return self.write("[Command] run :other\r\n").await;
        }
        // The answer first, so that no tweet comes before it.
        self.write("[Command] run :twitter\r\n").await?;
        if tweets.is_none() {
            *tweets = Some(self.screen.lines.subscribe());
        }
        self.start.cancel();
        Ok(())
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.stream.write_all(text.as_bytes())).await?
    }
}

/// The next line for this console; never, if it shows no tweets.
async fn next(tweets: &mut Option<broadcast::Receiver<Arc<str>>>) -> Result<Arc<str>, RecvError> {
    match tweets {
        Some(tweets) => tweets.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

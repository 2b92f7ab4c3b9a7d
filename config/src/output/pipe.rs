//! Standard output as a pipe or a socket: written without blocking, with an eye on its reader.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::OutputError;

/// The most bytes of one write. So many never block once poll(2) reports the pipe writable: `PIPE_BUF` on Linux, elsewhere
/// POSIX's minimum for it.
const ATOMIC: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };
/// The time for which the reader is polled without sleeping, so that one as fast as the pipe is not slowed down.
const SPIN: Duration = Duration::from_micros(100);
/// The shortest and the longest pause between two polls.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Standard output as a pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    pipe: File,
    /// Whether the system reports the unread bytes. For a socket it reports those that have arrived, in the other direction.
    counts: bool,
    closed: watch::Receiver<bool>,
}

impl Pipe {
    /// Standard output, if it is a pipe or a socket.
    pub(crate) fn stdout() -> io::Result<Option<Self>> {
        let pipe = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = pipe.metadata()?.file_type();
        if !kind.is_fifo() && !kind.is_socket() {
            return Ok(None);
        }
        let (gone, closed) = watch::channel(false);
        let watched = pipe.try_clone()?;
        // A thread waits for the reader's end: the flag that makes a file non-blocking would apply to every process that shares
        // it. The thread lives until then, or until the process ends.
        std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            // No event is requested, so only an error ends the wait.
            while !matches!(events(&watched, PollFlags::empty(), None), Ok(PollFlags::ERR) | Err(_)) {}
            gone.send_replace(true);
        })?;
        Ok(Some(Self { pipe, counts: kind.is_fifo() && cfg!(target_os = "linux"), closed }))
    }

    /// Writes all of `bytes`, as the reader makes room. Not cancel-safe: a dropped call may have written a part.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> Result<(), OutputError> {
        let mut pause = PAUSES.0;
        while !bytes.is_empty() {
            let now = self.now()?;
            if now.contains(PollFlags::ERR) {
                return Err(OutputError::Closed);
            }
            if !now.contains(PollFlags::OUT) {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
            match rustix::io::write(&self.pipe, &bytes[..bytes.len().min(ATOMIC)]) {
                Ok(written) => (bytes, pause) = (&bytes[written..], PAUSES.0),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Waits until the reader has taken everything that was written. Bytes taken just before the reader went away count as taken.
    pub(crate) async fn taken(&self) -> Result<(), OutputError> {
        if !self.counts {
            return Ok(());
        }
        let (began, mut pause) = (Instant::now(), PAUSES.0);
        loop {
            // Checked before the unread bytes: without a reader, their number no longer changes.
            let closed = self.now()?.contains(PollFlags::ERR);
            let unread = rustix::io::ioctl_fionread(&self.pipe).map_err(io::Error::from)?;
            if unread == 0 {
                return Ok(());
            }
            if closed {
                return Err(OutputError::Closed);
            }
            if began.elapsed() < SPIN {
                tokio::task::yield_now().await;
            } else {
                // The system does not report that a pipe was emptied, so it is polled.
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Waits until the reader has gone.
    pub(crate) async fn closed(&self) -> OutputError {
        let mut closed = self.closed.clone();
        let _the_thread_has_ended = closed.wait_for(|closed| *closed).await.is_err();
        OutputError::Closed
    }

    fn now(&self) -> Result<PollFlags, OutputError> {
        Ok(events(&self.pipe, PollFlags::OUT, Some(&Timespec::default()))?)
    }
}

/// The events that poll(2) reports for `pipe` within `timeout`. `ERR`: it has no reader, for which some systems report `HUP`.
fn events(pipe: &File, wanted: PollFlags, timeout: Option<&Timespec>) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(pipe, wanted)];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let now = fds.map(|fd| fd.revents());
    Ok(if now.iter().any(|now| now.intersects(gone)) { PollFlags::ERR } else { now[0] })
}

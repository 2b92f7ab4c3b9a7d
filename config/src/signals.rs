//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads.

use std::io;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// An orderly stop.
    Stop {
        /// For the log.
        name: &'static str,
        /// The exit status of a process that does not wait for the orderly end: 128 and the signal's number, as shells
        /// have it for a process that a signal has ended.
        status: u8,
    },
    /// Read the configuration again.
    Reload,
}

/// The signals of this process, from the moment it is made.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

const INTERRUPT_STATUS: u8 = 130;
#[cfg(unix)]
const TERMINATE_STATUS: u8 = 143;
const INTERRUPT: Signal = Signal::Stop { name: "SIGINT", status: INTERRUPT_STATUS };

#[cfg(unix)]
impl Signals {
    /// Takes the signals over. Needs a runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => Signal::Stop { name: "SIGTERM", status: TERMINATE_STATUS },
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// The next signal that asks for a stop: its name and status. Cancel-safe; a reload that is asked for meanwhile is left to
    /// [`Signals::next`].
    pub async fn stop(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", INTERRUPT_STATUS),
            _ = self.terminate.recv() => ("SIGTERM", TERMINATE_STATUS),
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Takes the signals over. Needs a runtime.
    ///
    /// # Errors
    /// Never, here.
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        INTERRUPT
    }

    /// The next signal that asks for a stop: its name and status.
    pub async fn stop(&mut self) -> (&'static str, u8) {
        loop {
            if let Signal::Stop { name, status } = self.next().await {
                return (name, status);
            }
        }
    }
}

//! Signals: SIGTERM and SIGINT stop the process. SIGHUP reloads the configuration of a broker, and stops every other command.

use std::io;
use std::time::{Duration, Instant};

/// The request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// An orderly stop.
    Stop {
        /// The signal's name, for the log.
        name: &'static str,
        /// The exit status of a process that does not wait for the orderly end: 128 plus the signal's number, the status that
        /// shells give a process ended by that signal.
        status: u8,
    },
    /// Read the configuration again.
    Reload,
}

/// The signals of this process, from the moment this is created.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// `None` where the process was started to ignore it, as `nohup` does.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    reloads: bool,
    last_interrupt: LastInterrupt,
}

/// The time within which a further SIGINT counts as the same one. Ctrl-C reaches the whole process group, and a parent that runs
/// the process may pass it on as well.
const SAME: Duration = Duration::from_millis(100);

/// The time of the last SIGINT that counted.
#[derive(Debug, Default)]
struct LastInterrupt(Option<Instant>);

impl LastInterrupt {
    /// Whether a SIGINT at `now` counts as a new one; if so, it is recorded.
    fn is_new(&mut self, now: Instant) -> bool {
        let new = self.0.is_none_or(|last| now.duration_since(last) >= SAME);
        if new {
            self.0 = Some(now);
        }
        new
    }
}

#[cfg(unix)]
const HANGUP_STATUS: u8 = 129;
const INTERRUPT_STATUS: u8 = 130;
#[cfg(unix)]
const TERMINATE_STATUS: u8 = 143;
const INTERRUPT: Signal = Signal::Stop { name: "SIGINT", status: INTERRUPT_STATUS };
#[cfg(unix)]
const TERMINATE: Signal = Signal::Stop { name: "SIGTERM", status: TERMINATE_STATUS };
#[cfg(unix)]
const HANGUP: Signal = Signal::Stop { name: "SIGHUP", status: HANGUP_STATUS };

#[cfg(unix)]
impl Signals {
    /// Takes over the signals, for a process that reloads its configuration on SIGHUP. Needs a runtime.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Self::taken_over(true)
    }

    /// Takes over the signals, for a process that stops on SIGHUP, as when its terminal closes; not if `nohup` started it.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn stopping() -> io::Result<Self> {
        Self::taken_over(false)
    }

    fn taken_over(reloads: bool) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if reloads || !hangup_is_ignored() { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            reloads,
            last_interrupt: LastInterrupt::default(),
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        loop {
            let (interrupt, terminate, hangup) = (&mut self.interrupt, &mut self.terminate, &mut self.hangup);
            let signal = tokio::select! {
                _ = interrupt.recv() => INTERRUPT,
                _ = terminate.recv() => TERMINATE,
                () = received(hangup) => if self.reloads { Signal::Reload } else { HANGUP },
            };
            if signal != INTERRUPT || self.last_interrupt.is_new(Instant::now()) {
                return signal;
            }
        }
    }

    /// The next signal that asks for a stop: its name and status. Cancel-safe. A reload requested in between is left to
    /// [`Signals::next`].
    pub async fn stop(&mut self) -> (&'static str, u8) {
        loop {
            let (interrupt, terminate, hangup) = (&mut self.interrupt, &mut self.terminate, &mut self.hangup);
            let signal = tokio::select! {
                _ = interrupt.recv() => INTERRUPT,
                _ = terminate.recv() => TERMINATE,
                () = received(hangup), if !self.reloads => HANGUP,
            };
            if let Signal::Stop { name, status } = signal
                && (signal != INTERRUPT || self.last_interrupt.is_new(Instant::now()))
            {
                return (name, status);
            }
        }
    }
}

#[cfg(unix)]
async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP was ignored when the process began; false where the system has no `/proc`.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status)
}

/// Whether the lowest bit, which is signal 1, is set in `SigIgn` of a `/proc/<pid>/status`.
#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
impl Signals {
    /// Takes over Ctrl-C. Needs a runtime.
    ///
    /// # Errors
    /// None on this platform.
    pub fn new() -> io::Result<Self> {
        Ok(Self { last_interrupt: LastInterrupt::default() })
    }

    /// The same as [`Signals::new`].
    ///
    /// # Errors
    /// None on this platform.
    pub fn stopping() -> io::Result<Self> {
        Self::new()
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        loop {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            if self.last_interrupt.is_new(Instant::now()) {
                return INTERRUPT;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_within_a_tenth_of_a_second_of_the_first_are_the_same_one() {
        let (mut last, began) = (LastInterrupt::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        let new: Vec<bool> = [0, 1, 99, 100, 150, 199, 200].into_iter().map(|ms| last.is_new(at(ms))).collect();
        assert_eq!(new, [true, false, false, true, false, false, true]);
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_nohup_started_is_recognised() {
        assert!(ignores_hangup("Name:\therald\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("Name:\therald\nSigIgn:\t0000000000001000\nSigCgt:\t1\n"));
        assert!(!ignores_hangup(""));
    }
}

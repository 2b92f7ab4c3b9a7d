//! A server's process: start, shutdown, output, CPU time and peak memory.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Error;

/// The number of output lines kept for the error message.
const KEPT: usize = 20;

/// The time limit for an orderly shutdown.
const END: Duration = Duration::from_secs(15);

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    said: Arc<Said>,
}

/// The output so far.
#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    /// The total number of lines.
    count: usize,
    /// The number of streams that have ended.
    ended: usize,
}

impl Process {
    /// Starts the process.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, mut command: Command) -> Result<Self, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("cannot run {}", command.get_program().to_string_lossy());
        let mut child = command.spawn().map_err(Error::io(what))?;
        let said = Arc::new(Said::default());
        listen(child.stdout.take(), &said);
        listen(child.stderr.take(), &said);
        Ok(Self { name: name.to_owned(), child, said })
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Errors
    /// The process ended or the time limit passed before such a line.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String, Error> {
        let began = Instant::now();
        let mut lines = self.said.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.last.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let left = limit.saturating_sub(began.elapsed());
            if lines.ended == 2 || left.is_zero() {
                let said = lines.last.iter().cloned().collect::<Vec<_>>().join("\n  ");
                return Err(Error::Start { server: self.name.clone(), reason: format!("it said\n  {said}") });
            }
            lines = self.said.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the process, as a crash would.
    pub fn kill(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to shut down, and kills it if it does not.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_running()) {
            let _it_may_just_have_ended = kill_process(pid, Signal::TERM);
        }
        let began = Instant::now();
        while self.is_running() && began.elapsed() < END {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(stream: Option<impl Read + Send + 'static>, said: &Arc<Said>) {
    let said = Arc::clone(said);
    let take = move || {
        let lines = stream.map(|stream| BufReader::new(stream).lines().map_while(Result::ok));
        for line in lines.into_iter().flatten() {
            let mut lines = said.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.last.len() == KEPT {
                lines.last.pop_front();
            }
            lines.last.push_back(line);
            lines.count += 1;
            said.more.notify_all();
        }
        said.lines.lock().unwrap_or_else(PoisonError::into_inner).ended += 1;
        said.more.notify_all();
    };
    // If the thread cannot be spawned, the server's output is lost, and there is no way to report that either.
    let _ = std::thread::Builder::new().name("server-output".to_owned()).spawn(take);
}

/// The CPU time of a process, user and system, over all threads; `None` if it cannot be read.
#[must_use]
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything, including blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64((user + system) as f64 / per_second.max(1) as f64))
}

/// The peak memory of a process, in bytes.
#[must_use]
pub fn peak_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// The current memory of a process, in bytes.
#[must_use]
pub fn resident_memory(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Whether a directory is on an in-memory file system, where syncing costs nothing.
#[must_use]
pub fn is_in_memory(dir: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    // The longest mount point above it; of several at the same path, the last.
    let here = mounted.filter(|(point, _)| dir.starts_with(point)).max_by_key(|(point, _)| point.len());
    here.is_some_and(|(_, kind)| matches!(kind, "tmpfs" | "ramfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_waited_for_looked_at_and_stopped() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exec sleep 60"]);
        let mut process = Process::start("sh", command).unwrap();
        assert_eq!(process.wait_for("tw", Duration::from_secs(30)).unwrap(), "two");
        assert!(cpu(process.pid()).is_some() && peak_memory(process.pid()).is_some_and(|bytes| bytes > 0));
        assert!(resident_memory(process.pid()).is_some_and(|bytes| bytes > 0));
        process.stop();
        assert!(!process.is_running());
    }

    #[test]
    fn what_it_said_last_is_in_the_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the port is in use"]);
        let process = Process::start("sh", command).unwrap();
        let error = process.wait_for("ready", Duration::from_secs(30)).unwrap_err();
        assert!(error.to_string().contains("the port is in use"), "{error}");
    }
}

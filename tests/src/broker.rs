//! A broker process for tests.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{PATIENCE, Telnet, herald};

/// How long to retry if another process has taken the port of the last run. Shorter than the kernel keeps the ports of closed
/// connections, so that a broker that cannot listen while these linger fails its test.
const PORT_IS_FREE_AGAIN: Duration = Duration::from_secs(10);

/// A running `herald serve` with a temporary directory for its configuration and its data.
pub struct TestBroker {
    dir: TempDir,
    child: Option<Child>,
    log: Arc<Log>,
    log_reader: Option<JoinHandle<()>>,
    addr: SocketAddr,
    port: u16,
    environment: Vec<(OsString, OsString)>,
    /// The addresses of the other transports, which they get again after a restart.
    others: Vec<(String, SocketAddr)>,
}

/// The process's output on standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl TestBroker {
    /// Starts a broker on a free port, with `config` in addition to the defaults.
    #[must_use]
    pub fn start(config: &str) -> Self {
        let mut broker = Self::prepare(config);
        broker.run();
        broker
    }

    /// Prepares a broker without starting it.
    #[must_use]
    pub fn prepare(config: &str) -> Self {
        Self::prepare_in(&std::env::temp_dir(), config)
    }

    /// Prepares a broker whose directory is in `parent`.
    #[must_use]
    pub fn prepare_in(parent: &Path, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("herald-").tempdir_in(parent).unwrap();
        let text = format!("{config}\n");
        std::fs::write(dir.path().join("herald.toml"), text).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let (log, log_reader, environment, others) = (Arc::default(), None, Vec::new(), Vec::new());
        Self { dir, child: None, log, log_reader, addr, port: 0, environment, others }
    }

    /// Keeps the directory after the test, and returns its path.
    pub fn keep_dir(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Starts the process, on its previous port if it has one, and waits until it listens.
    pub fn run(&mut self) {
        let began = Instant::now();
        let line = loop {
            self.spawn();
            if let Some(line) = self.find_in_log("listening transport=tcp addr=") {
                break line;
            }
            // Between two runs, any outgoing connection may have taken the port.
            let taken = self.log().contains("the port is in use") && began.elapsed() < PORT_IS_FREE_AGAIN;
            assert!(taken, "the process has ended:\n{}", self.log());
            self.wait();
        };
        self.addr = line.rsplit_once("addr=").unwrap().1.trim().parse().unwrap();
        self.port = self.addr.port();
        if self.find_in_log("herald is up").is_some() {
            let listening = |line: &str| {
                let (transport, addr) = line.split_once("listening transport=")?.1.split_once(" addr=")?;
                Some((transport.to_owned(), addr.trim().parse().ok()?))
            };
            self.others =
                self.log().lines().filter_map(listening).filter(|(transport, _)| transport != "tcp").collect();
        }
    }

    /// Starts the process and kills it after `time`, whatever its state.
    pub fn run_briefly(&mut self, time: Duration) {
        self.spawn();
        std::thread::sleep(time);
        self.kill();
    }

    fn spawn(&mut self) {
        let mut command = self.command();
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        self.log = Arc::default();
        let (log, stderr) = (Arc::clone(&self.log), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().0.push(line);
                log.more.notify_all();
            }
            log.lines.lock().unwrap().1 = true;
            log.more.notify_all();
        });
        self.log_reader = Some(reader);
        self.child = Some(child);
    }

    /// The command that starts the process, for runs that are expected to fail.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(herald());
        command.current_dir(self.dir.path()).arg("serve");
        command.arg("--set").arg(format!("transports.tcp.listen=127.0.0.1:{}", self.port));
        for (transport, addr) in &self.others {
            command.arg("--set").arg(match transport.as_str() {
                "console" => format!("pipeline.console={addr}"),
                transport => format!("transports.{transport}.listen={addr}"),
            });
        }
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Sets an environment variable of the process.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Its directory, which contains `herald.toml` and `data`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of another transport.
    #[must_use]
    pub fn addr_of(&self, transport: &str) -> SocketAddr {
        let other = self.others.iter().find(|(other, _)| other == transport);
        other.unwrap_or_else(|| panic!("no {transport} listens:\n{}", self.log())).1
    }

    /// Connects a client, which has received its greeting.
    #[must_use]
    pub fn telnet(&self) -> Telnet {
        Telnet::connect(self.addr)
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Kills the process as a crash would, without any cleanup.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        self.finish_log();
    }

    /// Reads the remaining output of the ended process.
    fn finish_log(&mut self) {
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
    }

    /// Asks the process to stop, and waits until it has ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.finish_log();
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Replaces the configuration of the running process, and waits until it is in force.
    pub fn reload(&self, config: &str) {
        const DONE: &str = "the configuration was read again";
        let times = || self.log().matches(DONE).count();
        let before = times();
        std::fs::write(self.dir().join("herald.toml"), config).unwrap();
        self.signal(Signal::HUP);
        let began = Instant::now();
        while times() == before {
            assert!(began.elapsed() < PATIENCE, "it does not read {config:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap().0.join("\n")
    }

    /// Waits until the figures of a topic's first subscription are as expected.
    ///
    /// The broker notices a closed connection only a little later; this is also how to wait for that.
    #[track_caller]
    pub fn wait_for_figures(&self, topic: &str, wanted: &[(&str, u64)]) {
        let mut client = self.telnet();
        let began = Instant::now();
        loop {
            let answer = client.ask(&format!("stats {topic}"));
            let stats: serde_json::Value = match serde_json::from_str(&answer) {
                Ok(stats) => stats,
                // The first event creates the topic.
                Err(_) if answer.starts_with("error: no such topic") => serde_json::Value::Null,
                Err(_) => panic!("{answer}"),
            };
            let subscription = &stats["topics"][0]["subscriptions"][0];
            if wanted.iter().all(|(key, value)| subscription[*key] == *value) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{subscription} is not {wanted:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a line that contains `text`.
    #[must_use]
    pub fn wait_for_log(&self, text: &str) -> String {
        let found = self.find_in_log(text);
        found.unwrap_or_else(|| panic!("the process has ended without {text:?}:\n{}", self.log()))
    }

    /// Waits for a line that contains `text`; `None` if the process ends without it.
    fn find_in_log(&self, text: &str) -> Option<String> {
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            if lines.1 {
                return None;
            }
            let (next, timeout) = self.log.more.wait_timeout(lines, PATIENCE).unwrap();
            lines = next;
            assert!(!timeout.timed_out(), "no {text:?} in the log:\n{}", lines.0.join("\n"));
        }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _it_has_ended = child.kill();
            let _it_is_reaped = child.wait();
        }
        if std::thread::panicking() {
            let lines = self.log.lines.lock().unwrap();
            let last = lines.0.len().saturating_sub(30);
            println_all(&lines.0[last..]);
        }
    }
}

/// Prints lines that the test runner shows for failed tests only.
#[expect(clippy::print_stdout, reason = "the test runner shows it if the test fails")]
fn println_all(lines: &[String]) {
    println!("--- the broker's log ---\n{}", lines.join("\n"));
}

/// The resident memory of a process, in KiB.
#[must_use]
pub fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

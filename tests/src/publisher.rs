//! A `herald serve` for tests that only runs sources, which publish to a remote broker.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{PATIENCE, herald};

/// A running publisher process with a temporary directory for its configuration and its cursors.
pub struct TestPublisher {
    dir: TempDir,
    child: Option<Child>,
}

impl TestPublisher {
    /// Starts a process with this configuration.
    #[must_use]
    pub fn start(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("herald-publisher-").tempdir().unwrap();
        let mut publisher = Self { dir, child: None };
        publisher.configure(config);
        publisher.run();
        publisher
    }

    /// Replaces its configuration.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.dir().join("herald.toml"), config).unwrap();
    }

    /// Starts the process with a new log, without waiting for it.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "it is already running");
        let log = File::create(self.dir().join("log")).unwrap();
        let mut command = self.command();
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// The command that starts the process.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(herald());
        command.current_dir(self.dir()).arg("serve");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
            command.env_remove(name);
        }
        command
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The cursor stored by its only source.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        let files = std::fs::read_dir(self.dir().join("sources")).unwrap();
        let is_cursor = |path: &Path| path.extension().is_some_and(|end| end == "cursor");
        let path = files.map(|file| file.unwrap().path()).find(|path| is_cursor(path))?;
        let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cursor: serde_json::Value = serde_json::from_str(stored["cursor"].as_str().unwrap()).unwrap();
        Some(cursor["id"].as_str().unwrap().to_owned())
    }

    /// Kills the process as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to stop, and waits until it has ended.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.as_ref().expect("it runs").id();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The log since the last start.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap()
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "no {text:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for TestPublisher {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _it_has_ended = child.kill();
            let _it_is_reaped = child.wait();
        }
    }
}

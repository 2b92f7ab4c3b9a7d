//! A shell in its own network namespace, so that every port is free and a section's broker can use the documented ports.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, herald};

/// The marker that the shell prints after a command, followed by its status.
const ENDED: &str = "@@ended";

/// The time limit for output from a background program.
const LATE: Duration = Duration::from_secs(15);

/// A shell; dropping it ends everything that it has started.
pub(crate) struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// The output not consumed yet, without empty lines.
    heard: Vec<String>,
    servers: usize,
}

impl Shell {
    /// Starts a shell in this folder, with the binary under test in its path.
    pub(crate) fn start(folder: &Path, programs: &Path) -> Self {
        std::os::unix::fs::symlink(herald(), programs.join("herald")).unwrap();
        let mut command = Command::new("unshare");
        // The shell is the first process of its namespace, so all others end with it.
        command.args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["bash", "--noprofile", "--norc"]).current_dir(folder);
        let herald_settings = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HERALD_"));
        for (name, _) in herald_settings {
            command.env_remove(name);
        }
        command.env("PYTHONUNBUFFERED", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self { child, stdin, lines, heard: Vec::new(), servers: 0 };
        shell.write(&format!("exec 2>&1; ip link set lo up; export PATH={}:$PATH", programs.display()));
        shell
    }

    fn write(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Runs a command until it ends, and returns its status.
    pub(crate) fn run(&mut self, command: &str) -> Result<i32, String> {
        // Without input, so that no program consumes the following commands.
        self.write(&format!("{{ {command}\n}} </dev/null; printf '\\n{ENDED} %d\\n' $?"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.line(deadline).ok_or_else(|| format!("does not end; printed: {:?}", self.heard))?;
            match line.strip_prefix(ENDED) {
                Some(status) => return Ok(status.trim().parse().unwrap()),
                // The shell's message about a program that was ended.
                None if line.contains("Terminated") || line.contains("Killed") => {}
                None => self.heard.push(line),
            }
        }
    }

    /// Starts a program in the background, and waits until its output contains `ready`.
    pub(crate) fn serve(&mut self, command: &str, ready: &str) -> Result<(), String> {
        self.servers += 1;
        let log = format!("server-{}.log", self.servers);
        self.write(&format!(": >{log}; {command} </dev/null >>{log} 2>&1 & server=$!"));
        let wait = format!(
            "for _ in $(seq 600); do grep -q '{ready}' {log} && break; sleep 0.1; done; grep -q '{ready}' {log}"
        );
        match self.run(&wait)? {
            0 => Ok(()),
            _ => {
                self.run(&format!("tail {log}"))?;
                Err(format!("does not start: {:?}", self.heard))
            }
        }
    }

    /// Starts `herald sub` in the background, and waits until it is attached.
    pub(crate) fn subscribe(&mut self, command: &str) -> Result<(), String> {
        self.write(&format!("{command} </dev/null &"));
        let attached = "'\"name\":[^,]*,\"connections\":[1-9]'";
        let wait = format!(
            "for _ in $(seq 300); do herald stats --json 2>/dev/null | grep -q {attached} && break; sleep 0.1; done; herald stats --json | grep -q {attached}"
        );
        if self.run(&wait)? == 0 { Ok(()) } else { Err("does not attach".to_owned()) }
    }

    /// Starts `telnet` or `nc`, which receives the typed lines.
    pub(crate) fn converse(&mut self, command: &str) {
        self.write(&format!("rm -f typed; mkfifo typed; {command} <typed & talking=$!; exec 9>typed"));
    }

    /// Types a line into the running `telnet` or `nc`.
    pub(crate) fn say(&mut self, line: &str) {
        self.write(&format!("printf '%s\\n' '{}' >&9", line.replace('\'', r"'\''")));
    }

    /// Ends the running `telnet` or `nc`.
    pub(crate) fn hang_up(&mut self) -> Result<(), String> {
        self.run("exec 9>&-; kill $talking 2>/dev/null; wait $talking").map(|_status| ())
    }

    /// Consumes the first line of output that matches; waits for it up to [`LATE`].
    pub(crate) fn hear(&mut self, matches: impl Fn(&str) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + LATE;
        loop {
            if let Some(at) = self.heard.iter().position(|line| matches(line)) {
                self.heard.remove(at);
                return Ok(());
            }
            let line = self.line(deadline).ok_or_else(|| format!("not printed; what is: {:?}", self.heard))?;
            self.heard.push(line);
        }
    }

    /// The output that was never consumed.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.heard)
    }

    fn line(&mut self, deadline: Instant) -> Option<String> {
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.is_empty() => {}
                Ok(line) => return Some(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _it_is_reaped = self.child.wait();
    }
}

//! The common part of all servers on this machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::Error;
use bench::connection::Opening;
use bench::process::Process;

/// The time limit for a server's start until it answers, including the recovery of a backlog.
pub(crate) const START: Duration = Duration::from_secs(180);

/// A free port on the loopback interface. Another process may take it before the server does.
pub(crate) fn free_addr() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).map_err(Error::io("no free port"))
}

/// The most attempts to start a server: another process may have taken the free port in between.
const TRIES: usize = 5;

/// Starts a server on a free port, and waits until it listens. `command` makes its command line for an address.
pub(crate) fn launch(
    name: &str,
    mut command: impl FnMut(SocketAddr) -> Result<Command, Error>,
) -> Result<(Process, SocketAddr), Error> {
    let mut tries = 0;
    loop {
        let addr = free_addr()?;
        let mut process = Process::start(name, command(addr)?)?;
        let began = Instant::now();
        while process.is_running() && began.elapsed() < START {
            if Opening::connect(addr).is_ok() {
                return Ok((process, addr));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        tries += 1;
        if process.is_running() || tries == TRIES {
            // Why, it has said; looking for what it never says finds that.
            process.wait_for("\0", Duration::ZERO)?;
        }
    }
}

/// The path of a program, in `more` or in PATH.
pub(crate) fn find(program: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = more.iter().cloned().chain(std::env::split_paths(&path));
    // Absolute, since servers are started in directories of their own; but links stay: some programs go by their own name.
    dirs.find_map(|dir| std::path::absolute(dir.join(program)).ok().filter(|file| file.is_file()))
}

/// The version that a program prints: the first word with a digit and a dot.
pub(crate) fn version(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let words = text.split(|c: char| c.is_whitespace() || c == '=' || c == ',');
    let mut versions = words
        .map(|word| word.trim_start_matches('v'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    versions.next().unwrap_or("?").to_owned()
}

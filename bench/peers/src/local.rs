//! What all servers on this machine have in common.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bench::Error;

/// How long a server may take until it answers, the recovery of a backlog included.
pub(crate) const START: Duration = Duration::from_secs(180);

/// A port on the loopback interface that nobody has.
pub(crate) fn free_addr() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).map_err(Error::io("no free port"))
}

/// The path of a program, in `more` or in PATH.
pub(crate) fn find(program: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = more.iter().cloned().chain(std::env::split_paths(&path));
    // Absolute, since servers are started in directories of their own.
    dirs.find_map(|dir| dir.join(program).canonicalize().ok().filter(|file| file.is_file()))
}

/// What a program says of its version: the first word with a digit and a dot.
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

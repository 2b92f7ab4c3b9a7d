//! The cost of idle connections: opens many, and compares the server's resident memory before and after.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::Error;
use crate::herald::Herald;
use crate::process::resident_memory;
use crate::target::Target as _;
use crate::workload::Watch;

/// The number of files a process has open besides its connections, with a margin.
const OTHER_FILES: u64 = 64;

/// The cost of idle connections.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// `idle`.
    pub workload: &'static str,
    /// The broker's version.
    pub version: String,
    /// Connections open at the same time, each past the greeting and the answer to its `hello`.
    pub connections: u64,
    /// The number of connections requested; higher than the number opened if the limit on open files did not allow them all.
    pub wanted: u64,
    /// The server's resident memory without them, in MB (10^6 bytes).
    pub before_mb: f64,
    /// The same with all of them open.
    pub after_mb: f64,
    /// The memory per connection in bytes, without the kernel's socket buffers and the client's memory.
    pub bytes_each: f64,
}

/// Opens `wanted` connections to a fresh broker, or as many as the limit on open files allows, and measures its memory.
///
/// # Errors
/// The broker does not start or refuses a connection, or its memory cannot be read.
pub fn run(herald: &mut Herald, wanted: u64, dir: &Path, watch: &mut dyn Watch) -> Result<Idle, Error> {
    let connections = wanted.min(raise_file_limit().saturating_sub(OTHER_FILES));
    if connections == 0 {
        return Err(Error::Options("the limit of open files (ulimit -n) leaves no room for connections".into()));
    }
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(dir);
    let dir = dir.map_err(Error::io("cannot make a directory for the server's data"))?;
    watch.begin("idle: starting Herald");
    let result = herald.start(dir.path()).and_then(|()| measure(herald, connections, wanted, watch));
    herald.stop();
    result
}

fn measure(herald: &mut Herald, connections: u64, wanted: u64, watch: &mut dyn Watch) -> Result<Idle, Error> {
    let memory = |herald: &Herald| {
        let bytes = herald.pid().and_then(resident_memory);
        bytes.ok_or_else(|| Error::Options("the broker's memory cannot be looked at: --pid says which it is".into()))
    };
    let before = memory(herald)?;
    watch.begin("idle: opening connections");
    let mut open = Vec::new();
    for at in 0..connections {
        open.push(herald.idle()?);
        watch.advance(at + 1, connections)?;
    }
    let after = memory(herald)?;
    Ok(Idle {
        workload: "idle",
        version: herald.version(),
        connections,
        wanted,
        before_mb: before as f64 / 1e6,
        after_mb: after as f64 / 1e6,
        bytes_each: after.saturating_sub(before) as f64 / connections as f64,
    })
}

/// Raises the limit on open files as far as allowed, for this process and its children, and returns it.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

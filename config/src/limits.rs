//! The operating system's limit on open files. Every connection takes one.

/// Files that the broker needs besides connections: segments, listeners, sources, the runtime.
const BESIDES: u64 = 256;

/// Raises the soft limit to the hard one, which every process may do, and returns it; `None`: unlimited or unknown.
pub fn raise_open_files() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let now = getrlimit(Resource::Nofile);
        if now.current == now.maximum {
            return now.current;
        }
        match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
            Ok(()) => now.maximum,
            Err(error) => {
                tracing::warn!(%error, soft = now.current, hard = now.maximum, "cannot raise the limit on open files");
                now.current
            }
        }
    }
    #[cfg(not(unix))]
    None
}

/// Warns if `connections` cannot all be open at the same time.
pub fn check_connections(open_files: Option<u64>, connections: u64) {
    if let Some(limit) = open_files.filter(|limit| *limit < connections.saturating_add(BESIDES)) {
        tracing::warn!(
            limit,
            max_connections = connections,
            "the limit on open files is lower than max_connections needs: raise it with ulimit -Hn, or LimitNOFILE in systemd"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn the_soft_limit_becomes_the_hard_one() {
        use rustix::process::{Resource, getrlimit};
        let raised = raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (raised, raised));
    }
}

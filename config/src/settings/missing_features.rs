//! The messages of a build about the plugins that it lacks. These tests run in builds of any size.

use super::{Inputs, load};

fn problems(set: &[&str]) -> Vec<String> {
    let set = set.iter().map(|set| (*set).to_owned()).collect();
    match load(&Inputs { set, ..Inputs::default() }) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_build_without_storage_or_transport_says_what_to_build() {
    let mut expected = Vec::new();
    if cfg!(not(any(feature = "json-log", feature = "sled", feature = "sqlite"))) {
        expected.push("storage.kind: this build has no \"json-log\" storage: rebuild with --features json-log");
    }
    if cfg!(not(any(feature = "tcp", feature = "ws"))) {
        expected
            .push("transports: this build has no transport, so no client could connect: rebuild with --features tcp");
    }
    assert_eq!(problems(&[]), expected);
}

#[test]
fn a_plugin_that_was_left_out_is_refused_with_its_feature() {
    let tcp = "transports.tcp: this build has no \"tcp\" transport: rebuild with --features tcp";
    let found = problems(&["transports.tcp.max_connections=5"]);
    assert_eq!(found.iter().any(|problem| problem.contains(tcp)), cfg!(not(feature = "tcp")), "{found:?}");
    let sse = "sources[0].kind: this build has no \"sse\" source: rebuild with --features sse";
    let found = problems(&["sources=[{ kind = \"sse\", name = \"a\", url = \"http://h\", topic = \"t\" }]"]);
    assert_eq!(found.iter().any(|problem| problem.contains(sse)), cfg!(not(feature = "sse")), "{found:?}");
}

//! The documents: every block of commands is run, every configuration is checked, every relative link is resolved.
//!
//! `CONTRIBUTING.md` defines the kinds of blocks. `documentation.rs` replays the transcripts of `docs/protocol.md`.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod builds;
mod links;
mod markdown;
mod section;
mod shell;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use markdown::Document;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Runs the blocks of a document, section by section, and reports every failure.
fn run(path: &str) {
    let document = Document::read(&root(), path);
    let wrong: Vec<String> = document.sections().iter().filter_map(|section| section::run(section).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Defines a test for each document, and the list of documents.
macro_rules! documents {
    ($($test:ident: $path:literal,)*) => {
        const RUN: &[&str] = &[$($path),*];

        $(
            #[test]
            #[cfg_attr(not(documents), ignore = "needs what .ci/documents installs, and namespaces (unshare)")]
            fn $test() {
                run($path);
            }
        )*
    };
}

documents! {
    the_blocks_of_the_readme_run: "README.md",
    the_blocks_of_contributing_run: "CONTRIBUTING.md",
    the_blocks_of_the_changelog_run: "CHANGELOG.md",
    the_blocks_of_the_deployment_run: "deploy/README.md",
    the_blocks_of_the_architecture_run: "docs/architecture.md",
    the_blocks_of_the_mongodb_page_run: "docs/mongodb.md",
    the_blocks_of_the_operations_run: "docs/operations.md",
    the_blocks_of_the_performance_page_run: "docs/performance.md",
    the_blocks_of_the_protocol_run: "docs/protocol.md",
    the_blocks_of_the_reliability_page_run: "docs/reliability.md",
    the_blocks_of_the_sse_page_run: "docs/sse.md",
    the_blocks_of_the_storages_run: "docs/storages.md",
    the_blocks_of_the_tweets_page_run: "docs/tweets.md",
}

/// The paths of all documents in the repository.
fn all() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Skips build output and the folders of other tools.
            if name == "target" || name == "node_modules" || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_page_for_users_has_a_test() {
    let pages = all()
        .into_iter()
        .filter(|path| !path.contains('/') || path.starts_with("docs/") || path.starts_with("deploy/"));
    // `docs/configuration.md` is generated from the settings and has no commands.
    let pages: BTreeSet<String> = pages.filter(|path| path != "docs/configuration.md").collect();
    assert_eq!(pages, RUN.iter().map(|path| (*path).to_owned()).collect());
}

#[test]
fn every_block_has_a_kind_that_is_run_or_names_its_check() {
    let wrong: Vec<String> = RUN
        .iter()
        .flat_map(|path| {
            let document = Document::read(&root(), path);
            document.mistakes().into_iter().map(move |mistake| format!("{path}:{mistake}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_relative_link_and_anchor_resolves() {
    let documents: Vec<Document> = all().iter().map(|path| Document::read(&root(), path)).collect();
    let wrong: Vec<String> = documents.iter().flat_map(|document| links::broken(&root(), document)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let checked: usize = documents.iter().map(|document| document.links().count()).sum();
    assert!(checked > 100, "the links are found");
}

#[test]
fn the_readme_has_at_most_220_lines() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 220, "{} lines", readme.lines().count());
}

#[test]
#[cfg_attr(not(documents), ignore = "needs what .ci/documents installs, and namespaces (unshare)")]
fn a_wrong_block_is_reported_with_its_line() {
    for (text, expected) in [
        ("# D\n\n## S\n\n```sh\ntrue\nfalse\n```\n", "D.md:7: false: exit status 1"),
        ("# D\n\n## S\n\n```console\n$ echo one\ntwo\n```\n", "D.md:7: two: not printed"),
        (
            "# D\n\n## S\n\n```console\n$ echo one; echo two\none\n```\n",
            "D.md:5: printed, but not in the document: two",
        ),
        ("# D\n\n## S\n\n```toml\n[broker]\nshard = 1\n```\n", "D.md:5: herald.toml: exit status 2"),
        ("# D\n\n## S\n\n```sh\nherald serv\n```\n", "D.md:6: herald serv: exit status 2"),
        ("# D\n\n## S\n\n```console\n$ nc 127.0.0.1 8000\n…\nping\npang\n```\n", "D.md:9: pang: not printed"),
        ("# D\n\n## S\n\n```sh\ncargo build -p herald --features telepathy\n```\n", "D.md:6: cargo build"),
    ] {
        let document = Document::parse("D.md", text);
        let wrong = section::run(&document.sections()[0]).expect_err(text);
        assert!(wrong.starts_with(expected), "{wrong}");
    }
}

#[test]
fn a_broken_link_is_reported() {
    let text = "# D\n\n## A `B` c's\n\n[a](README.md) [b](no.md) [c](#a-b-cs) [d](#d1) [e](README.md#no) [f](https://no.example)\n\n[r]: no/path\n";
    let broken = links::broken(&root(), &Document::parse("D.md", text));
    assert_eq!(broken, ["D.md:5: no.md", "D.md:5: #d1", "D.md:5: README.md#no", "D.md:7: no/path"]);
}

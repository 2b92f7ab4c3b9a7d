//! Layers and precedence, every kind of error with its text, and the two ways to print a configuration.

mod errors;
mod layers;
mod plugins;
mod printing;
mod refused;
mod secrets;

use std::ffi::OsString;
use std::path::PathBuf;

use super::*;

/// The inputs of a configuration: a file's text, environment variables and `--set` options.
fn inputs(file: &str, variables: &[(&str, &str)], set: &[&str]) -> (tempfile::TempDir, Inputs) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("herald.toml");
    std::fs::write(&path, file).unwrap();
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let set = set.iter().map(|set| (*set).to_owned()).collect();
    (dir, Inputs { file: FileLayer::Named(path), environment, set })
}

fn good(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Loaded {
    let (_dir, inputs) = inputs(file, variables, set);
    load(&inputs).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems of a configuration, without the path of the temporary directory.
fn bad(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Vec<String> {
    let (dir, inputs) = inputs(file, variables, set);
    let error = load(&inputs).expect_err("a problem");
    let at = format!("{}/", dir.path().display());
    error.problems.iter().map(|problem| problem.to_string().replace(&at, "")).collect()
}

/// The effective value of a dotted key; no patterns or lists.
fn value(loaded: &Loaded, key: &str) -> Value {
    let mut names = key.split('.');
    let first = names.next().and_then(|name| loaded.values.get(name));
    names.fold(first.cloned().unwrap_or_default(), |value, name| value[name].clone())
}

#[track_caller]
fn one(file: &str) -> String {
    let problems = bad(file, &[], &[]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

#[track_caller]
fn variable(name: &str, value: &str, expected: &str) {
    assert_eq!(bad("", &[(name, value)], &[]), [expected], "{name}={value}");
}

#[track_caller]
fn set(text: &str, expected: &str) {
    assert_eq!(bad("", &[], &[text]), [expected], "{text}");
}

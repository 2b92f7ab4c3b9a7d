//! Checks cargo commands in the documents against the workspace instead of running them: the package, its features and its targets
//! must exist.

use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::root;

/// The workspace's metadata from cargo.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let output = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    cargo
}

/// Checks that a cargo command can work.
pub(crate) fn check(command: &str) -> Result<(), String> {
    let words: Vec<&str> =
        command.split(" #").next().unwrap().split_whitespace().skip_while(|word| *word != "cargo").collect();
    let (words, program) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[1..at], &words[at + 1..]),
        None => (&words[1..], &[] as &[&str]),
    };
    let after = |names: [&str; 2]| {
        let at = words.iter().position(|word| names.contains(word))?;
        words.get(at + 1).copied()
    };
    let package = after(["-p", "--package"]);
    let packages = METADATA["packages"].as_array().unwrap();
    let Some(found) = packages.iter().find(|found| found["name"] == package.unwrap_or("herald")) else {
        return Err(format!("no package {package:?}"));
    };
    for feature in after(["-F", "--features"]).unwrap_or_default().split(',').filter(|feature| !feature.is_empty()) {
        if found["features"].get(feature).is_none() {
            return Err(format!("no feature {feature}"));
        }
    }
    for kind in ["bin", "example", "test", "bench"] {
        let Some(name) = after([&format!("--{kind}"), ""]) else { continue };
        let targets = found["targets"].as_array().unwrap();
        if !targets.iter().any(|target| target["name"] == name && target["kind"][0] == kind) {
            return Err(format!("no {kind} {name}"));
        }
    }
    match (words.first(), after(["--bin", ""])) {
        (Some(&"run"), Some("crash-campaign")) => has_options(env!("CARGO_BIN_EXE_crash-campaign"), program),
        (Some(&("build" | "run" | "test" | "bench")), _) => Ok(()),
        (other, _) => Err(format!("no check for the subcommand cargo {other:?}")),
    }
}

/// Checks that a program has the options it is run with.
fn has_options(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    match args.iter().find(|arg| arg.starts_with("--") && !help.contains(&format!("{arg} "))) {
        Some(arg) => Err(format!("no option {arg}")),
        None => Ok(()),
    }
}

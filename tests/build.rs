//! Looks for the programs that some tests need, so that those tests are shown as ignored if one is missing.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).exists());
    for (name, programs) in
        [("browser", ["chromium", "chromedriver"].as_slice()), ("python", &["python3"]), ("node", &["node"])]
    {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if programs.iter().all(is_there) {
            println!("cargo::rustc-cfg={name}");
        }
    }
    // The documents' commands run in namespaces of their own, if the system allows it.
    println!("cargo::rustc-check-cfg=cfg(documents)");
    let programs = ["unshare", "bash", "ip", "telnet", "nc", "openssl", "jq", "sqlite3", "python3", "node"];
    let namespaces = || {
        let arguments = ["--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "true"];
        Command::new("unshare").args(arguments).status().is_ok_and(|status| status.success())
    };
    if programs.iter().all(is_there) && namespaces() {
        println!("cargo::rustc-cfg=documents");
    }
    // `.ci/mongod` installs it below `target`.
    println!("cargo::rustc-check-cfg=cfg(mongod)");
    if is_there(&"mongod") || Path::new("../target/mongod/mongod").exists() {
        println!("cargo::rustc-cfg=mongod");
    }
}

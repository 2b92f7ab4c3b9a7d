//! Looks for the programs that some tests need, so that these are shown as ignored where one is missing.

use std::path::Path;

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
    // Where .ci/mongod puts it.
    println!("cargo::rustc-check-cfg=cfg(mongod)");
    if is_there(&"mongod") || Path::new("../target/mongod/mongod").exists() {
        println!("cargo::rustc-cfg=mongod");
    }
}

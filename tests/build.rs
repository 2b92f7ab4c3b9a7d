//! Looks for a browser, so that the test that needs one is shown as ignored where there is none.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-check-cfg=cfg(browser)");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| {
        std::env::split_paths(&path).any(|dir: std::path::PathBuf| Path::new(&dir).join(program).exists())
    };
    if is_there("chromium") && is_there("chromedriver") {
        println!("cargo::rustc-cfg=browser");
    }
}

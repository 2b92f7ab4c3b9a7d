//! Compresses the line tables in the binary: a third of the size, and Rust's own backtraces read them as well.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Where the object format is ELF and the linker GNU's, LLVM's or mold: all take this.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
}

//! The `herald` binary. Everything else is in the library.

use std::process::ExitCode;

/// Returns memory once a backlog has gone, of which the C library's allocator keeps most. It is also faster for small buffers
/// that one thread allocates and another frees, as happens with every event.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    herald::cli::main()
}

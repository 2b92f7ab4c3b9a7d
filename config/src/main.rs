//! The `herald` binary. Everything it does is in the library.

use std::process::ExitCode;

/// Gives memory back when a backlog has gone, where the C library's keeps most of it; and takes less time for small buffers that one
/// thread makes and another lets go of, which is what an event is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    herald::cli::main()
}

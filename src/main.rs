//! Parse, log, dispatch, exit code.

use std::process::ExitCode;

// musl's own takes one lock for all threads (docs/decisions/0019-static-binary.md).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bypassctl::commands::main(std::env::args_os())
}

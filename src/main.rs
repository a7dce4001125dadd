//! Parse, log, dispatch, exit code.

use std::process::ExitCode;

/// Chosen by measurement, see docs/decisions/0012-data-path.md: connections that have gone give their memory back, and a
/// handshake costs less than with the allocators of glibc and musl.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    bypassctl::commands::main(std::env::args_os())
}

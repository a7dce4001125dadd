//! Parse, log, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    bypassctl::commands::main(std::env::args_os())
}

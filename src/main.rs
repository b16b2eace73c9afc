//! Parses the command line, runs it, gives the exit code: 0 fine, 1 failed, 2 wrong usage.

use std::process::ExitCode;

/// Gives memory back to the system when many connections have closed, which that of glibc does not, and takes as little of it on
/// musl, whose own is slow with several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    backroom::cli::main()
}

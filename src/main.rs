//! Parses the command line, runs it, gives the exit code: 0 fine, 1 failed, 2 wrong usage.

use std::process::ExitCode;

fn main() -> ExitCode {
    backroom::cli::main()
}

//! The program as users get it, with fault points: what the tests of this package run.

use std::process::ExitCode;

fn main() -> ExitCode {
    diorama::main()
}

//! The program; everything is in the library, so that the whole-system tests run the same code with fault points.

use std::process::ExitCode;

fn main() -> ExitCode {
    diorama::main()
}

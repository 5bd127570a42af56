//! What a command says on standard output; a reader that went away (`| head`) is no error. What others chose may stand in
//! it, such as names of runs: no control character of theirs reaches a terminal, in JSON neither.

use std::io::Write;

use diorama_core::text::shown_lines;

pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", shown_lines(text));
}

pub(crate) fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", shown_lines(text));
}

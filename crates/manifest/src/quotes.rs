//! The quotes of a CSV file. The library that reads cells takes whatever they leave: a quote that nobody closes swallows
//! the rows behind it, and what stands behind a closed one is added to the cell. Both make pictures of other prompts than
//! were meant, so they are looked for here, in the bytes as they pass.

use std::collections::VecDeque;

/// What is wrong with a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The file ends inside a cell.
    LeftOpen,
    /// Something other than a comma or the end of the row stands behind the closing quote.
    NotTheEnd,
}

impl Fault {
    /// In a sentence, and how to mend it.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::LeftOpen => {
                "has a quote that is never closed: the file ends inside this cell, and all that follows the quote is part of \
                 it"
            }
            Self::NotTheEnd => {
                "goes on behind a closing quote; inside a cell, a quote is written twice (\"\"), and not as \\\" (in pandas: \
                 to_csv without escapechar; in Spark: option(\"escape\", \"\\\"\"))"
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    CellStart,
    Bare,
    Quoted,
    /// Behind a quote in a quoted cell: it ended, or the quote is doubled.
    QuoteInQuoted,
    /// White space behind a cell's closing quote.
    Closed,
}

/// Watches the bytes of a file.
#[derive(Debug)]
pub(crate) struct Quotes {
    state: State,
    /// Bytes that passed.
    at: u64,
    /// Where ends of lines outside cells are that no row has passed yet, and whether each is a line feed.
    ends: VecDeque<(u64, bool)>,
    /// At most one a row, by the offset of the byte that shows it.
    faults: VecDeque<(u64, Fault)>,
    row_has_fault: bool,
}

impl Quotes {
    pub(crate) fn new() -> Self {
        Self { state: State::CellStart, at: 0, ends: VecDeque::new(), faults: VecDeque::new(), row_has_fault: false }
    }

    /// The next bytes.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
            self.at += 1;
        }
    }

    /// There are no more.
    pub(crate) fn end(&mut self) {
        if self.state == State::Quoted {
            self.fault(Fault::LeftOpen);
            self.state = State::CellStart;
        }
    }

    /// Line feeds between `start`, where the library takes a row to begin, and its first cell: the second half of CRLF and
    /// empty lines, which it counts only with the row. What is before `start` is forgotten.
    pub(crate) fn line_feeds_from(&mut self, mut start: u64) -> u64 {
        let mut line_feeds = 0;
        while let Some((at, is_line_feed)) = self.ends.front().copied().filter(|(at, _)| *at <= start) {
            self.ends.pop_front();
            if at == start {
                line_feeds += u64::from(is_line_feed);
                start += 1;
            }
        }
        line_feeds
    }

    /// What is wrong with the quotes before this offset, the end of a row; what is before it is forgotten.
    pub(crate) fn fault_before(&mut self, end: u64) -> Option<Fault> {
        let mut first = None;
        while let Some((_, fault)) = self.faults.front().copied().filter(|(at, _)| *at < end) {
            first = first.or(Some(fault));
            self.faults.pop_front();
        }
        first
    }

    fn step(&mut self, byte: u8) {
        use State::{Bare, CellStart, Closed, QuoteInQuoted, Quoted};
        // A byte order mark is no part of the first cell.
        let is_mark = self.at < 3 && b"\xef\xbb\xbf"[self.at as usize] == byte;
        self.state = match (self.state, byte) {
            (Quoted, b'"') => QuoteInQuoted,
            (Quoted, _) | (QuoteInQuoted, b'"') => Quoted,
            (_, b'\n' | b'\r') => {
                self.row_has_fault = false;
                self.ends.push_back((self.at, byte == b'\n'));
                CellStart
            }
            (_, b',') => CellStart,
            (CellStart, b'"') => Quoted,
            (CellStart, _) if is_mark => CellStart,
            (CellStart | Bare, _) => Bare,
            (QuoteInQuoted | Closed, b' ' | b'\t') => Closed,
            (QuoteInQuoted | Closed, _) => {
                self.fault(Fault::NotTheEnd);
                Bare
            }
        };
    }

    fn fault(&mut self, fault: Fault) {
        if !std::mem::replace(&mut self.row_has_fault, true) {
            self.faults.push_back((self.at.saturating_sub(u64::from(fault == Fault::LeftOpen)), fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(u64, Fault)> {
        let mut quotes = Quotes::new();
        // However the bytes are cut.
        text.as_bytes().chunks(3).for_each(|bytes| quotes.pass(bytes));
        quotes.end();
        quotes.faults.into()
    }

    #[test]
    fn quotes_that_do_not_end_a_cell_are_seen_and_all_others_are_none_of_ours() {
        for fine in [
            "a,b\n1,2\n",
            "\u{feff}\"a\",\"b\"\r\n\"1\",\"2\"",
            "a,\"b \"\"c\"\" d\"\n",
            "a,\"\"\n",
            "a,\"two\nlines, and a comma\"\n",
            "a,5\" of rain,\"x\" \n",
            "a, \"b\"\n",
            "",
        ] {
            assert_eq!(faults(fine), [], "{fine:?}");
        }
        assert_eq!(faults("a,\"b\\\"c\\\"\"\nd,\"e\"f\n"), [(6, Fault::NotTheEnd), (16, Fault::NotTheEnd)]);
        assert_eq!(faults("a,\"b\nc,d\n"), [(8, Fault::LeftOpen)]);
    }
}

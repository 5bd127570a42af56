//! JSONL: one object a line. Accepts a byte order mark, CRLF and blank lines.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::raw::{MAX_LINE_BYTES, Raw, issue};

pub(crate) fn rows(file: File) -> impl Iterator<Item = io::Result<Raw>> {
    rows_of(BufReader::with_capacity(1 << 16, file))
}

fn rows_of(mut input: impl BufRead) -> impl Iterator<Item = io::Result<Raw>> {
    let mut buffer = Vec::new();
    let (mut line, mut offset) = (0, 0);
    std::iter::from_fn(move || {
        loop {
            let read = match read_line(&mut input, &mut buffer) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            line += 1;
            let start = offset;
            offset += read as u64;
            if read > MAX_LINE_BYTES {
                let message = format!("has {read} bytes; at most {MAX_LINE_BYTES} are allowed");
                return Some(Ok(Raw::Bad(line, vec![issue(line, "line_too_long", None, message)])));
            }
            let (skipped, bytes) = match buffer.strip_prefix(b"\xef\xbb\xbf") {
                Some(rest) if line == 1 => (3, rest),
                _ => (0, buffer.as_slice()),
            };
            match parse(line, start + skipped, bytes.trim_ascii_end()) {
                Some(row) => return Some(Ok(row)),
                None => continue,
            }
        }
    })
}

/// Reads to the next line feed, keeping at most [`MAX_LINE_BYTES`] of it; gives the line's whole length.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok(length);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        let room = MAX_LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&available[..used.min(room)]);
        length += used;
        input.consume(used);
        if end.is_some() {
            return Ok(length);
        }
    }
}

/// The row of one line; `None` for a blank one. `offset` is where `bytes` begin in the file.
fn parse(line: u64, offset: u64, bytes: &[u8]) -> Option<Raw> {
    let bad = |code: &str, message: String| Some(Raw::Bad(line, vec![issue(line, code, None, message)]));
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = offset + error.valid_up_to() as u64;
            return bad(
                "not_utf8",
                format!("is not UTF-8: the byte at offset {at} of the file; save the file as UTF-8"),
            );
        }
    };
    if text.trim().is_empty() {
        return None;
    }
    if !text.trim_start().starts_with('{') {
        return bad("wrong_type", "is not an object; write one {\"custom_id\": …} a line".to_owned());
    }
    match serde_json::from_str::<Cells>(text) {
        Ok(Cells { repeated: Some(key), .. }) => {
            bad("duplicate_key", format!("the key {:?} occurs twice", key.chars().take(80).collect::<String>()))
        }
        Ok(cells) => Some(Raw::Row(line, cells.map)),
        Err(error) => {
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            let hint =
                if bytes.windows(3).any(|word| word == b"NaN") || bytes.windows(8).any(|word| word == b"Infinity") {
                    "; JSON has no NaN and no Infinity: leave the key out"
                } else {
                    ""
                };
            bad("invalid_json", format!("is not JSON: {what}, at column {}{hint}", error.column()))
        }
    }
}

/// A JSON object that remembers whether a key was given twice, which serde_json's own map would hide.
struct Cells {
    map: Map<String, Value>,
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for Cells {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Cells;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Cells, A::Error> {
                let mut cells = Cells { map: Map::new(), repeated: None };
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if cells.map.insert(key.clone(), value).is_some() {
                        cells.repeated.get_or_insert(key);
                    }
                }
                Ok(cells)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(bytes: &[u8]) -> Vec<String> {
        rows_of(bytes)
            .map(|row| match row.unwrap() {
                Raw::Row(line, cells) => format!("{line} ok {}", Value::Object(cells)),
                Raw::Bad(line, issues) => format!("{line} {} {}", issues[0].code, issues[0].message),
                Raw::File(issues) => format!("file {}", issues[0].code),
            })
            .collect()
    }

    #[test]
    fn a_byte_order_mark_crlf_blank_lines_and_a_missing_last_newline_are_no_problem() {
        let rows = codes(b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"b\":2}");
        assert_eq!(rows, [r#"1 ok {"a":1}"#, r#"4 ok {"b":2}"#]);
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_named_by_its_offset_in_the_file() {
        let rows = codes(b"{\"a\":1}\n{\"b\":\"\xff\"}\n{\"c\":1}\n");
        assert!(rows[1].starts_with("2 not_utf8") && rows[1].contains("offset 14 "), "{rows:?}");
        assert_eq!(rows[2], r#"3 ok {"c":1}"#);
    }

    #[test]
    fn a_line_without_end_is_refused_without_being_held() {
        let mut bytes = b"{\"a\":1}\n".to_vec();
        bytes.extend(std::iter::repeat_n(b'x', 3 * MAX_LINE_BYTES));
        bytes.extend(b"\n{\"b\":2}\n");
        let rows = codes(&bytes);
        assert!(rows[1].starts_with("2 line_too_long has 3145729 bytes"), "{rows:?}");
        assert_eq!(rows[2], r#"3 ok {"b":2}"#);

        let mut line = Vec::new();
        read_line(&mut &bytes[8..], &mut line).unwrap();
        assert_eq!(line.len(), MAX_LINE_BYTES);
    }

    #[test]
    fn what_is_no_object_says_so() {
        let rows = codes(b"[1]\n{\"a\":NaN}\n{\"a\":1,\"a\":2}\n{\"a\":1\n{\"a\":1} x\n");
        let starts = ["1 wrong_type", "2 invalid_json", "3 duplicate_key", "4 invalid_json", "5 invalid_json"];
        for (row, start) in rows.iter().zip(starts) {
            assert!(row.starts_with(start), "{row}");
        }
        assert!(rows[1].contains("JSON has no NaN"), "{}", rows[1]);
    }
}

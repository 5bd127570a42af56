//! JSONL: one object a line. Accepts a byte order mark, CRLF and blank lines.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use diorama_core::text::quoted;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::keys::{Keys, MAX_COLUMNS, MAX_ISSUES_A_ROW, Role};
use crate::raw::{Cells, MAX_LINE_BYTES, Raw, issue};
use crate::rules::Rules;

/// The most values of a row, those in lists and objects included: a row of 1 MiB could hold half a million, and each
/// takes a hundred bytes once it is read.
const MAX_VALUES: usize = 10_000;

pub(crate) fn rows(file: File, rules: &Rules) -> impl Iterator<Item = io::Result<Raw>> + use<> {
    rows_of(BufReader::with_capacity(1 << 16, file), rules)
}

fn rows_of<R: BufRead>(mut input: R, rules: &Rules) -> impl Iterator<Item = io::Result<Raw>> + use<R> {
    let mut keys = Keys::new(rules);
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
            match parse(line, start + skipped, bytes.trim_ascii_end(), &mut keys) {
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
fn parse(line: u64, offset: u64, bytes: &[u8], keys: &mut Keys) -> Option<Raw> {
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
        let list = if text.trim_start().starts_with('[') { " (of a JSON list: `jq -c '.[]'`)" } else { "" };
        return bad("wrong_type", format!("is not an object; write one {{\"custom_id\": …}} per line{list}"));
    }
    if values_in(bytes) > MAX_VALUES {
        return bad("too_many_values", format!("holds more than {MAX_VALUES} values"));
    }
    match serde_json::from_str::<Object>(text) {
        Ok(object) => Some(Raw::Row(line, cells(line, object, keys))),
        Err(error) => {
            let said = error.to_string();
            let what = said.split(" at line ").next().unwrap_or(&said);
            let hint = hint(text, &error).map(|hint| format!("; {hint}")).unwrap_or_default();
            bad("invalid_json", format!("is not JSON: {what}, at column {}{hint}", error.column()))
        }
    }
}

/// What was probably meant where a line is not JSON.
fn hint(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    // Columns are bytes, from 1.
    let (row, rest) = text.split_at_checked(error.column().saturating_sub(1)).unwrap_or_default();
    let has_finished = serde_json::from_str::<IgnoredAny>(row).is_ok();
    if text.contains("NaN") || text.contains("Infinity") {
        Some("JSON has no NaN and no Infinity: leave the key out")
    } else if has_finished && rest.starts_with(',') {
        Some("rows are lines, without a comma between them")
    } else if has_finished && rest.starts_with('{') {
        Some("write one row a line")
    } else if text.trim_start().trim_start_matches('{').trim_start().starts_with('\'') {
        Some("this is how Python prints a dict; `json.dumps` writes JSON, with double quotes")
    } else {
        None
    }
}

/// No fewer values than the line holds, without reading them.
fn values_in(line: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped) = (1, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

/// Sorts the values of a row by what their keys are.
fn cells(line: u64, object: Object, keys: &mut Keys) -> Cells {
    let (mut cells, mut seen) = (Cells::default(), HashSet::new());
    for (name, value) in object.0 {
        let Some(role) = keys.role(&name) else {
            let message =
                format!("the rows have more than {MAX_COLUMNS} different keys; is data where keys should be?");
            cells.issues.push(issue(line, "too_many_columns", None, message));
            break;
        };
        match role {
            Role::LeftOut => continue,
            Role::Refused(code, message) => cells.issues.push(issue(line, code, Some(&name), message)),
            Role::Key(key) => drop(cells.known.insert((*key).to_owned(), value)),
            Role::Extra => drop(cells.extra.insert(name.clone(), value)),
        }
        if seen.contains(&name) {
            cells.issues.push(issue(line, "duplicate_key", None, format!("the key {} occurs twice", quoted(&name))));
        }
        if cells.issues.len() >= MAX_ISSUES_A_ROW {
            break;
        }
        seen.insert(name);
    }
    cells
}

/// A JSON object with all of its keys, also those that occur twice, which serde_json's own map would hide.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = access.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(bytes: &[u8]) -> Vec<String> {
        let rules = Rules {
            settings: Default::default(),
            seed: diorama_core::id::Seed::new(0).unwrap(),
            compare: Vec::new(),
            references: crate::References::Remote,
            plain_http: false,
            follow_links: false,
            extra_columns: Default::default(),
            columns: Default::default(),
        };
        rows_of(bytes, &rules)
            .map(|row| match row.unwrap() {
                Raw::Row(line, cells) if !cells.issues.is_empty() => format!("{line} {}", cells.issues[0].code),
                Raw::Row(line, cells) => format!("{line} ok {}", Value::Object(cells.extra)),
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
        assert!(rows[0].contains("jq -c '.[]'"), "{}", rows[0]);
        assert!(rows[1].contains("JSON has no NaN"), "{}", rows[1]);
    }

    #[test]
    fn what_a_line_was_meant_to_be_is_said() {
        let rows = codes(b"{\"a\":1},\n{\"a\":1}{\"b\":2}\n{'a': 1}\n{\"a\":[1,}\n");
        let hints = ["without a comma between them", "one row a line", "json.dumps", "at column"];
        for (row, hint) in rows.iter().zip(hints) {
            assert!(row.contains(hint), "{row}");
        }
        assert!(!rows[3].contains(';'), "{}", rows[3]);
    }

    #[test]
    fn a_row_of_very_many_values_is_refused_before_it_is_read() {
        let row = |values: usize| format!("{{\"a\":[{}]}}", vec!["0"; values].join(","));
        let rows = codes(format!("{}\n{}\n", row(MAX_VALUES - 10), row(MAX_VALUES)).as_bytes());
        assert!(rows[0].starts_with("1 ok") && rows[1].starts_with("2 too_many_values"), "{rows:?}");
        assert_eq!(values_in(br#"{"a,[{":"\\\",,","b":[1,{}]}"#), 1 + 1 + 1 + 1 + 1 + 1);
    }

    #[test]
    fn keys_that_are_data_are_refused() {
        let text: String = (0..1200).map(|n| format!("{{\"own{n}x\":1}}\n")).collect();
        let rows = codes(text.as_bytes());
        assert!(rows[MAX_COLUMNS - 1].contains(" ok ") && rows[MAX_COLUMNS].ends_with(" too_many_columns"));
    }
}

//! What a file is, by its first bytes: a format where no name says it, and what is no manifest at all.

use std::fs::File;
use std::io::{self, Read, Seek};

use crate::format::Format;

/// Bytes that are looked at.
const FIRST: u64 = 512;

/// What files begin with that somebody packed. Nothing is ever unpacked, so that a small file cannot become a large one.
const PACKED: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zX", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\0\0", "lzma"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
];

/// What other files begin with that are taken for manifests, and what to do with them.
const FOREIGN: [(&[u8], &str); 15] = [
    (b"\xd0\xcf\x11\xe0", "a workbook of a spreadsheet (XLS): save it as CSV UTF-8"),
    (b"ARROW1", "an Arrow file (Feather): write it as Parquet, with pandas by read_feather and to_parquet"),
    (b"FEA1", "an old Feather file: write it as Parquet, with pandas by read_feather and to_parquet"),
    (b"ORC", "an ORC file: write it as Parquet, with pandas by read_orc and to_parquet"),
    (b"Obj\x01", "an Avro file: write it as Parquet or JSON lines"),
    (b"PARE", "a Parquet file whose footer is encrypted: write it without encryption"),
    (b"SQLite format 3\0", "an SQLite database: write the table as CSV"),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG), not the list of pictures"),
    (b"\xff\xd8\xff", "a picture (JPEG), not the list of pictures"),
    (b"{\\rtf", "a document of a word processor (RTF): save it as plain text"),
];

/// What a pickle is said to be: nothing of one is executed here.
const PICKLE: &str = "a Python pickle, which is never read here: write it as Parquet, with pandas by to_parquet";

/// The first bytes of a file, which is then where it was: at its beginning.
pub(crate) fn first(file: &mut File) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    file.by_ref().take(FIRST).read_to_end(&mut first)?;
    file.rewind()?;
    Ok(first)
}

/// The format that a file has which nothing else says.
pub(crate) fn format(first: &[u8]) -> Format {
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    match text.first() {
        _ if first.starts_with(b"PAR1") => Format::Parquet,
        Some(b'{') => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// What a file that begins so is instead of a manifest, whatever its name says: a code and a message.
pub(crate) fn foreign(first: &[u8]) -> Option<(&'static str, String)> {
    if let Some((_, packing)) = PACKED.iter().find(|(magic, _)| first.starts_with(magic)) {
        let workbook = if *packing == "zip" { "; a spreadsheet workbook: save it as CSV UTF-8" } else { "" };
        return Some(("compressed", format!("the manifest is compressed ({packing}): decompress it first{workbook}")));
    }
    if first.starts_with(b"version https://git-lfs") {
        let message = "the manifest is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it";
        return Some(("git_lfs_pointer", message.to_owned()));
    }
    if first.get(257..262) == Some(b"ustar") {
        return Some(("compressed", "the manifest is a tar archive: take it out of there first".to_owned()));
    }
    let duckdb = (first.get(8..12) == Some(b"DUCK")).then_some("a DuckDB database: COPY the table TO a .parquet file");
    // A column of a table may be called ORCID.
    let is_text = |magic: &[u8]| magic.iter().all(u8::is_ascii_alphanumeric) && !first.iter().any(|byte| *byte < b'\t');
    let known = FOREIGN.iter().find(|(magic, _)| first.starts_with(magic) && !is_text(magic)).map(|(_, what)| *what);
    known.or(duckdb).map(|what| ("wrong_format", format!("the manifest is {what}")))
}

/// Why a file that begins so cannot be a manifest of this format: a code and a message.
pub(crate) fn refusal(first: &[u8], format: Format) -> Option<(&'static str, String)> {
    if let Some(refusal) = foreign(first) {
        return Some(refusal);
    }
    if format == Format::Parquet && first.is_empty() {
        return Some((
            "invalid_parquet",
            "the manifest is empty: a Parquet file has a footer even without rows".to_owned(),
        ));
    }
    if first.starts_with(b"PAR1") != (format == Format::Parquet) {
        let (is, say) =
            if format == Format::Parquet { ("not Parquet", "jsonl or csv") } else { ("Parquet", "parquet") };
        let message = format!("the manifest is {is}, whatever its name says; use --manifest-format {say}");
        let code = if format == Format::Parquet { "invalid_parquet" } else { "wrong_format" };
        return Some((code, message));
    }
    if format == Format::Parquet {
        return None;
    }
    if let Some(encoding) = wide_encoding(first) {
        let message = format!(
            "the manifest is {encoding}, as some spreadsheets and shells write it; save it as UTF-8 (`iconv -f {encoding} -t \
             UTF-8`)"
        );
        return Some(("not_utf8", message));
    }
    if format == Format::Jsonl
        && let Some(message) = not_a_row_a_line(first)
    {
        return Some(("wrong_type", message.to_owned()));
    }
    let text = first.trim_ascii_start();
    if text.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case(b"<!doc") || tag.eq_ignore_ascii_case(b"<html")) {
        let message = "the manifest is a web page (HTML): was it saved instead of the file that it links to?";
        return Some(("wrong_format", message.to_owned()));
    }
    None
}

/// UTF-16 or UTF-32: by its mark, or because so many bytes of plain text are zero.
fn wide_encoding(first: &[u8]) -> Option<&'static str> {
    let zeros = |from: usize, by: usize| first.iter().skip(from).step_by(by).filter(|byte| **byte == 0).count();
    let (half, quarter) = (first.len() / 2, first.len() / 4);
    let most = |zeros: usize, of: usize| of >= 4 && zeros * 10 > of * 9;
    // Of plain text, three bytes of four: those in the middle are zero in either order.
    let is_32 = first.starts_with(b"\xff\xfe\0\0") || first.starts_with(b"\0\0\xfe\xff");
    if is_32 || most(zeros(1, 4), quarter) && most(zeros(2, 4), quarter) {
        return Some("UTF-32");
    }
    let is_16 = first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff");
    (is_16 || most(zeros(0, 2), half) || most(zeros(1, 2), half)).then_some("UTF-16")
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// Why JSON is not one object a line.
fn not_a_row_a_line(first: &[u8]) -> Option<&'static str> {
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    let next = |after: u8| text.windows(2).any(|pair| pair[0] == after && pair[1] == b'{');
    if text.starts_with(b"[") {
        Some("the manifest is one JSON list, and one object a line is wanted: `jq -c '.[]'` writes that")
    } else if next(b'\r') {
        Some("the lines end in a carriage return alone, as on old Macs: `tr '\\r' '\\n'` mends that")
    } else if first_line(text).trim_ascii() == b"{" {
        Some("the rows are spread over several lines, and one object a line is wanted: `jq -c .` writes that")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_obvious_cause_is_named() {
        let refused = |first: &[u8], format| refusal(first, format).map_or("", |(code, _)| code);
        let utf16: Vec<u8> = "custom_id,prompt".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (first, format, code) in [
            (&b"custom_id,prompt\n"[..], Format::Csv, ""),
            (b"{\"custom_id\":1}", Format::Jsonl, ""),
            (b"", Format::Jsonl, ""),
            (b"PAR1\x15", Format::Parquet, ""),
            (b"PAR1\x15", Format::Csv, "wrong_format"),
            (b"custom_id", Format::Parquet, "invalid_parquet"),
            (b"", Format::Parquet, "invalid_parquet"),
            (b"PK\x03\x04", Format::Csv, "compressed"),
            (b"\x1f\x8b\x08", Format::Parquet, "compressed"),
            (b"version https://git-lfs.github.com/spec/v1\noid", Format::Parquet, "git_lfs_pointer"),
            (b"\n<!DOCTYPE html>", Format::Csv, "wrong_format"),
            (b"\xff\xfec\0u\0", Format::Csv, "not_utf8"),
            (&utf16, Format::Jsonl, "not_utf8"),
            (b"ARROW1\0\0", Format::Parquet, "wrong_format"),
            (b"ORC\x08\x03", Format::Csv, "wrong_format"),
            (b"ORCID,custom_id,prompt\n", Format::Csv, ""),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\0\0\0\0\0\0\0\0\0\0", Format::Csv, "wrong_format"),
            (b"\x80\x04\x95", Format::Jsonl, "wrong_format"),
            (b"\0\0\0\0\0\0\0\0DUCK", Format::Csv, "wrong_format"),
            (b"7z\xbc\xaf\x27\x1c\0", Format::Csv, "compressed"),
            (b" [{\"custom_id\": 1}]", Format::Jsonl, "wrong_type"),
            (b"{ \n  \"custom_id\": 1\n}", Format::Jsonl, "wrong_type"),
            (b"{\"custom_id\": 1}\r{\"custom_id\": 2}\r", Format::Jsonl, "wrong_type"),
            (b"{\"custom_id\": 1}\r\n{\"custom_id\": 2}\r\n", Format::Jsonl, ""),
        ] {
            assert_eq!(refused(first, format), code, "{first:?}");
        }
    }

    #[test]
    fn an_encoding_is_called_by_its_name() {
        let text = "custom_id,prompt\n";
        let wide = |width: usize, big: bool| -> Vec<u8> {
            let bytes = |c: char| {
                let all = (c as u32).to_be_bytes();
                let mut bytes = all[4 - width..].to_vec();
                if !big {
                    bytes.reverse();
                }
                bytes
            };
            text.chars().flat_map(bytes).collect()
        };
        for (width, name) in [(2, "UTF-16"), (4, "UTF-32")] {
            for big in [true, false] {
                assert_eq!(wide_encoding(&wide(width, big)), Some(name), "{big}");
                assert_eq!(wide_encoding(&[&wide(width, big), &b"\xff\xfe\0\0"[..]].concat()), Some(name));
            }
        }
        assert_eq!(wide_encoding(b"\xff\xfe\0\0c\0\0\0"), Some("UTF-32"));
        assert_eq!(wide_encoding(text.as_bytes()), None);
    }

    #[test]
    fn a_pipe_says_its_format_by_its_first_bytes() {
        assert_eq!(format(b"\xef\xbb\xbf {\"a\":1}"), Format::Jsonl);
        assert_eq!(format(b"PAR1"), Format::Parquet);
        assert_eq!(format(b"custom_id,prompt"), Format::Csv);
    }
}

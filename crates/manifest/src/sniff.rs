//! What a file is, by its first bytes: a format where no name says it, and what is no manifest at all.

use std::fs::File;
use std::io::{self, Read, Seek};

use crate::format::Format;

/// Bytes that are looked at.
const FIRST: u64 = 512;

/// What files begin with that somebody packed. Nothing is ever unpacked, so that a small file cannot become a large one.
const PACKED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zX", "xz"),
];

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

/// Why a file that begins so cannot be a manifest of this format: a code and a message.
pub(crate) fn refusal(first: &[u8], format: Format) -> Option<(&'static str, String)> {
    if let Some((_, packing)) = PACKED.iter().find(|(magic, _)| first.starts_with(magic)) {
        let workbook = if *packing == "zip" { "; a spreadsheet workbook: save it as CSV UTF-8" } else { "" };
        return Some(("compressed", format!("the manifest is compressed ({packing}): decompress it first{workbook}")));
    }
    if first.starts_with(b"version https://git-lfs") {
        let message = "the manifest is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it";
        return Some(("git_lfs_pointer", message.to_owned()));
    }
    if first.starts_with(b"PAR1") != (format == Format::Parquet) {
        let (is, say) =
            if format == Format::Parquet { ("not Parquet", "jsonl or csv") } else { ("Parquet", "parquet") };
        let message = format!("the manifest is {is}, whatever its name says; use --manifest-format {say}");
        let code = if format == Format::Parquet { "invalid_parquet" } else { "wrong_format" };
        return (!first.is_empty() || format == Format::Parquet).then_some((code, message));
    }
    if format == Format::Parquet {
        return None;
    }
    if is_utf16(first) {
        let message = "the manifest is UTF-16, as some spreadsheets and shells write it; save it as UTF-8 (`iconv -f \
                       UTF-16 -t UTF-8`)";
        return Some(("not_utf8", message.to_owned()));
    }
    let text = first.trim_ascii_start();
    if text.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case(b"<!doc") || tag.eq_ignore_ascii_case(b"<html")) {
        let message = "the manifest is a web page (HTML): was it saved instead of the file that it links to?";
        return Some(("wrong_format", message.to_owned()));
    }
    None
}

/// UTF-16 or UTF-32: by its mark, or because every second byte of plain text is zero.
fn is_utf16(first: &[u8]) -> bool {
    let zeros = |from: usize| first.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let half = first.len() / 2;
    first.starts_with(b"\xff\xfe")
        || first.starts_with(b"\xfe\xff")
        || half >= 4 && (zeros(0) * 10 > half * 9 || zeros(1) * 10 > half * 9)
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
        ] {
            assert_eq!(refused(first, format), code, "{first:?}");
        }
    }

    #[test]
    fn a_pipe_says_its_format_by_its_first_bytes() {
        assert_eq!(format(b"\xef\xbb\xbf {\"a\":1}"), Format::Jsonl);
        assert_eq!(format(b"PAR1"), Format::Parquet);
        assert_eq!(format(b"custom_id,prompt"), Format::Csv);
    }
}

//! Manifests that would take much more than they are: each is refused, within bounds, and without being followed.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

use std::fs;
use std::io::Write;
use std::time::Instant;

use diorama_core::id::Seed;
use diorama_core::manifest::ExtraColumns;
use diorama_core::settings::Settings;
use diorama_manifest::{Budget, LISTED_SKIPPED, Manifest, ManifestError, ManifestReport, References, Rules};

fn rules(extra_columns: ExtraColumns) -> Rules {
    Rules {
        settings: Settings::default(),
        seed: Seed::new(7).unwrap(),
        compare: Vec::new(),
        references: References::Remote,
        plain_http: false,
        follow_links: false,
        extra_columns,
        columns: Default::default(),
    }
}

fn open(name: &str, bytes: &[u8], extra: ExtraColumns) -> (tempfile::TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let manifest = Manifest::open(&path, None, rules(extra)).unwrap();
    (folder, manifest)
}

/// What the check of a manifest may take: 5 CPU seconds for 1 MB is the target, of a program that is optimised.
const SECONDS: f64 = if cfg!(debug_assertions) { 25.0 } else { 5.0 };

/// The report on a manifest.
fn report(name: &str, bytes: &[u8], extra: ExtraColumns) -> ManifestReport {
    let (_folder, manifest) = open(name, bytes, extra);
    manifest.within(Budget::of_seconds(SECONDS, 0.0)).validate(&|_| Ok(()), LISTED_SKIPPED).unwrap()
}

/// What a report says of a Parquet file that is refused as a whole.
fn refusal(bytes: &[u8]) -> String {
    let report = report("m.parquet", bytes, ExtraColumns::Carry);
    assert_eq!((report.tasks, report.issues[0].code.as_str()), (0, "invalid_parquet"), "{:?}", report.issues);
    report.issues[0].message.clone()
}

// ------------------------------------------------------------------------------------- Parquet, written by hand

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push((number & 127 | 128) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn signed(number: i64) -> Vec<u8> {
    varint(((number << 1) ^ (number >> 63)) as u64)
}

fn text(text: &str) -> Vec<u8> {
    [varint(text.len() as u64), text.as_bytes().to_vec()].concat()
}

/// A struct of fields: id, type, what is written.
fn fields(fields: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut last) = (Vec::new(), 0);
    for (id, kind, value) in fields {
        bytes.push((id - last) << 4 | kind);
        bytes.extend(value);
        last = *id;
    }
    bytes.push(0);
    bytes
}

fn list(kind: u8, items: &[Vec<u8>]) -> Vec<u8> {
    [vec![0xf0 | kind], varint(items.len() as u64), items.concat()].concat()
}

fn leaf(name: &str) -> Vec<u8> {
    fields(&[(1, 5, signed(6)), (3, 5, signed(0)), (4, 8, text(name)), (6, 5, signed(0))])
}

fn group(name: &str, children: i64) -> Vec<u8> {
    fields(&[(3, 5, signed(0)), (4, 8, text(name)), (5, 5, signed(children))])
}

fn file(schema: &[Vec<u8>], groups: &[Vec<u8>], rows: i64, pages: &[u8]) -> Vec<u8> {
    let footer = fields(&[(1, 5, signed(1)), (2, 9, list(12, schema)), (3, 6, signed(rows)), (4, 9, list(12, groups))]);
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1".as_slice(), pages, &footer, &length, b"PAR1"].concat()
}

/// A page of one value per column: what it declares, what it holds.
struct Page {
    declared: i64,
    packed: Vec<u8>,
}

/// A file of one row, each column one page, in a codec.
fn packed(codec: i64, columns: &[(&str, Page)]) -> Vec<u8> {
    let (mut pages, mut chunks) = (Vec::new(), Vec::new());
    for (name, page) in columns {
        let data = fields(&[(1, 5, signed(1)), (2, 5, signed(0)), (3, 5, signed(3)), (4, 5, signed(3))]);
        let packed = signed(page.packed.len() as i64);
        let header = fields(&[(1, 5, signed(0)), (2, 5, signed(page.declared)), (3, 5, packed), (5, 12, data)]);
        let bytes = (header.len() + page.packed.len()) as i64;
        let at = 4 + pages.len() as i64;
        let meta = fields(&[
            (1, 5, signed(6)),
            (2, 9, list(5, &[signed(0), signed(3)])),
            (3, 9, list(8, &[text(name)])),
            (4, 5, signed(codec)),
            (5, 6, signed(1)),
            (6, 6, signed(bytes)),
            (7, 6, signed(bytes)),
            (9, 6, signed(at)),
        ]);
        chunks.push(fields(&[(2, 6, signed(at)), (3, 12, meta)]));
        pages.extend(header);
        pages.extend(&page.packed);
    }
    let schema: Vec<_> = std::iter::once(group("root", columns.len() as i64))
        .chain(columns.iter().map(|(name, _)| leaf(name)))
        .collect();
    let group = fields(&[(1, 9, list(12, &chunks)), (2, 6, signed(pages.len() as i64)), (3, 6, signed(1))]);
    file(&schema, &[group], 1, &pages)
}

fn plain(value: &[u8]) -> Vec<u8> {
    [(value.len() as u32).to_le_bytes().as_slice(), value].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packing.write_all(bytes).unwrap();
    packing.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    brotli::CompressorWriter::new(&mut packed, 1 << 16, 5, 22).write_all(bytes).unwrap();
    packed
}

type Pack = fn(&[u8]) -> Vec<u8>;

const GZIP: i64 = 2;
const BROTLI: i64 = 4;

#[test]
fn what_is_written_by_hand_is_read_where_nothing_is_wrong_with_it() {
    let codecs: [(i64, Pack); 3] = [(0, |bytes| bytes.to_vec()), (GZIP, gzip), (BROTLI, brotli)];
    for (codec, pack) in codecs {
        let page = |value: &str| {
            let plain = plain(value.as_bytes());
            Page { declared: plain.len() as i64, packed: pack(&plain) }
        };
        let columns = [("custom_id", page("a")), ("prompt", page("a gull")), ("method", page("txt2img"))];
        let report = report("m.parquet", &packed(codec, &columns), ExtraColumns::Carry);
        assert_eq!((report.tasks, report.issues), (1, Vec::new()));
    }
}

#[test]
fn a_deep_or_wide_schema_is_refused_before_it_is_followed() {
    for depth in [40, 3000, 100_000] {
        let schema: Vec<_> = std::iter::once(group("root", 1))
            .chain(std::iter::repeat_n(group("a", 1), depth))
            .chain([leaf("custom_id")])
            .collect();
        let message = refusal(&file(&schema, &[], 0, b""));
        assert!(message.contains("nested very deeply") || message.contains("very many columns"), "{message}");
    }
    let wide: Vec<_> = std::iter::once(group("root", 80_000)).chain(std::iter::repeat_n(leaf("x"), 80_000)).collect();
    assert!(refusal(&file(&wide, &[], 0, b"")).contains("very many columns"));
    // Room for two thousand million children would be reserved.
    let message = refusal(&file(&[group("root", i64::from(i32::MAX)), leaf("custom_id")], &[], 0, b""));
    assert!(message.contains("children that are not there"), "{message}");
}

#[test]
fn very_many_parts_are_refused_before_they_are_read() {
    let group = fields(&[(1, 9, list(12, &vec![vec![0]; 100])), (2, 6, signed(0)), (3, 6, signed(0))]);
    let message = refusal(&file(&[leaf("custom_id")], &vec![group; 500], 0, b""));
    assert!(message.contains("very many parts"), "{message}");
}

#[test]
fn a_page_that_becomes_large_is_refused_before_it_is_unpacked_whether_it_says_so_or_not() {
    let large = gzip(&plain(&vec![b'a'; 60 << 20]));
    let column = |declared: i64, packed: &[u8]| ("prompt", Page { declared, packed: packed.to_vec() });
    let small = || ("custom_id", Page { declared: 5, packed: gzip(&plain(b"a")) });
    let honest = packed(GZIP, &[small(), column((60 << 20) + 4, &large)]);
    assert!(honest.len() < 1 << 20 && refusal(&honest).contains("when decompressed"));
    for (codec, lying) in [(GZIP, large), (BROTLI, brotli(&plain(&vec![b'a'; 60 << 20])))] {
        let small = (
            "custom_id",
            Page { declared: 5, packed: if codec == GZIP { gzip(&plain(b"a")) } else { brotli(&plain(b"a")) } },
        );
        let message = refusal(&packed(codec, &[small, column(1000, &lying)]));
        assert!(message.contains("larger than it declares"), "{message}");
    }
}

#[test]
fn a_row_longer_than_a_mebibyte_ends_the_file_as_in_every_format() {
    let cell = plain(&vec![b'a'; 2 << 20]);
    let column = |name, value: &[u8]| (name, Page { declared: value.len() as i64, packed: value.to_vec() });
    let bytes = packed(0, &[column("custom_id", &plain(b"a")), column("prompt", &cell)]);
    assert!(refusal(&bytes).contains("a cell has 2097152 bytes; at most 1048576"));
    // Two cells that are too long together only.
    let cell = || plain(&vec![b'a'; 700_000]);
    let bytes = packed(0, &[column("custom_id", &cell()), column("prompt", &cell())]);
    assert_eq!(report("m.parquet", &bytes, ExtraColumns::Carry).issues[0].code, "line_too_long");
}

#[test]
fn more_rows_than_a_file_can_have_ids_for_are_refused() {
    let column = |name, value: &[u8]| (name, Page { declared: value.len() as i64, packed: value.to_vec() });
    let mut bytes = packed(0, &[column("custom_id", &plain(b"a")), column("prompt", &plain(b"b"))]);
    // The last number of the row group says its rows: 1, as 2 in zigzag, before the ends of both structs.
    let tail = bytes.len() - 8;
    let footer: Vec<u8> = bytes[..tail - 3].to_vec();
    let more = [footer.as_slice(), &signed(2_000_000_000), &[0, 0]].concat();
    let length = u32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap()) + (more.len() - tail) as u32;
    bytes = [more.as_slice(), &length.to_le_bytes(), b"PAR1"].concat();
    assert!(refusal(&bytes).contains("2000000000 rows"));
}

#[test]
fn a_footer_in_which_any_byte_is_wrong_is_refused_or_read_and_never_a_panic() {
    let page = |value: &[u8]| Page { declared: value.len() as i64, packed: value.to_vec() };
    let good = packed(0, &[("custom_id", page(&plain(b"a"))), ("prompt", page(&plain(b"b")))]);
    for at in 0..good.len() {
        for flip in [1, 0x10, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            report("m.parquet", &bytes, ExtraColumns::Carry);
        }
    }
}

// ------------------------------------------------------------------------------------------------------- text

#[test]
fn many_bad_rows_cost_little_and_are_counted() {
    let report = report("m.jsonl", "{}\n".repeat(333_000).as_bytes(), ExtraColumns::Carry);
    assert_eq!((report.tasks, report.invalid_rows, report.issues.len()), (0, 333_000, LISTED_SKIPPED));
    assert_eq!(report.issue_count, 3 * 333_000);
    let skipped = report.skipped();
    assert_eq!(skipped.len(), LISTED_SKIPPED + 1);
    assert!(skipped[LISTED_SKIPPED].message.starts_with("989000 more issues"));
}

#[test]
fn a_header_of_commas_and_rows_of_them_are_refused() {
    let header = report("m.csv", ",".repeat(1_000_000).as_bytes(), ExtraColumns::Carry);
    assert_eq!((header.issue_count, header.issues[0].code.as_str()), (1, "too_many_columns"));
    let rows = format!("custom_id,prompt\n{}\n", ",".repeat(900_000));
    assert_eq!(report("m.csv", rows.as_bytes(), ExtraColumns::Carry).issues[0].code, "wrong_column_count");
    let quotes = format!("custom_id,prompt\n{}", "\"".repeat(2_000_000));
    assert_eq!(report("m.csv", quotes.as_bytes(), ExtraColumns::Carry).issues[0].code, "line_too_long");
}

#[test]
fn unknown_keys_cost_little_however_many_and_however_they_are_treated() {
    let row = |row: usize| {
        let keys: Vec<String> = (0..100).map(|key| format!("\"refrenc{row}x{key}\":0")).collect();
        format!("{{{}}}\n", keys.join(","))
    };
    let rows: String = (0..600).map(row).collect();
    for extra in [ExtraColumns::Carry, ExtraColumns::Ignore, ExtraColumns::Refuse] {
        let began = Instant::now();
        let report = report("m.jsonl", rows.as_bytes(), extra);
        assert_eq!((report.tasks, report.invalid_rows), (0, 600));
        assert!(began.elapsed().as_secs() < 60);
    }
    let one: Vec<String> = (0..60_000).map(|key| format!("\"k{key}\":0")).collect();
    let one = format!("{{{}}}", one.join(","));
    assert_eq!(report("m.jsonl", one.as_bytes(), ExtraColumns::Refuse).issues[0].code, "too_many_values");
}

#[test]
fn a_check_that_nobody_waits_for_ends() {
    let (_folder, manifest) = open("m.jsonl", "{}\n".repeat(10_000).as_bytes(), ExtraColumns::Carry);
    let budget = Budget::default();
    drop(budget.stop_on_drop());
    let error = manifest.clone().within(budget).validate(&|_| Ok(()), 10).unwrap_err();
    assert!(matches!(error, ManifestError::Stopped(_)), "{error}");
    let error = manifest.within(Budget::of_seconds(0.0, 0.0)).validate(&|_| Ok(()), 10).unwrap_err();
    assert!(matches!(error, ManifestError::TooCostly { .. }), "{error}");
}

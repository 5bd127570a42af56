//! The pages of the columns that will be read, walked over before the library reads them: it unpacks a page whole, and
//! some codecs go on beyond what the page declares.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use super::thrift::{BINARY, BOOL, Fields, I32, I64, Odd, STRUCT, Walk};

/// Bytes that the pages of a row group may hold at a time once they are unpacked, whatever the size of the file.
const FREE: u64 = 16 << 20;

/// How often larger than the file they may be besides.
const RATIO: u64 = 8;

/// Entries that dictionaries may have whatever their size, and bytes that each more must have: a pointer has 32.
const FREE_ENTRIES: u64 = 200_000;
const BYTES_AN_ENTRY: u64 = 4;

/// The longest header of a page; the least and the greatest value of the page stand in it.
const MAX_HEADER: u64 = 1 << 20;

const PAGE: Fields = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, STRUCT), (6, STRUCT), (7, STRUCT), (8, STRUCT)];
const DATA: Fields = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, STRUCT)];
const DICTIONARY: Fields = &[(1, I32), (2, I32), (3, BOOL)];
const DATA_V2: Fields = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, I32), (6, I32), (7, BOOL), (8, STRUCT)];
const STATISTICS: Fields =
    &[(1, BINARY), (2, BINARY), (3, I64), (4, I64), (5, BINARY), (6, BINARY), (7, BOOL), (8, BOOL)];

/// The header of a page.
#[derive(Debug, Default)]
struct Header {
    /// Its own bytes.
    bytes: u64,
    unpacked: u64,
    packed: u64,
    entries: u64,
    encoding: Option<i64>,
    /// Bytes of its levels, which are never packed in the second version.
    levels: u64,
    is_dictionary: bool,
    /// A page of the second version may say that it is not packed, whatever its column's codec.
    is_plain: bool,
}

/// Checks the columns of a row group for which `wanted` says true, by their place.
pub(super) fn check(file: &File, group: &RowGroupMetaData, wanted: impl Fn(usize) -> bool) -> Result<(), String> {
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let (mut held, mut entries) = (0, 0);
    for (_, column) in group.columns().iter().enumerate().filter(|(place, _)| wanted(*place)) {
        let most = column_pages(file, bytes, column)
            .map_err(|error| format!("column {:?}: {error}", column.column_descr().name()))?;
        held += most.bytes;
        entries += most.entries;
    }
    if held > FREE + RATIO * bytes {
        return Err(format!(
            "its pages are {held} bytes when decompressed, in a file of {bytes}; write smaller pages, or compress less"
        ));
    }
    if entries > FREE_ENTRIES + bytes / BYTES_AN_ENTRY {
        return Err(format!(
            "its dictionaries have {entries} entries, in a file of {bytes} bytes; write it without dictionaries"
        ));
    }
    Ok(())
}

/// What of a column is held at a time.
struct Most {
    bytes: u64,
    entries: u64,
}

fn column_pages(file: &File, file_bytes: u64, column: &ColumnChunkMetaData) -> Result<Most, String> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (mut at, length) =
        (u64::try_from(start).unwrap_or(u64::MAX), u64::try_from(column.compressed_size()).unwrap_or(u64::MAX));
    let end = at.checked_add(length).filter(|end| *end <= file_bytes).ok_or("it is cut off")?;
    let (mut largest, mut dictionary, mut entries) = (0, 0, 0);
    while at < end {
        let header = header(file, at, end - at)?;
        let data = at + header.bytes;
        at = data.checked_add(header.packed).filter(|next| *next <= end).ok_or("a page is cut off")?;
        if header.encoding == Some(Encoding::DELTA_BYTE_ARRAY as i64) {
            return Err("the encoding DELTA_BYTE_ARRAY is not supported; use PLAIN or a dictionary".to_owned());
        }
        if header.unpacked > FREE + RATIO * file_bytes {
            return Err(format!("a page is {} bytes when decompressed; write smaller pages", header.unpacked));
        }
        unpack(file, data, &header, column.compression())?;
        if header.is_dictionary {
            (dictionary, entries) = (header.unpacked, header.entries);
        } else {
            largest = largest.max(header.unpacked);
        }
    }
    Ok(Most { bytes: largest + dictionary, entries })
}

fn header(file: &File, at: u64, room: u64) -> Result<Header, String> {
    let mut piece = 4096;
    loop {
        let mut bytes = vec![0; room.min(piece) as usize];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        match read_header(&bytes) {
            Ok(header) => return Ok(header),
            // Perhaps there is more of it.
            Err(_) if piece < room && piece < MAX_HEADER => piece *= 16,
            Err(odd) => return Err(odd.to_string()),
        }
    }
}

fn read_header(bytes: &[u8]) -> Result<Header, Odd> {
    let mut header = Header::default();
    let mut walk = Walk::new(bytes);
    let size = |walk: &mut Walk<'_>| u64::try_from(walk.signed()?).map_err(|_| Odd("a page has a negative size"));
    walk.fields(PAGE, |walk, id| {
        match id {
            2 => header.unpacked = size(walk)?,
            3 => header.packed = size(walk)?,
            5 => walk.fields(DATA, |walk, id| match id {
                2 => {
                    header.encoding = Some(walk.signed()?);
                    Ok(true)
                }
                5 => statistics(walk),
                _ => Ok(false),
            })?,
            7 => {
                header.is_dictionary = true;
                walk.fields(DICTIONARY, |walk, id| {
                    if id == 1 {
                        header.entries = size(walk)?;
                    }
                    Ok(id == 1)
                })?;
            }
            8 => walk.fields(DATA_V2, |walk, id| match id {
                4 => {
                    header.encoding = Some(walk.signed()?);
                    Ok(true)
                }
                5 | 6 => {
                    header.levels += size(walk)?;
                    Ok(true)
                }
                7 => {
                    header.is_plain = !walk.boolean();
                    Ok(true)
                }
                8 => statistics(walk),
                _ => Ok(false),
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    header.bytes = walk.at() as u64;
    Ok(header)
}

fn statistics(walk: &mut Walk<'_>) -> Result<bool, Odd> {
    walk.fields(STATISTICS, |_, _| Ok(false))?;
    Ok(true)
}

/// Unpacks a page without keeping it, for codecs that the library lets go on for as long as there is something.
fn unpack(file: &File, at: u64, header: &Header, codec: Compression) -> Result<(), String> {
    let damaged = |error: io::Error| format!("a page is damaged: {error}");
    if header.is_plain || !matches!(codec, Compression::GZIP(_) | Compression::BROTLI(_) | Compression::LZ4) {
        return Ok(());
    }
    let mut packed = vec![0; header.packed as usize];
    file.read_exact_at(&mut packed, at).map_err(damaged)?;
    let packed = packed.get(header.levels as usize..).unwrap_or_default();
    let most = header.unpacked.saturating_sub(header.levels);
    if packed.is_empty() {
        return Ok(());
    }
    let unpacked = match codec {
        Compression::GZIP(_) => count(flate2::read::MultiGzDecoder::new(packed), most),
        Compression::BROTLI(_) => count(brotli::Decompressor::new(packed, 1 << 16), most),
        _ if packed.starts_with(b"\x04\x22\x4d\x18") => {
            return Err("the codec LZ4 is obsolete; use LZ4_RAW or ZSTD".to_owned());
        }
        _ => return Ok(()),
    };
    if unpacked.map_err(damaged)? > most {
        return Err("a page is larger than it declares".to_owned());
    }
    Ok(())
}

/// How many bytes there are, counted to just above `most`.
fn count(unpacked: impl Read, most: u64) -> io::Result<u64> {
    io::copy(&mut unpacked.take(most + 1), &mut io::sink())
}

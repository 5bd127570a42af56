//! The footer of a Parquet file, walked over before the library reads it: that follows the schema by recursion, and
//! reserves what is declared.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::thrift::{BINARY, Fields, I16, I32, I64, LIST, Odd, STRUCT, Walk};

/// The largest footer, in bytes. One of a hundred columns in a hundred parts has a megabyte.
const MAX_BYTES: u64 = 8 << 20;

/// The most columns and groups of a schema, in all its depths.
const MAX_SCHEMA: usize = 4000;

/// How deep its groups may lie in one another: a list in a struct in a list has nine levels.
const MAX_DEPTH: usize = 32;

/// The most parts of columns: columns times row groups. The library takes half a kilobyte for each.
const MAX_CHUNKS: usize = 40_000;

const FILE: Fields =
    &[(1, I32), (2, LIST), (3, I64), (4, LIST), (5, LIST), (6, BINARY), (7, LIST), (8, STRUCT), (9, BINARY)];
const ELEMENT: Fields =
    &[(1, I32), (2, I32), (3, I32), (4, BINARY), (5, I32), (6, I32), (7, I32), (8, I32), (9, I32), (10, STRUCT)];
const ROW_GROUP: Fields = &[(1, LIST), (2, I64), (3, I64), (4, LIST), (5, I64), (6, I64), (7, I16)];

/// Checks the footer of a file.
pub(super) fn check(file: &File) -> Result<(), String> {
    let footer = read(file)?;
    let mut chunks = 0;
    let mut walk = Walk::new(&footer);
    let walked = walk.fields(FILE, |walk, id| match id {
        2 => schema(walk).map(|()| true),
        4 => {
            for _ in 0..walk.list(STRUCT)? {
                chunks += row_group(walk)?;
                if chunks > MAX_CHUNKS {
                    return Err(Odd("it has very many parts: write it with larger row groups, or fewer columns"));
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    });
    walked.map_err(|odd| odd.to_string())
}

fn read(file: &File) -> Result<Vec<u8>, String> {
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let mut tail = [0; 8];
    let at = bytes.checked_sub(12).ok_or("it is cut off")?;
    file.read_exact_at(&mut tail, at + 4).map_err(|error| error.to_string())?;
    if &tail[4..] == b"PARE" {
        return Err("it is encrypted; decrypt it first".to_owned());
    }
    if &tail[4..] != b"PAR1" {
        return Err("it does not end like a Parquet file; is it truncated?".to_owned());
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > at {
        return Err("it is cut off".to_owned());
    }
    if length > MAX_BYTES {
        return Err(format!(
            "its metadata has {length} bytes; at most {MAX_BYTES} are allowed: write larger row groups"
        ));
    }
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, at + 4 - length).map_err(|error| error.to_string())?;
    Ok(footer)
}

/// Walks over the schema: a list of elements, a group before its children.
fn schema(walk: &mut Walk<'_>) -> Result<(), Odd> {
    let elements = walk.list(STRUCT)?;
    if elements > MAX_SCHEMA {
        return Err(Odd("it has very many columns: at most 4000 are allowed, those within others included"));
    }
    // How many children are still to come, of each group around.
    let mut open: Vec<i64> = Vec::new();
    for _ in 0..elements {
        let mut children = 0;
        walk.fields(ELEMENT, |walk, id| {
            if id != 5 {
                return Ok(false);
            }
            children = walk.signed()?;
            Ok(true)
        })?;
        if children < 0 || children > elements as i64 {
            return Err(Odd("its schema names children that are not there"));
        }
        while open.pop_if(|left| *left == 0).is_some() {}
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > MAX_DEPTH {
            return Err(Odd("its columns are nested very deeply: at most 32 levels are allowed"));
        }
    }
    Ok(())
}

/// Walks over a row group; gives its columns.
fn row_group(walk: &mut Walk<'_>) -> Result<usize, Odd> {
    let mut columns = 0;
    walk.fields(ROW_GROUP, |walk, id| {
        if id != 1 {
            return Ok(false);
        }
        columns = walk.list(STRUCT)?;
        for _ in 0..columns {
            walk.skip(STRUCT, 0)?;
        }
        Ok(true)
    })?;
    Ok(columns)
}

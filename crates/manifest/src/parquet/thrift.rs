//! Thrift's compact protocol, as far as it takes to walk over what Parquet writes in it and to count what is there.
//!
//! The library that reads it next has no bounds of its own. What is written oddly is therefore refused rather than
//! passed over: fields out of order or of another type than theirs, lists of booleans. Nothing is then read otherwise
//! there than here.

use std::fmt;

pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;
pub(super) const I16: u8 = 4;
pub(super) const BOOL: u8 = 1;

/// The fields of a struct that are known, with their types.
pub(super) type Fields = &'static [(i64, u8)];

/// How deep structs and lists may lie in one another: Parquet itself needs six.
const MAX_DEPTH: u32 = 24;

/// Why it cannot be walked over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Odd(pub(super) &'static str);

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const CUT_OFF: Odd = Odd("its metadata is cut off");
const UNUSUAL: Odd = Odd("its metadata is written in an unusual way");

/// What is left to walk over.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The type of the field that is visited, which is all that there is of a boolean.
    kind: u8,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, kind: 0 }
    }

    /// Bytes that were walked over.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Visits each field of a struct, in order; `visit` walks over the field where it says true, else we do.
    pub(super) fn fields(
        &mut self,
        known: Fields,
        mut visit: impl FnMut(&mut Self, i64) -> Result<bool, Odd>,
    ) -> Result<(), Odd> {
        let mut last = 0;
        while let Some((id, kind)) = self.field(last)? {
            let wanted = known.iter().find(|(known, _)| *known == id).map_or(kind, |(_, kind)| *kind);
            if id <= last || !(wanted == kind || wanted == BOOL && kind == BOOL + 1) {
                return Err(UNUSUAL);
            }
            self.kind = kind;
            if !visit(self, id)? {
                self.skip(kind, 0)?;
            }
            last = id;
        }
        Ok(())
    }

    fn field(&mut self, last: i64) -> Result<Option<(i64, u8)>, Odd> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let id = if head >> 4 == 0 { self.signed()? } else { last.saturating_add(i64::from(head >> 4)) };
        Ok(Some((id, head & 15)))
    }

    /// The boolean that is visited.
    pub(super) fn boolean(&self) -> bool {
        self.kind == BOOL
    }

    /// How many there are in a list of `kind`, which no list says that is longer than the bytes left.
    pub(super) fn list(&mut self, kind: u8) -> Result<usize, Odd> {
        let (found, size) = self.list_of_any()?;
        if found == kind { Ok(size) } else { Err(UNUSUAL) }
    }

    fn list_of_any(&mut self) -> Result<(u8, usize), Odd> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        let size = usize::try_from(size).map_err(|_| CUT_OFF)?;
        if size > self.bytes.len() - self.at { Err(CUT_OFF) } else { Ok((head & 15, size)) }
    }

    /// A whole number with a sign.
    pub(super) fn signed(&mut self) -> Result<i64, Odd> {
        let zigzag = self.unsigned()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, Odd> {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        match self.byte()? {
            byte @ 0..=1 => Ok(number | u64::from(byte) << 63),
            _ => Err(UNUSUAL),
        }
    }

    pub(super) fn skip(&mut self, kind: u8, depth: u32) -> Result<(), Odd> {
        if depth > MAX_DEPTH {
            return Err(Odd("its metadata is nested very deeply"));
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.pass(1),
            I16 | I32 | I64 => self.unsigned().map(drop),
            7 => self.pass(8),
            BINARY => {
                let length = self.unsigned()?;
                self.pass(usize::try_from(length).map_err(|_| CUT_OFF)?)
            }
            LIST | 10 => {
                let (kind, size) = self.list_of_any()?;
                // A boolean is a byte in a list and none in a struct, which readers know or do not.
                if size > 0 && kind <= 2 {
                    return Err(UNUSUAL);
                }
                (0..size).try_for_each(|_| self.skip(kind, depth + 1))
            }
            STRUCT => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    self.skip(kind, depth + 1)?;
                    last = id;
                }
                Ok(())
            }
            13 => self.pass(16),
            _ => Err(UNUSUAL),
        }
    }

    fn byte(&mut self) -> Result<u8, Odd> {
        let byte = self.bytes.get(self.at).copied().ok_or(CUT_OFF)?;
        self.at += 1;
        Ok(byte)
    }

    fn pass(&mut self, bytes: usize) -> Result<(), Odd> {
        if bytes > self.bytes.len() - self.at {
            return Err(CUT_OFF);
        }
        self.at += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_their_last_bit() {
        let signed = |bytes: &[u8]| Walk::new(bytes).signed();
        assert_eq!((signed(&[0]), signed(&[1]), signed(&[2])), (Ok(0), Ok(-1), Ok(1)));
        assert_eq!(signed(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(i64::MIN));
        assert_eq!(signed(&[0xff; 10]), Err(UNUSUAL));
        assert_eq!(signed(&[0xff]), Err(CUT_OFF));
    }

    #[test]
    fn what_is_deep_or_says_more_than_there_is_is_refused_without_being_followed() {
        let lists = vec![0x19; 100_000];
        assert!(Walk::new(&lists).skip(LIST, 0).unwrap_err().0.contains("deeply"));
        let structs = vec![0x1c; 100_000];
        assert!(Walk::new(&structs).skip(STRUCT, 0).unwrap_err().0.contains("deeply"));
        assert_eq!(Walk::new(&[0xfc, 0xff, 0xff, 0xff, 0xff, 7]).skip(LIST, 0), Err(CUT_OFF));
        assert_eq!(Walk::new(&[0x21, 1, 1]).skip(LIST, 0), Err(UNUSUAL));
    }

    #[test]
    fn fields_out_of_order_or_of_another_type_are_refused() {
        let walk = |bytes: &[u8]| Walk::new(bytes).fields(&[(1, I32)], |_, _| Ok(false));
        assert_eq!(walk(&[0x15, 2, 0x15, 2, 0]), Ok(()));
        assert_eq!(walk(&[0x18, 0, 0]), Err(UNUSUAL));
        assert_eq!(walk(&[0x15, 2, 0x05, 2, 2, 0]), Err(UNUSUAL));
    }
}

//! What a TIFF says of itself before it is decoded. Its decoder makes room for as many values as a tag claims to have.

/// Tags that the first picture of a file may have; real ones have a few dozen.
const MOST_TAGS: u64 = 4096;

/// Whether it begins as a TIFF with places of eight bytes does (BigTIFF).
pub(crate) fn is_large(bytes: &[u8]) -> bool {
    bytes.starts_with(b"II\x2b\0") || bytes.starts_with(b"MM\0\x2b")
}

/// Whether all values of the first picture's tags lie within the file.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    Reading::new(bytes).and_then(|file| file.first_picture()).is_some()
}

struct Reading<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    /// Whether places have eight bytes.
    is_large: bool,
}

impl<'a> Reading<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let is_big_endian = bytes.starts_with(b"MM");
        let file = Self { bytes, is_big_endian, is_large: false };
        Some(Self { is_large: file.number(2, 2)? == 43, ..file })
    }

    fn number(&self, at: u64, length: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(length)?)?;
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) })
    }

    fn first_picture(&self) -> Option<()> {
        // The header's place of the list, the length of its count, that of a tag, of a tag's count and of its values.
        let (head, count, tag, word) = if self.is_large { (8, 8, 20, 8) } else { (4, 2, 12, 4) };
        let list = self.number(head, word)?;
        let tags = self.number(list, count)?;
        if tags > MOST_TAGS {
            return None;
        }
        for index in 0..tags {
            let at = list.checked_add(count as u64 + index * tag)?;
            let values = self.number(at + 4, word)?;
            let bytes = values.checked_mul(size_of_type(self.number(at + 2, 2)?))?;
            let here = at + 4 + word as u64;
            let place = if bytes <= word as u64 { here } else { self.number(here, word)? };
            if place.checked_add(bytes)? > self.bytes.len() as u64 {
                return None;
            }
        }
        Some(())
    }
}

/// Bytes of a value; one of no known type is passed over by decoders.
fn size_of_type(kind: u64) -> u64 {
    match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one tag.
    fn file(kind: u16, count: u32, value: u32, rest: usize) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0\x01\0".to_vec();
        bytes.extend(258_u16.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.resize(bytes.len() + 4 + rest, 0);
        bytes
    }

    #[test]
    fn values_that_the_file_does_not_have_are_seen_before_there_is_room_for_them() {
        assert!(is_whole(&file(3, 2, 0, 0)), "they lie in the tag itself");
        assert!(is_whole(&file(3, 4, 26, 8)));
        assert!(!is_whole(&file(3, 4, 30, 8)));
        assert!(!is_whole(&file(3, 4_194_307, 134, 500)));
        assert!(!is_whole(&file(4, u32::MAX, u32::MAX, 0)));
        assert!(is_whole(&file(99, u32::MAX, 0, 0)), "what no decoder reads");
        for cut in 0..22 {
            assert!(!is_whole(&file(3, 2, 0, 0)[..cut]), "{cut}");
        }
    }

    #[test]
    fn both_orders_of_bytes_and_large_files_are_read() {
        let mut big = b"MM\0\x2b\0\x08\0\0".to_vec();
        big.extend(16_u64.to_be_bytes());
        big.extend(1_u64.to_be_bytes());
        big.extend(258_u16.to_be_bytes());
        big.extend(3_u16.to_be_bytes());
        big.extend(3_u64.to_be_bytes());
        big.extend(0_u64.to_be_bytes());
        assert!(is_whole(&big));
        let count = big.len() - 16..big.len() - 8;
        big[count].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(!is_whole(&big));
    }
}

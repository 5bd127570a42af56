//! How an input is changed: a bit, a byte, a number, a piece out, in, doubled, or taken from another input.

use fastrand::Rng;

/// Numbers at which sizes and indices break.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX >> 1, u64::MAX];

/// Texts at which readers break.
const TEXTS: [&str; 14] = [
    "-1",
    "0",
    "1e999",
    "NaN",
    "null",
    "[[[[[[[[",
    "{\"a\":",
    "\\ud800",
    "\u{feff}",
    "\0",
    "99999999999999999999",
    "../",
    "%00",
    "\r\n",
];

/// The longest piece that is put in, in bytes.
const PIECE: usize = 4096;

/// Changes `input` once.
pub(super) fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Rng) {
    if input.is_empty() {
        input.push(random.u8(..));
        return;
    }
    let at = random.usize(..input.len());
    let piece = at..(at + random.usize(1..=PIECE.min(input.len()))).min(input.len());
    match random.u8(..9) {
        0 => input[at] ^= 1 << random.u8(..8),
        1 => input[at] = random.u8(..),
        2 => overwrite(input, at, random),
        3 => drop(input.drain(piece)),
        4 => input.truncate(at),
        5 => {
            let doubled = input[piece].to_vec();
            insert(input, at, &doubled.repeat(random.usize(1..8)));
        }
        6 => insert(input, at, TEXTS[random.usize(..TEXTS.len())].as_bytes()),
        7 => insert(input, at, &vec![random.u8(..); random.usize(1..PIECE)]),
        _ => {
            let other = &corpus[random.usize(..corpus.len())];
            let from = random.usize(..=other.len());
            let to = (from + random.usize(..PIECE)).min(other.len());
            insert(input, at, &other[from..to]);
        }
    }
}

/// Writes a number at which something may break, in one to eight bytes, either end first.
fn overwrite(input: &mut [u8], at: usize, random: &mut Rng) {
    let edge = EDGES[random.usize(..EDGES.len())];
    let width = 1 << random.usize(..4);
    let bytes = if random.bool() { edge.to_le_bytes() } else { edge.swap_bytes().to_le_bytes() };
    let bytes = if random.bool() { &bytes[..width] } else { &bytes[8 - width..] };
    for (place, byte) in input[at..].iter_mut().zip(bytes) {
        *place = *byte;
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(input.splice(at..at, piece.iter().copied()));
}

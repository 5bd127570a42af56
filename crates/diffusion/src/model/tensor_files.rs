//! The tensors of safetensors files: each one read, hashed and checked in one pass over its bytes, several at a time.
//! Knows nothing of what the tensors are for, and never writes.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::Dtype as StoredDtype;
use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, broken};

/// The longest header, thirty times that of the largest model here: what is read from it takes several times its bytes.
const MAX_HEADER_BYTES: u64 = 8 << 20;

/// The most tensors of a file: thirty times those of the largest model here.
const MAX_TENSORS: usize = 1 << 16;

/// A piece is read, hashed and checked while it is in the cache.
const PIECE_BYTES: usize = 256 << 10;

/// A tensor as it was stored, on the CPU.
pub(super) struct StoredTensor {
    pub name: String,
    pub tensor: Tensor,
    /// SHA-256 over type, shape and bytes.
    pub digest: [u8; 32],
}

/// Reads every tensor of the file at `path` on all cores; gives them in the order of their bytes.
///
/// # Errors
/// [`Error::Model`]: the file cannot be read, is damaged, or has a tensor of a type that is not supported or that holds
/// a number that is not finite; of several such tensors the first.
pub(super) fn read_tensors(path: &Path) -> Result<Vec<StoredTensor>> {
    let file = TensorFile::open(path)?;
    let tensors = &file.tensors;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, info)) = tensors.get(index) else { return done };
            let read = file.read(name, info);
            if read.is_err() {
                // Nobody begins another. Those before this one have all been begun, so the first error is found.
                next.store(tensors.len(), Ordering::Relaxed);
            }
            done.push((index, read));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(tensors.len());
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            done.extend(other.join().map_err(|_| Error::Torch(format!("reading {} panicked", path.display())))?);
        }
        Ok::<_, Error>(done)
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, read)| read).collect()
}

/// A file whose header was read.
struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    start: u64,
    /// Names and places, in the order of the bytes.
    tensors: Vec<(String, TensorInfo)>,
}

impl TensorFile {
    fn open(path: &Path) -> Result<Self> {
        let io = |what: &str, e: std::io::Error| broken(path, format!("{what}: {e}"));
        let mut file = File::open(path).map_err(|e| io("cannot be opened", e))?;
        let length = file.metadata().map_err(|e| io("cannot be examined", e))?.len();
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|_| broken(path, "is too short for a safetensors file"))?;
        if let Some(what) = foreign(prefix) {
            return Err(broken(path, what));
        }
        let header_length = u64::from_le_bytes(prefix);
        if header_length > length.saturating_sub(8) {
            return Err(broken(path, "is not a safetensors file, or its header is truncated"));
        }
        if header_length > MAX_HEADER_BYTES {
            let message = format!("has a header of {header_length} bytes; at most {MAX_HEADER_BYTES} are read");
            return Err(broken(path, message));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(|e| io("cannot be read", e))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| broken(path, format!("has a broken safetensors header: {e}")))?;
        let count = metadata.tensors().len();
        if count > MAX_TENSORS {
            return Err(broken(path, format!("has {count} tensors; at most {MAX_TENSORS} are read")));
        }
        let start = 8 + header_length;
        let expected = start + metadata.data_len() as u64;
        if expected != length {
            return Err(broken(
                path,
                format!(
                    "has {length} bytes, but its header promises {expected}: it is truncated or damaged; fetch it again"
                ),
            ));
        }
        let tensors = metadata
            .offset_keys()
            .into_iter()
            .filter_map(|name| metadata.info(&name).cloned().map(|info| (name, info)))
            .collect();
        Ok(Self { path: path.to_owned(), file, start, tensors })
    }

    fn read(&self, name: &str, info: &TensorInfo) -> Result<StoredTensor> {
        let (kind, exponent) = match info.dtype {
            StoredDtype::F32 => (Kind::Float, Some(Exponent::of_bits(32, 0x7f80_0000))),
            StoredDtype::F16 => (Kind::Half, Some(Exponent::of_bits(16, 0x7c00))),
            StoredDtype::BF16 => (Kind::BFloat16, Some(Exponent::of_bits(16, 0x7f80))),
            StoredDtype::F64 => (Kind::Double, Some(Exponent::of_bits(64, 0x7ff0_0000_0000_0000))),
            StoredDtype::I64 => (Kind::Int64, None),
            other => return Err(broken(&self.path, format!("{name} is stored as {other:?}, which is not supported"))),
        };
        let shape: Vec<i64> = info.shape.iter().map(|n| *n as i64).collect();
        let mut tensor = Tensor::f_empty(&shape, (kind, Device::Cpu))?;
        let mut digest = Sha256::new().chain_update(format!("{:?}{shape:?}", info.dtype));
        let mut finite = true;
        let mut at = self.start + info.data_offsets.0 as u64;
        for piece in bytes_of(&mut tensor).chunks_mut(PIECE_BYTES) {
            self.file.read_exact_at(piece, at).map_err(|e| broken(&self.path, format!("cannot be read: {e}")))?;
            at += piece.len() as u64;
            digest.update(&*piece);
            finite &= exponent.is_none_or(|exponent| exponent.all_finite(piece));
        }
        if !finite {
            return Err(broken(&self.path, format!("{name} holds NaN or infinite numbers: the weights are damaged")));
        }
        Ok(StoredTensor { name: name.to_owned(), tensor, digest: digest.finalize().into() })
    }
}

/// What a file that begins so is, which people take for weights.
fn foreign(first: [u8; 8]) -> Option<&'static str> {
    match first {
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' '] => {
            Some("is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it")
        }
        [b'<', ..] => Some("is a page (HTML or XML), as where a download asked for a login; fetch the file itself"),
        [b'P', b'K', 3, 4, ..] => Some("is a ZIP archive, as PyTorch's pickles are; convert the model to safetensors"),
        _ => None,
    }
}

/// The memory of a contiguous CPU tensor that nothing else refers to.
#[allow(unsafe_code)]
fn bytes_of(tensor: &mut Tensor) -> &mut [u8] {
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if bytes == 0 {
        return &mut [];
    }
    // SAFETY: libtorch allocated this many bytes for the tensor's elements, every pattern of bits is a number of every
    // kind that is read here, and the exclusive borrow keeps the tensor alive and to itself.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), bytes) }
}

/// The exponents of as many floating-point numbers as eight bytes hold. One whose bits are all set means NaN or infinity.
#[derive(Clone, Copy)]
struct Exponent {
    exponents: u64,
    signs: u64,
}

impl Exponent {
    /// For numbers of `width` bits, whose exponent is at `exponent`.
    const fn of_bits(width: u32, exponent: u64) -> Self {
        let ones = u64::MAX / (u64::MAX >> (64 - width));
        Self { exponents: exponent * ones, signs: (1 << (width - 1)) * ones }
    }

    /// Whether no number in `bytes` is NaN or infinite; eight bytes at a time, whatever the numbers' width.
    fn all_finite(self, bytes: &[u8]) -> bool {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let mut all = u64::MAX;
        for word in words {
            all &= self.finite(u64::from_le_bytes(*word));
        }
        (all & self.finite(u64::from_le_bytes(last))) & self.signs == self.signs
    }

    /// Sets the sign bit of each number that is finite. What an exponent lacks is 0 or at most an exponent, so that
    /// adding one less than a sign carries into that number's sign bit, and never further.
    fn finite(self, word: u64) -> u64 {
        ((word & self.exponents) ^ self.exponents).wrapping_add(!self.signs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_finite_is_found_in_every_place_and_type() {
        let exponent = Exponent::of_bits(32, 0x7f80_0000);
        let numbers = |odd: f32, at: usize| {
            let mut numbers = [f32::MAX, -0.0, f32::MIN_POSITIVE, f32::MIN, 1.0];
            numbers[at] = odd;
            numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()
        };
        for at in 0..5 {
            assert!(exponent.all_finite(&numbers(f32::from_bits(0x7f7f_ffff), at)));
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xff80_0001)] {
                assert!(!exponent.all_finite(&numbers(odd, at)), "{odd} at {at}");
            }
        }
        for (width, bits, finite, odd) in [
            (16, 0x7c00, 0x7bff_u64, 0xfc00_u64),
            (16, 0x7f80, 0xff7f, 0x7f80),
            (64, 0x7ff0_0000_0000_0000, f64::MIN.to_bits(), f64::NAN.to_bits()),
        ] {
            let exponent = Exponent::of_bits(width, bits);
            let bytes = width as usize / 8;
            assert!(exponent.all_finite(&finite.to_le_bytes()[..bytes].repeat(7)));
            for at in 0..7 {
                let mut numbers = finite.to_le_bytes()[..bytes].repeat(7);
                numbers[at * bytes..][..bytes].copy_from_slice(&odd.to_le_bytes()[..bytes]);
                assert!(!exponent.all_finite(&numbers), "{width} bits, at {at}");
            }
        }
    }
}

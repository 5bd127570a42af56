//! What a launch is, whoever runs it.

use tch::Tensor;

use crate::error::Result;

/// The compiled kernels, for GPUs from Ampere on. Its first line holds the digest of the sources.
pub const PTX: &str = include_str!("cuda/kernels.ptx");

/// Threads in a block, of every kernel.
pub const THREADS: u32 = 256;

/// The kernels' names before storage and numbers a pack.
pub(super) const PACKED: [&str; 5] =
    ["group_norm_moments", "group_norm_apply", "add_layer_norm", "bias_residual", "geglu"];

/// The one that reads number by number.
pub(super) const UNPACKED: &str = "group_norm_affine";

/// The one for bfloat16 alone, packed too.
pub(super) const ROW_SUMS: &str = "absolute_row_sums";

/// An argument of a kernel.
pub enum Argument<'a> {
    /// The memory of a tensor, or a null pointer.
    Memory(Option<&'a Tensor>),
    /// The memory of a tensor that holds nothing yet; the kernel fills all of it.
    Fresh(&'a Tensor),
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

impl Argument<'_> {
    /// The value in the first bytes of eight, as a launch copies it.
    pub fn value(&self) -> u64 {
        let short = |bytes: [u8; 4]| {
            let mut value = [0; 8];
            value[..4].copy_from_slice(&bytes);
            u64::from_ne_bytes(value)
        };
        match self {
            Self::Memory(tensor) => tensor.map_or(0, |tensor| tensor.data_ptr() as u64),
            Self::Fresh(tensor) => tensor.data_ptr() as u64,
            Self::Int(value) => short(value.to_ne_bytes()),
            Self::Float(value) => short(value.to_ne_bytes()),
        }
    }
}

/// Runs kernels: the CUDA driver, or in tests a CPU for which the same sources were compiled.
pub trait Launch: Send + Sync {
    /// Starts a kernel over `grid` blocks of [`THREADS`] threads, each block with `shared` bytes of shared memory, behind
    /// everything that libtorch has given the device so far.
    ///
    /// # Safety
    /// The arguments are of the kernel's parameter types, in order, and the tensors among them are on the device, of the
    /// kernel's storage, and as large as the kernel's source says for these arguments and this grid.
    ///
    /// # Errors
    /// Where there is no such kernel, or the device refuses.
    #[allow(unsafe_code)]
    unsafe fn launch(&self, kernel: &str, grid: [u32; 2], shared: u32, arguments: &[Argument<'_>]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use sha2::{Digest, Sha256};

    use super::*;

    /// As scripts/kernels/compile.py computes it.
    #[test]
    fn the_ptx_was_compiled_from_these_sources() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/kernels/cuda");
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut sources: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        sources.retain(|path| path.extension().is_some_and(|end| end == "cu" || end == "cuh"));
        sources.sort_by_key(|path| (path.extension().map(ToOwned::to_owned), name(path)));
        assert!(sources.len() >= 2, "{sources:?}");
        let mut whole = Sha256::new();
        for path in &sources {
            whole.update([name(path).as_bytes(), b"\0", &std::fs::read(path).unwrap(), b"\0"].concat());
        }
        let digest: String = whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            PTX.lines().next().unwrap(),
            format!("// sources {digest}"),
            "run `make kernels` and commit the PTX"
        );
    }

    #[test]
    fn the_ptx_has_every_kernel_that_is_launched_and_no_other() {
        let has: BTreeSet<&str> =
            PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.strip_suffix('(')).collect();
        let launched: BTreeSet<String> = super::super::operations::every_name().collect();
        assert_eq!(has, launched.iter().map(String::as_str).collect());
    }

    #[test]
    fn short_arguments_lie_in_the_first_bytes() {
        assert_eq!(Argument::Int(-2).value().to_ne_bytes()[..4], (-2_i32).to_ne_bytes());
        assert_eq!(Argument::Float(1.5).value().to_ne_bytes()[..4], 1.5_f32.to_ne_bytes());
        assert_eq!(Argument::Memory(None).value(), 0);
    }
}

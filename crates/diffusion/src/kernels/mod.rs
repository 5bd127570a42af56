//! Own GPU kernels for what libtorch does in several passes: GroupNorm with SiLU, layer norm of a sum, residuals, GEGLU, and
//! the closed form's row sums.
//!
//! Feature maps lie with the channels of a pixel side by side (NHWC) where these kernels run: a thread then reads 16 bytes
//! of neighbouring channels, cuDNN's convolutions need no copies between layouts, and the transformers' tokens are the
//! feature map itself. libtorch's group norm knows only planes, which is why its path keeps planes.
//!
//! libtorch's path is the reference and the fallback: [`Kernels::none`] is on a CPU, and on a GPU that has no driver for
//! the PTX or whose kernels do not [agree](check) with libtorch. Each operation here gives `None` where its operands are
//! none that the kernels take, such as those of a recorded graph, and the caller takes libtorch's path.
//!
//! The sources are in `cuda/`, compiled to `cuda/kernels.ptx` by `make kernels`; tests/parity/kernels runs the same sources
//! on a CPU.

mod check;
mod driver;
mod launch;
mod operations;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

pub use self::launch::{Argument, Launch, PTX, THREADS};
pub use self::operations::Norm;
use crate::error::Result;

/// Whose kernels a model runs on.
#[derive(Debug, Clone, Default)]
pub enum KernelChoice {
    /// Our own on a GPU where they agree with libtorch's, else libtorch's.
    #[default]
    Auto,
    /// libtorch's.
    Libtorch,
    /// These.
    Given(Kernels),
}

/// The kernels of one device, or none: libtorch's path.
#[derive(Clone, Default)]
pub struct Kernels(Option<Arc<Own>>);

struct Own {
    launcher: Arc<dyn Launch>,
    device: Device,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(own) => write!(f, "own kernels on {:?}", own.device),
            None => f.write_str("libtorch's kernels"),
        }
    }
}

/// Which kernels were chosen, and why, for people.
pub struct Chosen {
    /// The kernels.
    pub kernels: Kernels,
    /// Such as `own, on driver 13.0: they agree with libtorch's`.
    pub why: String,
}

impl KernelChoice {
    /// The kernels for a network of `kind` on `device`. Our own are tried before they are trusted.
    ///
    /// # Errors
    /// Where the trial left the device unusable.
    pub fn settle(&self, device: Device, kind: Kind) -> Result<Chosen> {
        let libtorch = |why: &str| Chosen { kernels: Kernels::none(), why: format!("libtorch's: {why}") };
        let index = match (self, device) {
            (Self::Given(kernels), _) => return Ok(Chosen { kernels: kernels.clone(), why: "as given".to_owned() }),
            (Self::Libtorch, _) => return Ok(libtorch("so it is configured")),
            (Self::Auto, Device::Cuda(index)) => index,
            (Self::Auto, _) => return Ok(libtorch("our own are for GPUs")),
        };
        let module = match driver::Module::of(index) {
            Ok(module) => module,
            Err(why) => return Ok(libtorch(&why)),
        };
        let version = module.driver_version();
        let kernels = Kernels::launched_by(module, device);
        Ok(match check::disagreement(&kernels, device, kind)? {
            None => Chosen { kernels, why: format!("own, on CUDA driver {version}: they agree with libtorch's") },
            Some(what) => libtorch(&format!("our own disagree with them on this GPU: {what}")),
        })
    }
}

impl Kernels {
    /// None: libtorch's path.
    pub fn none() -> Self {
        Self(None)
    }

    /// Those that `launcher` runs on `device`.
    pub fn launched_by(launcher: Arc<dyn Launch>, device: Device) -> Self {
        Self(Some(Arc::new(Own { launcher, device })))
    }

    /// Whether these are our own.
    pub fn are_own(&self) -> bool {
        self.0.is_some()
    }

    /// A convolution's weight `[O, I, k, k]` in the memory order that suits the path.
    pub(crate) fn arranged(&self, weight: Tensor) -> Result<Tensor> {
        // A stand-in for a weight that was not found has no memory of its own.
        if !self.are_own() || !weight.is_contiguous() {
            return Ok(weight);
        }
        Ok(weight.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
    }

    /// The kernels against libtorch on small inputs on their device, as before they are trusted: what disagrees, if
    /// anything does.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn disagreement(&self, kind: Kind) -> Result<Option<String>> {
        match &self.0 {
            Some(own) => check::disagreement(self, own.device, kind),
            None => Ok(None),
        }
    }
}

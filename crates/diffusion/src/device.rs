//! Where the model runs and in which precision.
//!
//! The program links the CPU half of libtorch only. Where torch's CUDA half is installed, [`Device`] loads it before
//! the first CUDA query, after which the same program serves the GPU: loading it later has no effect.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use tch::Kind;

use crate::error::{Error, Result};

/// Names the CUDA half of libtorch, or a folder that holds it, where it is not found by itself.
pub const TORCH_LIB_VARIABLE: &str = "DIORAMA_TORCH_LIB";

/// A device that was checked to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(tch::Device);

impl Device {
    /// The CPU.
    pub const CPU: Device = Device(tch::Device::Cpu);

    /// The first GPU where there is one, else the CPU.
    pub fn best() -> Self {
        load_cuda();
        Self(if tch::Cuda::is_available() { tch::Device::Cuda(0) } else { tch::Device::Cpu })
    }

    /// The device as libtorch names it.
    pub fn torch(self) -> tch::Device {
        self.0
    }

    /// Whether this is a GPU.
    pub fn is_cuda(self) -> bool {
        matches!(self.0, tch::Device::Cuda(_))
    }

    /// The precision that suits the device: bfloat16 on a GPU, float32 on a CPU.
    pub fn best_dtype(self) -> Dtype {
        if self.is_cuda() { Dtype::Bf16 } else { Dtype::F32 }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |message: String| Err(Error::Setting { param: "device", message });
        let index = match text {
            "auto" => return Ok(Self::best()),
            "cpu" => return Ok(Self::CPU),
            "cuda" => 0,
            _ => match text.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()) {
                Some(index) => index,
                None => return refuse(format!("{text:?} is not a device; write auto, cpu, cuda or cuda:N")),
            },
        };
        let loaded = load_cuda();
        let count = if tch::Cuda::is_available() { tch::Cuda::device_count().max(0) as usize } else { 0 };
        if index < count {
            return Ok(Self(tch::Device::Cuda(index)));
        }
        refuse(match loaded {
            CudaLibrary::Loaded(path) => {
                format!("{text} does not exist: {} is loaded and finds {count} GPUs", path.display())
            }
            CudaLibrary::Broken(path, why) => format!("{text} cannot be used: {} does not load: {why}", path.display()),
            CudaLibrary::Absent => format!(
                "{text} cannot be used: torch's libtorch_cuda.so was not found; install torch 2.11 with CUDA and name \
                 its lib folder in {TORCH_LIB_VARIABLE}"
            ),
        })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            tch::Device::Cuda(index) => write!(f, "cuda:{index}"),
            _ => f.write_str("cpu"),
        }
    }
}

/// What became of torch's CUDA half.
#[derive(Debug, Clone)]
pub enum CudaLibrary {
    /// It is part of this process.
    Loaded(PathBuf),
    /// It was found and does not load.
    Broken(PathBuf, String),
    /// It was not found.
    Absent,
}

/// Loads torch's CUDA half once, if it can be found, and says what became of it.
pub fn load_cuda() -> &'static CudaLibrary {
    static LOADED: OnceLock<CudaLibrary> = OnceLock::new();
    LOADED.get_or_init(|| match find_cuda_library() {
        None => CudaLibrary::Absent,
        Some(path) => match open_globally(&path) {
            Ok(()) => CudaLibrary::Loaded(path),
            Err(why) => CudaLibrary::Broken(path, why),
        },
    })
}

/// Looks where the user says, then beside the libraries that this process has, then on LD_LIBRARY_PATH.
fn find_cuda_library() -> Option<PathBuf> {
    const NAME: &str = "libtorch_cuda.so";
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(named) = std::env::var_os(TORCH_LIB_VARIABLE) {
        let named = PathBuf::from(named);
        if named.is_file() {
            return Some(named);
        }
        folders.push(named);
    }
    folders.extend(std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    folders.into_iter().map(|folder| folder.join(NAME)).find(|path| path.is_file())
}

/// Opens a library so that libtorch's registries see it: all symbols now, visible to all.
#[allow(unsafe_code)]
fn open_globally(path: &Path) -> std::result::Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the library's initialisers are torch's own; they register kernels and touch nothing of ours.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Never unloaded: libtorch keeps pointers into it.
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The precision of the network. Latents, schedulers and scores are float32 in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl Dtype {
    /// The precision as libtorch names it.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

impl FromStr for Dtype {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Setting { param: "dtype", message: format!("{text:?} is not one of f32, bf16, f16") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_to_do() {
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::CPU);
        assert!("tpu".parse::<Device>().unwrap_err().to_string().contains("cuda:N"));
        let error = "cuda:99".parse::<Device>().unwrap_err().to_string();
        assert!(error.contains("cuda:99"), "{error}");
    }
}

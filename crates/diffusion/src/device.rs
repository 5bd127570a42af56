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

    /// The precision that suits the device: bfloat16 on a GPU, float32 on a CPU. There, bfloat16 is faster on some
    /// processors only, and pictures would depend on which of them a worker has.
    pub fn best_dtype(self) -> Dtype {
        if self.is_cuda() { Dtype::Bf16 } else { Dtype::F32 }
    }

    /// Whether the device multiplies numbers of this precision by instructions of their own. Where it does not, they are
    /// widened on the way, which takes longer than float32.
    pub fn multiplies(self, dtype: Dtype) -> bool {
        match dtype {
            _ if self.is_cuda() => true,
            Dtype::F32 => true,
            // Every processor with AMX tiles has these, too.
            #[cfg(target_arch = "x86_64")]
            Dtype::Bf16 => std::arch::is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "aarch64")]
            Dtype::Bf16 => std::arch::is_aarch64_feature_detected!("bf16"),
            _ => false,
        }
    }

    /// Bytes of memory that a GPU has in all, as its driver says; unknown for a CPU.
    pub fn memory(self) -> Option<u64> {
        match self.0 {
            tch::Device::Cuda(index) => total_memory(i32::try_from(index).ok()?),
            _ => None,
        }
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

/// What the CUDA driver says of a GPU, numbered as libtorch numbers them.
#[allow(unsafe_code)]
fn total_memory(index: i32) -> Option<u64> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    type Init = unsafe extern "C" fn(u32) -> i32;
    type Get = unsafe extern "C" fn(*mut i32, i32) -> i32;
    type TotalMemory = unsafe extern "C" fn(*mut usize, i32) -> i32;
    // SAFETY: the driver's documented `cuInit`, `cuDeviceGet` and `cuDeviceTotalMem`, with their documented types, write
    // to the two variables and nowhere else. libtorch has the library open, so closing this handle unloads nothing.
    unsafe {
        let driver = Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL).ok()?;
        let init = driver.get::<Init>(b"cuInit\0").ok()?;
        let get = driver.get::<Get>(b"cuDeviceGet\0").ok()?;
        let total = driver.get::<TotalMemory>(b"cuDeviceTotalMem_v2\0").ok()?;
        let (mut device, mut bytes) = (0, 0);
        let found = init(0) == 0 && get(&raw mut device, index) == 0 && total(&raw mut bytes, device) == 0;
        found.then_some(bytes as u64)
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
    fn a_processor_multiplies_float32_and_has_no_memory_of_its_own() {
        assert!(Device::CPU.multiplies(Dtype::F32) && !Device::CPU.multiplies(Dtype::F16));
        assert_eq!(Device::CPU.memory(), None);
        // Without a driver as with one: an answer, or none.
        assert!(total_memory(4096).is_none());
        #[cfg(target_os = "linux")]
        {
            let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let flags: Vec<&str> = flags.split_whitespace().collect();
            let told = flags.contains(&"avx512_bf16") || flags.contains(&"bf16");
            assert_eq!(Device::CPU.multiplies(Dtype::Bf16), told);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_to_do() {
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::CPU);
        assert!("tpu".parse::<Device>().unwrap_err().to_string().contains("cuda:N"));
        let error = "cuda:99".parse::<Device>().unwrap_err().to_string();
        assert!(error.contains("cuda:99"), "{error}");
    }
}

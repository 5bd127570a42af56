//! A CPU that runs the kernels: their source behind `cuda_on_cpu.h`, as a shared library.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use diorama_diffusion::kernels::{Argument, Kernels, Launch, THREADS};
use diorama_diffusion::{Error, Result};
use libloading::os::unix::Library;
use tch::{Device, Tensor};

/// Bytes around each tensor that a kernel is given. More than a chunk of a feature map, which a kernel without bounds
/// would read and write.
const MARGIN: usize = 128 << 10;

/// What they hold: NaN in every storage, of a kind that no arithmetic gives back as it was.
const NOTHING: u16 = 0xffa0;
static MARGINS: [u16; MARGIN / 2 + 16] = [NOTHING; MARGIN / 2 + 16];

/// What is compiled: a copy of the sources, changed as a test asks.
pub(super) struct Source(tempfile::TempDir);

impl Source {
    /// A copy of the sources.
    pub(super) fn copy() -> Self {
        let (crate_folder, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
        for from in ["src/kernels/cuda", "tests/parity/kernels"] {
            for entry in std::fs::read_dir(crate_folder.join(from)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|end| ["cu", "cuh", "h", "cpp"].iter().any(|source| end == *source)) {
                    std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        Self(folder)
    }

    /// Replaces what stands in `file` once.
    #[track_caller]
    pub(super) fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.0.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Compiles it.
    pub(super) fn host(self, optimised: bool) -> Host {
        let library = self.0.path().join("host.so");
        let mut compiler = Command::new("g++");
        compiler.current_dir(&self.0).args(["-std=c++17", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "host.cpp", "-o"]);
        compiler.arg(&library).arg(if optimised { "-O1" } else { "-O0" });
        let output = compiler.output().expect("g++ compiles the kernels for the CPU: install g++ (build-essential)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: it has no initialisers.
        let library = unsafe { Library::new(&library) }.unwrap();
        Host { library: Mutex::new(library), launches: Mutex::default() }
    }
}

/// The compiled kernels. They run one launch at a time: a GPU's registers are static variables.
pub(super) struct Host {
    library: Mutex<Library>,
    launches: Mutex<BTreeMap<String, usize>>,
}

impl Host {
    /// The kernels as they are, compiled once.
    pub(super) fn shared() -> Arc<Self> {
        static COMPILED: OnceLock<Arc<Host>> = OnceLock::new();
        COMPILED.get_or_init(|| Arc::new(Source::copy().host(true))).clone()
    }

    pub(super) fn kernels(self: Arc<Self>) -> Kernels {
        Kernels::launched_by(self, Device::Cpu)
    }

    /// Whether threads and blocks take their turns from the last to the first.
    pub(super) fn go_backwards(&self, yes: bool) {
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the function's type in cuda_on_cpu.h.
        unsafe { library.get::<unsafe extern "C" fn(i32)>(b"go_backwards").unwrap()(i32::from(yes)) }
    }

    /// How often each kernel was launched, without storage and pack.
    pub(super) fn launches(&self) -> BTreeMap<String, usize> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Launch for Host {
    unsafe fn launch(&self, kernel: &str, [x, y]: [u32; 2], shared: u32, arguments: &[Argument<'_>]) -> Result<()> {
        type Run = unsafe extern "C" fn(u32, u32, u32, u32, *mut *mut c_void);
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("run_{kernel}");
        // SAFETY: the type of every function of this name in host.cpp.
        let run = unsafe { library.get::<Run>(name.as_bytes()) }
            .map_err(|error| Error::Torch(format!("no kernel {kernel}: {error}")))?;
        let mut guarded: BTreeMap<usize, Guarded<'_>> = BTreeMap::new();
        let mut values = Vec::new();
        for argument in arguments {
            values.push(match argument {
                Argument::Memory(Some(tensor)) => guard(&mut guarded, tensor, false),
                Argument::Fresh(tensor) => guard(&mut guarded, tensor, true),
                other => other.value(),
            });
        }
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        // SAFETY: the caller's; what a kernel reads or writes beyond a tensor lies in its margins.
        unsafe { run(x, y, THREADS, shared, pointers.as_mut_ptr()) };
        let short = kernel.split("_f32").next().unwrap_or_default().split("_bf16").next().unwrap_or_default();
        let short = short.split("_f16").next().unwrap_or_default().to_owned();
        *self.launches.lock().unwrap_or_else(PoisonError::into_inner).entry(short).or_default() += 1;
        if guarded.into_values().all(Guarded::leave) {
            return Ok(());
        }
        Err(Error::Torch(format!("{kernel} writes beyond a tensor")))
    }
}

/// A tensor's memory elsewhere, between margins.
struct Guarded<'a> {
    tensor: &'a Tensor,
    memory: Vec<u128>,
    start: usize,
    bytes: usize,
}

fn guard<'a>(guarded: &mut BTreeMap<usize, Guarded<'a>>, tensor: &'a Tensor, fresh: bool) -> u64 {
    let at = tensor.data_ptr() as usize;
    let one = guarded.entry(at).or_insert_with(|| {
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        // As far from a multiple of 16 as it was.
        let start = MARGIN + at % 16;
        let mut memory =
            vec![u128::from(NOTHING) * (u128::MAX / u128::from(u16::MAX)); (start + bytes + MARGIN).div_ceil(16)];
        if !fresh {
            let to = memory.as_mut_ptr().cast::<u8>().wrapping_add(start);
            // SAFETY: a contiguous tensor on the CPU, and as much memory.
            unsafe { std::ptr::copy_nonoverlapping(tensor.data_ptr().cast::<u8>(), to, bytes) };
        }
        Guarded { tensor, memory, start, bytes }
    });
    one.memory.as_ptr().cast::<u8>().wrapping_add(one.start) as u64
}

impl Guarded<'_> {
    /// Copies what the kernel left, and says whether the margins are whole.
    fn leave(self) -> bool {
        let from = self.memory.as_ptr().cast::<u8>();
        // SAFETY: as in `guard`; all of the memory is initialised.
        let halves = unsafe {
            std::ptr::copy_nonoverlapping(from.wrapping_add(self.start), self.tensor.data_ptr().cast(), self.bytes);
            std::slice::from_raw_parts(from.cast::<u16>(), self.memory.len() * 8)
        };
        let (before, behind) = (&halves[..self.start / 2], &halves[(self.start + self.bytes) / 2..]);
        before == &MARGINS[..before.len()] && behind == &MARGINS[..behind.len()]
    }
}

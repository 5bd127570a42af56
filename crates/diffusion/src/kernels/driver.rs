//! The CUDA driver, opened where there is one: loads the PTX and launches kernels on libtorch's stream. All that is unsafe
//! about GPUs is here.
//!
//! libtorch works in each device's primary context and on the default stream, from which tch offers no way to leave. So a
//! launch on the null stream of that context runs behind what libtorch launched before, and before what it launches next:
//! memory that libtorch's allocator gave out is used in its order, and needs no waiting.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_NOW, Symbol};

use super::launch::{Argument, Launch, PTX, THREADS};
use super::operations::every_name;
use crate::error::{Error, Result};

/// `CUresult`; 0 is success.
type Code = c_int;
/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`: handles.
type Handle = *mut c_void;

/// `cuLaunchKernel`: a function, a grid, a block, shared memory, a stream, and arguments in one of two forms.
type LaunchKernel = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *const *mut c_void,
    *const *mut c_void,
) -> Code;

/// Bytes kept of what the driver's compiler says of PTX that it refuses.
const LOG: usize = 4096;
/// `CU_JIT_ERROR_LOG_BUFFER` and `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
const LOG_OPTIONS: [c_uint; 2] = [5, 6];

/// The calls that are used, as cuda.h declares them.
struct Calls {
    init: Symbol<unsafe extern "C" fn(c_uint) -> Code>,
    version: Symbol<unsafe extern "C" fn(*mut c_int) -> Code>,
    error_name: Symbol<unsafe extern "C" fn(Code, *mut *const c_char) -> Code>,
    device: Symbol<unsafe extern "C" fn(*mut c_int, c_int) -> Code>,
    retain: Symbol<unsafe extern "C" fn(*mut Handle, c_int) -> Code>,
    push: Symbol<unsafe extern "C" fn(Handle) -> Code>,
    pop: Symbol<unsafe extern "C" fn(*mut Handle) -> Code>,
    load: Symbol<unsafe extern "C" fn(*mut Handle, *const c_void, c_uint, *const c_uint, *const *mut c_void) -> Code>,
    function: Symbol<unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Code>,
    launch: Symbol<LaunchKernel>,
    /// Last, so that it outlives the symbols.
    _library: Library,
}

impl Calls {
    fn open() -> std::result::Result<Self, String> {
        // SAFETY: the driver's initialisers are those that libtorch's CUDA half runs, too.
        let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW) }
            .map_err(|error| format!("no CUDA driver: {error}"))?;
        // SAFETY: the types are cuda.h's for these names; `_v2` is what cuda.h makes of the plain names.
        let calls = unsafe {
            Self {
                init: symbol(&library, "cuInit")?,
                version: symbol(&library, "cuDriverGetVersion")?,
                error_name: symbol(&library, "cuGetErrorName")?,
                device: symbol(&library, "cuDeviceGet")?,
                retain: symbol(&library, "cuDevicePrimaryCtxRetain")?,
                push: symbol(&library, "cuCtxPushCurrent_v2")?,
                pop: symbol(&library, "cuCtxPopCurrent_v2")?,
                load: symbol(&library, "cuModuleLoadDataEx")?,
                function: symbol(&library, "cuModuleGetFunction")?,
                launch: symbol(&library, "cuLaunchKernel")?,
                _library: library,
            }
        };
        Ok(calls)
    }

    /// The driver's name for what went wrong.
    fn check(&self, what: &str, code: Code) -> std::result::Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        let mut name = null();
        // SAFETY: the driver writes a pointer to a string of its own, or null.
        let named = unsafe { (self.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        // SAFETY: as above.
        let name = if named { unsafe { CStr::from_ptr(name) }.to_string_lossy() } else { "unknown".into() };
        Err(format!("{what}: {name} ({code})"))
    }

    /// `work` with `context` as the thread's own; libtorch's choice of device is as before afterwards.
    fn within<T>(
        &self,
        context: Handle,
        work: impl FnOnce() -> std::result::Result<T, String>,
    ) -> std::result::Result<T, String> {
        // SAFETY: a primary context that was retained and is never released.
        self.check("cuCtxPushCurrent", unsafe { (self.push)(context) })?;
        let result = work();
        let mut popped = null_mut();
        // SAFETY: there is one to pop.
        self.check("cuCtxPopCurrent", unsafe { (self.pop)(&raw mut popped) })?;
        result
    }
}

/// # Safety
/// `T` is the symbol's type.
unsafe fn symbol<T>(library: &Library, name: &str) -> std::result::Result<Symbol<T>, String> {
    // SAFETY: the caller's.
    unsafe { library.get(name.as_bytes()) }.map_err(|error| format!("the CUDA driver has no {name}: {error}"))
}

/// The kernels, loaded onto one GPU, for as long as the process lives.
pub(super) struct Module {
    calls: Calls,
    context: Handle,
    functions: HashMap<String, Handle>,
    version: c_int,
}

// SAFETY: the driver's functions may be called from any thread, and the handles are never changed.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// The module of the GPU that libtorch calls `index`, loaded when it is first asked for; or why there is none.
    pub(super) fn of(index: usize) -> std::result::Result<Arc<Self>, String> {
        static LOADED: Mutex<Vec<(usize, Arc<Module>)>> = Mutex::new(Vec::new());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, module)) = loaded.iter().find(|(of, _)| *of == index) {
            return Ok(module.clone());
        }
        let module = Arc::new(Self::load(index)?);
        loaded.push((index, module.clone()));
        Ok(module)
    }

    fn load(index: usize) -> std::result::Result<Self, String> {
        let calls = Calls::open()?;
        let (mut version, mut device, mut context) = (0, 0, null_mut());
        // SAFETY: each writes to a variable of the type that it takes a pointer to.
        unsafe {
            calls.check("cuInit", (calls.init)(0))?;
            calls.check("cuDriverGetVersion", (calls.version)(&raw mut version))?;
            calls.check("cuDeviceGet", (calls.device)(&raw mut device, index as c_int))?;
            calls.check("cuDevicePrimaryCtxRetain", (calls.retain)(&raw mut context, device))?;
        }
        let functions = calls.within(context, || {
            let module = load_ptx(&calls)?;
            every_name().map(|name| Ok((name.clone(), function(&calls, module, &name)?))).collect()
        })?;
        Ok(Self { calls, context, functions, version })
    }

    /// The CUDA version that the driver knows, such as `13.0`.
    pub(super) fn driver_version(&self) -> String {
        format!("{}.{}", self.version / 1000, self.version % 1000 / 10)
    }
}

/// Compiles the PTX for the current context's GPU.
fn load_ptx(calls: &Calls) -> std::result::Result<Handle, String> {
    let ptx = CString::new(PTX).map_err(|error| format!("the PTX: {error}"))?;
    let mut log = vec![0_u8; LOG];
    let values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
    let mut module = null_mut();
    // SAFETY: the PTX ends with a zero byte; there are two options, and as many values: a buffer and its size.
    let code = unsafe { (calls.load)(&raw mut module, ptx.as_ptr().cast(), 2, LOG_OPTIONS.as_ptr(), values.as_ptr()) };
    calls.check("cuModuleLoadDataEx", code).map_err(|error| {
        let said = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
        format!("{error} {}", said.trim()).trim_end().to_owned()
    })?;
    Ok(module)
}

fn function(calls: &Calls, module: Handle, name: &str) -> std::result::Result<Handle, String> {
    let text = CString::new(name).map_err(|error| format!("{name}: {error}"))?;
    let mut function = null_mut();
    // SAFETY: a module that was loaded, and a string that ends with a zero byte.
    let code = unsafe { (calls.function)(&raw mut function, module, text.as_ptr()) };
    calls.check(&format!("cuModuleGetFunction {name}"), code)?;
    Ok(function)
}

impl Launch for Module {
    unsafe fn launch(&self, kernel: &str, [x, y]: [u32; 2], shared: u32, arguments: &[Argument<'_>]) -> Result<()> {
        let function = *self.functions.get(kernel).ok_or_else(|| Error::Torch(format!("no kernel {kernel}")))?;
        let mut values: Vec<u64> = arguments.iter().map(Argument::value).collect();
        let pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let launched = self.calls.within(self.context, || {
            // SAFETY: the driver copies each argument before it returns, as many bytes as the parameter has, at most
            // eight; that they are what the kernel takes is the caller's to know. The stream is the null stream.
            let code = unsafe {
                (self.calls.launch)(function, x, y, 1, THREADS, 1, 1, shared, null_mut(), pointers.as_ptr(), null())
            };
            self.calls.check(kernel, code)
        });
        // The words by which a worker knows that its device is gone.
        launched.map_err(|error| Error::Torch(format!("CUDA error: launching {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where there is no driver, that is what is said; where there is one, a GPU that does not exist is refused.
    #[test]
    fn a_gpu_that_is_not_there_has_no_kernels() {
        let why = Module::of(4096).err().unwrap();
        assert!(why.contains("no CUDA driver") || why.contains("cuDeviceGet") || why.contains("cuInit"), "{why}");
    }
}

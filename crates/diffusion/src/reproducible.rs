//! Arithmetic that does not depend on where numbers lie.

use std::sync::Once;

/// Asks MKL, which multiplies libtorch's matrices on x86, for results that do not depend on where in memory the operands
/// lie ("conditional numerical reproducibility", mode AUTO). Without it, rows of one batch are rounded differently on some
/// processors: seen on AMD Zen 4, where a picture then depends on its place in the batch. Costs nothing that could be
/// measured there.
///
/// Counts only before the process's first matrix product, so it is called as the first thing in `main`, and once more
/// with each model. Whoever sets `MKL_CBWR` decides.
pub fn reproducible_arithmetic() {
    static ASKED: Once = Once::new();
    ASKED.call_once(|| {
        if std::env::var_os("MKL_CBWR").is_none() && !ask_mkl().unwrap_or(true) {
            tracing::warn!("MKL was in use before it was asked for reproducible results; set MKL_CBWR=AUTO");
        }
    });
}

/// Whether MKL agreed; `None` where libtorch has none.
#[cfg(unix)]
#[allow(unsafe_code)]
fn ask_mkl() -> Option<bool> {
    /// `MKL_CBWR_AUTO`, and `MKL_CBWR_SUCCESS`.
    const AUTO: i32 = 2;
    const SUCCESS: i32 = 0;
    let process = libloading::os::unix::Library::this();
    // SAFETY: `int mkl_serv_cbwr_set(int)` is what MKL's documented `mkl_cbwr_set` is linked to; it sets a number under
    // a lock.
    unsafe {
        let set = process.get::<unsafe extern "C" fn(i32) -> i32>(b"mkl_serv_cbwr_set\0").ok()?;
        Some(set(AUTO) == SUCCESS)
    }
}

#[cfg(not(unix))]
fn ask_mkl() -> Option<bool> {
    None
}

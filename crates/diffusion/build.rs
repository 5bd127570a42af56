//! Tells the linker where the program finds libtorch at run time: every crate that makes a test or a binary on
//! libtorch needs this line of its own.

fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{lib}");
}

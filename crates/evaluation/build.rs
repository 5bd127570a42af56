//! Tells the linker where tests find libtorch at run time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{lib}");
}

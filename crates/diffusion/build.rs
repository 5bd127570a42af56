//! Tells the linker where tests find libtorch at run time, and the crate which libtorch it was built against.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{lib}");
    // libtorch 2.9 moved the numbers.
    let headers = ["headeronly/version.h", "csrc/api/include/torch/version.h"];
    let number = |text: &str, part: &str| {
        let define = format!("#define TORCH_VERSION_{part} ");
        text.lines().find_map(|line| Some(line.strip_prefix(&define)?.trim().to_owned()))
    };
    let version = headers.iter().find_map(|header| {
        let text = std::fs::read_to_string(Path::new(&lib).join("../include/torch").join(header)).ok()?;
        Some(format!("{}.{}.{}", number(&text, "MAJOR")?, number(&text, "MINOR")?, number(&text, "PATCH")?))
    });
    let version = version.expect("libtorch's headers tell its version");
    println!("cargo:rustc-env=DIORAMA_LIBTORCH_VERSION={version}");
}

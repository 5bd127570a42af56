//! The invariants of absence of ARCHITECTURE.md, held by what cargo says about the workspace.

use std::collections::{BTreeMap, BTreeSet};

use diorama_tests::children;
use serde_json::Value;

/// What each package of the workspace needs, development and build apart.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = children::command(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = children::output(&mut cargo, "install Rust");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let needed = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"].is_null()).map(|dependency| text(&dependency["name"])).collect()
    };
    metadata["packages"].as_array().unwrap().iter().map(|package| (text(&package["name"]), needed(package))).collect()
}

/// The packages of the workspace that depend on `name`.
fn users(name: &str) -> Vec<String> {
    dependencies().into_iter().filter(|(_, needs)| needs.contains(name)).map(|(package, _)| package).collect()
}

#[test]
fn only_the_model_and_its_evaluation_know_tensors() {
    let allowed = ["diorama-diffusion", "diorama-evaluation"];
    assert!(users("tch").iter().all(|user| allowed.contains(&user.as_str())), "{:?}", users("tch"));
    assert!(!users("tch").is_empty(), "nobody uses tch: this test looks at nothing");
}

#[test]
fn only_the_backends_know_the_services() {
    for service in ["lapin", "redis", "aws-sdk-s3"] {
        assert!(users(service).iter().all(|user| user == "diorama-backends"), "{service}: {:?}", users(service));
    }
}

#[test]
fn the_core_and_the_model_are_synchronous() {
    let users = users("tokio");
    assert!(!users.contains(&"diorama-core".to_owned()) && !users.contains(&"diorama-diffusion".to_owned()));
    assert!(users.contains(&"diorama-worker".to_owned()), "nobody uses tokio: this test looks at nothing");
}

#[test]
fn worker_and_coordinator_do_not_know_each_other() {
    let all = dependencies();
    assert!(!all["diorama-worker"].contains("diorama-coordinator"));
    assert!(!all["diorama-coordinator"].contains("diorama-worker"));
}

#[test]
fn the_model_knows_no_crate_of_ours() {
    let ours: Vec<_> =
        dependencies()["diorama-diffusion"].iter().filter(|name| name.starts_with("diorama")).cloned().collect();
    assert_eq!(ours, [] as [&str; 0]);
}

/// Every package that ends in the program, built without default features.
fn client() -> Vec<String> {
    let mut cargo = children::command(env!("CARGO"));
    cargo
        .args(["tree", "--package", "diorama", "--no-default-features", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = children::output(&mut cargo, "install Rust");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_client_and_coordinator_are_built_without_libtorch() {
    let packages = client();
    assert!(packages.contains(&"diorama-coordinator".to_owned()), "{packages:?}");
    for absent in ["tch", "torch-sys", "diorama-diffusion", "tokenizers"] {
        assert!(!packages.contains(&absent.to_owned()), "{absent} is in the client");
    }
}

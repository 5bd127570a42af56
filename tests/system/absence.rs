//! The invariants of absence of ARCHITECTURE.md, held by what cargo says about the workspace.

use std::collections::{BTreeMap, BTreeSet};

use diorama_tests::children;
use serde_json::Value;

/// What each package of the workspace needs, development and build apart.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    needed(|kind| kind.is_null())
}

/// What each package of the workspace needs, for whatever `is_it` says.
fn needed(is_it: impl Fn(&Value) -> bool) -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = children::command(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = children::output(&mut cargo, "install Rust");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let needed = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| is_it(&dependency["kind"])).map(|dependency| text(&dependency["name"])).collect()
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
fn only_the_engine_and_evaluation_know_the_model() {
    let allowed = ["diorama-engine", "diorama-evaluation"];
    let users = users("diorama-diffusion");
    assert!(users.iter().all(|user| allowed.contains(&user.as_str())), "{users:?}");
    assert!(!users.is_empty(), "nobody uses the model: this test looks at nothing");
}

#[test]
fn only_the_backends_know_the_services() {
    for service in ["lapin", "redis", "aws-sdk-s3", "aws-config"] {
        assert!(users(service).iter().all(|user| user == "diorama-backends"), "{service}: {:?}", users(service));
    }
}

#[test]
fn what_waits_for_nothing_is_synchronous_through_and_through() {
    for package in
        ["core", "diffusion", "picture", "manifest", "engine", "evaluation"].map(|name| format!("diorama-{name}"))
    {
        assert!(!tree(&package, &[]).contains("tokio"), "tokio is below {package}");
    }
    assert!(tree("diorama-worker", &[]).contains("tokio"), "nobody uses tokio: this test looks at nothing");
}

#[test]
fn worker_and_coordinator_do_not_know_each_other_nor_do_their_tests() {
    let all = needed(|_| true);
    assert!(!all["diorama-worker"].contains("diorama-coordinator"));
    assert!(!all["diorama-coordinator"].contains("diorama-worker"));
    for both in ["diorama", "diorama-simulation"] {
        assert!(all[both].contains("diorama-worker") && all[both].contains("diorama-coordinator"), "{both}");
    }
}

#[test]
fn nobody_needs_the_simulation_and_it_needs_no_model() {
    assert!(users("diorama-simulation").is_empty());
    let all = needed(|_| true);
    assert!(
        all["diorama-simulation"].iter().all(|name| !["diorama-engine", "diorama-diffusion"].contains(&name.as_str()))
    );
}

#[test]
fn the_lower_rooms_know_only_what_lies_below_them() {
    let all = dependencies();
    let ours = |package: &str| -> Vec<_> {
        all[&format!("diorama-{package}")].iter().filter_map(|name| name.strip_prefix("diorama-")).collect()
    };
    for (package, below) in [
        ("core", &[][..]),
        ("diffusion", &[]),
        ("picture", &["core"]),
        ("manifest", &["core"]),
        ("engine", &["core", "diffusion"]),
        ("evaluation", &["core", "diffusion", "picture"]),
        ("runtime", &["core"]),
        ("backends", &["core"]),
        ("protocol", &["backends", "core"]),
    ] {
        assert_eq!(ours(package), below, "{package}");
    }
}

/// Every package that ends in `package`, built with these features of cargo's.
fn tree(package: &str, features: &[&str]) -> BTreeSet<String> {
    let mut cargo = children::command(env!("CARGO"));
    cargo
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(features)
        .args(["--format", "{p}", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = children::output(&mut cargo, "install Rust");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_client_and_coordinator_are_built_without_libtorch() {
    let packages = tree("diorama", &["--no-default-features"]);
    for present in ["diorama-coordinator", "diorama-engine"] {
        assert!(packages.contains(present), "{packages:?}");
    }
    for absent in ["tch", "torch-sys", "diorama-diffusion", "diorama-evaluation", "tokenizers"] {
        assert!(!packages.contains(absent), "{absent} is in the client");
    }
}

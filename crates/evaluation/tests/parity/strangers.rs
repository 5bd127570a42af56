//! Files that hold another network, or half of one, are refused with what is wrong.

use diorama_diffusion::device::Device;
use diorama_evaluation::networks::{Kind, Networks, Trunk};

use crate::golden::{Golden, random, write};

fn refusal(kind: Kind, root: &std::path::Path) -> String {
    assert!(kind.find(&[root.to_owned()]).is_some());
    Networks::load(&[root.to_owned()], Device::CPU).err().unwrap().to_string()
}

/// A root with one network's folder, which holds what `of` does.
fn root(golden: &Golden, kind: Kind, of: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::rename(golden.folder(of).keep(), root.path().join(kind.folder())).unwrap();
    root
}

#[test]
fn another_networks_weights_are_refused_in_a_few_lines() {
    let golden = Golden::read();
    for (kind, of) in [
        (Kind::Lpips(Trunk::Alex), "lpips-squeeze"),
        (Kind::Inception, "lpips-squeeze"),
        (Kind::Lpips(Trunk::Squeeze), "judge"),
    ] {
        let message = refusal(kind, root(&golden, kind, of).path());
        assert!(message.contains(&format!("the network {}", kind.folder())), "{message}");
        assert!(message.contains("is missing (shape"), "{message}");
        assert!(message.contains("belong to another network") && message.lines().count() < 12, "{message}");
    }
    for (kind, of) in [(Kind::Dino, "clip"), (Kind::Clip, "dino")] {
        let message = refusal(kind, root(&golden, kind, of).path());
        assert!(message.contains("\"model_type\"") && message.contains("is not supported"), "{message}");
    }
}

#[test]
fn a_wrong_shape_and_a_truncated_file_are_named() {
    let golden = Golden::read();
    let kind = Kind::Dino;
    let root = root(&golden, kind, "dino");
    let folder = root.path().join("dino");
    let path = folder.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    let message = refusal(kind, root.path());
    assert!(message.contains("truncated or damaged"), "{message}");
    std::fs::write(&path, b"").unwrap();
    assert!(refusal(kind, root.path()).contains("too short"));
    std::fs::write(&path, &whole).unwrap();
    let mut tensors = tch::Tensor::read_safetensors(&path).unwrap();
    for (name, tensor) in &mut tensors {
        if name == "encoder.layer.1.output.dense.bias" {
            *tensor = random(name, &[31]);
        }
    }
    write(&folder, &tensors);
    let message = refusal(kind, root.path());
    assert!(
        message.contains("encoder.layer.1.output.dense.bias has shape [31], but the configuration needs [32]"),
        "{message}"
    );
}

#[test]
fn a_folder_without_networks_and_one_without_files_say_what_is_wanted() {
    let root = tempfile::tempdir().unwrap();
    let load = |path: &std::path::Path| Networks::load(&[path.to_owned()], Device::CPU).err().unwrap().to_string();
    assert!(load(&root.path().join("nowhere")).contains("is not a folder"));
    assert!(load(root.path()).contains("its folders are called clip, clip-336, inception"));
    std::fs::create_dir(root.path().join("inception")).unwrap();
    let message = load(root.path());
    assert!(message.contains("model.safetensors: is missing"), "{message}");
    std::fs::write(root.path().join("inception/weights.pth"), b"").unwrap();
    assert!(load(root.path()).contains("is a pickle"), "a pickle is not read");
}

//! A model folder that cannot be used says which file is wrong, what is wrong with it and, where known, how to mend it.

use std::path::{Path, PathBuf};

use diorama_diffusion::kernels::Kernels;
use diorama_diffusion::model::unet::Unet;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use crate::golden::Golden;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A copy of a golden model's `unet` folder.
struct Copy {
    folder: PathBuf,
    _holder: TempDir,
}

impl Copy {
    fn of(name: &'static str) -> Self {
        let holder = tempfile::tempdir().unwrap();
        let folder = holder.path().join("unet");
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(Golden::read(name).model.join("unet")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Self { folder, _holder: holder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn load(&self) -> Result<Unet, diorama_diffusion::Error> {
        Unet::load(&self.folder, None, Kind::Float, Device::Cpu, &Kernels::none())
    }

    /// Fails unless loading is refused with a message that holds all of `words`.
    #[track_caller]
    fn assert_refused(&self, words: &[&str]) {
        let message = match self.load() {
            Ok(_) => panic!("the folder was loaded; expected an error with {words:?}"),
            Err(error) => error.to_string(),
        };
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        edit_json(&self.file("config.json"), edit);
    }

    fn edit_weights(&self, edit: impl FnOnce(&mut Vec<(String, Tensor)>)) {
        let path = self.file(WEIGHTS);
        let mut tensors = Tensor::read_safetensors(&path).unwrap();
        edit(&mut tensors);
        Tensor::write_safetensors(&tensors, &path).unwrap();
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let copy = Copy::of("flat");
    assert!(copy.load().is_ok());
    std::fs::remove_file(copy.file(WEIGHTS)).unwrap();
    copy.assert_refused(&[WEIGHTS, "is missing"]);
    std::fs::remove_file(copy.file("config.json")).unwrap();
    copy.assert_refused(&["config.json", "is missing"]);

    let copy = Copy::of("deep");
    let shard = "diffusion_pytorch_model-00002-of-00004.safetensors";
    std::fs::remove_file(copy.file(shard)).unwrap();
    copy.assert_refused(&[shard]);
}

#[test]
fn a_folder_of_another_variant_says_what_it_holds() {
    Copy::of("sd2-v").assert_refused(&[
        "diffusion_pytorch_model.safetensors",
        "holds",
        "diffusion_pytorch_model.fp16.safetensors",
    ]);
}

#[test]
fn a_truncated_or_foreign_file_is_refused() {
    let copy = Copy::of("flat");
    let whole = std::fs::read(copy.file(WEIGHTS)).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(copy.file(WEIGHTS), &whole[..length]).unwrap();
        copy.assert_refused(&[WEIGHTS]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    std::fs::write(copy.file(WEIGHTS), longer).unwrap();
    copy.assert_refused(&[WEIGHTS, "damaged"]);
    std::fs::write(copy.file(WEIGHTS), [255; 4096]).unwrap();
    copy.assert_refused(&[WEIGHTS]);
    for (instead, what) in [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3438\n", "git lfs pull"),
        ("<!doctype html><title>Sign in</title>", "a page"),
        ("PK\u{3}\u{4}archive/data.pkl", "convert the model to safetensors"),
    ] {
        std::fs::write(copy.file(WEIGHTS), instead).unwrap();
        copy.assert_refused(&[WEIGHTS, what]);
    }
}

#[test]
fn a_pickle_is_refused_with_what_to_do() {
    let copy = Copy::of("flat");
    std::fs::rename(copy.file(WEIGHTS), copy.file("diffusion_pytorch_model.bin")).unwrap();
    copy.assert_refused(&["diffusion_pytorch_model.bin", "pickle", "safetensors"]);
}

#[test]
fn an_index_cannot_name_files_outside_its_folder() {
    let copy = Copy::of("deep");
    edit_json(&copy.file("diffusion_pytorch_model.safetensors.index.json"), |index| {
        index["weight_map"]["conv_in.bias"] = json!("../../secret.safetensors");
    });
    copy.assert_refused(&["index.json", "outside"]);
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_all_listed() {
    let copy = Copy::of("flat");
    copy.edit_weights(|tensors| {
        tensors.retain(|(name, _)| name != "conv_in.bias");
        tensors.push(("conv_extra.weight".to_owned(), Tensor::zeros([2, 2], (Kind::Float, Device::Cpu))));
        let (_, misshapen) = tensors.iter_mut().find(|(name, _)| name == "conv_out.bias").unwrap();
        *misshapen = Tensor::zeros([5], (Kind::Float, Device::Cpu));
    });
    copy.assert_refused(&[
        "conv_in.bias is missing",
        "conv_extra.weight is surplus",
        "conv_out.bias has shape [5]",
        "[4]",
    ]);
}

#[test]
fn of_many_wrong_tensors_none_is_left_out() {
    let copy = Copy::of("flat");
    let mut names = Vec::new();
    copy.edit_weights(|tensors| {
        names = tensors.drain(1..).map(|(name, _)| format!("{name} is missing")).collect();
    });
    assert!(names.len() > 50);
    copy.assert_refused(&names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    for bad in [f64::NAN, f64::INFINITY] {
        let copy = Copy::of("flat");
        copy.edit_weights(|tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "conv_out.bias").unwrap();
            *tensor = Tensor::from_slice(&[0.0, bad, 0.0, 0.0]).to_kind(Kind::Float);
        });
        copy.assert_refused(&["conv_out.bias", "NaN or infinite"]);
    }
}

#[test]
fn an_option_that_is_not_supported_names_its_file_and_key() {
    for (key, value) in [
        ("act_fn", json!("mish")),
        ("_class_name", json!("UNet3DConditionModel")),
        ("in_channels", json!(9)),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("class_embed_type", json!("timestep")),
        ("dual_cross_attention", json!(true)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("attention_head_dim", json!(7)),
        ("norm_num_groups", json!(5)),
        ("down_block_types", json!(["AttnDownBlock2D"])),
        ("transformer_layers_per_block", json!([1, 1])),
        ("an_option_from_the_future", json!(1)),
    ] {
        let copy = Copy::of("flat");
        copy.edit_config(|config| config[key] = value);
        copy.assert_refused(&["config.json", key]);
    }
    let copy = Copy::of("flat");
    std::fs::write(copy.file("config.json"), "{\"act_fn\": ").unwrap();
    copy.assert_refused(&["config.json", "JSON"]);
}

/// A safetensors file with a header of its own and nothing behind it.
fn header(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn a_header_of_a_million_tensors_or_of_a_hundred_megabytes_is_refused_before_it_is_read() {
    let copy = Copy::of("flat");
    let many = |count: usize| {
        let tensors =
            (0..count).map(|index| format!("\"{index}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
        format!("{{{}}}", tensors.collect::<Vec<_>>().join(","))
    };
    std::fs::write(copy.file(WEIGHTS), header(&many(70_000))).unwrap();
    copy.assert_refused(&["70000 tensors", "at most 65536"]);
    std::fs::write(copy.file(WEIGHTS), header(&many(1_000_000))).unwrap();
    copy.assert_refused(&["a header of", "at most 8388608"]);
    let mut long = header("");
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(copy.file(WEIGHTS), long).unwrap();
    copy.assert_refused(&["its header is truncated"]);
}

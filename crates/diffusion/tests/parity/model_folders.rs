//! Whole model folders: what `model_index.json` and `diorama.json` may say, which variant is taken, and what identifies
//! a model.

use std::path::{Path, PathBuf};

use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::model::unet::{Tap, Unet};
use diorama_diffusion::pipeline::{LoadOptions, StableDiffusion};
use diorama_diffusion::text::ClipTokenizer;
use serde_json::{Value, json};
use tch::Kind;

use crate::golden::{Golden, assert_close};

/// A copy of a golden model that a test may damage.
struct Copy {
    _holder: tempfile::TempDir,
    folder: PathBuf,
}

impl Copy {
    fn of(name: &'static str) -> Self {
        let holder = tempfile::tempdir().unwrap();
        let folder = holder.path().join("model");
        copy(&Golden::read(name).model, &folder);
        Self { _holder: holder, folder }
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.folder.join(file);
        let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn load(&self) -> Result<StableDiffusion, String> {
        let options = LoadOptions { variant: None, device: Device::CPU, dtype: Dtype::F32, batch_size: 1, apart: None };
        StableDiffusion::load(&self.folder, &options).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn assert_refused(&self, words: &[&str]) {
        let error = self.load().err().expect("the folder must be refused");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_class_that_is_not_supported_names_the_file_and_the_key() {
    let copy = Copy::of("flat");
    copy.edit("model_index.json", |index| index["_class_name"] = json!("StableDiffusionXLPipeline"));
    copy.assert_refused(&["model_index.json", "_class_name", "StableDiffusionXLPipeline"]);

    let copy = Copy::of("flat");
    copy.edit("model_index.json", |index| index["vae"] = json!(["diffusers", "VQModel"]));
    copy.assert_refused(&["model_index.json", "vae", "VQModel", "AutoencoderKL"]);

    let copy = Copy::of("flat");
    copy.edit("unet/config.json", |config| config["_class_name"] = json!("UNet3DConditionModel"));
    copy.assert_refused(&["unet", "config.json", "_class_name", "UNet3DConditionModel"]);

    let copy = Copy::of("flat");
    copy.edit("scheduler/scheduler_config.json", |config| config["_class_name"] = json!("LCMScheduler"));
    copy.assert_refused(&["scheduler_config.json", "LCMScheduler"]);
}

#[test]
fn a_folder_that_is_no_model_or_lacks_a_part_says_which() {
    let copy = Copy::of("flat");
    std::fs::remove_file(copy.folder.join("model_index.json")).unwrap();
    copy.assert_refused(&["model_index.json", "missing", "diffusers layout"]);

    for (part, word) in [("vae", "vae"), ("text_encoder", "text_encoder"), ("tokenizer", "tokenizer")] {
        let copy = Copy::of("flat");
        std::fs::remove_dir_all(copy.folder.join(part)).unwrap();
        copy.assert_refused(&[word]);
    }

    let copy = Copy::of("flat");
    std::fs::remove_dir_all(&copy.folder).unwrap();
    copy.assert_refused(&["is no folder"]);
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    let copy = Copy::of("flat");
    let other = Golden::read("demo").model;
    std::fs::remove_dir_all(copy.folder.join("text_encoder")).unwrap();
    self::copy(&other.join("text_encoder"), &copy.folder.join("text_encoder"));
    copy.assert_refused(&["unet", "config.json", "cross_attention_dim", "16"]);
}

#[test]
fn the_only_variant_is_found_by_itself() {
    assert!(Golden::read("sd2-v").variant().is_some());
    Copy::of("sd2-v").load().unwrap();
}

#[test]
fn measured_settings_are_read_and_a_misspelt_key_is_refused() {
    let copy = Copy::of("flat");
    let path = copy.folder.join("diorama.json");
    std::fs::write(&path, r#"{"threshold": 1.5, "edit_fractions": [0.1, 0.5], "scheduler": "ddim"}"#).unwrap();
    let measured = copy.load().unwrap().measured().clone();
    assert_eq!((measured.threshold, measured.edit_fractions), (Some(1.5), Some(vec![0.1, 0.5])));

    std::fs::write(&path, r#"{"treshold": 1.5}"#).unwrap();
    copy.assert_refused(&["diorama.json", "treshold"]);
    std::fs::write(&path, r#"{"scheduler": "lcm"}"#).unwrap();
    copy.assert_refused(&["diorama.json", "lcm", "dpmpp-2m"]);
    std::fs::write(&path, r#"{"edit_fractions": [5]}"#).unwrap();
    copy.assert_refused(&["diorama.json", "edit_fractions", "between 0 and 1"]);
}

#[test]
fn a_model_is_known_by_its_numbers_and_not_by_its_files() {
    let plain = Copy::of("flat");
    let digest = plain.load().unwrap().digest();
    assert_eq!(Copy::of("flat").load().unwrap().digest(), digest);
    // Measured settings are written into each record; they are not the model.
    std::fs::write(plain.folder.join("diorama.json"), "{}").unwrap();
    assert_eq!(plain.load().unwrap().digest(), digest);
    plain.edit("scheduler/scheduler_config.json", |config| config["beta_end"] = json!(0.02));
    assert_ne!(plain.load().unwrap().digest(), digest);
}

#[test]
fn no_number_of_a_configuration_does_more_than_name_its_file_and_key() {
    let numbers = [
        ("unet", "block_out_channels"),
        ("unet", "norm_num_groups"),
        ("unet", "attention_head_dim"),
        ("unet", "layers_per_block"),
        ("unet", "transformer_layers_per_block"),
        ("unet", "cross_attention_dim"),
        ("unet", "sample_size"),
        ("unet", "downsample_padding"),
        ("vae", "latent_channels"),
        ("vae", "block_out_channels"),
        ("vae", "norm_num_groups"),
        ("vae", "layers_per_block"),
        ("text_encoder", "vocab_size"),
        ("text_encoder", "hidden_size"),
        ("text_encoder", "intermediate_size"),
        ("text_encoder", "num_hidden_layers"),
        ("text_encoder", "num_attention_heads"),
        ("text_encoder", "max_position_embeddings"),
    ];
    for (part, key) in numbers {
        for number in [0, -1, i64::MAX] {
            if (key, number) == ("downsample_padding", 0) {
                continue;
            }
            let copy = Copy::of("flat");
            let file = format!("{part}/config.json");
            copy.edit(&file, |config| {
                config[key] = if key == "block_out_channels" { json!([number]) } else { json!(number) };
            });
            copy.assert_refused(&[part, "config.json", key, &number.to_string()]);
        }
    }
    // Within the ranges, and what no machine holds: the weights do not fit, and no memory is asked for.
    let copy = Copy::of("flat");
    copy.edit("text_encoder/config.json", |config| config["intermediate_size"] = json!(65_536));
    copy.edit("text_encoder/config.json", |config| config["hidden_size"] = json!(65_536));
    copy.assert_refused(&["text_encoder", "do not fit config.json", "mlp.fc1.weight", "65536"]);
}

#[test]
fn an_option_of_the_autoencoder_or_the_text_encoder_that_is_not_supported_names_its_file_and_key() {
    let options = [
        ("vae", "act_fn", json!("gelu")),
        ("vae", "shift_factor", json!(0.1)),
        ("vae", "latent_channels", json!(16)),
        ("vae", "down_block_types", json!(["AttnDownEncoderBlock2D"])),
        ("vae", "use_tiny_decoder", json!(true)),
        ("text_encoder", "hidden_act", json!("relu")),
        ("text_encoder", "model_type", json!("t5")),
        ("text_encoder", "num_attention_heads", json!(7)),
    ];
    for (part, key, value) in options {
        let copy = Copy::of("flat");
        copy.edit(&format!("{part}/config.json"), |config| config[key] = value);
        let named = if key == "down_block_types" { "AttnDownEncoderBlock2D" } else { key };
        copy.assert_refused(&[part, "config.json", named]);
    }
}

#[test]
fn what_the_last_user_of_a_tokenizer_asked_for_changes_no_tokens() {
    let g = Golden::read("deep");
    let copy = Copy::of("deep");
    copy.edit("tokenizer/tokenizer.json", |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 77}, "direction": "Right", "pad_to_multiple_of": null,
                                      "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    });
    let read = |folder: &Path| ClipTokenizer::load(&folder.join("tokenizer"), 77).unwrap();
    let (plain, used) = (read(&g.model), read(&copy.folder));
    for prompt in ["", "a tiger", "clouds drifting over the beach, and a deer beside the tiger in the forest"] {
        assert_eq!(used.encode(prompt).unwrap(), plain.encode(prompt).unwrap());
    }
}

#[test]
fn attention_that_asks_for_float32_has_it_where_the_rest_is_narrower() {
    let g = Golden::read("sd2-v");
    let output = |kind: Kind, upcast: bool| {
        let copy = Copy::of("sd2-v");
        copy.edit("unet/config.json", |config| config["upcast_attention"] = json!(upcast));
        let unet = Unet::load(&copy.folder.join("unet"), g.variant(), kind, tch::Device::Cpu).unwrap();
        let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 1)).unwrap();
        let sample = g.tensors.get("unet.sample").narrow(0, 0, 1);
        tch::no_grad(|| unet.forward(&sample, 500.0, &text, &mut Tap::default())).unwrap()
    };
    let exact = output(Kind::Float, false);
    assert!(output(Kind::Float, true).equal(&exact), "in float32 there is nothing to widen");
    let (narrow, wide) = (output(Kind::BFloat16, false), output(Kind::BFloat16, true));
    assert!(!narrow.equal(&wide));
    assert_close(&narrow, &exact, 0.1, "bfloat16");
    assert_close(&wide, &exact, 0.1, "bfloat16 with attention in float32");
}

#[test]
fn an_option_of_the_text_encoder_that_is_not_known_names_its_file_and_key() {
    for (key, value) in [("an_option_from_the_future", json!(1)), ("pruned_heads", json!({"0": [1]}))] {
        let copy = Copy::of("flat");
        copy.edit("text_encoder/config.json", |config| config[key] = value);
        copy.assert_refused(&["text_encoder", "config.json", key]);
    }
    // What published folders say of training and generation changes nothing.
    let copy = Copy::of("flat");
    copy.edit("text_encoder/config.json", |config| {
        for (key, value) in [
            ("torch_dtype", json!("float32")),
            ("transformers_version", json!("4.22.0.dev0")),
            ("_name_or_path", json!("openai/clip-vit-large-patch14")),
            ("dropout", json!(0.0)),
            ("initializer_factor", json!(1.0)),
            ("pruned_heads", json!({})),
            ("id2label", json!({"0": "LABEL_0"})),
            ("use_cache", json!(true)),
        ] {
            config[key] = value;
        }
    });
    copy.load().unwrap();
}

#[test]
fn a_tokenizer_with_tokens_that_the_text_encoder_does_not_know_is_refused() {
    let copy = Copy::of("flat");
    copy.edit("tokenizer/vocab.json", |vocabulary| vocabulary["seagullish</w>"] = json!(70_000));
    copy.assert_refused(&["text_encoder", "config.json", "vocab_size", "70000"]);
}

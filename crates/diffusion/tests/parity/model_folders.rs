//! Whole model folders: what `model_index.json` and `diorama.json` may say, which variant is taken, and what identifies
//! a model.

use std::path::{Path, PathBuf};

use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::kernels::{KernelChoice, Kernels};
use diorama_diffusion::method::Settings;
use diorama_diffusion::model::folder::read_index;
use diorama_diffusion::model::unet::{Tap, Unet};
use diorama_diffusion::pipeline::{LoadOptions, StableDiffusion};
use diorama_diffusion::text::{ClipTextModel, ClipTokenizer};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::golden::{Golden, assert_close, settings};

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
        let options = LoadOptions {
            variant: None,
            device: Device::CPU,
            dtype: Dtype::F32,
            batch_size: 1,
            apart: None,
            kernels: KernelChoice::Auto,
        };
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
    copy.edit("scheduler/scheduler_config.json", |config| config["_class_name"] = json!("FlowMatchLCMScheduler"));
    copy.assert_refused(&["scheduler_config.json", "FlowMatchLCMScheduler"]);
}

#[test]
fn a_scheduler_that_we_do_not_have_is_no_matter_until_it_must_run() {
    let copy = Copy::of("flat");
    copy.edit("scheduler/scheduler_config.json", |config| config["_class_name"] = json!("LCMScheduler"));
    copy.edit("model_index.json", |index| index["scheduler"] = json!(["diffusers", "LCMScheduler"]));
    let error = copy.load().unwrap().scheduler_config().kind().unwrap_err().to_string();
    assert!(error.contains("LCMScheduler") && error.contains("--scheduler"), "{error}");
    // Of another class than the index names.
    copy.edit("model_index.json", |index| index["scheduler"] = json!(["diffusers", "EulerDiscreteScheduler"]));
    copy.edit("scheduler/scheduler_config.json", |config| config["_class_name"] = json!("DDIMScheduler"));
    let error = copy.load().unwrap().scheduler_config().kind().unwrap_err().to_string();
    assert!(error.contains("DDIMScheduler") && error.contains("EulerDiscreteScheduler"), "{error}");
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
    copy.assert_refused(&["is not a folder"]);
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
        let unet =
            Unet::load(&copy.folder.join("unet"), g.variant(), kind, tch::Device::Cpu, &Kernels::none()).unwrap();
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

/// The text encoder's first rows, and some more.
fn add_rows(copy: &Copy, rows: i64) -> i64 {
    let path = copy.folder.join("text_encoder/model.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    let (_, table) = tensors.iter_mut().find(|(name, _)| name.ends_with("token_embedding.weight")).unwrap();
    let tokens = table.size()[0];
    *table = Tensor::cat(&[table.shallow_clone(), table.narrow(0, 5, rows).neg()], 0);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    copy.edit("text_encoder/config.json", |config| config["vocab_size"] = json!(tokens + rows));
    tokens
}

fn write(copy: &Copy, file: &str, value: &Value) {
    std::fs::write(copy.folder.join(file), value.to_string()).unwrap();
}

#[test]
fn a_learned_token_is_one_token_wherever_its_files_name_it() {
    let listed = |copy: &Copy, token: &str, id: i64| write(copy, "tokenizer/added_tokens.json", &json!({ token: id }));
    let configured = |copy: &Copy, token: &str, id: i64| {
        copy.edit("tokenizer/tokenizer_config.json", |config| {
            config["added_tokens_decoder"][id.to_string()] =
                json!({"content": token, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false,
                       "special": false});
        });
    };
    type Way<'a> = &'a dyn Fn(&Copy, &str, i64);
    for name in [&listed as Way, &configured] {
        let copy = Copy::of("flat");
        let id = add_rows(&copy, 1);
        copy.assert_refused(&["vocab_size", "has no name", "added_tokens.json"]);
        name(&copy, "<cat-toy>", id);
        copy.load().unwrap();
        let tokenizer = ClipTokenizer::load(&copy.folder.join("tokenizer"), 77).unwrap();
        let prompt = "a <cat-toy> beside a tiger";
        let encoded = tokenizer.encode(prompt).unwrap();
        assert_eq!(encoded.ids.iter().filter(|token| **token == id).count(), 1, "{:?}", encoded.ids);
        let at = prompt.find("<cat-toy>").unwrap();
        assert_eq!(encoded.positions(&(at..at + "<cat-toy>".len())).len(), 1);
        // The words around it are what they are without it.
        let plain = tokenizer.encode("a beside a tiger").unwrap();
        let rest: Vec<i64> = encoded.ids.iter().copied().filter(|token| *token != id).collect();
        assert_eq!(rest[..6], plain.ids[..6]);
    }
    let copy = Copy::of("flat");
    add_rows(&copy, 1);
    listed(&copy, "<cat-toy>", 3);
    copy.assert_refused(&["<cat-toy>", "3"]);
}

#[test]
fn rows_that_only_round_the_vocabulary_up_are_no_lost_tokens() {
    let copy = Copy::of("flat");
    let plain = Copy::of("flat");
    let tokens = add_rows(&plain, 0);
    let padded = (tokens as u64).next_multiple_of(64) as i64 - tokens;
    add_rows(&copy, padded);
    copy.load().unwrap();
}

#[test]
fn a_tokenizer_that_reads_fewer_tokens_than_its_encoder_is_obeyed() {
    let copy = Copy::of("flat");
    let tokenizer = || ClipTokenizer::load(&copy.folder.join("tokenizer"), 77);
    for (written, length) in [(json!(16), 16), (json!(77), 77), (json!(512), 77), (json!(1e30), 77), (Value::Null, 77)]
    {
        copy.edit("tokenizer/tokenizer_config.json", |config| config["model_max_length"] = written.clone());
        let encoded =
            tokenizer().unwrap().encode("a tiger in the forest and a deer beside a camel on the beach, walking");
        assert_eq!(encoded.unwrap().ids.len(), length, "{written}");
    }
    copy.edit("tokenizer/tokenizer_config.json", |config| config["model_max_length"] = json!(16));
    copy.load().unwrap();
    copy.edit("tokenizer/tokenizer_config.json", |config| config["model_max_length"] = json!(2));
    assert!(tokenizer().err().unwrap().to_string().contains("model_max_length"));
    copy.edit("tokenizer/tokenizer_config.json", |config| config["tokenizer_class"] = json!("T5Tokenizer"));
    assert!(tokenizer().err().unwrap().to_string().contains("T5Tokenizer"));
}

#[test]
fn a_prompt_shorter_than_the_encoders_positions_gives_the_hidden_states_of_its_first_tokens() {
    // The encoder is causal: what comes later changes nothing.
    let g = Golden::read("flat");
    let folder = g.model.join("text_encoder");
    let encoder = ClipTextModel::load(&folder, g.variant(), Kind::Float, tch::Device::Cpu).unwrap();
    let ids: Vec<i64> = (0..77).map(|i| (7 * i) % 90).collect();
    let (whole, short) = (encoder.forward(&ids).unwrap(), encoder.forward(&ids[..16]).unwrap());
    assert_close(&short, &whole.narrow(1, 0, 16), 1e-5, "the first 16 of 77");
}

#[test]
fn what_a_folder_says_in_another_way_is_no_reason_to_refuse_it() {
    let same = Copy::of("demo");
    let blocks = 3;
    same.edit("unet/config.json", |config| {
        config["only_cross_attention"] = json!(vec![false; blocks]);
        config["cross_attention_dim"] = json!(vec![config["cross_attention_dim"].as_i64().unwrap(); blocks]);
        config["act_fn"] = json!("swish");
    });
    same.edit("vae/config.json", |config| {
        config["shift_factor"] = json!(0.0);
        config["act_fn"] = json!("swish");
    });
    same.edit("text_encoder/config.json", |config| config["use_attention_mask"] = json!(false));
    same.load().unwrap();
    for (key, value) in
        [("only_cross_attention", json!([false, true, false])), ("cross_attention_dim", json!([16, 32, 16]))]
    {
        let copy = Copy::of("demo");
        copy.edit("unet/config.json", |config| config[key] = value);
        copy.assert_refused(&["unet", "config.json", key]);
    }
}

#[test]
fn the_size_of_training_may_have_two_sides_and_that_of_old_files_is_64() {
    let size = |sample: Value, version: &str| {
        let copy = Copy::of("flat");
        copy.edit("unet/config.json", |config| {
            config["sample_size"] = sample;
            config["_diffusers_version"] = json!(version);
        });
        copy.load().unwrap().native_size()
    };
    // Height and width, in latents of two pixels.
    assert_eq!(size(json!([16, 24]), "0.42.1"), (48, 32));
    assert_eq!(size(json!(20), "0.42.1"), (40, 40));
    assert_eq!(size(json!(32), "0.9.0"), (64, 64));
    // As the pipelines of diffusers have it: models of 2022 were trained at 64 and say 32.
    assert_eq!(size(json!(32), "0.6.0"), (128, 128));
    assert_eq!(size(json!(96), "0.6.0"), (192, 192));
}

#[test]
fn parts_that_diffusers_would_use_and_we_do_not_are_named() {
    let copy = Copy::of("flat");
    copy.edit("model_index.json", |index| {
        index["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
        index["feature_extractor"] = json!(["transformers", "CLIPImageProcessor"]);
        index["controlnet"] = json!(["diffusers", "ControlNetModel"]);
        index["adapter"] = json!(["diffusers", "T2IAdapter"]);
        index["image_encoder"] = json!([null, null]);
        index["requires_safety_checker"] = json!(true);
    });
    let left_out = read_index(&copy.folder).unwrap().left_out;
    assert_eq!(
        left_out,
        ["adapter (T2IAdapter)", "controlnet (ControlNetModel)", "safety_checker (StableDiffusionSafetyChecker)"]
    );
    copy.load().unwrap();
}

#[test]
fn a_way_down_without_padding_of_its_own_adds_a_row_and_a_column_and_needs_room_for_it() {
    let copy = Copy::of("demo");
    copy.edit("unet/config.json", |config| config["downsample_padding"] = json!(0));
    let g = Golden::read("demo");
    let unet =
        Unet::load(&copy.folder.join("unet"), g.variant(), Kind::Float, tch::Device::Cpu, &Kernels::none()).unwrap();
    let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 1)).unwrap();
    let sample = g.tensors.get("unet.sample").narrow(0, 0, 1);
    let output = tch::no_grad(|| unet.forward(&sample, 500.0, &text, &mut Tap::default())).unwrap();
    // diffusers 0.42.1 with the same weights.
    let values = Vec::<f32>::try_from(output.flatten(0, -1)).unwrap();
    for (ours, theirs) in values.iter().zip([-0.184_835_95, 0.105_823_2, -0.254_296_24, 0.106_815_17]) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
    // Two halvings.
    let model = copy.load().unwrap();
    let at = |width: u32, height: u32| {
        let settings = Settings { width, height, ..settings(&g, "ddim") };
        model.check("a tiger", None, &settings).map(drop).map_err(|error| error.to_string())
    };
    at(16, 16).unwrap();
    assert!(at(16, 8).unwrap_err().contains("too small for this network"));
}

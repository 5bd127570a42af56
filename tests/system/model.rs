//! The bundled model, end to end. How good its pictures are is measured elsewhere; nothing here depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::case::{Case, End, end, outcomes, pictures, start, tree, until, wait};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");

/// Few steps, two of them edited.
const QUICK: [&str; 4] = ["--steps", "6", "--edit-steps", "2,4"];

/// `generate` with the model: a picture in `out`.
fn generate(case: &Case, out: &str, more: &[&str]) -> End {
    let arguments = [&["generate", "--model", MODEL, "--out", out, "--json"], &QUICK[..], more].concat();
    end(&mut case.diorama(&arguments))
}

/// `run` with the model.
fn run(case: &Case, out: &str, more: &[&str]) -> Command {
    run_with(case, MODEL, out, more)
}

fn run_with(case: &Case, model: &str, out: &str, more: &[&str]) -> Command {
    let arguments = [&["run", "rows.jsonl", "--model", model, "--out", out], &QUICK[..], more].concat();
    case.diorama(&arguments)
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A tensor of a safetensors file.
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// Every tensor of a safetensors file by name: eight bytes of length, a JSON header, the data.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(length);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let tensor = |value: Value| {
        let numbers =
            |key: &str| value[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
        let offsets = numbers("data_offsets");
        Tensor {
            dtype: value["dtype"].as_str().unwrap().to_owned(),
            shape: numbers("shape"),
            bytes: data[offsets[0] as usize..offsets[1] as usize].to_vec(),
        }
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, value)| (name, tensor(value))).collect()
}

const PLACE: [&str; 4] = ["--reference", "place-0.png", "--prompt", "a red circle on a beach"];

#[test]
fn generate_writes_the_picture_its_explanation_and_every_tensor_in_between() {
    let case = Case::new();
    let more = ["--subjects", "circle,beach", "--seed", "7", "--save-tensors"];
    let over = generate(&case, "one", &[&PLACE[..], &more].concat()).expect(0);
    let files: Vec<String> = tree(&case.path("one")).into_keys().collect();
    let wanted = [
        "heatmap-beach.png",
        "heatmap-circle.png",
        "image.png",
        "mask.png",
        "overlay.png",
        "record.json",
        "tensors.safetensors",
    ];
    assert_eq!(files, wanted);
    assert_eq!(over.json()["seed"], 7);

    let mask = image::open(case.path("one/mask.png")).unwrap().into_luma8();
    assert!(mask.pixels().all(|pixel| matches!(pixel.0[0], 0 | 255)), "a mask is black or white");
    let picture = image::open(case.path("one/image.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), mask.dimensions());

    let record = read_json(case.path("one/record.json"));
    assert_eq!((&record["settings"]["steps"], &record["seed"]), (&6.into(), &7.into()));
    assert_eq!(record["generator"]["model_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(record["edits"].as_array().unwrap().iter().map(|edit| edit["step"].as_u64().unwrap()).sum::<u64>(), 6);
    let covered = mask.pixels().filter(|pixel| pixel.0[0] == 255).count() as f64 / mask.pixels().len() as f64;
    assert!((record["mask_coverage"].as_f64().unwrap() - covered).abs() < 1e-9);
    for (subject, text, position) in [(0, "circle", 3), (1, "beach", 6)] {
        let found = &record["subjects"][subject];
        assert_eq!((&found["text"], &found["positions"]), (&text.into(), &json!([position])));
    }

    let tensors = tensors(&case.path("one/tensors.safetensors"));
    let mut names: Vec<String> = vec!["latents".into(), "reference_latents".into(), "reference_noise".into()];
    names.push("timesteps".into());
    for e in 0..2 {
        names.extend(["latents_after", "latents_before", "mask"].map(|name| format!("{name}.{e}")));
        names.extend((0..2).map(|n| format!("score.{e}.{n}")));
    }
    names.sort();
    assert_eq!(tensors.keys().cloned().collect::<Vec<_>>(), names);
    let latent = tensors["latents"].shape.clone();
    assert_eq!((latent.len(), latent[0]), (3, 4));
    for (name, tensor) in &tensors {
        let (shape, dtype) = match name.as_str() {
            // Strength 0.9 leaves five of six steps.
            "timesteps" => (vec![5], "F32"),
            name if name.starts_with("mask.") => (latent.clone(), "U8"),
            _ => (latent.clone(), "F32"),
        };
        assert_eq!((&tensor.shape, tensor.dtype.as_str()), (&shape, dtype), "{name}");
    }
    for e in 0..2 {
        let values = |name: &str| tensors[&format!("{name}.{e}")].bytes.as_chunks::<4>().0.to_vec();
        let (before, after) = (values("latents_before"), values("latents_after"));
        let kept = &tensors[&format!("mask.{e}")].bytes;
        assert!(kept.contains(&0), "edit {e} replaces nothing: the test looks at nothing");
        for (at, kept) in kept.iter().enumerate() {
            assert_eq!(before[at] == after[at], *kept == 1, "edit {e}: element {at} is kept and replaced");
        }
    }
}

#[test]
fn the_seed_and_nothing_else_decides_the_noise() {
    let case = Case::new();
    let picture = |out: &str, seed: &str| {
        generate(&case, out, &[&PLACE[..], &["--subjects", "circle", "--seed", seed]].concat()).expect(0);
        tree(&case.path(out))
    };
    let first = picture("first", "7");
    assert_eq!(picture("again", "7"), first);
    assert_ne!(picture("other", "8")["image.png"], first["image.png"]);
}

#[test]
fn a_run_killed_in_the_middle_ends_with_the_same_bytes() {
    let case = Case::new();
    case.manifest(8);
    let more = ["--shard-size", "2", "--batch-size", "2"];
    end(&mut run(&case, "calm", &more)).expect(0);
    let mut killed = start(&mut run(&case, "out", &more));
    until("the first commit", || !tree(&case.path("out/commits")).is_empty());
    killed.kill();
    wait(killed);
    let committed = tree(&case.path("out/commits"));
    assert!(committed.len() < 4, "it had finished");

    end(&mut run(&case, "out", &more)).expect(0);
    assert_eq!(pictures(&case.path("out")), pictures(&case.path("calm")));
    assert_eq!(outcomes(&case.path("out")), outcomes(&case.path("calm")));
    let commits = tree(&case.path("out/commits"));
    assert!(committed.iter().all(|(shard, marker)| commits.get(shard) == Some(marker)), "a shard was made twice");
}

#[test]
fn a_picture_is_the_same_on_any_number_of_threads() {
    let case = Case::new();
    case.manifest(5);
    // Alone, its two rows of guidance apart; with others; and in groups of two.
    for size in ["1", "4", "16"] {
        let made = ["1", "2", "5"].map(|threads| {
            let out = format!("batch-{size}-threads-{threads}");
            let mut command = run(&case, &out, &["--batch-size", size]);
            end(command.env("OMP_NUM_THREADS", threads)).expect(0);
            pictures(&case.path(&out))
        });
        assert!(made.iter().all(|pictures| pictures == &made[0]), "batch size {size}: other bytes");
    }
}

#[test]
fn a_compared_method_gives_what_it_gives_alone_whoever_is_in_the_batch() {
    let case = Case::new();
    let row = |n: u64| {
        json!({"custom_id": format!("r{n}"), "reference": format!("place-{n}.png"), "prompt": "a red circle on a beach",
               "subjects": ["circle"], "seed": 40 + n, "guidance": 3 + n})
    };
    case.write_rows(&[row(0), row(1), row(2)]);
    end(&mut run(&case, "out", &["--compare", "img2img,img2img-reduced"])).expect(0);
    for (method, file) in [
        ("abs-grad-sam", "images/r1.png"),
        ("img2img", "compare/r1.img2img.png"),
        ("img2img-reduced", "compare/r1.img2img-reduced.png"),
    ] {
        // A batch of the same size: another one rounds differently.
        case.write_rows(&[row(1)]);
        end(&mut run(&case, method, &["--method", method])).expect(0);
        let alone = fs::read(case.path(method).join("images/r1.png")).unwrap();
        assert!(fs::read(case.path("out").join(file)).unwrap() == alone, "{method}: other bytes in a batch than alone");
    }
    let one = ["--reference", "place-1.png", "--prompt", "a red circle on a beach", "--method", "img2img"];
    generate(&case, "one", &one).expect(0);
    let files: Vec<String> = tree(&case.path("one")).into_keys().collect();
    assert_eq!(files, ["image.png", "record.json"], "image-to-image has no mask");
}

#[test]
fn text_alone_is_enough_for_txt2img() {
    let case = Case::new();
    generate(&case, "one", &["--method", "txt2img", "--prompt", "a red circle on a beach"]).expect(0);
    assert_eq!(tree(&case.path("one")).into_keys().collect::<Vec<_>>(), ["image.png", "record.json"]);
}

#[test]
fn a_long_prompt_is_cut_and_the_record_says_where() {
    let case = Case::new();
    let long = format!("a red circle {}", "on a beach ".repeat(950));
    for prompt in [long.get(..10_000).unwrap(), &format!("a red circle {}", "🏖️🌊 on a beach ".repeat(40))] {
        let more = ["--reference", "place-0.png", "--prompt", prompt, "--subjects", "circle"];
        let over = generate(&case, "one", &more).expect(0);
        let record = read_json(case.path("one/record.json"));
        let kept = record["prompt_truncated_to"].as_str().unwrap();
        assert!(kept.starts_with("a red circle") && kept.len() < prompt.len(), "{kept}");
        assert_eq!(record["prompt"], prompt);
        assert!(over.json()["warnings"].to_string().contains("longer than the text encoder reads"), "{}", over.json());
    }
    // What was cut off can be no subject.
    let hidden = format!("a red circle {} with a lighthouse", "on a beach ".repeat(40));
    let more = ["--reference", "place-0.png", "--prompt", &hidden, "--subjects", "lighthouse"];
    let refused = generate(&case, "hidden", &more).expect(42);
    assert_eq!(refused.json()["code"], "subject_not_in_prompt");
}

#[test]
fn an_emoji_is_a_prompt_like_any_other() {
    let case = Case::new();
    let more = ["--reference", "place-0.png", "--prompt", "a red circle on a 🏖️", "--subjects", "circle"];
    generate(&case, "one", &more).expect(0);
    assert_eq!(read_json(case.path("one/record.json"))["prompt_truncated_to"], Value::Null);
}

#[test]
fn what_the_model_cannot_do_is_said_line_by_line_before_anything_starts() {
    let case = Case::new();
    let row = |id: &str, more: Value| {
        let mut row = json!({"custom_id": id, "reference": "place-0.png", "prompt": "a circle on a beach"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    case.write_rows(&[
        row("a", json!({})),
        row("b", json!({"edit_steps": [2, 60]})),
        row("c", json!({"prompt": "quickly and slowly"})),
        row("d", json!({"subjects": ["lighthouse"]})),
        row("e", json!({"layers": "up_blocks.9.attn2"})),
        row("f", json!({"score": "attention"})),
    ]);
    let refused = end(&mut run(&case, "out", &["--json"])).expect(42).json();
    let issues: Vec<_> = refused["issues"].as_array().unwrap().iter().collect();
    let found: Vec<_> =
        issues.iter().map(|issue| (issue["line"].as_u64().unwrap(), issue["code"].as_str().unwrap())).collect();
    let wanted = [(2, "invalid_settings"), (3, "no_subject"), (4, "subject_not_in_prompt"), (5, "invalid_settings")];
    assert_eq!(found, wanted, "{refused}");
    // Each says what would do.
    for (issue, part) in issues.iter().zip(["1 to 4", "\"subjects\"", "lighthouse", "up_blocks."]) {
        assert!(issue["message"].as_str().unwrap().contains(part), "{part:?} is not in {issue}");
    }
    assert!(!case.path("out/run.json").exists());
}

/// A copy of the bundled model that may be damaged.
fn model_copy(case: &Case) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            match path.is_dir() {
                true => copy(&path, &to),
                false => assert!(fs::copy(&path, &to).unwrap() > 0),
            }
        }
    }
    let to = case.path("model");
    copy(Path::new(MODEL), &to);
    to
}

const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

#[test]
fn a_run_is_not_gone_on_with_by_another_model() {
    let case = Case::new();
    case.manifest(4);
    let more = ["--shard-size", "2"];
    assert_eq!(end(run(&case, "out", &more).env("DIORAMA_FAULT", "worker.after-ack")).code, None);
    // The last bit of the last weight.
    let model = model_copy(&case);
    let mut weights = fs::read(model.join(VAE)).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(model.join(VAE), weights).unwrap();
    let before = tree(&case.path("out/commits"));
    let other = end(&mut run_with(&case, "model", "out", &more)).expect(42);
    assert!(other.stderr.contains("started with the model"), "{}", other.stderr);
    assert_eq!(tree(&case.path("out/commits")), before);
    end(&mut run(&case, "out", &more)).expect(0);
}

#[test]
fn a_model_folder_that_cannot_be_used_is_an_error_that_names_the_file() {
    let case = Case::new();
    case.manifest(2);
    let attempt = |model: &Path| {
        let arguments = [&["generate", "--out", "one", "--model", model.to_str().unwrap()], &PLACE[..]].concat();
        end(&mut case.diorama(&arguments)).expect(42).stderr
    };
    assert!(attempt(&case.path("nowhere")).contains("nowhere"));

    let model = model_copy(&case);
    let half = [&["generate", "--out", "one", "--variant", "fp16", "--model", MODEL], &PLACE[..]].concat();
    let absent = end(&mut case.diorama(&half)).expect(42).stderr;
    assert!(absent.contains("model.fp16.safetensors") && absent.contains("holds model.safetensors"), "{absent}");
    let whole = fs::read(model.join(VAE)).unwrap();
    fs::write(model.join(VAE), &whole[..whole.len() / 2]).unwrap();
    assert!(attempt(&model).contains(VAE), "a truncated file");
    fs::remove_file(model.join(VAE)).unwrap();
    assert!(attempt(&model).contains("vae"), "a missing file");
    // A pickle begins like this; it is refused by its name, and never opened.
    fs::write(model.join("vae/diffusion_pytorch_model.bin"), b"\x80\x02}q\x00.").unwrap();
    let pickle = attempt(&model);
    assert!(pickle.contains("safetensors") && pickle.contains(".bin"), "{pickle}");
    fs::remove_file(model.join("model_index.json")).unwrap();
    assert!(attempt(&model).contains("model_index.json"));

    // `run` refuses in the same way, before it makes anything.
    let arguments = ["run", "rows.jsonl", "--out", "out", "--model", "model"];
    let refused = end(&mut case.diorama(&arguments)).expect(42);
    assert!(refused.stderr.contains("model_index.json") && !case.path("out/run.json").exists(), "{}", refused.stderr);
}

#[test]
fn doctor_finds_the_bundled_model_well() {
    let case = Case::new();
    let well = end(&mut case.diorama(&["doctor", "--json", "--model", MODEL, "--out", "out"])).expect(0);
    let checks: Vec<Value> = serde_json::from_str(&well.stdout).unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["libtorch", "CUDA library", "device", "threads", "model", "kernels", "output folder", "disk"]);
}

#[test]
fn the_example_of_the_repository_runs_to_its_gallery() {
    let case = Case::new();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo/manifest.jsonl");
    let rows = fs::read_to_string(manifest).unwrap().lines().count();
    let over = end(&mut case.diorama(&[
        "run",
        manifest,
        "--model",
        MODEL,
        "--out",
        "out",
        "--steps",
        "2",
        "--strength",
        "1",
        "--edit-steps",
        "1",
        "--json",
    ]))
    .expect(0);
    assert_eq!(over.json()["done"], rows);
    assert_eq!(tree(&case.path("out/images")).len(), rows);
    assert!(case.path("out/index.html").is_file());
}

#[test]
fn a_picture_takes_its_references_size_whatever_else_is_in_its_batch() {
    let case = Case::new();
    let sizes = [("wide", (96, 64), (96, 64)), ("tall", (50, 75), (48, 72)), ("large", (600, 400), (96, 64))];
    let rows = sizes.map(|(id, (width, height), _)| {
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 90]))
            .save(case.path(&format!("{id}.png")))
            .unwrap();
        json!({"custom_id": id, "reference": format!("{id}.png"), "prompt": "a red circle", "size": "reference"})
    });
    case.write_rows(&rows);
    end(&mut run(&case, "out", &[])).expect(0);
    for (id, _, size) in sizes {
        for picture in ["images", "masks"] {
            assert_eq!(image::image_dimensions(case.path(&format!("out/{picture}/{id}.png"))).unwrap(), size, "{id}");
        }
        let again = ["replay", "--out", "out", id, "--model", MODEL];
        end(&mut case.diorama(&again)).expect(0);
    }
    let refused = generate(&case, "one", &["--method", "txt2img", "--prompt", "a circle", "--size", "reference"]);
    assert!(refused.expect(42).stderr.contains("needs a reference"));
}

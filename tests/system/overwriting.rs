//! Users' own files are never replaced: whatever would write over one refuses before it touches anything.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::case::{Case, end, tree};

/// A data set as people have them: the manifest beside the pictures that it names, and a page of their own.
fn data_set() -> Case {
    let case = Case::new();
    fs::create_dir(case.path("images")).unwrap();
    let row = |id: &str| json!({"custom_id": id, "reference": format!("images/{id}.png"), "prompt": "a seagull"});
    for id in ["0001", "0002"] {
        fs::copy(case.path("place-0.png"), case.path(&format!("images/{id}.png"))).unwrap();
    }
    case.write_rows(&[row("0001"), row("0002")]);
    case
}

#[test]
fn a_run_in_a_folder_of_ones_own_pictures_overwrites_none() {
    let case = data_set();
    std::os::unix::fs::symlink(case.path(""), case.path("link")).unwrap();
    let before = tree(&case.path("images"));
    for out in [".", "link"] {
        let refused = end(&mut case.run(out, &[])).expect(42);
        assert!(refused.stderr.contains("holds images"), "{}", refused.stderr);
        assert!(!case.path(".lock").exists() && !case.path("run.json").exists(), "something was written");
    }
    for (name, held) in [("index.html", "<p>mine"), ("results.jsonl", "{}"), ("run.json", "{\"of\": \"another\"}")] {
        fs::create_dir_all(case.path("theirs")).unwrap();
        fs::write(case.path("theirs").join(name), held).unwrap();
        let refused = end(&mut case.run("theirs", &[])).expect(42);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        assert_eq!(fs::read_to_string(case.path("theirs").join(name)).unwrap(), held);
        fs::remove_dir_all(case.path("theirs")).unwrap();
    }
    assert_eq!(tree(&case.path("images")), before);
    // Beside them there is room, and the same command goes on where a run is.
    end(&mut case.run("out", &[])).expect(0);
    end(&mut case.run("out", &[])).expect(0);
    assert_eq!(tree(&case.path("images")), before);
}

#[test]
fn a_single_picture_replaces_neither_its_reference_nor_anybody_elses_files() {
    let case = Case::new();
    let generate = |reference: &str, out: &str| {
        let arguments = ["generate", "--engine", "synthetic", "--prompt", "a seagull", "--subjects", "seagull"];
        end(&mut case.diorama(&[&arguments[..], &["--reference", reference, "--out", out]].concat()))
    };
    let bytes = fs::read(case.path("place-0.png")).unwrap();
    fs::copy(case.path("place-0.png"), case.path("image.png")).unwrap();
    assert!(generate("image.png", ".").expect(42).stderr.contains("is the reference"));
    assert_eq!(fs::read(case.path("image.png")).unwrap(), bytes);
    generate("place-0.png", ".").expect(42);
    assert_eq!(fs::read(case.path("image.png")).unwrap(), bytes, "somebody else's picture of that name");
    // One's own earlier picture is replaced, unless it became the reference.
    generate("place-0.png", "one").expect(0);
    generate("place-1.png", "one").expect(0);
    fs::hard_link(case.path("one/image.png"), case.path("next.png")).unwrap();
    assert!(generate("next.png", "one").expect(42).stderr.contains("is the reference"));
}

#[test]
fn a_replay_writes_over_no_reference_and_into_no_run() {
    let case = data_set();
    end(&mut case.run("out", &[])).expect(0);
    let before = (tree(&case.path("images")), tree(&case.path("out")));
    let replay = |to: &str| {
        let arguments = ["replay", "--out", "out", "0001", "--engine", "synthetic", "--to", to];
        end(&mut case.diorama(&arguments))
    };
    fs::hard_link(case.path("images/0001.png"), case.path("same.png")).unwrap();
    for to in ["images/0001.png", "same.png", "out/images/0001.png", "out/new.png"] {
        replay(to).expect(42);
    }
    replay("again.png").expect(0);
    assert_eq!((tree(&case.path("images")), tree(&case.path("out"))), before);
}

#[test]
fn nothing_is_written_into_a_models_folder() {
    let case = data_set();
    fs::create_dir(case.path("model")).unwrap();
    let model = ["--model", "model"];
    assert!(end(&mut case.run("model", &model)).expect(42).stderr.contains("is inside the model"));
    assert!(end(&mut case.run("model/out", &model)).expect(42).stderr.contains("is inside the model"));
    assert_eq!(fs::read_dir(Path::new(&case.path("model"))).unwrap().count(), 0);
}

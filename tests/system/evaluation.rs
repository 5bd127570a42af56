//! `diorama eval` on what a run left, and its page in a real browser.

use std::fs;

use serde_json::Value;

use crate::case::{Case, end};
use crate::gallery::{rendered, with_script};

#[test]
fn an_evaluation_of_a_run_compares_its_methods_names_what_is_gone_and_has_a_page_that_filters() {
    let case = Case::new();
    case.manifest(12);
    end(&mut case.run("out", &["--compare", "img2img"])).expect(0);
    let out = case.path("out");
    let eval = |more: &[&str]| {
        let arguments = [&["eval", out.to_str().unwrap(), "--json"], more].concat();
        end(&mut case.diorama(&arguments))
    };
    let summaries = eval(&[]).expect(0).json();
    assert_eq!(summaries["evaluation"]["measured"], 24);
    assert_eq!(summaries["summaries"]["comparisons"][0]["differences"]["psnr"]["count"], 12);
    assert_eq!(summaries["summaries"]["whole"]["clip"], Value::Null, "there is no network for it");

    let first = fs::read_dir(out.join("images")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(first).unwrap();
    let again = out.join("again");
    let gone = eval(&["--out", again.to_str().unwrap()]).expect(3).json();
    assert_eq!(gone["evaluation"]["problems"], 1);

    let page = out.join("evaluation/index.html");
    let cards = |html: &str| html.matches("class=\"row\"").count();
    assert_eq!(cards(&rendered(&page, "")), 12);
    let filtered = "document.getElementById('where').value = 'psnr > 1000'; choose();";
    assert_eq!(cards(&rendered(&with_script(&page, filtered), "")), 0);
    let broken = "document.getElementById('where').value = 'psnr >'; choose();";
    assert!(rendered(&with_script(&page, broken), "").contains("a number was expected"));
}

#[test]
fn what_eval_cannot_take_is_said_before_any_work() {
    let case = Case::new();
    let empty = case.path("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, code, expected) in [
        (&["eval", empty][..], 42, "holds no run (no results.jsonl) and no pictures"),
        (&["eval", empty, "--networks", empty], 42, "holds no network"),
        (&["eval", empty, "--keep", "psnr >"], 2, "a number was expected"),
        (&["eval", empty, "--keep", "lpisp < 1"], 2, "lpisp is not a measure"),
        (&["eval", empty, "--region", "nowhere.png"], 42, "there is no such file"),
        (&["eval", empty, "--device", "tpu"], 2, "is not a device"),
        (&["eval", empty, "--label", "a", "--label", "b"], 2, "--label was given 2 times for 1 folders"),
    ] {
        let end = end(&mut case.diorama(arguments)).expect(code);
        assert!(end.stderr.contains(expected), "{arguments:?}: {}", end.stderr);
    }
}

#[test]
fn doctor_says_which_networks_there_are_and_where_the_others_are_from() {
    let case = Case::new();
    let networks = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/eval");
    let arguments = ["doctor", "--engine", "synthetic", "--eval", "--networks", networks];
    let said = end(&mut case.diorama(&arguments)).expect(0).stdout;
    for expected in ["judge: judge_object", "clip is absent: no clip, clip_inside", "openai/clip-vit-large-patch14"] {
        assert!(said.contains(expected), "{said}");
    }
}

//! What is gone, or not what it should be.

use diorama_core::picture::Gray8;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_evaluation::run::evaluate;
use diorama_evaluation::source::{About, Opening, Source, labels};

use crate::fake::{Run, SIDE, left_half, put, put_mask, request, run, scene};

#[test]
fn pictures_that_were_deleted_or_spoilt_are_named_and_the_others_measured() {
    let mut a = Run::new();
    ["here", "gone", "spoilt"].iter().for_each(|id| a.task(id, &scene(30, 0), &[]));
    std::fs::remove_file(a.path().join("images/gone.png")).unwrap();
    std::fs::write(a.path().join("images/spoilt.png"), b"\x89PNG\r\n\x1a\nno").unwrap();
    let out = tempfile::tempdir().unwrap();
    let done = run(&request(&[a.path()], out.path()));
    let problem = |at: usize| done.rows[at].problem.clone().unwrap_or_default();
    assert!(done.rows[0].measures.contains_key("psnr") && problem(0).is_empty());
    assert!(problem(1).ends_with("images/gone.png is gone"), "{}", problem(1));
    assert!(problem(2).contains("spoilt.png is truncated"), "{}", problem(2));
    assert_eq!((done.evaluation.measured, done.evaluation.problems), (1, 2));
    assert!(done.report.table.contains("2 pictures could not be measured"));
}

#[test]
fn a_reference_that_changed_or_went_away_leaves_the_measures_that_need_none() {
    let mut a = Run::new();
    a.task("x", &scene(30, 0), &[]);
    let reference = a.path().join("references/natural/forest/1.png");
    put(&reference, &scene(50, 50));
    let out = tempfile::tempdir().unwrap();
    let first = run(&request(&[a.path()], out.path()));
    assert!(first.rows[0].notes[0].contains("changed since the picture was made"), "{:?}", first.rows[0].notes);
    assert!(!first.rows[0].measures.contains_key("psnr") && first.rows[0].measures.contains_key("luma_mean"));
    std::fs::remove_file(&reference).unwrap();
    let out = tempfile::tempdir().unwrap();
    let second = run(&request(&[a.path()], out.path()));
    assert!(
        second.rows[0].notes[0].contains("the reference") && second.rows[0].notes[0].ends_with("is gone"),
        "{:?}",
        second.rows[0].notes
    );
}

#[test]
fn a_region_that_cannot_be_used_is_said_and_never_replaced_by_the_whole_picture() {
    let mut a = Run::new();
    a.task("x", &scene(30, 0), &[]);
    let folder = tempfile::tempdir().unwrap();
    let gray = |side: u32, value: u8| Gray8 { width: side, height: side, data: vec![value; (side * side) as usize] };
    for (mask, expected) in [
        (Some(gray(8, 0)), "the region has 8x8 pixels, the picture 48x48"),
        (Some(gray(SIDE, 255)), "all white"),
        (Some(gray(SIDE, 1)), "no value above 1"),
        (None, "the region"),
    ] {
        let out = tempfile::tempdir().unwrap();
        let mut request = request(&[a.path()], out.path());
        request.region = Some(folder.path().to_owned());
        let path = folder.path().join("x.png");
        match mask {
            Some(mask) => put_mask(&path, &mask),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let done = run(&request);
        assert!(done.rows[0].notes[0].contains(expected), "{:?}", done.rows[0].notes);
        assert!(!done.rows[0].measures.contains_key("psnr"), "{expected}");
    }
    let out = tempfile::tempdir().unwrap();
    let mut black = request(&[a.path()], out.path());
    put_mask(&folder.path().join("x.png"), &gray(SIDE, 0));
    black.region = Some(folder.path().to_owned());
    let done = run(&black);
    assert_eq!(done.rows[0].measures["outside"], 1.0);
    assert!(!done.rows[0].measures.contains_key("pie_psnr"), "all black: there is no inside to blacken");
    assert!(left_half().data.contains(&255));
}

#[test]
fn folders_that_cannot_be_evaluated_say_why() {
    let open = |path: &std::path::Path| Source::open(path, "s", &Opening::default()).err().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    assert!(open(&folder.path().join("nowhere")).contains("is not a folder"));
    assert!(open(folder.path()).contains("holds no run (no results.jsonl) and no pictures"));
    std::fs::write(folder.path().join("run.json"), "{}").unwrap();
    assert!(open(folder.path()).contains("the run has not ended"));
    std::fs::write(folder.path().join("results.jsonl"), "").unwrap();
    assert!(open(folder.path()).contains("has no picture"));
    std::fs::write(folder.path().join("results.jsonl"), "{\"task\":0}\n").unwrap();
    assert!(open(folder.path()).contains("line 1 is invalid"));
}

#[test]
fn two_folders_never_make_one_series() {
    let (mut a, mut b) = (Run::new(), Run::new());
    a.task("x", &scene(30, 0), &[("img2img", scene(5, 0))]);
    b.task("x", &scene(10, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    for (first, second) in [("a", "a"), ("a", "a:img2img"), ("a:b", "a")] {
        let mut request = request(&[a.path(), b.path()], out.path());
        request.sources[0].1 = first.to_owned();
        request.sources[1].1 = second.to_owned();
        let mut evaluator = Evaluator::new(Networks::none());
        let refused = evaluate(&request, &mut evaluator, &|| false, &mut |_, _| ()).unwrap_err().to_string();
        assert!(refused.contains("--label"), "{refused}");
    }
    let folders = tempfile::tempdir().unwrap();
    let paths = ["one/x-2", "two/x", "three/x"].map(|path| folders.path().join(path));
    paths.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    assert_eq!(labels(&paths), ["x-2", "x", "x-3"]);
}

#[test]
fn what_is_said_of_pictures_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("about.jsonl");
    std::fs::write(&path, "\u{feff}{\"custom_id\": \"x\", \"prompt\": \"p\"}\n").unwrap();
    assert_eq!(About::read(&path).unwrap().of("x").prompt.as_deref(), Some("p"));
}

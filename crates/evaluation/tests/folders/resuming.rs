//! A stopped evaluation goes on where it was, and another one begins anew.

use std::cell::Cell;

use diorama_core::measure::Expression;
use diorama_evaluation::Error;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_evaluation::row::Row;
use diorama_evaluation::run::{ROWS, evaluate};
use diorama_evaluation::selection;

use crate::fake::{Run, left_half, put, put_mask, request, run, scene};

#[test]
fn a_stopped_evaluation_goes_on_and_gives_the_same_rows_and_summaries() {
    let mut a = Run::new();
    for n in 0..6 {
        a.task(&format!("t{n}"), &scene(10 * n, n), &[("img2img", scene(5, n))]);
    }
    let (whole, parted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(&request(&[a.path()], whole.path()));
    let request = request(&[a.path()], parted.path());
    let done = Cell::new(0);
    let mut evaluator = Evaluator::new(Networks::none());
    let stopped = evaluate(&request, &mut evaluator, &|| done.get() > 0, &mut |tasks, _| done.set(tasks));
    assert!(matches!(stopped, Err(Error::Stopped)));
    // A process that was killed may have written more than it kept.
    let path = parted.path().join(ROWS);
    let kept = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&kept[..], b"{\"half\":"].concat()).unwrap();
    let first = Cell::new(None);
    let again = evaluate(&request, &mut evaluator, &|| false, &mut |tasks, _| first.set(first.get().or(Some(tasks))));
    // Tasks are measured four at a time.
    assert_eq!((done.get(), first.get()), (4, Some(6)), "it begins after what was done");
    assert_eq!(again.unwrap().measured, 12);
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(whole.path().join(ROWS)).unwrap());
    assert_eq!(run(&request).report.summaries, expected.report.summaries);
}

#[test]
fn another_evaluation_in_the_same_folder_begins_anew() {
    let mut a = Run::new();
    a.task("x", &scene(10, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    run(&request(&[a.path()], out.path()));
    a.task("y", &scene(10, 0), &[]);
    assert_eq!(run(&request(&[a.path()], out.path())).rows.len(), 2, "the run went on");
    let mut changed = request(&[a.path()], out.path());
    changed.sources[0].1 = "another name".to_owned();
    let rows = run(&changed).rows;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.series == "another name"));
}

#[test]
fn a_picture_that_nearly_repeats_one_from_before_a_stop_is_marked() {
    let mut a = Run::new();
    let mut other = scene(30, 0);
    other.data.reverse();
    a.task("first", &scene(30, 0), &[("img2img", scene(30, 0))]);
    a.task("other", &other, &[]);
    // Four tasks are measured at a time.
    for (name, seed) in [("noise", 1), ("noise-2", 2)] {
        let mut noise = scene(0, 0);
        let mut random = fastrand::Rng::with_seed(seed);
        noise.data.iter_mut().for_each(|value| *value = random.u8(..));
        a.task(name, &noise, &[]);
    }
    a.task("again", &scene(30, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    let request = request(&[a.path()], out.path());
    let done = Cell::new(0);
    let mut evaluator = Evaluator::new(Networks::none());
    let stopped = evaluate(&request, &mut evaluator, &|| done.get() == 4, &mut |tasks, _| done.set(tasks));
    assert!(matches!(stopped, Err(Error::Stopped)), "{} tasks", done.get());
    let done = run(&request);
    let near = |row: &Row| row.near_duplicate_of.clone();
    // The same picture by another method is of another series.
    assert_eq!(
        done.rows.iter().map(near).collect::<Vec<_>>(),
        [None, None, None, None, None, Some("first".to_owned())]
    );
    assert_eq!(done.evaluation.near_duplicates, 1);
    assert!(done.report.table.contains("1 pictures nearly repeat"), "{}", done.report.table);
}

#[test]
fn what_changed_since_is_measured_again() {
    let mut a = Run::new();
    a.task("x", &scene(10, 0), &[]);
    let (out, masks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut request = request(&[a.path()], out.path());
    let mask = masks.path().join("mask.png");
    request.region = Some(mask.clone());
    put_mask(&mask, &left_half());
    let outside = |request| run(request).rows[0].measures["outside"];
    assert_eq!(outside(&request), 0.5);
    let mut black = left_half();
    black.data.fill(0);
    put_mask(&mask, &black);
    assert_eq!(outside(&request), 1.0, "the mask was mended");
    let psnr = run(&request).rows[0].measures["psnr"];
    put(&a.path().join("images/x.png"), &scene(200, 90));
    assert!(run(&request).rows[0].measures["psnr"] < psnr, "the picture was replaced");
    std::fs::remove_file(a.path().join("images/x.png")).unwrap();
    assert!(run(&request).rows[0].problem.as_ref().unwrap().ends_with("is gone"));

    let plain = tempfile::tempdir().unwrap();
    put(&plain.path().join("y.png"), &scene(0, 0));
    // Its own files lie below the folder that is measured.
    let request = crate::fake::request(&[plain.path()], &plain.path().join("evaluation"));
    let luma = run(&request).rows[0].measures["luma_mean"];
    let measured = Cell::new(0);
    let mut evaluator = Evaluator::new(Networks::none());
    evaluate(&request, &mut evaluator, &|| false, &mut |_, _| measured.set(measured.get() + 1)).unwrap();
    assert_eq!(measured.get(), 0, "nothing changed");
    put(&plain.path().join("y.png"), &scene(200, 200));
    assert!(run(&request).rows[0].measures["luma_mean"] > luma);
}

#[test]
fn a_selection_replaces_what_a_selection_wrote_and_nothing_else() {
    let mut a = Run::new();
    a.task("x", &scene(10, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    run(&request(&[a.path()], out.path()));
    let to = a.path().join("kept.txt");
    let wanted: Expression = "psnr > 0".parse().unwrap();
    let write = || selection::write(out.path(), &wanted, Some(&to), None);
    assert_eq!(write().unwrap(), (1, 1));
    assert_eq!(write().unwrap(), (1, 1), "the same command again");
    std::fs::write(&to, "x\nmine\n").unwrap();
    let refused = write().unwrap_err().to_string();
    assert!(refused.contains("kept.txt") && refused.contains("is there already"), "{refused}");
    for theirs in ["results.jsonl", "images/x.png", "references/natural/forest/1.png"] {
        let before = std::fs::read(a.path().join(theirs)).unwrap();
        selection::write(out.path(), &wanted, None, Some(&a.path().join(theirs))).unwrap_err();
        selection::check(out.path(), &a.path().join(theirs)).unwrap_err();
        assert_eq!(std::fs::read(a.path().join(theirs)).unwrap(), before, "{theirs}");
    }
    std::fs::remove_file(&to).unwrap();
    std::os::unix::fs::symlink(a.path().join("results.jsonl"), &to).unwrap();
    write().unwrap_err();
}

//! A stopped evaluation goes on where it was, and another one begins anew.

use std::cell::Cell;

use diorama_evaluation::Error;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_evaluation::row::Row;
use diorama_evaluation::run::{ROWS, evaluate};

use crate::fake::{Run, request, run, scene};

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
    let stopped = evaluate(&request, &mut evaluator, &|| done.get() == 3, &mut |tasks, _| done.set(tasks));
    assert!(matches!(stopped, Err(Error::Stopped)));
    // A process that was killed may have written more than it kept.
    let path = parted.path().join(ROWS);
    let kept = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&kept[..], b"{\"half\":"].concat()).unwrap();
    let first = Cell::new(None);
    let again = evaluate(&request, &mut evaluator, &|| false, &mut |tasks, _| first.set(first.get().or(Some(tasks))));
    assert_eq!(first.get(), Some(4), "it begins after what was done");
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
    a.task("again", &scene(30, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    let request = request(&[a.path()], out.path());
    let done = Cell::new(0);
    let mut evaluator = Evaluator::new(Networks::none());
    let stopped = evaluate(&request, &mut evaluator, &|| done.get() == 2, &mut |tasks, _| done.set(tasks));
    assert!(matches!(stopped, Err(Error::Stopped)));
    let done = run(&request);
    let near = |row: &Row| row.near_duplicate_of.clone();
    // The same picture by another method is of another series.
    assert_eq!(done.rows.iter().map(near).collect::<Vec<_>>(), [None, None, None, Some("first".to_owned())]);
    assert_eq!(done.evaluation.near_duplicates, 1);
    assert!(done.report.table.contains("1 pictures nearly repeat"), "{}", done.report.table);
}

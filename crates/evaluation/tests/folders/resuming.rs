//! A stopped evaluation goes on where it was, and another one begins anew.

use std::cell::Cell;

use diorama_evaluation::Error;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
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

use super::super::goal::{Place, Subject};
use super::*;

fn space() -> Space {
    Space::of(&["up_blocks.2.attentions.0.transformer_blocks.0.attn2".to_owned()], 22, |_, _| true)
}

fn candidate(threshold: f64) -> Candidate {
    let layers = vec!["up_blocks.2.attentions.0.transformer_blocks.0.attn2".to_owned()];
    Candidate { score: Score::AbsGrad, layers, threshold, edit_steps: vec![4, 11, 19] }
}

fn column(figures: &[(f64, f64)]) -> Column {
    figures.iter().map(|&(subject, place)| Some(Figures { subject, place })).collect()
}

fn outcome(in_force: Column, found: Column) -> Outcome {
    let finalist = |name, column| Finalist { name, column };
    Outcome {
        goal: Goal { subject: Subject::JudgeRight, place: Place::Common },
        allotment: Allotment::of(100, &[6], 2, 10).unwrap(),
        rows: [2, 2],
        pictures: 40,
        steps: Vec::new(),
        finalists: vec![finalist("in force", in_force), finalist("found", found)],
        found: candidate(1.5),
        in_force: candidate(1.0),
    }
}

#[test]
fn what_was_found_replaces_what_is_in_force_only_where_it_is_as_good_on_pictures_held_back() {
    let before = || column(&[(1.0, 20.0), (1.0, 30.0)]);
    for (found, replaces) in [
        (column(&[(1.0, 20.5), (1.0, 30.0)]), true),
        (column(&[(1.0, 20.0), (1.0, 29.9)]), false),
        (column(&[(0.0, 40.0), (1.0, 40.0)]), false),
        (vec![None, Some(Figures { subject: 1.0, place: 40.0 })], false),
    ] {
        assert_eq!(outcome(before(), found.clone()).replaces(), replaces, "{found:?}");
    }
    // The subject comes first: who finds it far more often may keep less of the place.
    let lost = column(&[(0.0, 40.0), (1.0, 30.0)]);
    assert!(outcome(lost, before()).replaces());
    let same = Outcome { found: candidate(1.0), ..outcome(before(), before()) };
    assert!(!same.replaces());
}

#[test]
fn the_file_keeps_what_stands_in_it_and_says_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("diorama.json");
    fs::write(&path, r#"{"guidance": 4.0, "threshold": 1.0}"#).unwrap();
    let better = outcome(column(&[(1.0, 20.0)]), column(&[(1.0, 21.0)]));
    let conditions = json!({ "model_sha256": "ab" }).as_object().cloned().unwrap();
    write(&path, standing(&path).unwrap(), &better, &space(), conditions.clone()).unwrap();
    let written = standing(&path).unwrap();
    assert_eq!((&written["guidance"], &written["threshold"]), (&json!(4.0), &json!(1.5)));
    assert_eq!(written["edit_fractions"], json!([0.1818, 0.5, 0.8636]));
    assert_eq!(written["calibration"]["confirmed"][1]["less_in_force"]["place"]["mean"], 1.0);
    assert_eq!(written["calibration"]["model_sha256"], "ab");

    let worse = outcome(column(&[(1.0, 21.0)]), column(&[(1.0, 20.0)]));
    write(&path, standing(&path).unwrap(), &worse, &space(), conditions).unwrap();
    let written = standing(&path).unwrap();
    assert_eq!((&written["threshold"], &written["calibration"]["replaced"]), (&json!(1.5), &json!(false)));

    fs::write(&path, "[]").unwrap();
    assert!(standing(&path).unwrap_err().to_string().contains("--out"));
}

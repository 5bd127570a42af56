//! What is compared with what, and where.

use diorama_evaluation::report::{self, Preset};
use diorama_evaluation::row::RegionKind;
use diorama_evaluation::selection;

use crate::fake::{Run, left_half, put_mask, request, run, scene};

#[test]
fn a_runs_pictures_and_those_of_other_methods_are_measured_on_one_region_and_compared_task_by_task() {
    let mut run_a = Run::new();
    for id in ["a", "b", "c"] {
        run_a.task(id, &scene(60, 0), &[("img2img", scene(60, 10))]);
    }
    let out = tempfile::tempdir().unwrap();
    let mut request = request(&[run_a.path()], out.path());
    let mask = out.path().join("region.png");
    put_mask(&mask, &left_half());
    request.region = Some(mask);
    let done = run(&request);
    assert_eq!(done.rows.len(), 6);
    let [own, other] = [&done.rows[0], &done.rows[1]];
    assert_eq!((own.region, other.region), (RegionKind::Given, RegionKind::Given));
    assert!(other.series.ends_with(":img2img"), "{}", other.series);
    assert_eq!((own.scene.as_deref(), own.category.as_deref()), (Some("forest"), Some("natural")));
    // The subject's half differs in both; only the background's counts.
    assert_eq!(own.measures["psnr"], 100.0);
    assert!(other.measures["psnr"] < 40.0, "{}", other.measures["psnr"]);
    assert_eq!(own.measures["coverage"], 0.25);
    let comparison = &done.report.summaries.comparisons[0];
    assert!(comparison.differences["psnr"].high < -50.0 && comparison.differences["psnr"].count == 3, "{comparison:?}");
    assert!(done.report.table.contains("**-"), "{}", done.report.table);
}

#[test]
fn runs_over_different_manifests_are_compared_by_id_and_the_rest_is_named() {
    let (mut a, mut b) = (Run::new(), Run::new());
    ["x", "y", "only-a"].iter().for_each(|id| a.task(id, &scene(30, 0), &[]));
    ["y", "only-b", "x"].iter().for_each(|id| b.task(id, &scene(30, 5), &[]));
    let out = tempfile::tempdir().unwrap();
    let done = run(&request(&[a.path(), b.path()], out.path()));
    assert_eq!(done.report.summaries.comparisons[0].differences["mse"].count, 2);
    let lacking: Vec<_> = done.evaluation.unpaired.values().flatten().map(String::as_str).collect();
    assert_eq!(lacking.len(), 2);
    assert!(lacking.contains(&"only-a") && lacking.contains(&"only-b"));
    assert!(done.report.table.contains("lacks 1 tasks that another folder has"), "{}", done.report.table);
}

#[test]
fn a_run_with_failed_tasks_is_measured_and_they_are_named() {
    let mut a = Run::new();
    a.task("x", &scene(30, 0), &[]);
    a.failed("broken");
    let out = tempfile::tempdir().unwrap();
    let done = run(&request(&[a.path()], out.path()));
    assert!(
        done.report
            .table
            .contains("2 tasks have no picture: broken (no_subject), line 3 of the manifest (empty_prompt)"),
        "{}",
        done.report.table
    );
}

#[test]
fn without_a_region_the_table_says_that_the_whole_was_compared_and_pie_benchs_measures_are_absent() {
    let mut a = Run::new();
    a.task("x", &scene(30, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    let done = run(&request(&[a.path()], out.path()));
    assert_eq!(done.rows[0].region, RegionKind::Whole);
    assert!(done.report.table.contains("the subject included"), "{}", done.report.table);
    assert!(!done.rows[0].measures.contains_key("pie_psnr"));
    for absent in ["clip", "lpips_alex", "structure_distance", "pair_feature_distance_64", "judge_right"] {
        assert!(!done.rows[0].measures.contains_key(absent), "{absent} has no network and so no value");
    }
}

#[test]
fn what_users_write_becomes_no_markup_and_every_file_is_there() {
    let mut a = Run::new();
    a.task("x", &scene(30, 0), &[]);
    a.task("y", &scene(90, 0), &[]);
    let out = tempfile::tempdir().unwrap();
    let done = run(&request(&[a.path()], out.path()));
    report::write(out.path(), &done.evaluation, Preset::Paper).unwrap();
    let page = std::fs::read_to_string(&done.report.page).unwrap();
    assert!(page.contains("a \\u003cb\\u003edeer") && !page.contains("a <b>deer"));
    for file in ["summary.json", "table.md", "table.csv", "table.tex", "side-by-side.svg", "index.html"] {
        assert!(out.path().join(file).is_file(), "{file}");
    }
    let svg = std::fs::read_to_string(out.path().join("side-by-side.svg")).unwrap();
    assert!(svg.contains("&lt;b&gt;deer&lt;/b&gt;") && svg.contains("data:image/jpeg;base64,"));
}

#[test]
fn a_condition_keeps_ids_and_a_manifest_of_the_first_series() {
    let mut a = Run::new();
    a.task("good", &scene(3, 0), &[("img2img", scene(0, 0))]);
    a.task("bad", &scene(90, 40), &[]);
    let out = tempfile::tempdir().unwrap();
    run(&request(&[a.path()], out.path()));
    let (ids, manifest) = (out.path().join("ids.txt"), out.path().join("kept.jsonl"));
    let wanted = "psnr > 30 and not coverage > 0.5".parse().unwrap();
    assert_eq!(selection::write(out.path(), &wanted, Some(&ids), Some(&manifest)).unwrap(), (1, 2));
    assert_eq!(std::fs::read_to_string(ids).unwrap(), "good\n");
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!((line["custom_id"].as_str(), line["seed"].as_u64()), (Some("good"), Some(7)));
    assert_eq!(line["prompt"], "a <b>deer</b> & good");
}

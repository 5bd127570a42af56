//! Pictures are measured, and made again until they are accepted.

use diorama_core::measure::{Acceptance, MeasureError, Subject, Try};
use diorama_core::outcome::TaskOutcome;
use diorama_core::record::Record;
use diorama_core::run::RunState;

use super::*;

/// Measures how red a flat picture is, which is its seed.
struct Redness;

impl Measurer for Redness {
    fn measures(&self) -> &[&'static str] {
        &["luma_mean", "coverage"]
    }

    fn networks(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn measure(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>, MeasureError> {
        let red = f64::from(subject.picture.data[0]);
        if red == 66.0 {
            return Err(MeasureError::Failed("the test says so".to_owned()));
        }
        let all = [("luma_mean", Some(red)), ("coverage", subject.coverage)];
        let wanted = all.into_iter().filter(|(name, _)| wanted.iter().any(|wanted| wanted == name));
        Ok(wanted.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

/// The pictures of 12 tasks have the seeds 1 to 12: of these the last five are accepted at once, three after one to three
/// tries, and four never.
fn picky(name: &str, format: OutputFormat) -> RunSpec {
    let accept = Acceptance { condition: "luma_mean >= 8".parse().unwrap(), tries: 3 };
    let measures = vec!["luma_mean".to_owned()];
    RunSpec { accept: Some(accept), measures, ..spec(&run_id(name), format, 12) }
}

impl Bench {
    async fn submit_picky(&self, name: &str, format: OutputFormat) -> RunId {
        let spec = picky(name, format);
        let run = spec.run.clone();
        self.submit_spec(spec).await;
        self.publish(&run).await;
        run
    }

    async fn measuring(&self, name: &str) -> Running {
        self.start_with(self.generator("m"), Some(Box::new(Redness)), self.config(name)).await
    }
}

/// Seed, accepted and the seeds of all tries.
fn told(outcome: &TaskOutcome) -> (u64, bool, Vec<u64>) {
    let Outcome::Done { accepted: Some(accepted), tries, measures, .. } = &outcome.outcome else {
        panic!("{outcome:?}");
    };
    let kept: &Try = tries.iter().find(|one| one.seed == outcome.seed).unwrap();
    assert_eq!((&kept.measures, kept.accepted), (measures, *accepted), "the outcome says what the kept try scored");
    (outcome.seed.get(), *accepted, tries.iter().map(|one| one.seed.get()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_accepted_is_made_again_and_the_best_try_is_what_is_stored() {
    for format in [OutputFormat::Files, OutputFormat::Webdataset] {
        let bench = Bench::new();
        let run = bench.submit_picky("r", format).await;
        let worker = bench.measuring("w").await;
        let marker = bench.marker(&run).await;
        let told: Vec<_> = marker.outcomes.iter().map(told).collect();
        for (seed, told) in (1..=12_u64).zip(&told) {
            let last = if seed >= 8 { seed } else { (seed + 3).min(8) };
            assert_eq!(*told, (last, last >= 8, (seed..=last).collect()), "the task of seed {seed}");
        }
        assert_eq!(bench.made.lock().unwrap().len(), told.iter().map(|(_, _, tries)| tries.len()).sum::<usize>());
        let files = bench.files(&run).await;
        for outcome in &marker.outcomes {
            let file = |role: &str| &files[&(outcome.custom_id.to_string(), role.to_owned())];
            let record: Record = serde_json::from_slice(file("record")).unwrap();
            assert_eq!((record.seed, record.task.seed), (outcome.seed, outcome.seed), "it can be replayed");
            let picture = diorama_picture::decode(file("image"), &Default::default()).unwrap();
            assert_eq!(u64::from(picture.data[0]), outcome.seed.get());
        }
        worker.has_ended(1, "committed").await;
        let text = worker.metrics();
        assert!(text.contains(r#"diorama_worker_accepted_total{pool="pool",result="accepted"} 8"#), "{text}");
        assert!(text.contains(r#"diorama_worker_accepted_total{pool="pool",result="kept"} 4"#), "{text}");
        assert!(text.contains(r#"diorama_worker_tries_total{pool="pool"} 18"#), "{text}");
        worker.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_in_the_midst_of_tries_comes_to_the_same_bytes() {
    for (format, batches) in [(OutputFormat::Files, 4), (OutputFormat::Webdataset, 6), (OutputFormat::Webdataset, 8)] {
        let bench = Bench::new();
        let run = bench.submit_picky("r", format).await;
        bench.allow(batches);
        let config = WorkerConfig { drain_grace: Duration::from_millis(50), ..bench.config("first") };
        let first = bench.start_with(bench.generator("m"), Some(Box::new(Redness)), config).await;
        // Six batches make the first pictures, the next ones are tries.
        bench.has_begun(batches + 1).await;
        assert_eq!(first.end().await.handed_back, 1);
        bench.allow(usize::MAX);
        let second = bench.measuring("second").await;
        let outcomes = bench.marker(&run).await.outcomes;
        second.end().await;
        let whole = bench.submit_picky("whole", format).await;
        let third = bench.measuring("third").await;
        let undisturbed = bench.marker(&whole).await.outcomes;
        third.end().await;
        assert_eq!(outcomes.iter().map(told).collect::<Vec<_>>(), undisturbed.iter().map(told).collect::<Vec<_>>());
        assert_eq!(bench.files(&run).await, bench.files(&whole).await, "{format:?} after {batches} batches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_back_keeps_what_is_decided() {
    let bench = Bench::new();
    let run = bench.submit_picky("r", OutputFormat::Webdataset).await;
    // The first pictures of both groups; the next batch is a try.
    bench.allow(6);
    let first = bench.measuring("first").await;
    bench.has_begun(7).await;
    first.drain.cancel();
    bench.allow(usize::MAX);
    assert_eq!(first.end().await.handed_back, 1);
    let part = bench.objects(&run, "parts/").await;
    assert_eq!(part.len(), 1, "what was accepted until then is kept");
    let second = bench.measuring("second").await;
    let outcomes = bench.marker(&run).await.outcomes;
    assert!(outcomes.iter().map(told).all(|(seed, accepted, _)| accepted == (seed >= 8)));
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_has_the_seed_that_was_kept() {
    let bench = Bench::new();
    let spec = RunSpec { compare: vec![Method::Img2img], ..picky("r", OutputFormat::Files) };
    let run = spec.run.clone();
    bench.submit_spec(spec).await;
    bench.publish(&run).await;
    let worker = bench.measuring("w").await;
    let files = bench.files(&run).await;
    let of = |role: &str| files.iter().filter(|((_, of), _)| of == role).map(|(_, bytes)| bytes).collect::<Vec<_>>();
    assert_eq!(of("image").len(), 12);
    assert_eq!(of("image"), of("compare.img2img"), "a flat picture shows its seed");
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_measure_what_a_run_wants_pauses_it_with_what_is_missing() {
    let bench = Bench::new();
    let wanted = vec!["luma_mean".to_owned(), "clip".to_owned()];
    let spec = RunSpec { measures: wanted, ..spec(&run_id("r"), OutputFormat::Files, 4) };
    let run = spec.run.clone();
    bench.submit_spec(spec).await;
    bench.publish(&run).await;
    let worker = bench.measuring("w").await;
    worker.has_ended(1, "let_go").await;
    worker.end().await;
    let history = bench.history(&run).await;
    let reason = history.reason().unwrap();
    assert_eq!(history.state(), Some(RunState::Paused));
    assert!(reason.contains("clip needs the network clip") && !reason.contains("luma_mean"), "{reason}");
    assert!(bench.made.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_cannot_be_measured_fails_its_task_and_one_that_lacks_a_measure_is_told() {
    let bench = Bench::new();
    let wanted = vec!["luma_mean".to_owned(), "coverage".to_owned()];
    let spec = RunSpec { measures: wanted, ..spec(&run_id("r"), OutputFormat::Files, 2) };
    let run = spec.run.clone();
    bench.submit_spec(spec).await;
    let tasks = [Task { seed: Seed::new(66).unwrap(), ..task(0) }, task(1)];
    bench.store(&run).write_input(shard(0), &attempt("w"), &tasks).await.unwrap();
    bench.publish(&run).await;
    let worker = bench.measuring("w").await;
    let outcomes = bench.marker(&run).await.outcomes;
    worker.end().await;
    let Outcome::Failed(error) = &outcomes[0].outcome else { panic!("{outcomes:?}") };
    assert!(error.retryable && error.message.contains("the test says so"), "{error:?}");
    let Outcome::Done { measures, accepted, tries, warnings, .. } = &outcomes[1].outcome else {
        panic!("{outcomes:?}");
    };
    assert_eq!(measures.keys().collect::<Vec<_>>(), ["luma_mean"], "txt2img has no mask");
    assert!(accepted.is_none() && tries.is_empty() && warnings.iter().any(|warning| warning.contains("coverage")));
}

/// Scores every picture alike, with a network of these weights.
struct Networked(&'static str);

impl Measurer for Networked {
    fn measures(&self) -> &[&'static str] {
        &["clip"]
    }

    fn networks(&self) -> BTreeMap<String, String> {
        [("clip", self.0), ("dino", "other")].map(|(name, sha256)| (name.to_owned(), sha256.to_owned())).into()
    }

    fn measure(&mut self, _: &Subject, _: &[String]) -> Result<BTreeMap<String, f64>, MeasureError> {
        Ok([("clip".to_owned(), 26.0)].into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_bound_to_the_networks_that_it_is_measured_with() {
    let bench = Bench::new();
    let spec = RunSpec { measures: vec!["clip".to_owned()], ..spec(&run_id("r"), OutputFormat::Files, 12) };
    let run = spec.run.clone();
    bench.submit_spec(spec).await;
    bench.publish(&run).await;
    bench.allow(1);
    let first = bench.start_with(bench.generator("m"), Some(Box::new(Networked("aa"))), bench.config("first")).await;
    bench.has_begun(2).await;
    first.drain.cancel();
    bench.allow(usize::MAX);
    first.end().await;
    let bound = bench.history(&run).await.model().cloned().unwrap();
    assert_eq!(bound.networks, [("clip".to_owned(), "aa".to_owned())].into(), "no other network decides anything");

    let other = bench.start_with(bench.generator("m"), Some(Box::new(Networked("bb"))), bench.config("other")).await;
    other.has_ended(1, "let_go").await;
    other.end().await;
    let history = bench.history(&run).await;
    assert_eq!(history.state(), Some(RunState::Paused));
    assert!(history.reason().unwrap().contains("network clip aa"), "{:?}", history.reason());

    bench.decide(&run, Act::Resumed).await;
    bench.publish(&run).await;
    let same = bench.start_with(bench.generator("m"), Some(Box::new(Networked("aa"))), bench.config("same")).await;
    assert_eq!(bench.marker(&run).await.model, Some(bound));
    same.end().await;
    assert_eq!(bench.made.lock().unwrap().len(), 12, "the part of the first one is taken over");
}

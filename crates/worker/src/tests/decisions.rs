//! What the log of a run says, done; and what is damaged in it.

use std::sync::OnceLock;

use diorama_backends::progress::Head;
use diorama_core::caps::Caps;
use diorama_core::run::{ModelIdentity, RunState};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_worker_binds_a_run_and_one_with_another_model_pauses_it() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 2).await;
    let worker = bench.worker("w").await;
    let marker = bench.marker(&run).await;
    worker.end().await;
    let bound = bench.history(&run).await.model().cloned();
    assert_eq!(
        bound,
        Some(ModelIdentity { sha256: "m".to_owned(), dtype: "f32".to_owned(), networks: Default::default() })
    );
    assert_eq!(marker.model, bound);

    bench.backends.objects.delete(&bench.store(&run).path(&ObjectKey::Commit(shard(0)))).await.unwrap();
    bench.backends.progress.forget(&run).await.unwrap();
    bench.publish(&run).await;
    let worker = bench.start(bench.generator("another"), bench.config("w")).await;
    worker.has_ended(1, "let_go").await;
    worker.end().await;
    let history = bench.history(&run).await;
    assert_eq!(history.state(), Some(RunState::Paused));
    assert!(history.reason().unwrap().contains("serve the former in this pool"), "{:?}", history.reason());
    assert_eq!(bench.made.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_fit_pause_the_run_once_and_fail_its_tasks_where_its_owner_resumes_it() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 2).await;
    let misfit = || Watched { misfit: true, ..bench.generator("m") };
    let worker = bench.start(misfit(), bench.config("w")).await;
    worker.has_ended(1, "let_go").await;
    worker.end().await;
    assert!(bench.history(&run).await.reason().is_some());
    bench.decide(&run, Act::Resumed).await;
    bench.backends.progress.forget(&run).await.unwrap();
    bench.publish(&run).await;
    let worker = bench.start(misfit(), bench.config("w")).await;
    let marker = bench.marker(&run).await;
    worker.end().await;
    let is_refused = |outcome: &Outcome| matches!(outcome, Outcome::Failed(e) if e.code == ErrorCode::InvalidSettings);
    assert!(marker.outcomes.iter().all(|outcome| is_refused(&outcome.outcome)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_resumed_while_its_shard_was_let_go_gets_it_back() {
    // As the shard's attempt says that it ends, somebody resumes the run.
    let resume: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
    let (rule, armed) = (resume.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = armed.clone();
    let bench = Bench::with_rule(Box::new(move |operation, key| {
        if operation == "put" && key.contains("journal/") && counter.fetch_add(1, Ordering::SeqCst) == 0 {
            rule.get().unwrap()();
        }
        Fault::None
    }));
    let run = bench.submit("r", OutputFormat::Webdataset, 12).await;
    // Past the rule's lock: on the folder itself.
    let backends =
        Backends { objects: Arc::new(FolderObjects::open(bench.folder.path()).unwrap()), ..bench.backends.clone() };
    let (id, store) = (run.clone(), RunStore::shared(backends.objects.clone(), &run));
    let runtime = tokio::runtime::Handle::current();
    let act = move || {
        let (backends, id, store) = (backends.clone(), id.clone(), store.clone());
        let (runtime, resumed) = (runtime.clone(), async move {
            let mut history = store.history().await.unwrap();
            backends.decide(&store, &id, &mut history, "its owner", Act::Resumed).await.unwrap();
        });
        // On a thread of its own: what this one has next in its hands nobody could take from it.
        std::thread::spawn(move || runtime.block_on(resumed)).join().unwrap();
    };
    assert!(resume.set(Box::new(act)).is_ok());
    bench.allow(1);
    let worker = bench.worker("w").await;
    bench.has_begun(2).await;
    bench.decide(&run, Act::Paused { reason: None }).await;
    bench.allow(usize::MAX);
    // Nobody publishes it again.
    bench.marker(&run).await;
    let report = worker.end().await;
    assert_eq!((report.let_go, report.handed_back, report.committed), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_was_not_begun_makes_room_and_one_that_was_goes_on() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 4).await;
    let mut head = Head { decisions: 1, state: RunState::Running, gives_way: true };
    bench.backends.progress.announce(&run, &head).await.unwrap();
    // Bound already: binding it would announce anew.
    bench
        .decide(
            &run,
            Act::Bound {
                model: ModelIdentity { sha256: "m".to_owned(), dtype: "f32".to_owned(), networks: Default::default() },
            },
        )
        .await;
    head.decisions = 2;
    bench.backends.progress.announce(&run, &head).await.unwrap();
    let worker = bench.worker("w").await;
    worker.has_ended(1, "let_go").await;
    assert_eq!((worker.end().await.let_go, bench.depth().await.ready), (1, 0));
    assert!(bench.made.lock().unwrap().is_empty());

    head.gives_way = false;
    bench.backends.progress.announce(&run, &head).await.unwrap();
    bench.publish(&run).await;
    bench.allow(1);
    let worker = bench.worker("w").await;
    bench.has_begun(2).await;
    head.gives_way = true;
    bench.backends.progress.announce(&run, &head).await.unwrap();
    bench.allow(usize::MAX);
    bench.marker(&run).await;
    worker.end().await;
    assert_eq!(bench.made.lock().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_a_run_that_is_over_is_acknowledged_and_leaves_nothing() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 2).await;
    bench.decide(&run, Act::Cancelled).await;
    bench.decide(&run, Act::EndingBegun { state: RunState::Cancelled, void: None }).await;
    let worker = bench.worker("w").await;
    worker.has_ended(1, "decided").await;
    worker.end().await;
    assert_eq!(bench.depth().await.ready, 0);
    assert!(bench.objects(&run, "journal/").await.is_empty() && bench.objects(&run, "files/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_gone_dead_letters_its_own_shard_and_never_ends_the_worker() {
    let keys = [
        ObjectKey::Spec,
        ObjectKey::Decision(0),
        ObjectKey::Input(shard(0), attempt("w")),
        ObjectKey::Commit(shard(0)),
    ];
    let bench = Bench::new();
    for (number, key) in keys.iter().enumerate() {
        let run = bench.submit(&format!("damaged{number}"), OutputFormat::Files, 2).await;
        damage(&*bench.backends.objects, &bench.store(&run), key).await;
    }
    bench.publish(&run_id("gone")).await;
    let well = bench.submit("well", OutputFormat::Files, 2).await;
    let worker = bench.worker("w").await;
    bench.marker(&well).await;
    worker.has_ended(5, "dead_lettered").await;
    assert_eq!(worker.end().await.dead_lettered, 5);
    assert_eq!(bench.depth().await.dead, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_damaged_while_its_shard_runs_never_ends_the_worker() {
    let bench = Bench::new();
    let (run, worker) = bench.in_the_middle(OutputFormat::Files, "w").await;
    damage(&*bench.backends.objects, &bench.store(&run), &ObjectKey::Decision(2)).await;
    let head = Head { decisions: 3, state: RunState::Running, gives_way: false };
    bench.backends.progress.announce(&run, &head).await.unwrap();
    bench.allow(usize::MAX);
    until("it is a dead letter", async || bench.depth().await.dead == 1).await;
    let well = bench.submit("well", OutputFormat::Files, 2).await;
    bench.marker(&well).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_asks_for_more_than_the_worker_may_give_is_paused_with_the_cap_in_the_reason() {
    let small = Caps { steps: 10, shard_size: 4, ..Caps::default() };
    let steps = |steps| Settings { steps: Some(steps), ..task(0).settings };
    let twice = vec![Method::Txt2img, Method::Txt2img];
    let of = |name: &str, tasks: u64| spec(&run_id(name), OutputFormat::Files, tasks);
    for (spec, reason) in [
        (of("shard", 5), "max_shard_size"),
        (RunSpec { settings: steps(11), ..of("steps", 4) }, "max_steps"),
        (RunSpec { compare: twice, ..of("compare", 4) }, "txt2img is named twice"),
    ] {
        let (bench, run) = (Bench::new(), spec.run.clone());
        bench.submit_spec(spec).await;
        bench.publish(&run).await;
        let worker = bench.start(bench.generator("m"), WorkerConfig { caps: small.clone(), ..bench.config("w") }).await;
        worker.has_ended(1, "let_go").await;
        worker.end().await;
        let history = bench.history(&run).await;
        assert_eq!(history.state(), Some(RunState::Paused));
        assert!(history.reason().unwrap().contains(reason), "{:?}", history.reason());
        assert!(bench.made.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_beyond_a_cap_pauses_the_run_and_is_no_death() {
    let (bench, run) = (Bench::new(), run_id("r"));
    bench.submit_spec(spec(&run, OutputFormat::Files, 2)).await;
    let large = Settings { size: Some("1024x1024".parse().unwrap()), ..task(1).settings };
    let tasks = [task(0), Task { settings: large, ..task(1) }];
    bench.store(&run).write_input(shard(0), &attempt("w"), &tasks).await.unwrap();
    bench.publish(&run).await;
    let caps = Caps { size: "512x512".parse().unwrap(), ..Caps::default() };
    let worker = bench.start(bench.generator("m"), WorkerConfig { caps, ..bench.config("w") }).await;
    worker.has_ended(1, "let_go").await;
    worker.end().await;
    let reason = bench.history(&run).await.reason().map(str::to_owned).unwrap();
    assert!(reason.contains("t1: size: 1024x1024") && reason.contains("max_size"), "{reason}");
    // Raised, and resumed: the attempt before ended in good order.
    bench.decide(&run, Act::Resumed).await;
    bench.backends.progress.forget(&run).await.unwrap();
    bench.publish(&run).await;
    let worker = bench.worker("w").await;
    assert!(bench.marker(&run).await.outcomes.iter().all(|outcome| outcome.outcome.is_done()));
    worker.end().await;
}

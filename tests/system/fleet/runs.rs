//! A run from its submission to its downloaded results, and what its owner does to it on the way.

use std::time::{Duration, Instant};

use super::Fleet;
use crate::case::{lines, until};

/// How soon a pause or a cancellation reaches the workers: seconds, and more on a machine that does much else.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn a_fleet_makes_every_picture_once_and_its_results_are_downloaded_whole() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(20);
    assert_eq!(fleet.submit(20), run, "the same manifest with the same settings is the same run");
    let watched = fleet.run(&["watch", &run]);
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    fleet.proves_whole(&run, 20);

    let to = fleet.case.path("results");
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    let results = lines(&to.join("results.jsonl"));
    assert_eq!(results.len(), 20);
    for result in &results {
        let image = result["files"]["image"]["path"].as_str().unwrap();
        assert!(to.join(image).is_file(), "{image} was not extracted");
    }
    std::fs::remove_file(to.join(results[3]["files"]["image"]["path"].as_str().unwrap())).unwrap();
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    assert!(to.join(results[3]["files"]["image"]["path"].as_str().unwrap()).is_file(), "what is missing comes again");

    // As a run on one machine leaves it, though the fleet stored archives.
    for result in &results {
        let id = result["custom_id"].as_str().unwrap();
        let path = |role: &str| result["files"][role]["path"].as_str().unwrap().to_owned();
        assert_eq!([path("image"), path("record")], [format!("images/{id}.png"), format!("records/{id}.json")]);
        assert!(result.get("archive").is_none(), "{result}");
    }
    for name in ["index.html", "summary.json", "results.parquet", "errors.jsonl", "run.json"] {
        assert!(to.join(name).is_file(), "{name} is missing");
    }
    let page = std::fs::read_to_string(to.join("index.html")).unwrap();
    assert!(page.contains("20 of 20 pictures") && page.contains("seagull number 3"), "the gallery shows no row");
    fleet.run(&["report", "results"]).expect(0);

    let kept = fleet.run(&["results", &run, "--to", "kept", "--keep-archives"]).expect(0);
    let results = lines(&fleet.case.path("kept/results.jsonl"));
    for result in &results {
        assert!(fleet.case.path("kept").join(result["archive"].as_str().unwrap()).is_file(), "{}", kept.stderr);
    }
    assert!(!fleet.case.path("kept/images").exists(), "an archive was taken apart");
    let page = std::fs::read_to_string(fleet.case.path("kept/index.html")).unwrap();
    assert!(page.contains("thumbnails/row-003."), "the gallery shows no picture");

    // A folder of one's own, and one of another run, are not written to.
    std::fs::create_dir(fleet.case.path("mine")).unwrap();
    std::fs::write(fleet.case.path("mine/results.jsonl"), "mine").unwrap();
    fleet.run(&["results", &run, "--to", "mine"]).expect(42);
    assert_eq!(std::fs::read(fleet.case.path("mine/results.jsonl")).unwrap(), b"mine");
    let other = fleet.submit_as("other", 1, &[]);
    until("the other run ends", || !fleet.status(&other)["summary"].is_null());
    assert!(fleet.run(&["results", &other, "--to", "results"]).expect(42).stderr.contains("holds the run"));
}

#[test]
fn a_paused_run_waits_and_a_cancelled_one_ends_with_an_outcome_for_every_task() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(400);
    fleet.until_done(&run, 16);
    let asked = Instant::now();
    assert_eq!(fleet.run(&["pause", &run, "--json"]).expect(0).json()["state"], "paused");
    until("the workers let go", || fleet.status(&run)["shards_running"] == 0);
    assert!(asked.elapsed() < AT_ONCE, "the workers let go after {:?}", asked.elapsed());
    let paused = fleet.status(&run)["done"].clone();
    // The worker has nothing else to do than this, and does it.
    let other = fleet.submit_as("other", 80, &[]);
    fleet.proves_whole(&other, 80);
    assert_eq!(fleet.status(&run)["done"], paused, "a paused run went on");
    fleet.run(&["resume", &run]).expect(0);
    fleet.until_done(&run, paused.as_u64().unwrap() + 8);
    let asked = Instant::now();
    fleet.run(&["cancel", &run]).expect(0);
    until("the workers let go", || fleet.status(&run)["shards_running"] == 0);
    assert!(asked.elapsed() < AT_ONCE, "the workers let go after {:?}", asked.elapsed());
    until("the run ends", || !fleet.status(&run)["summary"].is_null());
    let status = fleet.status(&run);
    let (done, failed) = (status["done"].as_u64().unwrap(), status["failed"].as_u64().unwrap());
    assert_eq!(done + failed, 400, "{status}");
    assert_eq!(status["summary"]["failures"]["cancelled"], failed);
    assert!(failed > 0, "the run was over before it was cancelled");
    let verified = fleet.run(&["verify", &run, "--json"]).expect(0).json();
    assert_eq!((&verified["done"], &verified["failed"]), (&done.into(), &failed.into()), "{verified}");
    assert_eq!(fleet.run(&["resume", &run]).code, Some(42), "an ended run was resumed");
}

#[test]
fn a_worker_without_work_for_as_long_as_max_idle_says_ends_and_one_that_works_does_not() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    // One batch takes longer than the worker may be idle.
    let mut command = fleet.working("one", "8000");
    command.args(["--max-idle", "5"]);
    let run = fleet.submit(2);
    let mut worker = fleet.start(command);
    assert_eq!(worker.code(), Some(0), "{}", worker.logged());
    fleet.proves_whole(&run, 2);
}

#[test]
fn a_run_of_lower_priority_goes_on_once_the_higher_one_has_nothing_more_to_publish() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    // Holds both shards of the higher one for minutes, and takes no more.
    let _slow = fleet.start(fleet.working("slow", "60000"));
    let high = fleet.submit_as("high", 16, &["--priority", "9"]);
    until("they are held", || fleet.status(&high)["shards_running"] == 2);
    let low = fleet.submit_as("low", 16, &[]);
    let _quick = fleet.worker("quick");
    fleet.proves_whole(&low, 16);
    assert_eq!(fleet.status(&high)["done"], 0);
}

#[test]
fn a_run_says_what_it_waits_for_to_whoever_asks_whichever_coordinator() {
    let fleet = Fleet::new();
    let mut leader = fleet.serve();
    let high = fleet.submit_as("high", 64, &["--priority", "9"]);
    let waits = |run: &str| fleet.status(run)["waiting"].clone();
    until("nobody is there", || waits(&high) == serde_json::json!({ "for": "worker" }));
    let said = fleet.run(&["status", &high]).expect(0).stdout;
    assert!(said.contains("no workers are connected to pool"), "{said}");
    // Holds two shards for minutes, and takes no more.
    let _slow = fleet.start(fleet.working("slow", "60000"));
    until("two shards are held", || fleet.status(&high)["shards_running"] == 2);
    assert!(waits(&high).is_null(), "somebody is at work for it");
    let low = fleet.submit_as("low", 16, &[]);
    let behind = serde_json::json!({ "for": "run", "run": high, "priority": 9 });
    until("the lower one waits behind it", || waits(&low) == behind);
    for said in [fleet.run(&["status", &low]), fleet.run(&["status"])] {
        let wanted = format!("waiting behind {high} (priority 9)");
        assert!(said.stdout.contains(&wanted), "{}", said.stdout);
    }

    // Another one, which drives nothing yet, knows it as well.
    leader.kill();
    let _other = fleet.serve();
    assert_eq!(waits(&low), behind);
    fleet.run(&["cancel", &high]).expect(0);
    until("nobody is before it", || waits(&low) != behind);
}

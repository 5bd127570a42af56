//! Disks that are full or read-only, each a file system of the test's own in a mount namespace of its own: they vanish
//! with the process.

use diorama_tests::children;

use crate::case::{Case, End, PROGRAM, end, outcomes, pictures};

/// Runs `script` in the case's folder, where it may mount; `$DIORAMA` is the program.
fn with_mounts(case: &Case, script: &str) -> End {
    let shell = case.diorama(&[]);
    let mut command = children::command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-euc", script]).env("DIORAMA", PROGRAM);
    command.current_dir(shell.get_current_dir().unwrap());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    end(&mut command)
}

#[test]
fn on_a_full_disk_a_run_stops_with_the_reason_and_goes_on_when_there_is_space() {
    // A file takes whole pages of 4 KiB, so the same pictures take more space as files than as archives.
    for (format, size) in [("files", "500k"), ("webdataset", "260k")] {
        let case = Case::new();
        case.manifest(40);
        let more = ["--format", format, "--shard-size", "8"];
        end(&mut case.run("calm", &more)).expect(0);
        let over = with_mounts(
            &case,
            &format!(
                "mkdir out && mount -t tmpfs -o size={size} none out
                 run() {{ $DIORAMA run rows.jsonl --out out --engine synthetic --format {format} --shard-size 8; }}
                 run && exit 100 || echo \"full: $?\"
                 ls out/commits | wc -l
                 mount -o remount,size=16m out
                 run
                 cp -r out kept"
            ),
        )
        .expect(0);
        assert!(over.stdout.contains("full: 75"), "{over:?}");
        assert!(over.stderr.contains("free some space and run the same command again"), "{over:?}");
        let before: u32 = over.stdout.lines().nth(1).unwrap().trim().parse().unwrap();
        assert!((1..5).contains(&before), "{before} of 5 shards were committed when the disk was full");
        assert_eq!(outcomes(&case.path("kept")), outcomes(&case.path("calm")), "{format}");
        assert_eq!(pictures(&case.path("kept")), pictures(&case.path("calm")), "{format}");
    }
}

#[test]
fn a_read_only_folder_is_an_error_that_says_so_and_touches_nothing() {
    let case = Case::new();
    case.manifest(12);
    end(case.run("out", &["--shard-size", "2"]).env("DIORAMA_FAULT", "worker.after-ack:3"));
    let over = with_mounts(
        &case,
        "mount --bind out out && mount -o remount,ro,bind out
         $DIORAMA run rows.jsonl --out out --engine synthetic --shard-size 2 || echo \"old: $?\"
         $DIORAMA run rows.jsonl --out out/new --engine synthetic || echo \"new: $?\"",
    )
    .expect(0);
    assert!(over.stdout.contains("old: 42") && over.stdout.contains("new: 42"), "{over:?}");
    assert_eq!(over.stderr.to_lowercase().matches("read-only").count(), 2, "{over:?}");
    end(&mut case.run("out", &["--shard-size", "2"])).expect(0);
    assert_eq!(outcomes(&case.path("out")).len(), 12);
}

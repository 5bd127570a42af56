//! The private services of these tests: whatever ends a test, no process of theirs is left.

use std::fs;
use std::path::Path;

use diorama_tests::children::{self, Process};
use diorama_tests::services::wait_until;

/// Starts all services under a process of their own, their files in `folder`, and waits until they run. Every one of
/// them has `mark` in its environment.
fn start(folder: &Path, mark: &str) -> Process {
    let addresses = folder.join("addresses");
    let mut command = children::command(env!("CARGO_BIN_EXE_diorama-services"));
    command.arg(&addresses).env("DIORAMA_TEST_MARK", mark).env("TMPDIR", folder);
    let services = Process::spawn_with_input(&mut command, "build it: cargo build -p diorama-tests");
    wait_until("the services run", || addresses.exists());
    services
}

/// The names of the processes with `mark` in their environment; those that have ended have none.
fn marked(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let has_mark = |bytes: Vec<u8>| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    processes
        .filter(|process| fs::read(process.join("environ")).is_ok_and(has_mark))
        .filter_map(|process| fs::read_to_string(process.join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn services_leave_no_process_behind_whether_their_test_ends_or_is_killed() {
    for killed in [false, true] {
        let mark = format!("services-of-{}-{killed}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let mut services = start(folder.path(), &mark);
        let running = marked(&mark);
        for name in ["epmd", "redis-server", "diorama-s3", "beam.smp"] {
            assert!(running.iter().any(|running| running == name), "{name} is not among {running:?}");
        }
        match killed {
            true => services.kill(),
            false => drop(services.input()),
        }
        services.until_ended(|| format!("{:?}", marked(&mark)));
        wait_until("every process is gone", || marked(&mark).is_empty());
    }
}

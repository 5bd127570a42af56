//! Private services: each starts on a free port of the loopback interface, keeps its data in a folder of its own, and is
//! killed and swept away on drop. A server that is not installed is a panic with the command that installs it.

pub mod certificates;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod s3;

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a service may take to become ready.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for the end of its input, which is the end of whoever holds the other end, and kills the process group `$1`.
const WATCHDOG: &str = "read _; kill -s KILL -- \"-$1\"";

/// A port of the loopback interface that nobody listens on, and that no connection takes before it is used: systems give
/// connections ports from 32768 on.
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().hash_one(std::process::id());
        let port = 10_000 + (random % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that dies with this value, and with everything that it started; also where the process that holds this
/// value is killed itself, because a watchdog sees that.
pub struct Process {
    child: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `command` in a process group of its own; `install` is what to do where its program is missing.
    pub fn spawn(command: &mut Command, install: &str) -> Self {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started ({error}): {install}"));
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "watchdog", &child.id().to_string()]).process_group(0);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child, watchdog: watchdog.spawn().unwrap() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.end().is_some()
    }

    /// How it ended; `None` while it runs.
    pub fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal to it and to what it started; one that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Waits for its end; its exit code, `None` where a signal killed it.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Stops it where it stands; it does nothing until [`Self::go_on`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen one go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it and everything that it started at once, as a power cut would.
    pub fn kill(&mut self) {
        // First, because the id may be another's once the group is gone.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `ready` holds.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

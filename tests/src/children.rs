//! Programs that tests start. Each has the signals of a program started in a terminal, whatever started the tests; each
//! dies with the value that stands for it; and every wait for one has a bound, and says what it waited for.

#![expect(clippy::disallowed_methods, reason = "the one place that starts programs and waits for them")]

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::SignalKind;

/// How long a program may take to its end; reached only where something hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How soon the output of a killed program ends.
const OUTPUT_ENDS: Duration = Duration::from_secs(10);

/// Lines of a log that a failure shows.
const LAST_LINES: usize = 40;

/// Between two looks at a program.
const LOOK: Duration = Duration::from_millis(2);

/// Waits for the end of its input, which is the end of whoever holds the other end, and kills the process group `$1`.
const WATCHDOG: &str = "read _; kill -s KILL -- \"-$1\"";

/// Signals that shells and `nohup` have background programs ignore, or that end them.
const SIGNALS: [SignalKind; 4] =
    [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];

/// The command of a program, in which no signal is ignored because we ignore it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    give_children_default_signals();
    Command::new(program)
}

/// A signal that a process ignores is ignored in its children too (`make test &` in a script, `nohup`); one that it catches
/// is as by default in them. So what we ignore is caught, to do nothing, as before.
fn give_children_default_signals() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // Tokio's handlers stay for the life of the process. A thread of its own: a test may be inside of a runtime.
        let caught = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            let _inside = runtime.enter();
            for kind in SIGNALS.into_iter().filter(|kind| ignores("self", *kind)) {
                drop(tokio::signal::unix::signal(kind).unwrap());
            }
        });
        caught.join().unwrap();
    });
}

/// Whether a process ignores a signal, by its id or `self`.
pub fn ignores(process: &str, signal: SignalKind) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() >> (signal.as_raw_value() - 1) & 1 == 1
}

/// A process that dies with this value, and with everything that it started; also where the process that holds this
/// value is killed itself, because a watchdog sees that.
pub struct Process {
    child: Child,
    watchdog: Child,
    /// The command, for those who wait.
    name: String,
}

impl Process {
    /// Starts `command` in a process group of its own, without input; `install` is what to do where its program is missing.
    pub fn spawn(command: &mut Command, install: &str) -> Self {
        Self::spawn_with(command, Stdio::null(), install)
    }

    /// Starts `command` like [`Self::spawn`], with an input that ends when [`Self::input`] is dropped.
    pub fn spawn_with_input(command: &mut Command, install: &str) -> Self {
        Self::spawn_with(command, Stdio::piped(), install)
    }

    fn spawn_with(command: &mut Command, input: Stdio, install: &str) -> Self {
        // The command may be one that was made elsewhere.
        give_children_default_signals();
        let child = command.stdin(input).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started ({error}): {install}"));
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "watchdog", &child.id().to_string()]).process_group(0);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
        let name = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        Self { child, watchdog: watchdog.spawn().unwrap(), name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its input, once, where it has one.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it says, once, where its command has a pipe for that.
    pub fn answers(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
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

    /// Waits for its end. Panics after [`PATIENCE`] with the last lines of what it `said`.
    #[track_caller]
    pub fn until_ended(&mut self, said: impl FnOnce() -> String) -> ExitStatus {
        self.ended_within(PATIENCE, said)
    }

    /// Waits for its end for so long. Panics then, with the last lines of what it `said`.
    #[track_caller]
    pub fn ended_within(&mut self, patience: Duration, said: impl FnOnce() -> String) -> ExitStatus {
        match self.end_within(patience) {
            Some(end) => end,
            None => panic!("{} has not ended within {patience:?}; it said last:\n{}", self.name, last_lines(&said())),
        }
    }

    /// How it ended, if it does so in time.
    pub fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.end() {
                None if started.elapsed() < patience => std::thread::sleep(LOOK),
                end => return end,
            }
        }
    }

    /// Waits for its end, and gives what it wrote to those of its outputs that are pipes. One that hangs is killed after
    /// `patience`, and is a panic with its last lines.
    #[track_caller]
    pub fn output(mut self, patience: Duration) -> Output {
        let out = self.child.stdout.take().map(read_all);
        let err = self.child.stderr.take().map(read_all);
        let end = self.end_within(patience);
        if end.is_none() {
            // What it wrote ends with it.
            self.kill();
        }
        let name = &self.name;
        let whole = |read: Option<Receiver<Vec<u8>>>| match read.map(|read| read.recv_timeout(OUTPUT_ENDS)) {
            None => Some(Vec::new()),
            Some(Ok(bytes)) => Some(bytes),
            Some(Err(RecvTimeoutError::Timeout)) => None,
            Some(Err(RecvTimeoutError::Disconnected)) => panic!("the output of {name} cannot be read"),
        };
        let (stdout, stderr) = (whole(out), whole(err));
        let said = || {
            let texts = [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()));
            last_lines(&texts.concat())
        };
        let Some(status) = end else { panic!("{name} has not ended within {patience:?}; it said last:\n{}", said()) };
        let (Some(stdout), Some(stderr)) = (&stdout, &stderr) else {
            panic!("{name} has ended with {status}, and something that it started keeps its output open:\n{}", said())
        };
        Output { status, stdout: stdout.clone(), stderr: stderr.clone() }
    }

    /// Stops it where it stands; it does nothing until [`Self::go_on`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Whether it stands still, stopped by whomever.
    pub fn is_frozen(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // Behind the name, which may hold anything: the state.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Lets a frozen one go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it and everything that it started at once, as a power cut would.
    pub fn kill(&mut self) {
        // First, because the id may be another's once the group is gone. Nothing survives this signal, so both waits are short.
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

/// Runs a command to its end and gives its output; one that hangs is killed and is a panic after [`PATIENCE`].
#[track_caller]
pub fn output(command: &mut Command, install: &str) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::spawn(command, install).output(PATIENCE)
}

/// Reads to the end, on a thread of its own.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() {
            // Nobody listens any more where the test is over.
            let _ = send.send(bytes);
        }
    });
    receive
}

/// The last lines of a log.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What a wait that is too short says.
    fn complaint(wait: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(wait)).expect_err("the wait was long enough");
        *panic.downcast::<String>().unwrap()
    }

    /// The shell is told to ignore the signals, and becomes this test.
    #[test]
    fn a_program_is_stopped_by_ctrl_c_also_where_the_tests_were_started_with_it_ignored() {
        const INSIDE: &str = "DIORAMA_TEST_IGNORES_SIGNALS";
        if std::env::var_os(INSIDE).is_none() {
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' INT QUIT HUP; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
            let name = "a_program_is_stopped_by_ctrl_c_also_where_the_tests_were_started_with_it_ignored";
            shell.args(["--exact", &format!("children::tests::{name}"), "--nocapture"]).env(INSIDE, "1");
            let output = output(&mut shell, "install a shell");
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        assert!(ignores("self", SignalKind::interrupt()), "this test would prove nothing");
        let asleep = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            command
        };
        let mut without = asleep().spawn().unwrap();
        assert!(ignores(&without.id().to_string(), SignalKind::interrupt()), "this test would prove nothing");
        without.kill().unwrap();
        without.wait().unwrap();

        let mut process = Process::spawn(&mut asleep(), "install coreutils");
        for kind in SIGNALS {
            assert!(!ignores(&process.id().to_string(), kind), "{kind:?} is ignored");
        }
        process.signal(Signal::INT);
        let end = process.until_ended(String::new);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&end), Some(Signal::INT.as_raw()));
    }

    #[test]
    fn a_wait_that_is_over_says_what_it_waited_for_and_what_that_said_last() {
        let brief = Duration::from_millis(200);
        let mut process = Process::spawn(command("sleep").arg("600"), "install coreutils");
        let lines: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let said = complaint(|| {
            process.ended_within(brief, || lines);
        });
        assert!(said.contains("sleep 600 has not ended within 200ms"), "{said}");
        assert!(said.contains("line 99") && said.contains("line 60") && !said.contains("line 59"), "{said}");

        let mut talking = command("sh");
        talking.args(["-c", "echo heard; echo noted >&2; sleep 600"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let talking = Process::spawn(&mut talking, "install a shell");
        let said = complaint(|| drop(talking.output(Duration::from_secs(2))));
        assert!(said.contains("has not ended within 2s") && said.contains("heard\nnoted"), "{said}");
    }

    #[test]
    fn a_program_that_is_dropped_leaves_nothing_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let mut command = command("sh");
        command.args(["-c", "sleep 600 & echo $! > id.part; mv id.part id; wait"]).current_dir(folder.path());
        let process = Process::spawn(&mut command, "install a shell");
        crate::services::wait_until("the grandchild runs", || file.exists());
        let grandchild = format!("/proc/{}/stat", std::fs::read_to_string(file).unwrap().trim());
        drop(process);
        // It may wait for a moment for whoever collects orphans.
        let lives = || std::fs::read_to_string(&grandchild).is_ok_and(|stat| !stat.contains(") Z "));
        crate::services::wait_until("the grandchild is gone", || !lives());
    }
}

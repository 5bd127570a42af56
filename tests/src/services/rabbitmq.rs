//! A private RabbitMQ: a node and a port mapper of its own, everything in one folder.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{Process, free_port, wait_until};

const BIN: &str = "/usr/lib/rabbitmq/bin";
const INSTALL: &str =
    "install it: apt-get install -y --no-install-recommends rabbitmq-server (or scripts/setup-services)";

/// A broker.
pub struct RabbitMq {
    folder: TempDir,
    node: String,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    process: Option<Process>,
}

impl RabbitMq {
    /// Starts a broker and waits until it takes connections.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-rabbitmq-").tempdir().unwrap();
        let (port, dist_port, epmd_port) = (free_port(), free_port(), free_port());
        let node = format!("diorama{port}@localhost");
        fs::write(folder.path().join("rabbitmq.conf"), "loopback_users = none\nlog.file.level = warning\n").unwrap();
        fs::write(folder.path().join("enabled_plugins"), "[].\n").unwrap();
        let mut broker = Self { folder, node, port, dist_port, epmd_port, process: None };
        broker.start_again();
        broker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of RabbitMQ that speaks of this node.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(BIN).join(program));
        command
            .env("HOME", self.folder.path())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", self.path("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq.conf"))
            .env("RABBITMQ_PID_FILE", self.path("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts the killed broker on the same data and port.
    pub fn start_again(&mut self) {
        let was_here = self.path("mnesia").exists();
        let mut command = self.command("rabbitmq-server");
        // A group of its own: the server is a shell script, and what it starts must die with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = Process::spawn(&mut command, INSTALL);
        let port = self.port;
        wait_until("RabbitMQ takes connections", || {
            assert!(!process.has_ended(), "RabbitMQ ended at once; its log is in {}", self.path("log").display());
            answers(port)
        });
        self.process = Some(process);
        if was_here {
            self.elect();
        }
    }

    /// After a kill, 3.10.8 leaves some quorum queues of a single node without a leader for ever (rabbitmq-server issue
    /// 10070); an operator calls for an election, and so do we.
    fn elect(&self) {
        let call = "lists:all(fun(Q) -> P = amqqueue:get_pid(Q), ra:trigger_election(P), timer:sleep(500), \
                    case ra:members(P, 2000) of {ok, _, _} -> true; _ -> false end end, \
                    [Q || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue]).";
        wait_until("every queue has a leader", || {
            let asked = self.command("rabbitmqctl").args(["eval", call]).stdout(Stdio::piped()).output().unwrap();
            String::from_utf8_lossy(&asked.stdout).trim() == "true"
        });
    }

    /// Kills the broker, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The group: the script, and the Erlang machine that it started.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", process.id())]).status();
            process.kill();
        }
        let port = self.port;
        wait_until("RabbitMQ is gone", || TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    /// Sends a signal to the script and to the Erlang machine that it started.
    pub fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().expect("RabbitMQ runs").id();
        if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// The broker's address, with its user and password.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Whether a broker answers the first bytes of AMQP; one that is still starting takes connections and says nothing.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut first = [0; 1];
    stream.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && stream.read_exact(&mut first).is_ok() && first[0] == 1
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill();
        // The port mapper outlives the node.
        let epmd = Command::new("epmd")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .args(["-kill"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = epmd;
    }
}

//! A private RabbitMQ: a node and a port mapper of its own, everything in one folder.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{free_port, wait_until, wait_until_or};
use crate::children::{self, Process, last_lines};

/// Where Debian's package has its programs; `RABBITMQ_BIN` names another version's (`scripts/setup-rabbitmq4`).
const BIN: &str = "/usr/lib/rabbitmq/bin";
const INSTALL: &str =
    "install it: apt-get install -y --no-install-recommends rabbitmq-server (or scripts/setup-services)";

/// The user of every broker here; also the name of its vhost.
pub const USER: &str = "diorama";

pub const PASSWORD: &str = "not-so-secret-password-of-the-tests";

/// A broker.
pub struct RabbitMq {
    process: Option<Process>,
    /// Erlang's port mapper. A node that finds none starts one that nobody ends.
    _epmd: Process,
    folder: TempDir,
    node: String,
    port: u16,
    tls_port: Option<u16>,
    dist_port: u16,
    epmd_port: u16,
}

impl RabbitMq {
    /// Starts a broker and waits until it takes connections.
    pub fn start() -> Self {
        Self::start_on(None, "")
    }

    /// Starts a broker that also takes connections over TLS.
    pub fn start_with_tls(certificates: &Certificates) -> Self {
        let port = free_port();
        let settings = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
            certificates.authority().display(),
            certificates.server().display(),
            certificates.key().display(),
        );
        Self::start_on(Some(port), &settings)
    }

    fn start_on(tls_port: Option<u16>, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-rabbitmq-").tempdir().unwrap();
        let (port, dist_port, epmd_port) = (free_port(), free_port(), free_port());
        let node = format!("diorama{port}@localhost");
        let settings = format!(
            "default_user = {USER}\ndefault_pass = {PASSWORD}\ndefault_vhost = {USER}\nlog.file.level = warning\n{settings}"
        );
        fs::write(folder.path().join("rabbitmq.conf"), settings).unwrap();
        fs::write(folder.path().join("enabled_plugins"), "[].\n").unwrap();
        let mut epmd = children::command("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]);
        let epmd = Process::spawn(epmd.stdout(Stdio::null()).stderr(Stdio::null()), INSTALL);
        wait_until("epmd listens", || TcpStream::connect(("127.0.0.1", epmd_port)).is_ok());
        let mut broker = Self { process: None, _epmd: epmd, folder, node, port, tls_port, dist_port, epmd_port };
        broker.start_again();
        broker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of RabbitMQ that speaks of this node.
    fn command(&self, program: &str) -> Command {
        let mut command = children::command(bin().join(program));
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
            .env("ERL_CRASH_DUMP", self.path("erl_crash.dump"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs `rabbitmqctl` on this broker and gives what it prints.
    pub fn control(&self, arguments: &[&str]) -> String {
        let (done, said) = self.try_to(arguments);
        assert!(done, "rabbitmqctl {arguments:?}: {said}");
        said
    }

    /// Runs `rabbitmqctl`; whether it did what it should, and what it prints, with its complaints where it did not.
    fn try_to(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command("rabbitmqctl");
        let asked = children::output(command.args(arguments), INSTALL);
        let (out, err) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
        let done = asked.status.success();
        (done, if done { out.trim().to_owned() } else { format!("{out}{err}") })
    }

    /// Loses what waits in a queue, where there is one.
    pub fn purge(&self, queue: &str) {
        let (purged, said) = self.try_to(&["purge_queue", "--vhost", USER, queue]);
        assert!(purged || said.contains("not_found"), "rabbitmqctl purge_queue {queue}: {said}");
    }

    /// Starts the killed broker on the same data and port.
    pub fn start_again(&mut self) {
        let was_here = self.path("mnesia").exists();
        let mut process = Process::spawn(&mut self.command("rabbitmq-server"), INSTALL);
        let port = self.port;
        let is_ready = || {
            assert!(!process.has_ended(), "RabbitMQ ended at once:\n{}", last_lines(&self.log()));
            answers(port)
        };
        wait_until_or("RabbitMQ takes connections", is_ready, || self.log());
        // RabbitMQ 4 begins to listen on one port after the other.
        if let Some(port) = self.tls_port {
            wait_until("RabbitMQ listens for TLS", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        self.process = Some(process);
        if was_here {
            self.elect();
        }
    }

    /// A queue whose place was not kept yet (see [`Self::wait_until_kept`]) comes back empty and without a leader; an
    /// operator calls for an election, and so do we.
    fn elect(&self) {
        let call = "lists:all(fun(Q) -> P = amqqueue:get_pid(Q), Led = fun() -> \
                    case ra:members(P, 2000) of {ok, _, _} -> true; _ -> false end end, \
                    Led() orelse begin ra:trigger_election(P), timer:sleep(500), Led() end end, \
                    [Q || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue]).";
        wait_until("every queue has a leader", || self.control(&["eval", call]) == "true");
    }

    /// Waits until a kill loses nothing of a queue. RabbitMQ 3.10.8 notes the place of a new quorum queue on disk some
    /// time after the queue was declared, in `names.dets`, which counts only once it was closed properly: a second after
    /// the last change. Killed before that, it does not find what the queue holds, confirmed messages included, and
    /// starts it as a new one.
    pub fn wait_until_kept(&self, queue: &str) {
        let names = self.path("mnesia").join(&self.node).join("quorum").join(&self.node).join("names.dets");
        let name = format!("{USER}_{queue}");
        wait_until("the queue's place is on disk", || {
            let bytes = fs::read(&names).unwrap_or_default();
            // The third word of the header says whether the file is complete.
            let complete = bytes.get(8..12) == Some(&[0, 0, 0, 1]);
            complete && bytes.windows(name.len()).any(|window| window == name.as_bytes())
        });
    }

    /// Kills the broker, as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
        let port = self.port;
        wait_until("RabbitMQ is gone", || TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("RabbitMQ runs").signal(signal);
    }

    /// The broker's address, with its user and password.
    pub fn url(&self) -> String {
        format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{}/{USER}", self.port)
    }

    /// Its address over TLS. Its certificate is for `localhost`.
    pub fn tls_url(&self) -> String {
        let port = self.tls_port.expect("the broker was started with TLS");
        format!("amqps://{USER}:{PASSWORD}@localhost:{port}/{USER}")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.path("log")).into_iter().flatten().flatten();
        files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }
}

fn bin() -> PathBuf {
    std::env::var_os("RABBITMQ_BIN").map_or_else(|| PathBuf::from(BIN), PathBuf::from)
}

/// Whether a broker answers the first bytes of AMQP; one that is still starting takes connections and says nothing.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut first = [0; 1];
    stream.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && stream.read_exact(&mut first).is_ok() && first[0] == 1
}

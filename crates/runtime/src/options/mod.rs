//! Every key that is no setting of the method, declared once: its name, type, range and default, whether it is secret, and
//! for whom it is. Flags, environment variables, files and `diorama config` all follow from here.
//!
//! Secrets come from the environment, from a file that a `…_file` key names, or from the configuration file; they are
//! never shown.

mod choice;

use std::path::PathBuf;

use diorama_core::address::Place;
use diorama_core::caps::Caps;
use diorama_core::id::{Pool, Seed, WorkerId};
use diorama_core::manifest::ExtraColumns;
use diorama_core::price::PoolPrice;
use diorama_core::range::{self, Range};
use diorama_core::run::OutputFormat;
use diorama_core::settings::{Key, Kind, Method, Size, reads};
use secrecy::SecretString;
use strum::VariantNames;

pub use self::choice::{DeviceName, Dtype, EngineKind, Kernels, OnInvalid, Variant};
use crate::keys::keys;

/// About thirty years: seconds that are never meant to pass.
const EVER: f64 = 1e9;

keys! {
    /// What makes the pictures, and on which device.
    pub struct EngineOptions {
        /// What makes the pictures; synthetic needs no model and is for load-testing everything else.
        engine: EngineKind = EngineKind::Libtorch, "NAME", Kind::OneOf(EngineKind::VARIANTS);
        /// The model's folder, in diffusers layout, with safetensors.
        model: Option<PathBuf>, "DIR", Kind::Path("a folder");
        /// Which of the model's weight files to read, such as fp16 (unset: the plain ones, or the only ones there are).
        variant: Option<Variant>, "NAME",
            Kind::Text("the part of a file's name between its stem and .safetensors, such as fp16");
        /// The device: auto (the first GPU if there is one, else the CPU), cpu, cuda (the first GPU) or cuda:N.
        device: DeviceName = "auto", "DEVICE", Kind::Text("auto, cpu, cuda or cuda:N");
        /// The precision that the model computes in: auto (f32 on a CPU, bf16 on a GPU), f32, bf16 or f16.
        dtype: Dtype = Dtype::Auto, "TYPE", Kind::OneOf(Dtype::VARIANTS);
        /// Whose GPU kernels run besides cuDNN's and cuBLAS's: auto (our own if they agree with libtorch's when the model is
        /// loaded, else libtorch's) or libtorch.
        kernels: Kernels = Kernels::Auto, "NAME", Kind::OneOf(Kernels::VARIANTS);
        /// Tasks per padded batch (unset: 4 on a CPU, 1 to 16 on a GPU, by its memory).
        batch_size: Option<usize>, "N", Kind::Whole(Range::new(1.0, 256.0));
        /// For the synthetic engine: milliseconds per batch.
        synthetic_latency: u64 = 0, "MS", Kind::Whole(Range::new(0.0, 60_000.0));
        /// For the synthetic engine: the share of tasks that fail.
        synthetic_fail_rate: f64 = 0.0, "F", Kind::Real(Range::new(0.0, 1.0));
    }
}

keys! {
    /// How a run is cut, stored and tried again.
    pub struct RunOptions {
        /// The seed of a single picture, or the one from which rows without a seed derive theirs.
        seed: Seed = 0, "N", Kind::Whole(range::SEED);
        /// How pictures are stored: files (images/ID.png …) or tar archives.
        format: OutputFormat = OutputFormat::Files, "NAME", Kind::OneOf(OutputFormat::VARIANTS);
        /// Whether to store the reference, as it was used, beside each picture.
        keep_references: bool = false, "BOOL", Kind::Switch;
        /// Other methods to make beside each picture, such as img2img,img2img-reduced.
        compare: Vec<Method> = Vec::<Method>::new(), "NAMES", Kind::ManyOf(Method::VARIANTS);
        /// What is measured of each picture, such as clip,coverage (docs/evaluation.md).
        measures: Vec<String> = Vec::<String>::new(), "NAMES", Kind::Names("a list of measures such as clip,coverage");
        /// What a picture must fulfil, such as 'clip > 26 and coverage < 0.6'; one that does not is made again with the next
        /// seeds, and the best is kept.
        accept: Option<String>, "CONDITION", Kind::Text("a condition such as \"clip > 26 and coverage < 0.6\"");
        /// How many times a picture that is not accepted is remade.
        accept_tries: u32 = range::ACCEPT_TRIES_DEFAULT, "N", Kind::Whole(range::ACCEPT_TRIES);
        /// What to do with a manifest with bad rows: start nothing, or run the good rows and list the bad ones.
        on_invalid: OnInvalid = OnInvalid::Stop, "NAME", Kind::OneOf(OnInvalid::VARIANTS);
        /// What to do with a manifest's extra columns: carry them into records and results, ignore them, or refuse the
        /// manifest.
        extra_columns: ExtraColumns = ExtraColumns::Carry, "NAME", Kind::OneOf(ExtraColumns::VARIANTS);
        /// Tasks per shard, the most that is lost when a process dies.
        shard_size: u32 = 64, "N", Kind::Whole(range::SHARD_SIZE);
        /// Retry rounds for tasks that failed but may work.
        max_rounds: u32 = 2, "N", Kind::Whole(range::MAX_ROUNDS);
        /// Seconds before the first retry round, doubled for each later one.
        retry_delay: f64 = 5.0, "F", Kind::Real(range::RETRY_DELAY);
    }
}

keys! {
    /// What an operator lets a run ask of the workers.
    pub struct CapOptions {
        /// The most tasks that a shard may have.
        max_shard_size: u32 = 100_000, "N", Kind::Whole(range::SHARD_SIZE);
        /// The most retry rounds that a run may have.
        max_retry_rounds: u32 = 10, "N", Kind::Whole(range::MAX_ROUNDS);
        /// The largest picture, in pixels, that a row may ask for.
        max_size: Size = "4096x4096", "WxH", Kind::Text("a size such as \"1024x1024\"");
        /// The most steps that a row may ask for.
        max_steps: u32 = 1000, "N", Kind::Whole(Range::new(1.0, 1000.0));
        /// The most times that a run may have a picture remade.
        max_accept_tries: u32 = 10, "N", Kind::Whole(range::ACCEPT_TRIES);
    }
}

impl CapOptions {
    /// The caps as a run is held to them.
    pub fn caps(&self) -> Caps {
        Caps {
            shard_size: self.max_shard_size,
            retry_rounds: self.max_retry_rounds,
            size: self.max_size,
            steps: self.max_steps,
            accept_tries: self.max_accept_tries,
        }
    }
}

keys! {
    /// How references are fetched over `https://` and `s3://`, and where they are kept.
    pub struct ReferenceOptions {
        /// Whether references may come from private addresses and over plain http://.
        allow_private_references: bool = false, "BOOL", Kind::Switch;
        /// Seconds that fetching a reference may take, including retries and waits.
        reference_timeout: f64 = 60.0, "F", Kind::Real(Range::new(0.1, 3600.0));
        /// The cache folder for fetched references (unset: below scratch, or ~/.cache/diorama/references).
        reference_cache: Option<PathBuf>, "DIR", Kind::Path("a folder");
        /// The largest size of the cache in bytes; 0 disables it.
        reference_cache_bytes: u64 = 4_u64 << 30, "N", Kind::Whole(Range::new(0.0, (1_u64 << 50) as f64));
        /// Seconds after which a cached URL is revalidated.
        reference_cache_seconds: f64 = 86_400.0, "F", Kind::Real(Range::new(0.0, EVER));
    }
}

keys! {
    /// Where RabbitMQ, Redis and the object store are.
    pub struct ServiceOptions {
        /// RabbitMQ, as amqp://user:password@host:5672/vhost or amqps://.
        amqp_url: Option<SecretString>, "URL", Kind::Secret { what: "an amqp:// or amqps:// address", flag: true },
            file amqp_url_file: "A file that holds the address of RabbitMQ";
        /// Seconds between heartbeats of a connection to RabbitMQ; after two missed ones it is closed.
        amqp_heartbeat: u16 = 20, "N", Kind::Whole(Range::new(1.0, 600.0));
        /// Redis, as redis://:password@host:6379/0 or rediss://.
        redis_url: Option<SecretString>, "URL", Kind::Secret { what: "a redis:// or rediss:// address", flag: true },
            file redis_url_file: "A file that holds the address of Redis";
        /// Whether Redis is a cluster.
        redis_cluster: bool = false, "BOOL", Kind::Switch;
        /// The bucket.
        s3_bucket: Option<String>, "NAME", Kind::Text("a bucket");
        /// The prefix of every key.
        s3_prefix: String = "", "TEXT", Kind::Text("a prefix");
        /// The store's address, if it is not Amazon's.
        s3_endpoint: Option<String>, "URL", Kind::Text("an http:// or https:// address");
        /// The region.
        s3_region: String = "us-east-1", "NAME", Kind::Text("a region");
        /// The access key's id (unset: what the AWS SDK finds: environment, profile, web identity, container or instance role).
        s3_access_key: Option<String>, "ID", Kind::Text("a key's id");
        /// The secret key of s3_access_key (or AWS_SECRET_ACCESS_KEY).
        s3_secret_key: Option<SecretString>, "KEY", Kind::Secret { what: "a key", flag: false },
            file s3_secret_key_file: "A file that holds the secret key of s3_access_key (or AWS_SECRET_ACCESS_KEY)";
        /// The session token, if s3_access_key is a temporary key.
        s3_session_token: Option<SecretString>, "TOKEN", Kind::Secret { what: "a session token", flag: false },
            file s3_session_token_file: "A file that holds the session token, if s3_access_key is a temporary key";
        /// The profile in ~/.aws/config that provides the key, instead of s3_access_key.
        s3_profile: Option<String>, "NAME", Kind::Text("a profile's name");
        /// The access key's id for s3:// references and manifests (unset: the fleet's own key).
        reference_s3_access_key: Option<String>, "ID", Kind::Text("a key's id");
        /// The secret key of reference_s3_access_key.
        reference_s3_secret_key: Option<SecretString>, "KEY", Kind::Secret { what: "a key", flag: false },
            file reference_s3_secret_key_file: "A file that holds the secret key of reference_s3_access_key";
        /// The profile in ~/.aws/config for s3:// references and manifests, instead of reference_s3_access_key.
        reference_s3_profile: Option<String>, "NAME", Kind::Text("a profile's name");
        /// Whether addresses are endpoint/bucket/key rather than bucket.endpoint/key.
        s3_path_style: bool = false, "BOOL", Kind::Switch;
        /// Buckets and prefixes that s3:// manifests and references may name (empty: none).
        s3_readable: Vec<Place> = Vec::<Place>::new(), "PLACES", Kind::Names("a list such as pictures,shared/team-a");
        /// Certificates (PEM) trusted in addition to the system's, for every service.
        ca_file: Option<PathBuf>, "FILE", Kind::Path("a file");
    }
}

keys! {
    /// Which coordinator a client asks.
    pub struct ClientOptions {
        /// The coordinator's address.
        coordinator: String = "http://127.0.0.1:8700", "URL", Kind::Text("an http:// or https:// address");
        /// The token for the coordinator.
        token: Option<SecretString>, "TOKEN", Kind::Secret { what: "a token", flag: false },
            file token_file: "A file that holds the token for the coordinator (or DIORAMA_TOKEN)";
    }
    also {
        /// The pool that a run is submitted to.
        pool: Pool,
        /// Certificates (PEM) trusted in addition to the system's.
        ca_file: Option<PathBuf>
    }
}

keys! {
    /// How a worker works.
    pub struct WorkerOptions {
        /// The pool that a worker serves, or that a run is submitted to.
        pool: Pool = "default", "NAME", Kind::Text("a pool's name: letters, digits, '.', '_' and '-'");
        /// The worker's name (unset: a generated one).
        worker: Option<WorkerId>, "NAME", Kind::Text("a worker's name: letters, digits, '.', '_' and '-'");
        /// Folders that hold networks (clip, lpips-vgg, judge …) for measuring pictures.
        networks: Vec<PathBuf> = Vec::<PathBuf>::new(), "DIRS", Kind::Names("a list of folders such as models/eval");
        /// The folder where files are prepared before they are stored (unset: the system's temporary folder).
        scratch: Option<PathBuf>, "DIR", Kind::Path("a folder");
        /// Seconds without work after which the worker exits; 0 means never.
        max_idle: f64 = 0.0, "F", Kind::Real(Range::new(0.0, EVER));
        /// Seconds between the worker's heartbeats.
        heartbeat: f64 = 5.0, "F", Kind::Real(Range::new(0.1, 60.0));
        /// The address for Prometheus and probes, such as 0.0.0.0:9464 (unset: none for a worker, the API's for a coordinator).
        metrics_listen: Option<String>, "HOST:PORT", Kind::Text("an address such as 0.0.0.0:9464");
    }
}

keys! {
    /// How a coordinator serves.
    pub struct CoordinatorOptions {
        /// The API's listening address.
        listen: String = "127.0.0.1:8700", "HOST:PORT", Kind::Text("an address such as 127.0.0.1:8700");
        /// The API's tokens; without this file the API listens on loopback only.
        tokens_file: Option<PathBuf>, "FILE", Kind::Path("a file");
        /// Whether the API may listen beyond loopback although it does not speak TLS; set it only behind an ingress that
        /// does.
        insecure: bool = false, "BOOL", Kind::Switch;
        /// A folder of references shared by the coordinator and all workers.
        reference_root: Option<PathBuf>, "DIR", Kind::Path("a folder");
        /// The declared pools, besides those that workers serve; /metrics and /v1/pools always show them (empty: any pool is
        /// allowed).
        pools: Vec<Pool> = Vec::<Pool>::new(), "NAMES", Kind::Names("a list of pools' names");
        /// What a worker of each pool costs per hour, in any currency, to show what runs cost (empty: no costs are shown).
        prices: Vec<PoolPrice> = Vec::<PoolPrice>::new(), "PRICES", Kind::Names("a list such as default=2.50,spot=0.90");
        /// Shards of a pool that may be queued or in progress at a time.
        window: u32 = 256, "N", Kind::Whole(Range::new(1.0, 1_000_000.0));
        /// Seconds after which another coordinator takes over from a silent one.
        lease: f64 = 10.0, "F", Kind::Real(Range::new(1.0, 300.0));
        /// Seconds after which a published shard that nobody holds is republished.
        publish_again: f64 = 60.0, "F", Kind::Real(Range::new(1.0, 86_400.0));
        /// Open connections to the API; never more than half of the process's file descriptors.
        max_connections: usize = 1024, "N", Kind::Whole(Range::new(1.0, 1_000_000.0));
        /// Open connections per address; behind a proxy all have the proxy's address.
        max_connections_per_address: usize = 256, "N", Kind::Whole(Range::new(1.0, 1_000_000.0));
        /// Concurrent requests per token.
        max_requests_per_token: usize = 32, "N", Kind::Whole(Range::new(1.0, 10_000.0));
        /// The largest manifest, in bytes.
        max_manifest_bytes: u64 = 16_u64 << 30, "N", Kind::Whole(Range::new(1.0, (1_u64 << 50) as f64));
        /// The largest uploaded reference, in bytes.
        max_blob_bytes: u64 = 256_u64 << 20, "N", Kind::Whole(Range::new(1.0, (1_u64 << 40) as f64));
        /// Seconds for which what belongs to no run, or to an incomplete submission, is kept before it is collected.
        gc_grace: f64 = 86_400.0, "F", Kind::Real(Range::new(0.0, 31_536_000.0));
    }
    also {
        /// The address for probes and Prometheus, answered from memory, separately from the API (unset: the API's).
        metrics_listen: Option<String>,
        /// The folder where uploads and final files are prepared (unset: the system's temporary folder).
        scratch: Option<PathBuf>,
        /// Whether http:// references are accepted, because the workers fetch them.
        allow_private_references: bool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_that_torch_knows_and_a_variant_a_part_of_a_files_name() {
        let device = |text: &str| reads::<DeviceName>(&text.into());
        assert!(["auto", "cpu", "cuda", "cuda:0", "cuda:12"].map(device).iter().all(|fine| *fine));
        assert!(!["", "tpu", "cuda:", "cuda:-1", "cuda:x"].map(device).iter().any(|fine| *fine));
        let variant = |text: &str| reads::<Variant>(&text.into());
        assert!(variant("fp16") && variant("non_ema-1.0") && !variant("") && !variant("../fp16"));
    }
}

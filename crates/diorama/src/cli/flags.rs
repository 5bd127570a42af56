//! The flags that set keys of the configuration, in groups that commands share. Each is text here.

use clap::Args;

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident under $heading:literal { $($(#[$fdoc:meta])* $field:ident: $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Args)]
        #[command(next_help_heading = $heading)]
        pub(super) struct $name { $($(#[$fdoc])* #[arg(long, value_name = $value, allow_negative_numbers = true)] $field: Option<String>),* }

        impl $name {
            /// The keys that were given, with their texts.
            pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
                [$((stringify!($field), &self.$field)),*]
                    .into_iter()
                    .filter_map(|(key, text)| Some((key, text.clone()?)))
                    .collect()
            }
        }
    };
}

flags! {
    /// The settings of the method.
    MethodFlags under "Method" {
        /// abs-grad-sam, img2img, img2img-reduced or txt2img
        method: "NAME",
        /// default or paper
        preset: "NAME",
        /// Steps of the whole schedule: 1 to 1000
        steps: "N",
        /// How much of the schedule runs: above 0, at most 1
        strength: "F",
        /// Classifier-free guidance scale: 0 to 100
        guidance: "F",
        /// What should not appear
        negative_prompt: "TEXT",
        /// Steps before which the reference's latents are put back outside the mask, such as 5,18,28
        edit_steps: "N,N",
        /// k in `score > mean + k·std`: -10 to 10
        threshold: "F",
        /// How often the mask is dilated: 0 to 64
        dilation: "N",
        /// σ of the blur over the score, in latent elements: 0 to 50
        blur: "F",
        /// Layers that the score is taken from: last, auto or diffusers paths joined by commas
        layers: "LAYERS",
        /// abs-grad, relu-grad, attention or guidance-difference
        score: "NAME",
        /// Probes of the estimator, for layers without a closed form: 1 to 4096
        probes: "N",
        /// Where denoising starts: reference or noise
        start: "NAME",
        /// ddpm, ddim, euler or dpmpp-2m
        scheduler: "NAME",
        /// The picture's size, each side a multiple of 8, such as 512x512
        size: "WxH",
        /// Puts the reference's pixels back outside the mask, with an edge this many pixels soft: 0 to 256
        paste_back: "F",
    }
}

flags! {
    /// What makes the pictures.
    EngineFlags under "Engine" {
        /// The model's folder, in the layout of diffusers
        model: "DIR",
        /// Which of the model's weight files are read, such as fp16 (default: the plain ones, else the only ones there are)
        variant: "NAME",
        /// auto (a GPU where there is one), cpu, cuda or cuda:N
        device: "DEVICE",
        /// f32, bf16 or f16 (default: f32 on a CPU, bf16 on a GPU)
        dtype: "TYPE",
        /// Tasks in a batch: 1 to 256; pictures do not depend on it
        batch_size: "N",
        /// libtorch, or synthetic: no model, for load tests of everything around it; its records say so
        engine: "NAME",
        /// Milliseconds that a batch of the synthetic engine takes
        synthetic_latency: "MS",
        /// The share of tasks that the synthetic engine fails: 0 to 1
        synthetic_fail_rate: "F",
    }
}

flags! {
    /// Where RabbitMQ, Redis and the object store are. Secrets are better in the environment or in a file.
    ServiceFlags under "Services" {
        /// RabbitMQ: amqp://user:password@host:5672/vhost or amqps://
        amqp_url: "URL",
        /// A file that holds it
        amqp_url_file: "FILE",
        /// Seconds between two signs of life of a connection to RabbitMQ; after two without one it is gone: 1 to 600
        amqp_heartbeat: "N",
        /// Redis: redis://:password@host:6379/0 or rediss://
        redis_url: "URL",
        /// A file that holds it
        redis_url_file: "FILE",
        /// Whether Redis is a cluster: true or false
        redis_cluster: "BOOL",
        /// The bucket
        s3_bucket: "NAME",
        /// What every key begins with
        s3_prefix: "TEXT",
        /// The store's address, where it is not Amazon's
        s3_endpoint: "URL",
        /// The region
        s3_region: "NAME",
        /// The access key's id (or AWS_ACCESS_KEY_ID)
        s3_access_key: "ID",
        /// A file that holds the secret key (or AWS_SECRET_ACCESS_KEY)
        s3_secret_key_file: "FILE",
        /// endpoint/bucket/key rather than bucket.endpoint/key: true or false
        s3_path_style: "BOOL",
        /// Certificates (PEM) trusted beside the system's, for all three
        ca_file: "FILE",
    }
}

flags! {
    /// Which coordinator, beside services that have certificates of their own.
    CoordinatorFlags under "Coordinator" {
        /// Its address
        coordinator: "URL",
        /// A file that holds the token for it (or DIORAMA_TOKEN)
        token_file: "FILE",
    }
}

flags! {
    /// Which coordinator.
    ClientFlags under "Coordinator" {
        /// Its address
        coordinator: "URL",
        /// A file that holds the token for it (or DIORAMA_TOKEN)
        token_file: "FILE",
        /// Certificates (PEM) trusted beside the system's
        ca_file: "FILE",
    }
}

flags! {
    /// How a coordinator serves.
    ServeFlags under "Coordinator" {
        /// Where the API listens
        listen: "HOST:PORT",
        /// The tokens of the API; without it, it listens on loopback only
        tokens_file: "FILE",
        /// The folder of references that the coordinator and all workers share
        reference_root: "DIR",
        /// Whether http:// references are taken, because the workers fetch them: true or false
        allow_private_references: "BOOL",
        /// Shards of a pool that are in the queue or in work at a time: 1 to 1000000
        window: "N",
        /// Seconds after which another coordinator takes over from a silent one: 1 to 300
        lease: "F",
        /// Seconds after which a published shard that nobody holds is published again: 1 to 86400
        publish_again: "F",
        /// Where uploads and final files are prepared
        scratch: "DIR",
    }
}

flags! {
    /// How a worker works.
    WorkerFlags under "Worker" {
        /// The pool that it serves
        pool: "NAME",
        /// Its name (default: host and process)
        worker: "NAME",
        /// Where archives are prepared
        scratch: "DIR",
        /// Ends after this many seconds without work; 0: never
        max_idle: "F",
        /// Seconds between two signs of life: 0.1 to 60
        heartbeat: "F",
        /// Answers Prometheus at /metrics, such as 0.0.0.0:9464
        metrics_listen: "HOST:PORT",
    }
}

flags! {
    /// How references are fetched.
    ReferenceFlags under "References" {
        /// Whether references may come from private addresses and over plain http://: true or false
        allow_private_references: "BOOL",
        /// Seconds that fetching one may take: 0.1 to 3600
        reference_timeout: "F",
        /// The folder in which fetched ones are kept
        reference_cache: "DIR",
        /// Bytes that they may take there; 0: none are kept
        reference_cache_bytes: "N",
        /// Seconds after which a URL is asked again
        reference_cache_seconds: "F",
    }
}

flags! {
    /// How a run is cut, stored and tried again.
    RunFlags under "Run" {
        /// From which rows without a seed derive theirs
        seed: "N",
        /// files (images/ID.png …) or webdataset (tar archives)
        format: "NAME",
        /// Other methods to make beside each picture, such as img2img,img2img-reduced
        compare: "NAMES",
        /// What happens to bad rows: stop (nothing starts) or skip
        on_invalid: "NAME",
        /// Tasks a shard: 1 to 100000
        shard_size: "N",
        /// Rounds of retries for tasks that failed and may work: 0 to 10
        max_rounds: "N",
        /// Seconds before the first of them
        retry_delay: "F",
    }
}

//! Progress in Redis, for fleets. It holds nothing that is not in the markers too: an emptied server is filled again.
//!
//! Whatever must be one step is one Lua script. Every time is the server's, every key of a run has an end, and no
//! command searches the server's keys.

mod diagnose;
mod error;
mod health;
mod keys;
mod link;
mod scripts;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Round, RunId, ShardId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use redis::{Cmd, FromRedisValue, ScriptInvocation, cmd};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::diagnose::diagnose;
use self::keys::{HEARTBEATS, RunKeys, SEEN};
use self::link::{Link, Request};
use self::scripts::Scripts;
use super::{
    Counted, Counts, Generation, Head, Heartbeat, Holder, Interval, Progress, ProgressError, RECENT_FAILURES,
    THROUGHPUT_INTERVALS, THROUGHPUT_SECONDS, Throughput,
};
use crate::kind::ErrorKind;

/// How long the keys of a run live after they were last written to, where `expire` sets no earlier end. Longer than any
/// pause of a run, and whatever is lost after it is rebuilt.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Shards that one script counts: it must not hold up everybody else for long.
const COMMITTED_AT_ONCE: usize = 500;

/// Where Redis is, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` (TLS), with user, password and database where needed.
    pub url: SecretString,
    /// Whether the server is one of a Redis Cluster.
    pub cluster: bool,
    /// The certificate authority that signed the server's certificate, in PEM, where the system does not know it.
    pub ca_file: Option<PathBuf>,
    /// How long a command may take, the wait for a connection included.
    pub timeout: Duration,
}

impl RedisConfig {
    /// The time-out of a command where nobody chose another one.
    pub const TIMEOUT: Duration = Duration::from_secs(2);

    /// One server, the system's certificate authorities, the usual time-out.
    pub fn new(url: SecretString) -> Self {
        Self { url, cluster: false, ca_file: None, timeout: Self::TIMEOUT }
    }
}

/// Progress in Redis. It connects again by itself.
pub struct RedisProgress {
    link: Link,
    scripts: Scripts,
}

impl RedisProgress {
    /// Reads the settings. Connects with the first call, and again whenever the connection is lost.
    ///
    /// # Errors
    /// The settings are wrong: permanent.
    pub fn open(config: &RedisConfig) -> Result<Self, ProgressError> {
        Ok(Self { link: Link::new(config)?, scripts: Scripts::new() })
    }

    /// Reads the settings and pings the server.
    ///
    /// # Errors
    /// Those of [`Self::open`] and [`Self::check`].
    pub async fn connect(config: &RedisConfig) -> Result<Self, ProgressError> {
        let progress = Self::open(config)?;
        progress.check().await?;
        Ok(progress)
    }

    /// Whether the server lets us in and is of the kind that the settings say. A caller who can do without Redis for a
    /// while goes on after a transient error.
    ///
    /// # Errors
    /// It cannot be reached: transient. It refuses, or is one of a cluster and the settings know nothing of that:
    /// permanent.
    pub async fn check(&self) -> Result<(), ProgressError> {
        self.link.check().await
    }

    /// Runs a command that changes something.
    async fn command<T: FromRedisValue>(&self, doing: &'static str, command: &Cmd) -> Result<T, ProgressError> {
        self.link.send(doing, Request::Command(command)).await
    }

    /// Runs a script that changes something.
    async fn script<T: FromRedisValue>(
        &self,
        doing: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, ProgressError> {
        self.link.send(doing, Request::Script(script)).await
    }

    /// Runs a command that changes nothing.
    async fn ask<T: FromRedisValue>(&self, doing: &'static str, command: &Cmd) -> Result<T, ProgressError> {
        self.link.ask(doing, Request::Command(command)).await
    }

    /// Runs a script that changes nothing.
    async fn ask_script<T: FromRedisValue>(
        &self,
        doing: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, ProgressError> {
        self.link.ask(doing, Request::Script(script)).await
    }

    /// Names and values of what was put and renewed in time. What cannot be read was put by another version of this
    /// program, and will be forgotten; it must not hide the rest.
    async fn living<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        texts: &str,
        untils: &str,
    ) -> Result<Vec<(String, T)>, ProgressError> {
        let living: Vec<(String, String)> = self.ask_script(doing, self.scripts.living.key(texts).key(untils)).await?;
        let mut read = Vec::with_capacity(living.len());
        for (name, text) in living {
            match serde_json::from_str(&text) {
                Ok(value) => read.push((name, value)),
                Err(error) => tracing::warn!(%name, %error, "left out while {doing}: written by another version"),
            }
        }
        Ok(read)
    }
}

#[async_trait]
impl Progress for RedisProgress {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        let keys = RunKeys::of(run);
        let mut commit = self.scripts.commit.prepare_invoke();
        commit
            .key(keys.state())
            .key(keys.throughput())
            .key(keys.holders())
            .key(keys.holding())
            .key(keys.failures())
            .key(keys.ends());
        commit
            .arg(shard.index)
            .arg(shard.round.0)
            .arg(shard.to_string())
            .arg(&counts.numbers())
            .arg(THROUGHPUT_SECONDS)
            .arg(THROUGHPUT_INTERVALS)
            .arg(RECENT_FAILURES)
            .arg(millis(LIFE));
        for failure in &failures[failures.len().saturating_sub(RECENT_FAILURES)..] {
            commit.arg(text(failure));
        }
        self.script("counting a committed shard", &commit).await
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        let keys = RunKeys::of(run);
        for shards in shards.chunks(COMMITTED_AT_ONCE) {
            let mut commit = self.scripts.commit_many.prepare_invoke();
            commit.key(keys.state()).key(keys.holders()).key(keys.holding()).key(keys.ends()).arg(millis(LIFE));
            for (shard, counts) in shards {
                commit.arg(shard.index).arg(shard.round.0).arg(shard.to_string()).arg(&counts.numbers());
            }
            self.script::<()>("counting committed shards", &commit).await?;
        }
        Ok(())
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        let mut committed = self.scripts.committed.key(RunKeys::of(run).state());
        committed.arg(round.0);
        let bits: Vec<u8> = self.ask_script("reading which shards are committed", &committed).await?;
        Ok(ShardSet::from_bits(bits))
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        let mut read = cmd("HMGET");
        read.arg(RunKeys::of(run).state()).arg("complete").arg(&Counts::NAMES);
        let counts: Vec<Option<u64>> = self.ask("reading a run's counts", &read).await?;
        let count = |at: usize| counts.get(at).copied().flatten().unwrap_or_default();
        Ok(Counted { counts: Counts::of(std::array::from_fn(|at| count(at + 1))), complete: count(0) == 1 })
    }

    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError> {
        let doing = "reading the generation of a run's counts";
        let keys = RunKeys::of(run);
        let mut read = self.scripts.generation.key(keys.state());
        read.key(keys.ends()).arg(AttemptId::generate().as_str()).arg(millis(LIFE));
        nonce(doing, self.script(doing, &read).await?).map(Generation)
    }

    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError> {
        let keys = RunKeys::of(run);
        let mut complete = self.scripts.complete.key(keys.state());
        complete.key(keys.ends()).arg(generation.0.as_str()).arg(shards).arg(millis(LIFE));
        self.script("saying that a run's counts are complete", &complete).await
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        let keys = RunKeys::of(run);
        let mut hold = self.scripts.hold.prepare_invoke();
        hold.key(keys.state()).key(keys.holders()).key(keys.holding()).key(keys.ends());
        hold.arg(shard.index)
            .arg(shard.round.0)
            .arg(shard.to_string())
            .arg(text(holder))
            .arg(millis(ttl))
            .arg(millis(LIFE));
        self.script("saying who works on a shard", &hold).await
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        let keys = RunKeys::of(run);
        let mut release = self.scripts.release.prepare_invoke();
        release.key(keys.holders()).key(keys.holding()).arg(shard.to_string()).arg(attempt.as_str());
        self.script("saying that nobody works on a shard", &release).await
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        let keys = RunKeys::of(run);
        let mut holder = self.scripts.holder.key(keys.holders());
        holder.key(keys.holding()).arg(shard.to_string());
        let text: Option<String> = self.ask_script("reading who works on a shard", &holder).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        let keys = RunKeys::of(run);
        let living = self.living("reading who works on what", &keys.holders(), &keys.holding()).await?;
        let mut holders: Vec<_> =
            living.into_iter().filter_map(|(shard, holder)| Some((shard.parse().ok()?, holder))).collect();
        holders.sort_by_key(|(shard, _)| *shard);
        Ok(holders)
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        let mut beat = self.scripts.heartbeat.prepare_invoke();
        beat.key(HEARTBEATS).key(SEEN);
        beat.arg(heartbeat.worker.as_str()).arg(text(heartbeat)).arg(millis(ttl)).arg(millis(LIFE));
        self.script::<()>("sending a heartbeat", &beat).await?;
        self.link.took();
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        let living = self.living("listing the workers", HEARTBEATS, SEEN).await?;
        let mut workers: Vec<Heartbeat> = living.into_iter().map(|(_, heartbeat)| heartbeat).collect();
        workers.sort_by(|a, b| a.worker.cmp(&b.worker));
        Ok(workers)
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        let key = RunKeys::of(run).failures();
        let texts: Vec<String> = self.ask("reading a run's failures", cmd("LRANGE").arg(key).arg(0).arg(-1)).await?;
        // As in `living`: what another version wrote does not hide the rest.
        Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        let read = self.scripts.throughput.key(RunKeys::of(run).throughput());
        let (now, intervals): (i64, HashMap<i64, u64>) = self.ask_script("reading a run's throughput", &read).await?;
        let mut intervals: Vec<_> = intervals.into_iter().map(|(at, done)| Interval { at, done }).collect();
        intervals.sort_by_key(|interval| interval.at);
        Ok(Throughput { now, intervals })
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        let keys = RunKeys::of(run);
        let mut announce = self.scripts.announce.key(keys.head());
        announce.key(keys.ends()).arg(head.decisions).arg(text(head)).arg(millis(LIFE));
        self.script("saying how far a run's log is", &announce).await
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        let mut read = cmd("HGET");
        read.arg(RunKeys::of(run).head()).arg("head");
        let text: Option<String> = self.ask("reading how far a run's log is", &read).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        let doing = "claiming what is written once";
        let mut claim = self.scripts.claim.key(RunKeys::of(run).claim(what));
        claim.arg(attempt.as_str()).arg(millis(ttl).max(1));
        nonce(doing, self.script(doing, &claim).await?)
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        let mut lease = self.scripts.lease.prepare_invoke();
        lease.key(keys::lease(name)).arg(owner).arg(millis(ttl).max(1));
        let has_it = self.script("taking a lease", &lease).await?;
        if has_it {
            self.link.took();
        }
        Ok(has_it)
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        let mut release = self.scripts.release_lease.prepare_invoke();
        release.key(keys::lease(name)).arg(owner);
        self.script("giving up a lease", &release).await
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.command::<()>("ringing for the coordinator", cmd("INCR").arg(keys::BELL)).await?;
        self.link.took();
        Ok(())
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        let rung: Option<u64> = self.ask("listening for the bell", cmd("GET").arg(keys::BELL)).await?;
        Ok(rung.unwrap_or_default())
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        self.command("forgetting a run", cmd("DEL").arg(&RunKeys::of(run).all())).await
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        let mut expire = self.scripts.expire.prepare_invoke();
        expire.key(&RunKeys::of(run).all()).arg(millis(after));
        self.script("setting the end of a run's progress", &expire).await
    }
}

/// What a script gives back of ours.
fn nonce(doing: &'static str, text: String) -> Result<AttemptId, ProgressError> {
    AttemptId::new(text).map_err(|error| {
        let advice = "something else writes to diorama's keys in this Redis: give it a database";
        ProgressError::new(ErrorKind::Permanent, doing, format!("{error}; {advice}")).caused_by(error)
    })
}

/// As the scripts take a length of time.
fn millis(duration: Duration) -> u64 {
    // No sum with the time of day leaves what Lua counts exactly.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 52)
}

/// As it is kept. These types have string keys and no maps that could fail.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

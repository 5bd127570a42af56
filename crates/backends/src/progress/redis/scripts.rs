//! The scripts, each one atomic on the server. Their text is sent once and again after the server lost it.

use redis::Script;

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("prelude.lua"), "\n", include_str!($file)))
    };
}

pub(super) struct Scripts {
    pub(super) commit: Script,
    pub(super) commit_many: Script,
    pub(super) committed: Script,
    pub(super) generation: Script,
    pub(super) complete: Script,
    pub(super) announce: Script,
    pub(super) holder: Script,
    pub(super) hold: Script,
    pub(super) release: Script,
    pub(super) heartbeat: Script,
    pub(super) living: Script,
    pub(super) claim: Script,
    pub(super) lease: Script,
    pub(super) release_lease: Script,
    pub(super) expire: Script,
    pub(super) throughput: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            commit: script!("commit.lua"),
            commit_many: script!("commit_many.lua"),
            committed: script!("committed.lua"),
            generation: script!("generation.lua"),
            complete: script!("complete.lua"),
            announce: script!("announce.lua"),
            holder: script!("holder.lua"),
            hold: script!("hold.lua"),
            release: script!("release.lua"),
            heartbeat: script!("heartbeat.lua"),
            living: script!("living.lua"),
            claim: script!("claim.lua"),
            lease: script!("lease.lua"),
            release_lease: script!("release_lease.lua"),
            expire: script!("expire.lua"),
            throughput: script!("throughput.lua"),
        }
    }
}

//! The shard loop: fetch, batch, generate, encode, store, commit, acknowledge.

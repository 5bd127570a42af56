//! Who drives the runs: whoever has the lease of the progress service. While that is away, whoever led goes on, and says so
//! in the store; another one takes over where nobody says so any more.
//!
//! Safety never depends on it: two that drive the same run publish some shards twice, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_core::key::SharedKey;
use diorama_protocol::Backends;
use tokio::time::Instant;

pub(crate) const LEASE: &str = "coordinator";

/// After so many leases without a word of the progress service, or of the one that leads without it, another one takes
/// over.
const SILENCE: u32 = 3;

/// One coordinator's part in it.
pub(crate) struct Lease {
    owner: String,
    time: Duration,
    leads: bool,
    /// Since when the progress service does not answer.
    away_since: Option<Instant>,
    /// What was last read of who leads without it, and when that was news.
    heard: Option<(Option<Bytes>, Instant)>,
    said: u64,
}

impl Lease {
    pub(crate) fn new(owner: String, time: Duration) -> Self {
        Self { owner, time, leads: false, away_since: None, heard: None, said: 0 }
    }

    /// Takes or renews it; whether this coordinator leads.
    pub(crate) async fn seek(&mut self, backends: &Backends) -> bool {
        let leads = match backends.progress.lease(LEASE, &self.owner, self.time).await {
            Ok(leads) => {
                (self.away_since, self.heard) = (None, None);
                leads
            }
            Err(error) => {
                tracing::warn!(%error, "the lease cannot be renewed");
                self.away_since.get_or_insert_with(Instant::now);
                match self.without_progress(backends).await {
                    Ok(leads) => leads,
                    Err(error) => {
                        tracing::warn!(%error, "leadership could not be recorded in the store either");
                        self.leads
                    }
                }
            }
        };
        if self.leads != leads {
            let what = if leads { "this coordinator is the leader now" } else { "another coordinator took over" };
            tracing::info!("{what}");
        }
        self.leads = leads;
        leads
    }

    /// Whoever leads says so anew each time, so that nobody needs to compare clocks.
    async fn without_progress(&mut self, backends: &Backends) -> Result<bool, ObjectError> {
        let key = SharedKey::Leader.to_string();
        let said = match backends.objects.get(&key).await {
            Ok(said) => Some(said),
            Err(error) if error.kind == ObjectErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let ours = said.as_deref().is_some_and(|said| said.starts_with(format!("{} ", self.owner).as_bytes()));
        let is_news = self.heard.as_ref().is_none_or(|(before, _)| *before != said);
        if is_news {
            self.heard = Some((said, Instant::now()));
        }
        let silent = |since: &Instant| since.elapsed() >= self.time * SILENCE;
        let nobody =
            self.away_since.as_ref().is_some_and(silent) && self.heard.as_ref().is_some_and(|(_, at)| silent(at));
        // Of two that lead, the one that another one overruled stands back.
        let overruled = self.leads && is_news && !ours && self.said > 0;
        let leads = (self.leads && !overruled) || nobody;
        if leads {
            self.said += 1;
            backends.objects.put(&key, Bytes::from(format!("{} {}\n", self.owner, self.said))).await?;
        }
        Ok(leads)
    }

    /// Gives it up.
    pub(crate) async fn release(&self, backends: &Backends) {
        if self.leads
            && let Err(error) = backends.progress.release_lease(LEASE, &self.owner).await
        {
            tracing::warn!(%error, "the lease could not be released; the next leader waits for it to expire");
        }
    }
}

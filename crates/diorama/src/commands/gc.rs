//! `diorama gc`: what belongs to no run, or to none any more, and is older than the grace time. Says what that is, and
//! removes it only with `--yes`.
//!
//! On the services themselves, like `verify`. The leading coordinator does the same every hour.

use diorama_coordinator::{Collected, Grace, collect};

use super::verify::failed;
use crate::cli::{Cli, Gc};
use crate::exit::{self, Failure};
use crate::fleet::connect::{connect, seconds};
use crate::{identity, output};

pub(crate) async fn run(command: &Gc, cli: &Cli) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let grace = Grace(seconds(config.coordinator.gc_grace));
    let backends = connect(&config.services, "diorama gc").await?;
    let by = format!("gc-{}", identity::unique());
    let collected = collect(&backends, &by, grace, !command.yes).await.map_err(failed)?;
    if cli.json() {
        let mut json = serde_json::to_value(&collected).map_err(Failure::permanent)?;
        json["removed"] = command.yes.into();
        output::line(&json.to_string());
    } else {
        tell(&collected, command.yes).iter().for_each(|line| output::line(line));
    }
    Ok(exit::DONE)
}

/// What was found, or removed, a key a line.
fn tell(collected: &Collected, removed: bool) -> Vec<String> {
    let damaged = collected.damaged.iter().map(|damaged| format!("DAMAGED  {damaged}"));
    if collected.is_empty() {
        let nothing = "nothing to collect: nothing without a run is older than the grace period".to_owned();
        return damaged.chain([nothing]).collect();
    }
    let keys = &collected.keys;
    let before = if removed { "removed" } else { "would remove" };
    let mut lines: Vec<String> = damaged.chain(keys.iter().map(|key| format!("{before}  {key}"))).collect();
    let more = collected.count().saturating_sub(keys.len() as u64);
    if more > 0 {
        lines.push(format!("{before}  … and {more} more"));
    }
    lines.push(match removed {
        true => format!("{collected}: removed"),
        false => format!("{collected}; nothing was removed: run it again with --yes to remove them"),
    });
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_grace_time_is_the_flags_and_held_to_the_range_of_its_key() {
        let grace = |text: &str| {
            let cli = Cli::try_parse_from(["diorama", "gc", "--grace", text]).unwrap();
            cli.configuration().map(|config| config.coordinator.gc_grace)
        };
        assert_eq!(grace("90.5").unwrap(), 90.5);
        assert!(grace("-1").unwrap_err().to_string().contains("0 to 31536000"));
    }

    #[test]
    fn a_dry_run_says_what_would_go_and_that_nothing_went() {
        let nothing = tell(&Collected::default(), false);
        assert!(nothing[0].starts_with("nothing to collect"), "{nothing:?}");
        let keys = vec!["runs/a/".to_owned(), "runs/b/shards/r0-000000.0a.tar".to_owned()];
        let mut collected = Collected { runs: 1, leftovers: 2, blobs: 1, keys, ..Collected::default() };
        let dry = tell(&collected, false);
        assert_eq!(
            dry[..3],
            ["would remove  runs/a/", "would remove  runs/b/shards/r0-000000.0a.tar", "would remove  … and 2 more"]
        );
        assert!(dry[3].ends_with("nothing was removed: run it again with --yes to remove them"), "{dry:?}");
        let wet = tell(&collected, true);
        assert!(wet[0] == "removed  runs/a/" && wet[3].ends_with(": removed"), "{wet:?}");
        collected.damaged.push("run c left as it is: its log is gone".to_owned());
        assert_eq!(tell(&collected, true)[0], "DAMAGED  run c left as it is: its log is gone");
    }
}

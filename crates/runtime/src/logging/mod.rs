//! Log lines on standard error: for people, or as JSON. What a filter lets through is `DIORAMA_LOG`'s to say
//! (`warn,diorama_worker=debug`); without it, our own crates' information and everyone's warnings, but for lapin's:
//! what goes wrong with RabbitMQ is said once, by the backend. Whatever it says, the libraries that speak AMQP are never
//! heard at `trace`, where they log whole frames, the login among them.
//!
//! A line says which worker, run and shard it is about by the spans that it was logged in, so those are there whatever the
//! filter: it chooses lines.

mod lines;

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::lines::{JsonLines, TextLines};

/// Our own crates' information, and everyone's warnings. A target begins with its crate's name, and all of ours with
/// this one.
const DEFAULT_FILTER: &str = "warn,diorama=info,lapin=off";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not text or json")),
        }
    }
}

/// Starts logging to `writer`, once a process. `filter` is `DIORAMA_LOG`'s text; a filter that cannot be read is an
/// error that says what one looks like.
pub fn init<W>(format: LogFormat, filter: Option<&str>, writer: W) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    subscriber(format, filter, writer)?.try_init().map_err(|error| error.to_string())
}

/// What [`init`] starts.
pub fn subscriber<W>(
    format: LogFormat,
    filter: Option<&str>,
    writer: W,
) -> Result<impl tracing::Subscriber + SubscriberInitExt + Send + Sync, String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter.unwrap_or(DEFAULT_FILTER))
        .map_err(|error| format!("DIORAMA_LOG: {error}; write it like warn,diorama_worker=debug"))?;
    let filter = filter
        .or(filter_fn(is_our_span).with_max_level_hint(LevelFilter::INFO))
        .and(filter_fn(may_be_heard).with_max_level_hint(LevelFilter::TRACE));
    let lines = fmt::layer::<Registry>().fmt_fields(JsonFields::new()).with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.event_format(JsonLines).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).event_format(TextLines).boxed(),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter)))
}

/// Whether this is a span that says which worker, run or shard the lines in it are about.
fn is_our_span(of: &Metadata<'_>) -> bool {
    of.is_span() && *of.level() <= Level::INFO && of.target().starts_with("diorama")
}

/// Whether what is logged can hold no password.
fn may_be_heard(of: &Metadata<'_>) -> bool {
    let speaks_amqp = ["lapin", "amq_protocol", "async_rs"].iter().any(|library| of.target().starts_with(library));
    !(speaks_amqp && *of.level() == Level::TRACE)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: Option<&str>, log: impl FnOnce()) -> String {
        logged_as(LogFormat::Json, filter, log)
    }

    fn logged_as(format: LogFormat, filter: Option<&str>, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn frames_with_a_login_are_not_logged_whatever_is_asked_for() {
        for filter in ["trace", "lapin=trace", "warn,lapin::channel=trace,amq_protocol_tcp=trace"] {
            let lines = logged(Some(filter), || {
                tracing::trace!(target: "lapin::channels", "hunter2");
                tracing::trace!(target: "lapin::channel", "hunter2");
                tracing::trace!(target: "amq_protocol_tcp", "hunter2");
                tracing::error!(target: "lapin::channel", "a broken channel");
            });
            assert!(lines.contains("a broken channel") && !lines.contains("hunter2"), "{filter}: {lines}");
        }
        assert!(logged(Some("trace"), || tracing::trace!("a step")).contains("a step"));
    }

    #[test]
    fn without_a_filter_our_information_and_everyones_warnings_are_logged() {
        let lines = logged(None, || {
            tracing::info!("ready");
            tracing::info!(target: "diorama_worker::shard", "committed");
            tracing::info!(target: "hyper", "chatter");
            tracing::warn!(target: "hyper", "trouble");
            tracing::error!(target: "lapin::io_loop", "chatter");
        });
        assert!(["ready", "committed", "trouble"].iter().all(|said| lines.contains(said)), "{lines}");
        assert!(!lines.contains("chatter"), "{lines}");
    }

    /// A fault two spans deep in a worker, and one of nobody.
    fn a_fault() {
        let worker = tracing::info_span!("worker", worker = "gpu-1", pool = "default").entered();
        let shard = tracing::info_span!("shard", run = "r7", shard = "r0-000012", attempt = tracing::field::Empty);
        shard.in_scope(|| {
            tracing::Span::current().record("attempt", "0a");
            let error = std::io::Error::other("the disk is \"full\"");
            tracing::warn!(%error, tries = 3, run = "r8", "the archive was not stored");
        });
        drop(worker);
        tracing::error!("on its own");
    }

    #[test]
    fn a_json_line_names_worker_run_and_shard_by_its_spans_whatever_the_filter() {
        for filter in [None, Some("warn"), Some("error,diorama_runtime=warn")] {
            let lines = logged(filter, a_fault);
            let mut lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let (fault, alone) = (lines.next().unwrap(), lines.next().unwrap());
            let field = |key: &str| fault[key].as_str().unwrap_or_default();
            let named = ["worker", "pool", "shard", "attempt", "level", "message", "error"].map(field);
            let said = "the archive was not stored";
            assert_eq!(named, ["gpu-1", "default", "r0-000012", "0a", "WARN", said, "the disk is \"full\""]);
            assert_eq!((field("run"), fault["tries"].as_u64()), ("r8", Some(3)), "the line's own word counts");
            assert_eq!(fault["spans"], serde_json::json!(["worker", "shard"]));
            assert!(fault["target"].as_str().unwrap().starts_with("diorama_runtime::logging"));
            assert!(fault["timestamp"].as_str().unwrap().ends_with('Z'));
            assert!(alone.get("spans").is_none() && alone.get("worker").is_none(), "{alone}");
        }
    }

    #[test]
    fn what_users_chose_stays_in_its_line_and_moves_no_cursor() {
        let log = || {
            let name = "\x1b]0;owned\x07\u{9b}2J\n2026-11-28T12:00:00Z ERROR forged";
            let _run = tracing::info_span!("run", run = name).entered();
            tracing::warn!(name, again = %name, "a run is paused: {name}");
        };
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = logged_as(format, None, log);
            assert_eq!(lines.lines().count(), 1, "{lines:?}");
            assert_eq!(diorama_core::text::control(lines.trim_end()), None, "{lines:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&logged_as(LogFormat::Json, None, log)).unwrap();
        assert!(json["run"].as_str().unwrap().starts_with("\x1b]0;owned"), "{json}");
    }

    #[test]
    fn the_audit_is_json_in_every_format_and_has_a_filter_of_its_own() {
        let log = || {
            tracing::info!(target: diorama_core::audit::TARGET, who = "sam", run = "r7", "done");
            tracing::info!(target: "diorama_coordinator::service", "chatter");
        };
        for (format, filter) in
            [(LogFormat::Text, "warn,diorama_audit=info"), (LogFormat::Json, "off,diorama_audit=info")]
        {
            let lines = logged_as(format, Some(filter), log);
            let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
            assert_eq!(
                (&line["who"], &line["run"], &line["target"]),
                (&"sam".into(), &"r7".into(), &"diorama_audit".into())
            );
        }
        assert!(logged_as(LogFormat::Text, None, log).starts_with('{'), "it is there without a filter");
    }

    #[test]
    fn a_line_for_people_begins_with_worker_run_and_shard() {
        let lines = logged_as(LogFormat::Text, None, a_fault);
        let (fault, alone) = lines.trim_end().split_once('\n').unwrap();
        let said =
            " WARN worker=gpu-1 run=r7 shard=r0-000012: the archive was not stored error=the disk is \"full\" tries=3";
        assert!(fault.contains(said), "{fault}");
        assert!(alone.ends_with("ERROR on its own"), "{alone}");
    }
}

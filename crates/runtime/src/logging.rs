//! Log lines on standard error: for people, or as JSON. What a filter lets through is `DIORAMA_LOG`'s to say
//! (`warn,diorama_worker=debug`); without it, our own crates' information and everyone's warnings, but for lapin's:
//! what goes wrong with RabbitMQ is said once, by the backend. Whatever it says, the libraries that speak AMQP are never
//! heard at `trace`, where they log whole frames, the login among them.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

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

fn subscriber<W>(
    format: LogFormat,
    filter: Option<&str>,
    writer: W,
) -> Result<impl SubscriberExt + SubscriberInitExt + Send + Sync, String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter.unwrap_or("warn,diorama=info,lapin=off"))
        .map_err(|error| format!("DIORAMA_LOG: {error}; write it like warn,diorama_worker=debug"))?;
    let lines = fmt::layer::<Registry>().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    Ok(tracing_subscriber::registry().with(lines).with(filter).with(filter_fn(may_be_heard)))
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
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(LogFormat::Json, filter, move || writer.clone()).unwrap();
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
        assert!(logged(Some("trace"), || tracing::trace!(target: "diorama", "a step")).contains("a step"));
    }

    #[test]
    fn without_a_filter_our_information_and_everyones_warnings_are_logged() {
        let lines = logged(None, || {
            tracing::info!(target: "diorama", "ready");
            tracing::info!(target: "hyper", "chatter");
            tracing::warn!(target: "hyper", "trouble");
            tracing::error!(target: "lapin::io_loop", "chatter");
        });
        assert!(lines.contains("ready") && lines.contains("trouble") && !lines.contains("chatter"), "{lines}");
    }
}

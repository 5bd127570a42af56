//! Log lines on standard error: for people, or as JSON. What a filter lets through is `DIORAMA_LOG`'s to say
//! (`warn,diorama_worker=debug`); without it, our own crates' information and everyone's warnings.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    let filter = filter.unwrap_or("warn,diorama=info");
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("DIORAMA_LOG: {error}; write it like warn,diorama_worker=debug"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
    }
    .map_err(|error| error.to_string())
}

//! How a line is written: what happened, with the fields of the spans that it happened in.

use std::fmt;

use diorama_core::{audit, text};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Fields of spans that a line for people begins with; the others are in the JSON.
const SHOWN: [&str; 3] = ["worker", "run", "shard"];

/// One JSON object a line: the fields of the spans beside those of the event; where two have one name, the inner one's
/// counts.
pub(super) struct JsonLines;

/// For people: `2026-11-28T12:00:00Z  WARN run=… shard=…: what happened key=value`.
pub(super) struct TextLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (names, mut line) = spans(context);
        event.record(&mut Fields(&mut line));
        if !names.is_empty() {
            line.insert("spans".to_owned(), names.into());
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let about = event.metadata();
        for (key, value) in
            [("timestamp", time.as_str()), ("level", about.level().as_str()), ("target", about.target())]
        {
            line.insert(key.to_owned(), value.into());
        }
        writeln!(writer, "{}", text::shown(&Value::Object(line).to_string()))
    }
}

impl<S> FormatEvent<S, JsonFields> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() == audit::TARGET {
            return JsonLines.format_event(context, writer, event);
        }
        SystemTime.format_time(&mut writer)?;
        let level = event.metadata().level();
        match (writer.has_ansi_escapes(), *level) {
            (false, _) => write!(writer, " {level:>5}")?,
            (true, Level::ERROR) => write!(writer, " \x1b[31m{level:>5}\x1b[0m")?,
            (true, Level::WARN) => write!(writer, " \x1b[33m{level:>5}\x1b[0m")?,
            (true, _) => write!(writer, " \x1b[32m{level:>5}\x1b[0m")?,
        }
        let (_, fields) = spans(context);
        let shown: String = SHOWN
            .iter()
            .filter_map(|key| fields.get(*key).map(|value| (key, value)))
            .map(|(key, value)| format!(" {key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        let mut said = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut said), event)?;
        // What users chose may stand in it: it obeys nobody, and stays one line.
        let (shown, said) = (text::shown(&shown), text::shown(&said));
        writeln!(writer, "{shown}{} {said}", if shown.is_empty() { "" } else { ":" })
    }
}

/// The names of the spans around the event, the outermost first, and their fields.
fn spans<S>(context: &FmtContext<'_, S, JsonFields>) -> (Vec<&'static str>, Map<String, Value>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (mut names, mut fields) = (Vec::new(), Map::new());
    for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
        names.push(span.name());
        let extensions = span.extensions();
        let written = extensions.get::<FormattedFields<JsonFields>>().map(|fields| serde_json::from_str(fields));
        if let Some(Ok(Value::Object(own))) = written {
            fields.extend(own);
        }
    }
    (names, fields)
}

/// Collects an event's fields.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

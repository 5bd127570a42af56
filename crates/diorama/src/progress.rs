//! How a run's progress is shown: a bar on a terminal, otherwise a log line now and then.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use diorama_coordinator::RunProgress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

/// Between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// All bars of the process; log lines step around them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes log lines to standard error without tearing a bar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        *self
    }
}

/// Shows what `updates` says until its sender is gone.
pub(crate) async fn show(mut updates: watch::Receiver<RunProgress>) {
    let bar = io::stderr().is_terminal().then(bar);
    let mut logged = Instant::now();
    while updates.changed().await.is_ok() {
        let progress = updates.borrow_and_update().clone();
        match &bar {
            Some(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done + progress.failed);
                bar.set_message(describe(&progress));
            }
            None if logged.elapsed() >= LOG_EVERY => {
                tracing::info!(done = progress.done, total = progress.total, "{}", describe(&progress));
                logged = Instant::now();
            }
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// Shows on a terminal that a single picture gets on.
pub(crate) struct Steps(Option<ProgressBar>);

impl Steps {
    pub(crate) fn start() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let bar = BARS.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message("loading the model");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    /// Another denoising step begins.
    pub(crate) fn step(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
            bar.set_message(format!("step {}", bar.position()));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A bar that counts things; nothing where nobody looks.
pub(crate) fn count(length: u64, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = BARS.add(ProgressBar::new(length));
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar.set_message(what);
    bar
}

/// The bar of a run that is watched.
pub(crate) fn live() -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {percent}%\n{wide_msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar
}

fn bar() -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} pictures  {msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar
}

fn describe(progress: &RunProgress) -> String {
    let rate = progress.pictures_per_second.map(|rate| format!("{rate:.2} pictures/s"));
    let eta = progress.eta.map(|eta| format!("ETA {}", duration(eta)));
    let failed = (progress.failed > 0).then(|| format!("{} failed", progress.failed));
    let retrying = (progress.retrying > 0).then(|| format!("{} to try again", progress.retrying));
    [rate, eta, failed, retrying].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `2h 05m`, `3m 20s`, `12s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

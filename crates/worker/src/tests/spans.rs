//! What is logged says where it belongs, though nobody types it there.

use std::io;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_devices_thread_names_run_shard_attempt_and_worker() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    // Of the whole process: the device has a thread of its own.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::new();
    let run = bench.submit("spans", OutputFormat::Files, 4).await;
    let worker = bench.start(Watched { fails: true, ..bench.generator("m") }, bench.config("w")).await;
    let marker = bench.marker(&run).await;
    worker.end().await;
    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let is_it = |line: &serde_json::Value| {
        line["spans"][0]["run"] == "spans" && line["target"] == "diorama_worker::device::owner"
    };
    let mut lines = lines.filter(is_it);
    let line = lines.next().expect("the device said nothing");
    let shard = &line["spans"][0];
    let fields = ["shard", "attempt", "worker"].map(|field| shard[field].as_str().unwrap().to_owned());
    assert_eq!(fields, ["r0-000000".to_owned(), marker.attempt.to_string(), "w".to_owned()]);
    assert_eq!((&line["span"]["name"], &line["span"]["tasks"]), (&"batch".into(), &2.into()));
}

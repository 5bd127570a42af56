//! Whatever is asked: an answer that is no server's fault.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use diorama_fuzz::fuzz_among_others;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::{Bench, rows, spec};

/// Paths with a run in them, and without; a query follows.
const PATHS: [&str; 16] = [
    "/v1/runs",
    "/v1/runs/RUN",
    "/v1/runs/RUN/spec",
    "/v1/runs/RUN/throughput",
    "/v1/runs/RUN/shards",
    "/v1/runs/RUN/shards/r0-000000",
    "/v1/runs/RUN/pictures",
    "/v1/runs/RUN/tasks/0",
    "/v1/runs/RUN/failures",
    "/v1/runs/RUN/scores",
    "/v1/runs/RUN/files/r0-000000/0/image",
    "/v1/runs/RUN/results",
    "/v1/runs/RUN/objects/run.json",
    "/v1/fleet",
    "/v1/workers",
    "/v1/pools",
];

#[test]
fn whatever_is_asked_the_answer_is_no_fault_of_the_server() {
    let runtime = Runtime::new().unwrap();
    let bench = Bench::new(|_| ());
    let run = runtime.block_on(bench.submit(&spec(), &rows(5), None)).1["run"].as_str().unwrap().to_owned();
    fuzz_among_others("query", |bytes| {
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        let path = PATHS[usize::from(*first) % PATHS.len()].replace("RUN", &run);
        // As it is, where it can be a query; else each byte as a browser would send it; and as a part of the path.
        let encoded = percent_encode(&rest[..rest.len().min(2000)], NON_ALPHANUMERIC).to_string();
        let raw = String::from_utf8_lossy(rest);
        for uri in
            [format!("{path}?{raw}"), format!("{path}?limit={encoded}&after={encoded}"), format!("{path}/{encoded}")]
        {
            let Ok(request) = Request::builder().uri(&uri).body(Body::empty()) else { continue };
            let status = runtime.block_on(bench.router.clone().oneshot(request)).unwrap().status();
            assert!(!status.is_server_error(), "{uri} is answered with {status}");
        }
        let form = Request::builder()
            .method("POST")
            .uri("/v1/runs")
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=cut")
            .body(Body::from([b"--cut\r\nContent-Disposition: form-data; name=\"spec\"\r\n\r\n", rest].concat()));
        let status = runtime.block_on(bench.router.clone().oneshot(form.unwrap())).unwrap().status();
        assert!(status.is_client_error() || status == StatusCode::CREATED, "a form is answered with {status}");
    });
}

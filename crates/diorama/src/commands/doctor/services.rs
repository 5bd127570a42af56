//! The services of a fleet, as far as the configuration names them: RabbitMQ, Redis, the object store, the coordinator.

use std::io::Write;
use std::time::Duration;

use diorama_backends::diagnosis::{Finding, Verdict};
use diorama_backends::objects::s3::S3Objects;
use diorama_backends::{objects, progress, queue};
use diorama_runtime::config::Config;
use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::fleet::client::Client;
use crate::fleet::connect::{rabbitmq_config, redis_config, s3_config, s3_config_of_references};

/// Files larger than this go up in parts, in the check: the smallest that S3 takes, in bytes.
const PART: u64 = 5 << 20;

/// S3 refuses requests whose clock is further off than this, in seconds.
const REFUSED_SKEW: i64 = 15 * 60;

/// Off by more than this, in seconds, somebody should look at the clock.
const NOTED_SKEW: i64 = 60;

const SETTINGS: &str = "settings";
const KEY: &str = "object store: key";
const KEY_OF_REFERENCES: &str = "object store: key for references";
const CLOCK: &str = "object store: clock";
const COORDINATOR: &str = "coordinator";
const TOKEN: &str = "coordinator: token";

/// Whether the configuration names any service.
pub(super) fn are_named(config: &Config) -> bool {
    let services = &config.services;
    services.amqp_url.is_some()
        || services.redis_url.is_some()
        || services.s3_bucket.is_some()
        || asks_coordinator(config)
}

fn asks_coordinator(config: &Config) -> bool {
    config.client.token.is_some() || config.source("coordinator").is_given()
}

/// Looks at every service that is named.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let services = &config.services;
    let mut found = Vec::new();
    if services.amqp_url.is_some() {
        match rabbitmq_config(services, "diorama doctor") {
            Ok(rabbitmq) => found.extend(queue::rabbitmq::diagnose(&rabbitmq).await),
            Err(failure) => found.push(wrong(&failure)),
        }
    }
    if services.redis_url.is_some() {
        match redis_config(services) {
            Ok(redis) => found.extend(progress::redis::diagnose(&redis).await),
            Err(failure) => found.push(wrong(&failure)),
        }
    }
    if services.s3_bucket.is_some() {
        found.extend(object_store(config).await);
    }
    if asks_coordinator(config) {
        found.extend(coordinator(config).await);
    }
    found
}

fn wrong(failure: &crate::exit::Failure) -> Finding {
    Finding::problem(
        SETTINGS,
        failure.to_string(),
        "correct the settings; `diorama config` shows where each comes from",
    )
}

async fn object_store(config: &Config) -> Vec<Finding> {
    let s3 = match s3_config(&config.services) {
        Ok(s3) => diorama_backends::objects::s3::S3Config { multipart_bytes: PART, ..s3 },
        Err(failure) => return vec![wrong(&failure)],
    };
    let store = match S3Objects::connect(s3) {
        Ok(store) => store,
        Err(error) => return vec![Finding::problem("object store", error.to_string(), "correct the settings")],
    };
    let mut found = vec![key(KEY, &store).await];
    if found.iter().any(|finding| finding.verdict == Verdict::Problem) {
        return found;
    }
    let large = tempfile::NamedTempFile::new().and_then(|mut file| {
        file.write_all(&vec![0; PART as usize + 1])?;
        Ok(file)
    });
    match large {
        Ok(large) => found.extend(objects::diagnose::diagnose(&store, large.path()).await),
        Err(error) => {
            found.push(Finding::problem("temporary folder", error.to_string(), "free space, or set TMPDIR"));
        }
    }
    found.extend(store.clock_ahead().map(skew));
    found.extend(key_of_references(config).await);
    found
}

/// Where the key of a store comes from.
async fn key(name: &'static str, store: &S3Objects) -> Finding {
    let advice = "give s3_access_key and s3_secret_key_file, s3_profile, or a role; docs/operations.md lists them";
    match store.key_origin().await {
        Ok(origin) => Finding::ok(name, origin),
        Err(error) if error.is_retryable() => Finding::away(name, error.to_string(), "try again"),
        Err(error) => Finding::problem(name, error.to_string(), advice),
    }
}

/// The same of references, where they have one of their own.
async fn key_of_references(config: &Config) -> Option<Finding> {
    let services = &config.services;
    if services.reference_s3_access_key.is_none()
        && services.reference_s3_secret_key.is_none()
        && services.reference_s3_profile.is_none()
    {
        return None;
    }
    let s3 = match s3_config_of_references(services) {
        Ok(s3) => s3,
        Err(failure) => return Some(wrong(&failure)),
    };
    Some(match S3Objects::connect(s3) {
        Ok(store) => key(KEY_OF_REFERENCES, &store).await,
        Err(error) => Finding::problem(KEY_OF_REFERENCES, error.to_string(), "correct the settings"),
    })
}

/// What it means that this clock is ahead of the store's by so much.
fn skew(ahead: SignedDuration) -> Finding {
    let seconds = ahead.as_secs();
    let found = format!("{} s {} the store's", seconds.abs(), if seconds < 0 { "behind" } else { "ahead of" });
    let advice = "set this machine's clock (NTP): S3 refuses signatures that are 15 minutes off";
    match seconds.abs() {
        0..=NOTED_SKEW => Finding::ok(CLOCK, found),
        seconds if seconds < REFUSED_SKEW => Finding::warning(CLOCK, found, advice),
        _ => Finding::problem(CLOCK, found, advice),
    }
}

/// What the coordinator says of the token.
#[derive(Deserialize)]
struct Caller {
    name: Option<String>,
    role: String,
}

async fn coordinator(config: &Config) -> Vec<Finding> {
    let client = match Client::new(&config.client) {
        Ok(client) => client,
        Err(failure) => return vec![wrong(&failure)],
    };
    let address = &config.client.coordinator;
    let get = |path: &'static str| client.request(Method::GET, path).timeout(Duration::from_secs(10));
    match get("/livez").send().await {
        Ok(answer) if answer.status() == StatusCode::OK => {}
        Ok(answer) => {
            let found = format!("{address} answers {}: not a coordinator", answer.status());
            return vec![Finding::problem(COORDINATOR, found, "correct coordinator")];
        }
        Err(error) => {
            let found = client.unreachable(error).to_string();
            return vec![Finding::away(COORDINATOR, found, "start `diorama serve`, or correct coordinator")];
        }
    }
    let ready = match client.send(get("/readyz")).await {
        Ok(_) => Finding::ok(COORDINATOR, format!("{address} is ready")),
        Err(error) => {
            Finding::away(COORDINATOR, error.to_string(), "run `diorama doctor` with the coordinator's settings")
        }
    };
    let token = match client.send(get("/v1/token")).await {
        Ok(answer) => match answer.json::<Caller>().await {
            Ok(Caller { name: Some(name), role }) => Finding::ok(TOKEN, format!("{name}, {role}")),
            Ok(Caller { name: None, role }) => Finding::ok(TOKEN, format!("none is needed: everybody is {role}")),
            Err(error) => Finding::problem(TOKEN, error.to_string(), "is it a coordinator of this version?"),
        },
        Err(error) if error.is_retryable() => Finding::away(TOKEN, error.to_string(), "try again"),
        Err(error) => {
            Finding::problem(TOKEN, error.to_string(), "set token_file or DIORAMA_TOKEN to a token of tokens_file")
        }
    };
    vec![ready, token]
}

/// The exit code that the worst finding calls for.
pub(super) fn exit_code(found: &[Finding]) -> u8 {
    let problems = || found.iter().filter(|finding| finding.verdict == Verdict::Problem);
    match (problems().next().is_some(), problems().all(|finding| finding.may_pass)) {
        (false, _) => crate::exit::DONE,
        (true, true) => crate::exit::TRY_AGAIN,
        (true, false) => crate::exit::PERMANENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off_in_either_direction() {
        let verdict = |seconds: i64| skew(SignedDuration::from_secs(seconds)).verdict;
        assert_eq!([0, 60, -60].map(verdict), [Verdict::Ok; 3]);
        assert_eq!([61, -300].map(verdict), [Verdict::Warning; 2]);
        assert_eq!([900, -90_000].map(verdict), [Verdict::Problem; 2]);
    }

    #[test]
    fn the_exit_code_says_whether_waiting_could_help() {
        let (ok, away, wrong) = (Finding::ok("a", ""), Finding::away("b", "", ""), Finding::problem("c", "", ""));
        assert_eq!(exit_code(&[ok.clone(), Finding::warning("d", "", "")]), 0);
        assert_eq!(exit_code(&[ok.clone(), away.clone()]), 75);
        assert_eq!(exit_code(&[ok, away, wrong]), 42);
    }
}

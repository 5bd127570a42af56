//! A look at a Redis server: whether it lets us in, is new enough, runs our scripts and keeps what it is told.

use diorama_core::id::AttemptId;
use redis::{Value, cmd};

use super::RedisConfig;
use super::link::{Link, Request};
use crate::diagnosis::{Finding, is_at_least};

/// The first version that has what the scripts use.
const LEAST: (u32, u32) = (6, 2);

const CONNECTION: &str = "Redis: connection";
const VERSION: &str = "Redis: version";
const MODE: &str = "Redis: mode";
const SCRIPTS: &str = "Redis: scripts";
const MEMORY: &str = "Redis: memory";

/// Looks at the server of `config`. Leaves one small key for ten seconds.
pub async fn diagnose(config: &RedisConfig) -> Vec<Finding> {
    let link = match Link::new(config) {
        Ok(link) => link,
        Err(error) => return vec![Finding::problem(CONNECTION, error.problem, "correct redis_url and ca_file")],
    };
    match link.check().await {
        Ok(()) => {}
        Err(error) if error.is_retryable() => {
            return vec![Finding::away(CONNECTION, error.problem, "start Redis, or correct redis_url")];
        }
        Err(error) => {
            let advice = "correct redis_url, redis_cluster and ca_file, or the server's users";
            return vec![Finding::problem(CONNECTION, error.problem, advice)];
        }
    }
    let mut found = vec![Finding::ok(CONNECTION, "it answers")];
    let info = cmd("INFO");
    match link.send::<Value>("asking Redis about itself", Request::Command(&info)).await {
        Ok(info) => found.extend(about(&text(&info), config.cluster)),
        Err(error) => found.push(Finding::warning(
            VERSION,
            error.problem,
            "allow the command INFO, or see yourself that it is Redis 6.2 or later with maxmemory-policy noeviction",
        )),
    }
    found.push(scripts(&link).await);
    found
}

/// An answer as text; of a cluster's, one node's.
fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Map(pairs) => pairs.first().map(|(_, value)| text(value)).unwrap_or_default(),
        Value::Array(values) => values.last().map(text).unwrap_or_default(),
        _ => String::new(),
    }
}

/// What the server says about itself.
fn about(info: &str, cluster: bool) -> Vec<Finding> {
    let field = |name: &str| {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned());
        info.lines().find_map(value).unwrap_or_default()
    };
    let version = field("redis_version");
    let version = match is_at_least(&version, LEAST) {
        Some(true) => Finding::ok(VERSION, version),
        Some(false) => Finding::problem(VERSION, version, "6.2 or later is needed: update Redis"),
        None => Finding::warning(VERSION, "the server does not tell", "see that it is Redis 6.2 or later"),
    };
    let mode = match (field("redis_mode").as_str(), field("role").as_str()) {
        ("cluster", _) if !cluster => {
            Finding::problem(MODE, "the server is one of a cluster", "set redis_cluster = true")
        }
        (_, "slave") => Finding::problem(MODE, "the server is a replica", "name the primary in redis_url"),
        (mode, _) => Finding::ok(MODE, mode),
    };
    let (limit, policy) = (field("maxmemory"), field("maxmemory_policy"));
    let memory = if limit != "0" && policy != "noeviction" {
        Finding::warning(
            MEMORY,
            format!("at {limit} bytes the server evicts keys ({policy})"),
            "set maxmemory-policy noeviction; evicted keys are rebuilt from the markers, which takes time",
        )
    } else {
        Finding::ok(MEMORY, format!("policy {policy}, limit {}", if limit == "0" { "none" } else { &limit }))
    };
    vec![version, mode, memory]
}

/// A script that writes, as every step of the progress does.
async fn scripts(link: &Link) -> Finding {
    let mut script = cmd("EVAL");
    script.arg("redis.call('SET', KEYS[1], ARGV[1], 'PX', 10000) return redis.call('GET', KEYS[1])").arg(1);
    script.arg(format!("diorama:doctor-{}", AttemptId::generate())).arg("told");
    match link.send::<String>("running a script", Request::Command(&script)).await {
        Ok(answer) if answer == "told" => Finding::ok(SCRIPTS, "a script writes and reads"),
        Ok(answer) => Finding::problem(SCRIPTS, format!("a script read {answer:?}"), "is this Redis?"),
        Err(error) => Finding::problem(
            SCRIPTS,
            error.problem,
            "allow EVAL, EVALSHA and SCRIPT, and writing keys that start with diorama: (ACL SETUSER)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Verdict;

    #[test]
    fn what_a_server_says_of_itself_is_judged() {
        let say = |version: &str, mode: &str, role: &str, limit: &str, policy: &str| {
            let info = format!(
                "# Server\r\nredis_version:{version}\r\nredis_mode:{mode}\r\nrole:{role}\r\nmaxmemory:{limit}\r\n\
                 maxmemory_policy:{policy}\r\n"
            );
            about(&info, false).into_iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        use Verdict::{Ok, Problem, Warning};
        assert_eq!(say("7.0.15", "standalone", "master", "0", "allkeys-lru"), [Ok, Ok, Ok]);
        assert_eq!(say("6.0.16", "standalone", "slave", "1000", "allkeys-lru"), [Problem, Problem, Warning]);
        assert_eq!(say("6.2.0", "cluster", "master", "1000", "noeviction"), [Ok, Problem, Ok]);
    }
}

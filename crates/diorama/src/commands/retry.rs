//! `diorama retry RUN --where code=poison`: tries failed tasks of an ended run again.

use diorama_coordinator::RunStatus;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::runs::{client, describe, watch};
use crate::cli::{Cli, Retry};
use crate::exit::{self, Failure};
use crate::fleet::client::{Client, ClientError};
use crate::output;

pub(crate) async fn run(command: &Retry, cli: &Cli) -> Result<u8, Failure> {
    let conditions = conditions(&command.conditions).map_err(|error| Failure::usage(anyhow::anyhow!(error)))?;
    let client = client(cli)?;
    let status = retry(&client, &command.run, &json!({ "where": conditions })).await?;
    if cli.json() {
        output::line(&serde_json::to_string(&status).map_err(Failure::permanent)?);
    } else {
        output::line(&describe(&status));
    }
    if command.watch { watch(cli, &client, &command.run).await } else { Ok(exit::DONE) }
}

async fn retry(client: &Client, run: &str, body: &Value) -> Result<RunStatus, ClientError> {
    let path = format!("/v1/runs/{run}/retry");
    let request = || client.request(Method::POST, &path).json(body);
    match client.send_change(request, |problem| problem.code == "not_ended").await? {
        Some(answer) => client.read(answer).await,
        None => client.run(run).await,
    }
}

/// The conditions, as the API takes them; the codes are the coordinator's to know.
fn conditions(texts: &[String]) -> Result<Map<String, Value>, String> {
    let mut conditions = Map::new();
    for text in texts {
        let (key, value) = match text.split_once('=') {
            Some(("code", codes)) => ("code", codes.split(',').map(str::trim).collect()),
            Some(("retryable", value)) => {
                let value: bool =
                    value.parse().map_err(|_| format!("--where retryable: {value:?} is not true or false"))?;
                ("retryable", Value::Bool(value))
            }
            _ => return Err(format!("--where {text:?} is not code=CODE,CODE or retryable=true or =false")),
        };
        if conditions.insert(key.to_owned(), value).is_some() {
            return Err(format!("--where {key} is given twice; write --where code=ONE,OTHER"));
        }
    }
    Ok(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_or_refused_with_what_they_may_be() {
        let read = |texts: &[&str]| conditions(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let wanted = json!({ "code": ["poison", "out_of_memory"], "retryable": false });
        let found = read(&["code=poison, out_of_memory", "retryable=false"]).unwrap();
        assert_eq!(Value::Object(found), wanted);
        for bad in [&["poison"][..], &["retryable=maybe"], &["kode=poison"], &["code=a", "code=b"]] {
            assert!(read(bad).unwrap_err().starts_with("--where"), "{bad:?}");
        }
    }
}

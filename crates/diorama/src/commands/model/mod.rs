//! `diorama model fetch`: brings a model's folder from the object store to this machine, whole or not at all. For nodes
//! that come and go: an init container runs it, and the worker beside it finds a plain folder.

mod fetch;
mod folder;

use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Objects};
use diorama_core::address::bucket_and_key;
use diorama_core::id::Sha256Hex;
use serde_json::json;

use crate::cli::{Cli, FetchModel};
use crate::exit::{self, Failure};
use crate::fleet::connect::s3_config;
use crate::output;

pub(crate) async fn fetch(command: &FetchModel, cli: &Cli) -> Result<u8, Failure> {
    let (bucket, prefix) = bucket_and_key(&command.from).ok_or_else(|| {
        Failure::usage(anyhow::anyhow!("{:?} is not s3://BUCKET/FOLDER, the folder of a model", command.from))
    })?;
    let expected = command.sha256.as_deref().map(digest).transpose()?;
    let mut services = cli.configuration().map_err(Failure::usage)?.services;
    services.s3_bucket.get_or_insert_with(|| bucket.to_owned());
    let config = S3Config { bucket: bucket.to_owned(), prefix: prefix.to_owned(), ..s3_config(&services)? };
    let objects = Retrying::patient(S3Objects::connect(config).map_err(Failure::permanent)?);
    let fetched = fetch::fetch(&objects, &command.from, &command.to, expected.as_ref()).await?;
    if cli.json() {
        let (sha256, files, bytes) = (&fetched.sha256, fetched.files, fetched.bytes);
        let line = json!({ "to": command.to, "sha256": sha256, "files": files, "bytes": bytes, "was_there": fetched.was_there });
        output::line(&line.to_string());
    } else {
        let how = if fetched.was_there { "is there already" } else { "was fetched" };
        output::line(&format!(
            "{} {how}: {} files, {:.1} MB, sha256 {}",
            command.to.display(),
            fetched.files,
            fetched.bytes as f64 / 1e6,
            fetched.sha256
        ));
    }
    Ok(exit::DONE)
}

fn digest(text: &str) -> Result<Sha256Hex, Failure> {
    Sha256Hex::try_from(text.to_owned())
        .map_err(|_| Failure::usage(anyhow::anyhow!("--sha256 {text:?} is not 64 hexadecimal digits in lower case")))
}

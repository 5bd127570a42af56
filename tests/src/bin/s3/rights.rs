//! Keys that may do what a policy of `docs/policies` says, as Amazon's IAM would hold them to it. Each policy's key has the
//! file's name, and the secret of the key that may do everything.

use std::collections::BTreeMap;
use std::path::Path;

use s3s::access::{S3Access, S3AccessContext};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};
use serde::Deserialize;

#[derive(Deserialize)]
struct Policy {
    #[serde(rename = "Statement")]
    statements: Vec<Statement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    action: Vec<String>,
    resource: Vec<String>,
}

/// The policies by their keys.
pub(crate) struct Rights(BTreeMap<String, Policy>);

impl Rights {
    /// Those in the folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let files =
            std::fs::read_dir(folder).expect("the folder of policies can be read").map(|file| file.expect("a file"));
        Self(
            files
                .map(|file| {
                    let text = std::fs::read(file.path()).expect("a policy can be read");
                    let name = file.path().file_stem().expect("a name").to_string_lossy().into_owned();
                    (name, serde_json::from_slice(&text).expect("a policy"))
                })
                .collect(),
        )
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// What IAM calls the right to an operation.
fn right(operation: &str) -> &'static str {
    match operation {
        "GetObject" | "HeadObject" => "s3:GetObject",
        "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => "s3:PutObject",
        "DeleteObject" | "DeleteObjects" => "s3:DeleteObject",
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "ListObjectsV2" | "ListObjects" | "HeadBucket" => "s3:ListBucket",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        _ => "none",
    }
}

/// Whether `resource`, with a `*` at its end, means `name`. A request for many objects names its bucket only; each of them
/// is asked for by itself at Amazon.
fn means(resource: &str, name: &str, is_bucket: bool) -> bool {
    let resource = resource.trim_start_matches("arn:aws:s3:::");
    match resource.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix) || is_bucket && prefix.starts_with(&format!("{name}/")),
        None => name == resource,
    }
}

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else { return Err(s3_error!(AccessDenied, "no key")) };
        // Whoever has no policy may do everything.
        let Some(policy) = self.0.get(&credentials.access_key) else { return Ok(()) };
        let (name, is_bucket) = match context.s3_path() {
            S3Path::Root => return Err(s3_error!(AccessDenied, "no bucket")),
            S3Path::Bucket { bucket } => (bucket.to_string(), true),
            S3Path::Object { bucket, key } => (format!("{bucket}/{key}"), false),
        };
        let right = right(context.s3_op().name());
        let may = policy.statements.iter().any(|statement| {
            statement.action.iter().any(|action| action == right)
                && statement.resource.iter().any(|resource| means(resource, &name, is_bucket))
        });
        if may { Ok(()) } else { Err(s3_error!(AccessDenied, "{} may not {right} {name}", credentials.access_key)) }
    }
}

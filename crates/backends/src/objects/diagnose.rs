//! A look at an object store: whether it does each thing that the protocol needs, with keys of its own below `probe/`.

use std::path::Path;

use bytes::Bytes;
use diorama_core::id::AttemptId;

use super::{ObjectError, Objects, PROBES, probe_conditional_put};
use crate::diagnosis::Finding;

const LISTING: &str = "object store: list";
const WRITING: &str = "object store: put and get";
const CONDITION: &str = "object store: conditional put";
const PARTS: &str = "object store: upload in parts";
const REMOVING: &str = "object store: delete";

/// Looks at the store. `large` is a file that goes up in parts. Leaves nothing behind where it may delete.
pub async fn diagnose(objects: &dyn Objects, large: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    match objects.list(PROBES, None, 1).await {
        Ok(_) => found.push(Finding::ok(LISTING, "allowed")),
        // Everything else would only say the same.
        Err(error) => return vec![failed(LISTING, &error)],
    }
    let key = format!("{PROBES}doctor-{}", AttemptId::generate());
    found.push(match written_and_read(objects, &key).await {
        Ok(true) => Finding::ok(WRITING, "what is written is read"),
        Ok(false) => Finding::problem(WRITING, "what is read is not what was written", "this store cannot be used"),
        Err(error) => failed(WRITING, &error),
    });
    found.push(match probe_conditional_put(objects).await {
        Ok(true) => Finding::ok(CONDITION, "If-None-Match is honoured"),
        Ok(false) => Finding::warning(
            CONDITION,
            "the store ignores If-None-Match",
            "commits and decisions are guarded by claims in Redis instead, which is weaker: a write that takes effect \
             more than 30 s after it was sent, or whose claim Redis lost, can overwrite what another process wrote, \
             and while Redis is down nothing is committed or decided (docs/protocol.md); prefer a store that honours \
             it",
        ),
        Err(error) => failed(CONDITION, &error),
    });
    let parts = format!("{key}.parts");
    found.push(match objects.put_file(&parts, large).await {
        Ok(()) => Finding::ok(PARTS, "allowed"),
        Err(error) => failed(PARTS, &error),
    });
    found.push(match removed(objects, &[&key, &parts]).await {
        Ok(true) => Finding::ok(REMOVING, "allowed"),
        Ok(false) => {
            Finding::problem(REMOVING, "an object is still there after it was removed", "see the bucket's rules")
        }
        Err(error) => failed(REMOVING, &error),
    });
    found
}

async fn written_and_read(objects: &dyn Objects, key: &str) -> Result<bool, ObjectError> {
    let content = Bytes::from_static(b"doctor");
    objects.put(key, content.clone()).await?;
    Ok(objects.get(key).await? == content && objects.head(key).await?.is_some_and(|meta| meta.bytes == 6))
}

async fn removed(objects: &dyn Objects, keys: &[&str]) -> Result<bool, ObjectError> {
    let mut gone = true;
    for key in keys {
        objects.delete(key).await?;
        gone &= objects.head(key).await?.is_none();
    }
    Ok(gone)
}

fn failed(name: &'static str, error: &ObjectError) -> Finding {
    let advice = "check s3_endpoint, s3_bucket, s3_region, s3_path_style and the keys; the key needs to get, put, list \
                  and delete objects, and to upload them in parts";
    if error.is_retryable() {
        return Finding::away(name, error.to_string(), "start the store, or correct s3_endpoint");
    }
    Finding::problem(name, error.to_string(), advice)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::diagnosis::Verdict;
    use crate::objects::embedded::FolderObjects;

    #[tokio::test]
    async fn a_store_that_works_is_found_well_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FolderObjects::open(folder.path()).unwrap();
        let mut large = tempfile::NamedTempFile::new_in(folder.path().join(".tmp")).unwrap();
        large.write_all(b"large").unwrap();
        let found = diagnose(&objects, large.path()).await;
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:?}");
        assert_eq!(super::super::list_all(&objects, "").await.unwrap(), []);
    }
}

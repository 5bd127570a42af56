//! Many objects removed by one request, where the store knows that request; one by one where it does not. Each request is
//! tried again by itself, so that a fault near the end does not begin all of them anew.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::delete_objects::DeleteObjectsError;
use aws_sdk_s3::types::{Delete, Error, ObjectIdentifier};

use super::{S3Objects, error};
use crate::objects::retrying::{Patience, Retrying};
use crate::objects::{ObjectError, ObjectErrorKind, delete_each};

/// The most keys that one request takes.
const KEYS: usize = 1000;

impl S3Objects {
    /// Removes objects; those that are not there are no error.
    pub(super) async fn remove(&self, keys: &[String]) -> Result<(), ObjectError> {
        for keys in keys.chunks(KEYS) {
            if !Patience::long().exhaust(|| self.remove_at_once(keys)).await? {
                delete_each(&Retrying::patient(self.clone()), keys).await?;
            }
        }
        Ok(())
    }

    /// Removes at most [`KEYS`] objects; false where the store does not know this request.
    async fn remove_at_once(&self, keys: &[String]) -> Result<bool, ObjectError> {
        let full: Vec<String> = keys.iter().map(|key| self.full(key)).collect::<Result<_, _>>()?;
        let objects = full.into_iter().map(|key| ObjectIdentifier::builder().key(key).build());
        // Quiet: only what failed is listed in the answer.
        let delete = objects
            .collect::<Result<Vec<_>, _>>()
            .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
            .map_err(|error| {
                let problem = error.to_string();
                ObjectError::new(ObjectErrorKind::Io, "removing", self.name(&keys[0]), problem).caused_by(error)
            })?;
        let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        if answer.as_ref().is_err_and(is_unknown) {
            return Ok(false);
        }
        let answer = self.answered("removing", &keys[0], answer)?;
        match answer.errors().iter().find(|failed| failed.code() != Some("NoSuchKey")) {
            Some(failed) => Err(self.not_removed(failed)),
            None => Ok(true),
        }
    }

    fn not_removed(&self, failed: &Error) -> ObjectError {
        let code = failed.code().unwrap_or_default();
        // The answer as a whole was 200; where the code says nothing to us, it is a fault of the store.
        let (kind, advice) = error::answered(500, code);
        let what = format!("s3://{}/{}", self.bucket, failed.key().unwrap_or_default());
        let problem = format!("{code} {}{advice}", failed.message().unwrap_or_default());
        ObjectError::new(kind, "removing", what, problem)
    }
}

/// Whether the store does not know this request.
fn is_unknown(error: &SdkError<DeleteObjectsError>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    matches!(status, Some(405 | 501)) || matches!(error.code(), Some("NotImplemented" | "MethodNotAllowed"))
}

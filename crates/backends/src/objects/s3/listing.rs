//! A page of a listing. A store may give fewer objects than it was asked for, none at all included, and have more: what says
//! so is the token that it gives to go on with, and not what is on the page.

use super::{S3Objects, length, timestamp};
use crate::objects::{ObjectError, ObjectErrorKind, ObjectMeta, Page};

/// The most objects of a page.
const MOST: usize = 1000;

impl S3Objects {
    /// Up to `limit` objects behind `after`, at least one unless there is none.
    pub(super) async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let most = i32::try_from(limit.clamp(1, MOST)).unwrap_or(1);
        let full = format!("{}{prefix}", self.prefix);
        let after = after.map(|after| format!("{}{after}", self.prefix));
        let mut token: Option<String> = None;
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&full).max_keys(most);
            let request = request.set_start_after(after.clone().filter(|_| token.is_none()));
            let request = request.set_continuation_token(token.clone());
            let listed = self.answered("listing", prefix, request.send().await)?;
            let meta = |object: &aws_sdk_s3::types::Object| {
                let key = object.key()?.strip_prefix(&self.prefix)?.to_owned();
                let modified = object.last_modified().and_then(timestamp);
                Some(ObjectMeta { key, bytes: length(object.size()), modified })
            };
            let objects: Vec<_> = listed.contents().iter().filter_map(meta).collect();
            let more = listed.is_truncated().unwrap_or(false);
            if let Some(last) = objects.last() {
                let next = more.then(|| last.key.clone());
                return Ok(Page { objects, next });
            }
            if !more {
                return Ok(Page { objects, next: None });
            }
            let next = listed.next_continuation_token;
            if next.is_none() || next == token {
                // Taken for the end, it would hide objects; gone on with, it would have none.
                return Err(ObjectError::new(
                    ObjectErrorKind::Transient,
                    "listing",
                    self.name(prefix),
                    "the store returned an empty page and says that there is more, but not where".to_owned(),
                ));
            }
            token = next;
        }
    }
}

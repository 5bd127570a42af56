//! What an error of the SDK means: whether it may pass, and what to do where it will not.
//!
//! Every refusal begins with a stable code: the store's own (`NoSuchBucket`, `AccessDenied`, `SignatureDoesNotMatch`,
//! `RequestTimeTooSkewed` …) or, where there was no answer, one of ours: `CertificateRefused`, `NotTls`, `NotHttp`,
//! `UnknownHost`.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use diorama_core::causes;
use rustls::{CertificateError, InvalidMessage};

use super::credentials;
use crate::objects::ObjectErrorKind;
use crate::objects::ObjectErrorKind::{DiskFull, Io, NotFound, Refused, Transient, UnknownHost};

/// The kind, and what to say. `reached` says whether the store ever answered: before that, a host that cannot be found may
/// well be a wrong address, and later it is the fault of a name service.
pub(super) fn meaning<E>(error: &SdkError<E>, reached: bool) -> (ObjectErrorKind, String)
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let Some(response) = error.raw_response() else {
        if let Some(error) = causes::find::<CredentialsError>(error) {
            return credentials::meaning(error);
        }
        return match error {
            SdkError::ConstructionFailure(_) => {
                (Refused, format!("{}: check s3_endpoint, s3_region and s3_bucket", causes::in_one_line(error)))
            }
            _ => unanswered(error, reached),
        };
    };
    let status = response.status().as_u16();
    let code = error.code().unwrap_or_default();
    let (kind, advice) = answered(status, code);
    let advice = match response.headers().get("x-amz-bucket-region") {
        Some(region) if kind == Refused && is_elsewhere(status, code) => {
            format!(": the bucket is in the region {region}; set s3_region to it")
        }
        _ => advice.to_owned(),
    };
    match error.message() {
        Some(message) if !code.is_empty() => (kind, format!("{code} ({status}) {message}{advice}")),
        // The answer to a look at an object has no body, and so no code.
        _ => (kind, format!("the store answered {status} {code}{advice}")),
    }
}

fn is_elsewhere(status: u16, code: &str) -> bool {
    matches!(status, 301 | 302 | 307 | 308)
        || matches!(code, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
}

/// What the store's code and status mean, with what to do.
pub(super) fn answered(status: u16, code: &str) -> (ObjectErrorKind, &'static str) {
    match (status, code) {
        (_, "NoSuchBucket" | "InvalidBucketName") => {
            (Refused, ": there is no such bucket; create it, or correct its name (s3_bucket, or the s3:// address)")
        }
        (_, "InvalidAccessKeyId" | "NotSignedUp" | "InvalidToken" | "ExpiredToken" | "InvalidSecurity") => (
            Refused,
            ": the store does not know the key; check s3_access_key, or what gives it (`diorama doctor` names it)",
        ),
        (_, "SignatureDoesNotMatch") => (Refused, ": check s3_secret_key and s3_region"),
        (_, "AccessDenied" | "AllAccessDisabled" | "AccountProblem") => {
            (Refused, ": the key lacks the right; it needs to get, put, list and delete objects of the bucket")
        }
        (_, "RequestTimeTooSkewed") => (Refused, ": this machine's clock is wrong; set it, with NTP or chrony"),
        (status, code) if is_elsewhere(status, code) => {
            (Refused, ": the bucket is in another region or at another address; check s3_region and s3_endpoint")
        }
        (501, _) | (_, "NotImplemented") => {
            (Refused, ": the store cannot do this; docs/operations.md lists what a store must support")
        }
        (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull") => (DiskFull, ""),
        // Damaged or cut off on the way: the next try may arrive whole.
        (_, "XAmzContentSHA256Mismatch" | "BadDigest" | "IncompleteBody" | "RequestTimeout") => (Transient, ""),
        (401 | 403, _) => (Refused, ": check s3_access_key, s3_secret_key and the rights of the key"),
        (404, _) => (NotFound, ""),
        (408 | 409 | 425 | 429 | 500..=599, _) => (Transient, ""),
        // A store that broke off in the middle of its answer.
        (200..=299, _) => (Transient, ""),
        _ => (Io, ""),
    }
}

/// No answer came.
fn unanswered(error: &(dyn Error + 'static), reached: bool) -> (ObjectErrorKind, String) {
    let text = causes::in_one_line(error);
    let refused = |code: &str, advice: &str| (Refused, format!("{code}: {text}: {advice}"));
    if let Some(tls) = causes::find::<rustls::Error>(error) {
        return match tls {
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => refused(
                "CertificateRefused",
                "the store's certificate does not cover this name; correct s3_endpoint, or set s3_path_style if the \
                 certificate covers the host but not bucket.host",
            ),
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => refused("CertificateRefused", "renew the store's certificate, or set this machine's clock"),
            rustls::Error::InvalidCertificate(_) => {
                refused("CertificateRefused", "set ca_file to the certificate of the authority that signed the store's")
            }
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => refused(
                "NotTls",
                "there is no TLS at this address; start s3_endpoint with http://, or name the port with TLS",
            ),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                refused("NotTls", "the store's TLS is too old for us; it must offer TLS 1.2 or later")
            }
            _ => (Transient, text),
        };
    }
    // The HTTP library has no types for these two. First, what it says where a name leads nowhere.
    if text.contains("dns error") && !reached {
        let advice =
            "correct s3_endpoint, or set s3_path_style if bucket.host does not exist; or the name service is down";
        return (UnknownHost, format!("UnknownHost: {text}: {advice}"));
    }
    // And where the first bytes of the answer were not those of HTTP, but of TLS.
    if text.contains("invalid HTTP version") {
        return refused("NotHttp", "begin s3_endpoint with https://");
    }
    (Transient, text)
}

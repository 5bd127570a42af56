//! The file with the certificates of the authorities that vouch for the services: read and judged once, in the same words
//! for all three, because the libraries below skip what they cannot read and fail later with other words.

use std::path::Path;

use diorama_core::causes;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The file's text. The error says what is wrong with it and how to mend that.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let wrong = |problem: String| {
        format!(
            "the CA file {} {problem}; set ca_file to a file of certificates in PEM (-----BEGIN CERTIFICATE-----)",
            path.display()
        )
    };
    let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| causes::in_one_line(&error))
            .and_then(|certificate| roots.add(certificate).map_err(|error| causes::in_one_line(&error)));
        added.map_err(|problem| wrong(format!("is damaged ({problem})")))?;
    }
    if roots.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    String::from_utf8(pem).map_err(|_| wrong("is not text".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file with this content.
    fn said(content: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        read(file.path()).unwrap_err()
    }

    #[test]
    fn a_file_that_vouches_for_nobody_is_refused_with_the_reason() {
        for (content, part) in [
            (&b""[..], "holds no certificate"),
            (b"not a certificate", "holds no certificate"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no certificate"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
            (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "is damaged"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "is damaged"),
        ] {
            let said = said(content);
            assert!(said.contains(part) && said.contains("set ca_file"), "{said}");
        }
        assert!(read(Path::new("no-such-file.pem")).unwrap_err().contains("no-such-file.pem cannot be read"));
    }
}

//! What keeps references from being fetched at all.

use std::path::PathBuf;

/// Why references cannot be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The trusted certificates cannot be used.
    #[error("the certificates in {path} (ca_file) cannot be used: {problem}")]
    Certificates {
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP client cannot be made.
    #[error("nothing can be fetched over https: {0}")]
    Client(String),
}

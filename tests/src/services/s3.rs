//! A private S3 server.

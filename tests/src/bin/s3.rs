//! An S3 server over a folder.

fn main() {}

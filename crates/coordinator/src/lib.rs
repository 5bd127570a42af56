//! Validation of manifests, submission, the pump, rounds of retries, reconciliation, finalisation.

pub mod manifest;

//! One module a command.

pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod report;
pub(crate) mod run;

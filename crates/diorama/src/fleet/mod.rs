//! The fleet from the command line: the services that a coordinator or a worker stands on, and the client of the API.

pub(crate) mod client;
pub(crate) mod connect;
mod keys;
mod proxy;
pub(crate) mod references;

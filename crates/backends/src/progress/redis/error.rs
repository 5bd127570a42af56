//! What an error of Redis, or of its library, means: whether it may pass, and what to do where it will not.

use diorama_core::causes;
use redis::{ErrorKind as RedisKind, RedisError};
use rustls::{CertificateError, InvalidMessage};

use crate::kind::ErrorKind::{self, Permanent, Transient};
use crate::progress::ProgressError;

/// Codes of a server that takes nothing. A script's error has them in the middle of its text, where Redis before 7 reports
/// the script's failure and not the command's.
const TAKES_NOTHING: [&str; 4] = ["OOM", "READONLY", "MISCONF", "NOREPLICAS"];

/// As the progress's callers see it; `address` is where the server is, without user and password.
pub(super) fn failed(doing: &'static str, address: &str, error: RedisError) -> ProgressError {
    let (kind, advice) = meaning(&error);
    let problem = format!("Redis at {address}: {}; {advice}", causes::in_one_line(&error));
    ProgressError::new(kind, doing, problem).caused_by(error)
}

/// Whether the server answers and takes nothing: it is full, a replica, or cannot keep what it is told.
pub(super) fn takes_nothing(error: &RedisError) -> bool {
    code(error).is_some_and(|code| TAKES_NOTHING.contains(&code.as_str()))
}

/// The server's own code, that of the command where a script failed with it.
fn code(error: &RedisError) -> Option<String> {
    let (code, said) = (error.code()?, error.to_string());
    let inner = TAKES_NOTHING.into_iter().find(|inner| code == "ERR" && said.contains(&format!("-{inner} ")));
    Some(inner.unwrap_or(code).to_owned())
}

/// The kind, and what to do.
fn meaning(error: &RedisError) -> (ErrorKind, &'static str) {
    let said = error.to_string();
    if let Some(code) = code(error) {
        return answered(&code, &said);
    }
    if let Some(tls) = causes::find::<rustls::Error>(error) {
        return handshake(tls);
    }
    match error.kind() {
        RedisKind::AuthenticationFailed => (Permanent, LOGIN),
        RedisKind::InvalidClientConfig => (Permanent, "correct redis_url"),
        RedisKind::Server(_) => answered("ERR", &said),
        // Not the bytes that Redis would send.
        RedisKind::Parse => {
            (Permanent, "check that it is Redis, and that redis_url starts with rediss:// if the port uses TLS")
        }
        _ if error.is_io_error() => (
            Transient,
            "check that it runs, that this machine reaches it, and that redis_url starts with rediss:// if the port \
             uses TLS",
        ),
        _ => (Transient, "check that it runs and that this machine reaches it"),
    }
}

const LOGIN: &str = "check user, password and rights in redis_url (ACL GETUSER)";
const NEEDS_CLUSTER: &str = "the server is one of a cluster: set redis_cluster = true";

/// What the server's own code means.
fn answered(code: &str, said: &str) -> (ErrorKind, &'static str) {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => (Permanent, LOGIN),
        "MOVED" | "ASK" | "CROSSSLOT" => (Permanent, NEEDS_CLUSTER),
        "OOM" | "MISCONF" => (Transient, "give the server room, in memory and on its disk"),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" | "TRYAGAIN" | "NOREPLICAS" => {
            (Transient, "it is starting or failing over; if that persists, name the primary in redis_url")
        }
        "BUSY" => (Transient, "a script of somebody else's keeps it busy (SCRIPT KILL)"),
        "ERR" if said.contains("cluster support disabled") => {
            (Permanent, "the server is not a cluster: leave redis_cluster out")
        }
        "ERR" if said.contains("not allowed in cluster mode") => (Permanent, NEEDS_CLUSTER),
        "ERR" if said.contains("DB index") || said.contains("out of range") => {
            (Permanent, "the server has no such database: correct the number at the end of redis_url")
        }
        "ERR" if said.contains("without any password configured") || said.contains("invalid password") => {
            (Permanent, LOGIN)
        }
        "ERR" if said.contains("max number of clients") => (Transient, "raise its maxclients, or run fewer processes"),
        // In the middle of the connection's setup the library leaves the server's code out.
        "ERR" if said.contains("loading the dataset") => (Transient, "it is starting; wait"),
        "ERR" | "WRONGTYPE" | "DENIED" => {
            (Permanent, "check that it is Redis 6.2 or later, with Lua scripts allowed, and its keys diorama:* our own")
        }
        _ => (Transient, "look into the server's log"),
    }
}

/// What stopped TLS.
fn handshake(error: &rustls::Error) -> (ErrorKind, &'static str) {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            (Permanent, "name the host in redis_url as the server's certificate does (or set ca_file to the right one)")
        }
        E::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => (Permanent, "renew the server's certificate, or set this machine's clock"),
        E::InvalidCertificate(_) => {
            (Permanent, "set ca_file to the certificate of the authority that signed the server's")
        }
        E::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (Permanent, "there is no TLS at this port: start redis_url with redis://, or name the port with TLS")
        }
        E::PeerIncompatible(_) => (Permanent, "the server must offer TLS 1.2 or later"),
        _ => (Transient, "the TLS connection was cut off; check that the server runs and that this machine reaches it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_sorted_by_whether_waiting_mends_it() {
        for (code, said, kind) in [
            ("NOAUTH", "Authentication required.", Permanent),
            ("WRONGPASS", "invalid username-password pair or user is disabled.", Permanent),
            ("NOPERM", "this user has no permissions to run the 'evalsha' command", Permanent),
            ("MOVED", "3999 127.0.0.1:6381", Permanent),
            ("CROSSSLOT", "Keys in request don't hash to the same slot", Permanent),
            ("ERR", "This instance has cluster support disabled", Permanent),
            ("ERR", "SELECT is not allowed in cluster mode", Permanent),
            ("ERR", "DB index is out of range", Permanent),
            ("ERR", "unknown command 'EVALSHA'", Permanent),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Transient),
            ("READONLY", "You can't write against a read only replica.", Transient),
            ("LOADING", "Redis is loading the dataset in memory", Transient),
            ("ERR", "Redis is loading the dataset in memory", Transient),
            ("CLUSTERDOWN", "The cluster is down", Transient),
            ("ERR", "max number of clients reached", Transient),
            ("NEWCODE", "that nobody has heard of", Transient),
        ] {
            assert_eq!(answered(code, said).0, kind, "{code} {said}");
        }
    }
}

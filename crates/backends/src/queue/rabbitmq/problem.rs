//! What an error of lapin, or of the broker, means: whether it may pass, and what to do where it will not.
//!
//! A broker that is setting itself up, or has lost its majority, may refuse for a moment whom it knows: [`Trust`] tells
//! such a refusal from one that is meant.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diorama_core::causes;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use rustls::InvalidMessage;

use crate::kind::{Cause, ErrorKind};
use crate::queue::QueueError;

/// Why something could not be done through the broker.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: ErrorKind,
    pub(super) text: String,
    cause: Option<Cause>,
}

impl Problem {
    /// One that nobody but a person mends.
    pub(super) fn permanent(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Permanent, text: text.into(), cause: None }
    }

    /// One that may pass.
    pub(super) fn transient(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Transient, text: text.into(), cause: None }
    }

    /// The same, where it turns out that somebody has to do this.
    pub(super) fn but_for(self, advice: &str) -> Self {
        Self { kind: ErrorKind::Permanent, text: format!("{}; {advice}", self.text), ..self }
    }

    pub(super) fn caused_by(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    /// The same, with what was being done, or where, in front.
    pub(super) fn while_doing(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    /// The same, where trying again may help all the same.
    pub(super) fn that_may_pass(self) -> Self {
        Self { kind: ErrorKind::Transient, ..self }
    }

    /// As the queue's callers see it.
    pub(super) fn of(self, doing: &'static str) -> QueueError {
        QueueError::Failed { kind: self.kind, doing, problem: self.text, cause: self.cause }
    }

    /// What an attempt to connect to `host` met.
    pub(super) fn of_connecting(error: lapin::Error, host: &str, tls: bool) -> Self {
        let problem = match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) => refused(refusal),
            lapin::ErrorKind::IOError(io) => broken(io, host, tls),
            // A broker of AMQP 1.0, HTTP, or the first bytes of TLS.
            lapin::ErrorKind::ParsingError(_) | lapin::ErrorKind::InvalidProtocolVersion(_) => {
                Self::permanent(format!(
                    "what answers there speaks no AMQP 0-9-1 ({error}): check the port, and that it speaks AMQP without TLS \
                 (else amqps://)"
                ))
            }
            _ => Self::transient(error.to_string()),
        };
        problem.caused_by(error)
    }
}

/// What a call through an open connection met.
impl From<lapin::Error> for Problem {
    fn from(error: lapin::Error) -> Self {
        let problem = match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) => match refusal.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::permanent(format!(
                    "the user lacks a right ({}): it needs to configure, write and read queues and exchanges named \
                     diorama.* and the default exchange (rabbitmqctl set_permissions)",
                    refusal.get_message()
                )),
                // What is not there is declared again, and a late acknowledgement is another worker's by now.
                AMQPErrorKind::Soft(_) => Self::transient(error.to_string()),
                AMQPErrorKind::Hard(_) => refused(refusal),
            },
            _ => Self::transient(error.to_string()),
        };
        problem.caused_by(error)
    }
}

/// The broker's own word about a connection.
fn refused(refusal: &AMQPError) -> Problem {
    let said = refusal.get_message().as_str();
    match refusal.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Problem::permanent(format!(
            "the broker refuses the login ({said}): check user and password in amqp_url (guest may log in only from \
             the broker's own machine)"
        )),
        // "connection limit (10) is reached": somebody may leave.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if said.contains("limit") => Problem::transient(format!(
            "the broker accepts no more connections ({said}): raise the limit (rabbitmqctl set_vhost_limits, \
             set_user_limits), or run fewer processes"
        )),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH)
        | AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Problem::permanent(format!(
            "the broker refuses the vhost ({said}): check in amqp_url that it exists (rabbitmqctl list_vhosts) and that the \
             user may use it (rabbitmqctl set_permissions)"
        )),
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => {
            Problem::permanent(format!("the broker cannot do this ({said}): see that it is RabbitMQ 3.10 or later"))
        }
        // Shutting down, short of something, or itself at fault.
        _ => Problem::transient(format!("the broker refuses: {refusal}")),
    }
}

/// A connection that did not come about, or broke off before the broker had spoken.
fn broken(error: &io::Error, host: &str, tls: bool) -> Problem {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        let text = format!("nothing listens there ({error}): check host and port, and that the broker runs");
        return Problem::transient(text);
    }
    if !tls {
        let text = format!("{error}: check the host's name, and that the port speaks AMQP without TLS (else amqps://)");
        return Problem::transient(text);
    }
    let check = format!(
        "check that the port is the broker's TLS port, that the CA file (ca_file) signs its certificate, and that the \
         certificate is for {host:?}"
    );
    let text = format!("TLS failed ({}): {check}", causes::in_one_line(error));
    match causes::find::<rustls::Error>(error) {
        Some(
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)
            | rustls::Error::PeerIncompatible(_),
        ) => Problem::permanent(text),
        // Broken off in the middle, or a system's own error such as a name without an address.
        _ => Problem::transient(text),
    }
}

/// What a broker has granted once it is not taken to refuse for good until it has done so for a while.
pub(super) struct Trust {
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    /// It never granted it.
    New,
    Granted,
    RefusedSince(Instant),
}

impl Trust {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, state: Mutex::new(State::New) }
    }

    /// Notes what came of a try. A refusal that may yet be taken back has become one that may pass.
    pub(super) fn judge<T>(&self, tried: Result<T, Problem>) -> Result<T, Problem> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match tried {
            Ok(granted) => {
                *state = State::Granted;
                Ok(granted)
            }
            Err(problem) if problem.kind == ErrorKind::Permanent => {
                let since = match *state {
                    State::New => return Err(problem),
                    State::Granted => Instant::now(),
                    State::RefusedSince(since) => since,
                };
                *state = State::RefusedSince(since);
                let is_meant = since.elapsed() >= self.patience;
                Err(if is_meant { problem } else { problem.that_may_pass() })
            }
            // A broker that is away says nothing about it.
            Err(problem) => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(hard: AMQPHardError, said: &str) -> ErrorKind {
        refused(&AMQPError::new(AMQPErrorKind::Hard(hard), said.into())).kind
    }

    #[test]
    fn a_broker_that_is_full_or_stops_is_waited_for_and_one_that_refuses_is_not() {
        assert_eq!(refusal(AMQPHardError::NOTALLOWED, "vhost nowhere not found"), ErrorKind::Permanent);
        assert_eq!(refusal(AMQPHardError::NOTALLOWED, "connection limit (1) is reached"), ErrorKind::Transient);
        assert_eq!(refusal(AMQPHardError::CONNECTIONFORCED, "broker forced connection closure"), ErrorKind::Transient);
        assert_eq!(refusal(AMQPHardError::INTERNALERROR, "vhost 'a' is down"), ErrorKind::Transient);
    }

    #[test]
    fn a_refusal_counts_at_once_from_the_first_and_after_a_while_from_one_that_let_us_in() {
        let kind = |trust: &Trust, tried: Result<(), Problem>| trust.judge(tried).map_err(|problem| problem.kind);
        let refused = || Err(Problem::permanent("no"));
        let patient = Trust::new(Duration::from_secs(3600));
        assert_eq!(kind(&patient, refused()), Err(ErrorKind::Permanent));
        assert_eq!(kind(&patient, Ok(())), Ok(()));
        assert_eq!(kind(&patient, refused()), Err(ErrorKind::Transient));
        assert_eq!(kind(&patient, refused()), Err(ErrorKind::Transient));

        let hasty = Trust::new(Duration::ZERO);
        assert_eq!(kind(&hasty, Ok(())), Ok(()));
        assert_eq!(kind(&hasty, refused()), Err(ErrorKind::Permanent));
    }
}

//! Who is connected, and who makes room for whom. No I/O.
//!
//! A connection that asks nothing (none yet, half a head, nothing more) may be closed for a new one; that of the address
//! with the most connections goes first, the one that has asked nothing for longest among them. So who opens many
//! closes their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// Connections beyond those that there may be, each for moments.
pub(super) const EXTRA: usize = 16;

/// How long one of those lasts.
pub(super) const MOMENT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Usual,
    /// One too many, answered from memory.
    Extra,
}

/// What is known of one connection.
#[derive(Debug)]
struct Seat {
    address: IpAddr,
    kind: Kind,
    talk: Mutex<Talk>,
    /// Rung when `talk` changes.
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Talk {
    /// Requests that are being answered.
    requests: usize,
    /// Since when there are none.
    quiet_since: Instant,
    /// Whether there ever was one.
    spoke: bool,
    /// It is to end as soon as it asks nothing.
    leaves: bool,
}

impl Seat {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when it asks nothing; `None` where it does, or is on its way out.
    fn quiet_since(&self) -> Option<Instant> {
        let talk = *self.talk();
        (talk.requests == 0 && !talk.leaves).then_some(talk.quiet_since)
    }

    fn leave(&self) {
        self.talk().leaves = true;
        self.changed.notify_one();
    }
}

#[derive(Debug, Default)]
pub(super) struct Places(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    seats: HashMap<u64, Arc<Seat>>,
}

impl State {
    /// Those that were not told to leave.
    fn staying(&self, kind: Kind) -> impl Iterator<Item = &Arc<Seat>> {
        self.seats.values().filter(move |seat| seat.kind == kind && !seat.talk().leaves)
    }

    /// Has the quietest connection of the fullest address leave, or of the one `address`; whether there was one.
    fn make_room(&self, address: Option<IpAddr>) -> bool {
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        for seat in self.staying(Kind::Usual) {
            *of.entry(seat.address).or_default() += 1;
        }
        let quiet = self.staying(Kind::Usual).filter(|seat| address.is_none_or(|address| seat.address == address));
        let quiet = quiet.filter_map(|seat| seat.quiet_since().map(|since| (seat, since)));
        let first = quiet.max_by_key(|(seat, since)| (of.get(&seat.address).copied(), std::cmp::Reverse(*since)));
        first.inspect(|(seat, _)| seat.leave()).is_some()
    }
}

impl Places {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`; somebody else leaves for it, or it is an extra one.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Place {
        let address = network(address);
        let mut state = self.state();
        let own = state.staying(Kind::Usual).filter(|seat| seat.address == address).count();
        let has_room = (own < limits.of_an_address || state.make_room(Some(address)))
            && (state.staying(Kind::Usual).count() < limits.now() || state.make_room(None));
        let kind = if has_room { Kind::Usual } else { Kind::Extra };
        if kind == Kind::Extra && state.staying(Kind::Extra).count() >= EXTRA {
            let oldest = state.staying(Kind::Extra).min_by_key(|seat| seat.talk().quiet_since);
            oldest.inspect(|seat| seat.leave());
        }
        let talk = Talk { requests: 0, quiet_since: Instant::now(), spoke: false, leaves: false };
        let seat = Arc::new(Seat { address, kind, talk: Mutex::new(talk), changed: Notify::new() });
        let number = state.next;
        state.next += 1;
        state.seats.insert(number, seat.clone());
        Place { number, seat, places: self.clone() }
    }

    /// Has one that asks nothing leave.
    pub(super) fn make_room(&self) {
        self.state().make_room(None);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.state().seats.len()
    }
}

/// Whom an address stands for: a host with IPv6 has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// The place of one connection, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    seat: Arc<Seat>,
    places: Arc<Places>,
}

impl Place {
    pub(super) fn kind(&self) -> Kind {
        self.seat.kind
    }

    /// A request is being answered until the value is dropped.
    pub(super) fn asks(&self) -> Asking {
        let mut talk = self.seat.talk();
        talk.requests += 1;
        talk.spoke = true;
        drop(talk);
        self.seat.changed.notify_one();
        Asking(self.seat.clone())
    }

    /// It ends as soon as it asks nothing.
    pub(super) fn leave(&self) {
        self.seat.leave();
    }

    /// Returns when the connection is to end: it asked nothing for too long, or makes room.
    pub(super) async fn ends(&self, limits: &Limits) {
        let limit = |talk: Talk| match self.seat.kind {
            _ if talk.requests > 0 => None,
            _ if talk.leaves => Some(talk.quiet_since),
            Kind::Usual => Some(talk.quiet_since + if talk.spoke { limits.idle } else { limits.head }),
            Kind::Extra => Some(talk.quiet_since + MOMENT),
        };
        loop {
            let changed = self.seat.changed.notified();
            let at = limit(*self.seat.talk());
            match at {
                Some(at) if at <= Instant::now() => return,
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().seats.remove(&self.number);
    }
}

/// A request under way, until the last byte of its answer.
#[derive(Debug)]
pub(super) struct Asking(Arc<Seat>);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut talk = self.0.talk();
        talk.requests -= 1;
        talk.quiet_since = Instant::now();
        drop(talk);
        self.0.changed.notify_one();
    }
}

//! A TCP proxy between a process and a service, for what a network does: it loses everything for a while without a word,
//! or takes its time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A proxy on a port of its own. Its connections end with it.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cut: bool,
    delay: Duration,
    ended: bool,
    /// Both streams of each connection, by its number.
    open: HashMap<u64, [TcpStream; 2]>,
    next: u64,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the network is cut, then for its delay; `None` where the proxy has ended.
    fn pass(&self) -> Option<()> {
        let delay = {
            let uncut = self.changed.wait_while(self.state(), |state| state.cut && !state.ended);
            let state = uncut.unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return None;
            }
            state.delay
        };
        std::thread::sleep(delay);
        Some(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Joins the two until both have ended.
    fn join(&self, stream: &TcpStream, service: &TcpStream) -> std::io::Result<()> {
        let pair = || Ok::<_, std::io::Error>([stream.try_clone()?, service.try_clone()?]);
        let ([from, to], [back_to, back_from]) = (pair()?, pair()?);
        let number = {
            let mut state = self.state();
            if state.ended {
                return Ok(());
            }
            state.next += 1;
            let number = state.next;
            state.open.insert(number, pair()?);
            number
        };
        std::thread::scope(|scope| {
            scope.spawn(|| self.forward(from, to));
            self.forward(back_from, back_to);
        });
        self.state().open.remove(&number);
        Ok(())
    }

    /// Forwards one direction until its end, which is forwarded too.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if self.pass().is_none() || read == 0 || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}

impl Proxy {
    /// A proxy to `port` of the loopback interface.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let network = Arc::new(Network::default());
        let accepting = {
            let network = network.clone();
            std::thread::spawn(move || accept(&listener, port, &network))
        };
        Self { port: own, network, accepting: Some(accepting) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address `url` of the service, led through this proxy.
    pub fn in_place_of(&self, port: u16, url: &str) -> String {
        let through = url.replace(&format!(":{port}"), &format!(":{}", self.port));
        assert_ne!(through, url, "the address does not name the port {port}");
        through
    }

    /// Loses whatever is sent from now on, in both directions, ends of connections included; nobody is told.
    pub fn cut(&self) {
        self.network.change(|state| state.cut = true);
    }

    /// Delivers again, and first what was sent meanwhile, as TCP would.
    pub fn heal(&self) {
        self.network.change(|state| state.cut = false);
    }

    /// Delays everything from now on, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.network.change(|state| state.delay = delay);
    }
}

/// Takes connections until the proxy ends; each takes two threads, which end with it.
fn accept(listener: &TcpListener, port: u16, network: &Arc<Network>) {
    let mut forwarding: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if network.state().ended {
            break;
        }
        let Ok(stream) = stream else { continue };
        let network = network.clone();
        forwarding.push(std::thread::spawn(move || {
            // A connection that is made during a cut waits for its end.
            let Some(()) = network.pass() else { return };
            if let Ok(service) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = network.join(&stream, &service);
            }
        }));
    }
    for thread in forwarding {
        let _ = thread.join();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.change(|state| {
            state.ended = true;
            for stream in state.open.values().flatten() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_during_a_cut_arrives_after_it_and_never_before() {
        let service = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::to(service.local_addr().unwrap().port());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        client.write_all(b"one").unwrap();
        let (mut peer, _) = service.accept().unwrap();
        let mut bytes = [0; 3];
        peer.read_exact(&mut bytes).unwrap();
        proxy.cut();
        client.write_all(b"two").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(peer.read_exact(&mut bytes).is_err(), "the cut let something through");
        peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        proxy.heal();
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"two");
        assert_eq!(peer.read(&mut bytes).unwrap(), 0, "the end of the connection was lost");
    }
}

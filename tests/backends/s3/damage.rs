//! A body that is damaged on its way is refused by the store, and the next try arrives whole.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use bytes::Bytes;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::S3Config;
use diorama_backends::objects::{ObjectErrorKind, Objects};

use super::{config, connect, server};

const SENT: &[u8] = b"as it was sent";
const DAMAGED: &[u8] = b"as it wAs sent";

/// A network in front of the server, that damages what was sent as long as `damages` is left. Gives its port.
fn network(server: u16, damages: Arc<AtomicU32>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
            let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let damages = damages.clone();
            thread::spawn(move || {
                let mut piece = [0; 64 << 10];
                while let Ok(length @ 1..) = client.read(&mut piece) {
                    let found = piece[..length].windows(SENT.len()).position(|window| window == SENT);
                    if let Some(at) = found
                        && damages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
                    {
                        piece[at..at + SENT.len()].copy_from_slice(DAMAGED);
                    }
                    if server.write_all(&piece[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_damaged_on_its_way_is_refused_and_sent_again() {
    let server = server();
    let damages = Arc::new(AtomicU32::new(1));
    let endpoint = Some(format!("http://127.0.0.1:{}", network(server.port(), damages.clone())));
    let store = connect(S3Config { endpoint, ..config(&server, "damage") });

    let error = store.put("a", Bytes::from_static(SENT)).await.unwrap_err();
    assert_eq!(damages.load(Ordering::SeqCst), 0, "the network damaged nothing");
    assert_eq!(error.kind, ObjectErrorKind::Transient, "{error}");
    assert_eq!(store.head("a").await.unwrap(), None, "a damaged body became an object");

    damages.store(3, Ordering::SeqCst);
    let store = Retrying::patient(store);
    store.put("a", Bytes::from_static(SENT)).await.unwrap();
    assert_eq!(damages.load(Ordering::SeqCst), 0);
    assert_eq!(store.get("a").await.unwrap(), SENT);
}

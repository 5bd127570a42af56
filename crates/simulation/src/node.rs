//! A process, as the services see it: its calls may be late, refused, or done with their answers lost; a write may take
//! effect long after it failed. While it is frozen, they stand still on both sides of their effect; while it is cut off
//! from a service, none of them gets there.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};
use diorama_backends::progress::Progress;
use diorama_backends::queue::Queue;
use diorama_core::key::blob_of;
use diorama_protocol::mutant::{Mutant, is_back};
use diorama_protocol::{Backends, Exclusive};
use tokio::sync::Notify;

use crate::world::{Fate, Object, Store, World, locked};

/// After this long without a heartbeat the broker gives a connection up: two of its `amqp_heartbeat`s.
const TWO_HEARTBEATS: Duration = Duration::from_secs(40);

/// A service that a node can be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Objects,
    Queue,
    Progress,
}

/// One process of the world.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) world: Arc<World>,
    /// No other one has it.
    pub(crate) number: u64,
    /// Since when it stands still.
    frozen: Arc<Mutex<Option<Duration>>>,
    /// Unlike a watch channel, it wakes whoever waits in the order in which they came.
    thawed: Arc<Notify>,
    /// From which it is cut off, until when.
    cut_off: Arc<Mutex<Option<(Service, Duration)>>>,
}

impl Node {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let number = world.next_node();
        Self { world: world.clone(), number, frozen: Arc::default(), thawed: Arc::default(), cut_off: Arc::default() }
    }

    /// What the process stands on.
    pub(crate) fn backends(&self) -> Backends {
        let blind = is_back(Mutant::LostAnswerIsRefusal);
        let objects: Arc<dyn Objects> =
            if blind { Arc::new(Blind(self.clone())) } else { Arc::new(Retrying::new(self.clone())) };
        Backends {
            queue: Arc::new(self.clone()) as Arc<dyn Queue>,
            progress: Arc::new(self.clone()) as Arc<dyn Progress>,
            objects,
            exclusive: self.world.exclusive,
        }
    }

    /// It stands still. The broker gives it up when it has missed its heartbeats, and delivers again what it has.
    pub(crate) fn freeze(&self) {
        let since = Some(self.world.now());
        *locked(&self.frozen) = since;
        self.falls_silent(move |node| *locked(&node.frozen) == since);
    }

    /// The same, for this long.
    pub(crate) fn freeze_for(&self, time: Duration) {
        self.freeze();
        let node = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            node.go_on();
        });
    }

    pub(crate) fn go_on(&self) {
        *locked(&self.frozen) = None;
        self.thawed.notify_waiters();
    }

    pub(crate) fn is_frozen(&self) -> bool {
        locked(&self.frozen).is_some()
    }

    /// Cuts it off from `service` for this long.
    pub(crate) fn cut_off(&self, service: Service, time: Duration) {
        let cut = Some((service, self.world.now() + time));
        *locked(&self.cut_off) = cut;
        if service == Service::Queue {
            self.falls_silent(move |node| node.is_cut_off() && *locked(&node.cut_off) == cut);
        }
    }

    fn falls_silent(&self, is_silent: impl Fn(&Self) -> bool + Send + 'static) {
        let node = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TWO_HEARTBEATS).await;
            if is_silent(&node) {
                node.world.give_up(node.number);
            }
        });
    }

    pub(crate) fn reconnect(&self) {
        *locked(&self.cut_off) = None;
    }

    /// Whether it is cut off from something.
    pub(crate) fn is_cut_off(&self) -> bool {
        locked(&self.cut_off).is_some_and(|(_, until)| self.world.now() < until)
    }

    pub(crate) fn is_cut_off_from(&self, service: Service) -> bool {
        locked(&self.cut_off).is_some_and(|(other, until)| other == service && self.world.now() < until)
    }

    /// Passes when the process is not frozen.
    pub(crate) async fn gate(&self) {
        while self.is_frozen() {
            self.thawed.notified().await;
        }
    }

    /// Begins a call.
    pub(crate) async fn call(&self, service: Service) -> Fate {
        self.gate().await;
        self.world.lag().await;
        let fate = self.world.fate();
        if self.is_cut_off_from(service) { Fate::Refused } else { fate }
    }

    async fn read<T>(
        &self,
        doing: &'static str,
        key: &str,
        read: impl FnOnce(&BTreeMap<String, Object>) -> T + Send,
    ) -> Result<T, ObjectError> {
        let read = match self.call(Service::Objects).await {
            Fate::Done | Fate::Late(_) => Ok(read(self.world.store().objects())),
            Fate::Refused | Fate::AnswerLost => Err(failed(ObjectErrorKind::Transient, doing, key)),
        };
        self.gate().await;
        read
    }

    async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        key: &str,
        write: impl FnOnce(&mut Store, &World) -> T + Send + 'static,
    ) -> Result<T, ObjectError> {
        let failed = || Err(failed(ObjectErrorKind::Transient, doing, key));
        let written = match self.call(Service::Objects).await {
            Fate::Done => Ok(write(&mut self.world.store(), &self.world)),
            Fate::Refused => failed(),
            Fate::AnswerLost => {
                write(&mut self.world.store(), &self.world);
                failed()
            }
            Fate::Late(after) => {
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    write(&mut world.store(), &world);
                });
                failed()
            }
        };
        self.gate().await;
        written
    }
}

fn failed(kind: ObjectErrorKind, doing: &'static str, key: &str) -> ObjectError {
    ObjectError::new(kind, doing, key, "simulated")
}

fn meta(key: &str, object: &Object) -> ObjectMeta {
    ObjectMeta { key: key.to_owned(), bytes: object.bytes.len() as u64, modified: Some(object.modified) }
}

#[async_trait]
impl Objects for Node {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        if blob_of(key).is_some() && self.world.roll(5) == 0 {
            // A large picture over a slow line.
            tokio::time::sleep(Duration::from_millis(self.world.roll(20_000))).await;
        }
        let read = self.read("reading", key, |objects| {
            let bytes = objects.get(key).map(|object| object.bytes.clone());
            let is_next = bytes.is_none() && key.contains("/commits/");
            if is_next && self.world.exclusive == Exclusive::Claim && self.world.is_stormy() && self.world.roll(30) == 0
            {
                // Between its claim, which it may have, and its write.
                self.freeze_for(Duration::from_millis(self.world.roll(90_000)));
            }
            bytes
        });
        read.await?.ok_or_else(|| failed(ObjectErrorKind::NotFound, "reading", key))
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectReader { bytes: bytes.len() as u64, body: Box::pin(std::io::Cursor::new(bytes)) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        self.read("looking at", key, |objects| objects.get(key).map(|object| meta(key, object))).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let limit = limit.min(1 + self.world.roll(40) as usize);
        self.read("listing", prefix, |objects| {
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
                _ => Bound::Included(prefix.to_owned()),
            };
            let mut rest = objects.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            let page: Vec<_> = rest.by_ref().take(limit).map(|(key, object)| meta(key, object)).collect();
            let next = rest.next().and_then(|_| page.last().map(|last| last.key.clone()));
            Page { objects: page, next }
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        if key.contains("/endings/") && self.world.roll(2) == 0 {
            // The results of a large run.
            tokio::time::sleep(Duration::from_millis(self.world.roll(8000))).await;
        }
        let name = key.to_owned();
        self.write("writing", key, move |store, world| store.put(world, name, bytes)).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let name = key.to_owned();
        self.write("writing", key, move |store, world| store.put_if_absent(world, name, bytes)).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let bytes =
            std::fs::read(file).map_err(|error| ObjectError::io("reading", file.display().to_string(), &error))?;
        self.put(key, bytes.into()).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let name = key.to_owned();
        self.write("removing", key, move |store, world| store.delete(world, name)).await
    }
}

/// Tries again like [`Retrying`], and does not look whether a conditional write that finds something finds itself:
/// [`Mutant::LostAnswerIsRefusal`].
struct Blind(Node);

impl Blind {
    async fn try_again<T, F: Future<Output = Result<T, ObjectError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, ObjectError> {
        for wait in [50, 100, 200, 400] {
            match call().await {
                Err(error) if error.kind == ObjectErrorKind::Transient => {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                answer => return answer,
            }
        }
        call().await.map_err(|error| match error.kind {
            ObjectErrorKind::Transient => ObjectError { kind: ObjectErrorKind::Away, ..error },
            _ => error,
        })
    }
}

#[async_trait]
impl Objects for Blind {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.try_again(|| self.0.get(key)).await
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        self.try_again(|| self.0.open(key)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        self.try_again(|| Objects::head(&self.0, key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        self.try_again(|| self.0.list(prefix, after, limit)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.try_again(|| self.0.put(key, bytes.clone())).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        self.try_again(|| self.0.put_if_absent(key, bytes.clone())).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        self.try_again(|| self.0.put_file(key, file)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.try_again(|| self.0.delete(key)).await
    }
}

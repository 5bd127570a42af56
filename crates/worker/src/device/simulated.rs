//! The device of a simulation: a task, so that it stands in the same time as everything else.

use diorama_core::generator::{Generator, Job};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::owner::Owner;
use super::{Device, Engine, Request};

/// Passes when a batch would be done.
pub type Pace = Box<dyn Fn(&[Job]) -> BoxFuture<'static, ()> + Send>;

impl Device {
    /// A device whose batches take as long as `pace` says. Whoever drops the handle pulls the plug.
    pub fn simulated(generator: Box<dyn Generator>, pace: Pace) -> (Self, AbortOnDropHandle<()>) {
        let (requests, incoming) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let info = generator.info().clone().into();
        let owner = Owner { engine: Engine { generator, measurer: None }, stop: stop.clone() };
        let device = Self { requests, info, measurer: owner.measurer_info().into(), stop };
        let serving = tokio::spawn(serve(owner, incoming, pace));
        (device, AbortOnDropHandle::new(serving))
    }
}

async fn serve(mut owner: Owner, mut incoming: mpsc::Receiver<Request>, pace: Pace) {
    while let Some(mut request) = incoming.recv().await {
        if let Request::Generate(jobs, _, reply) = &mut request {
            tokio::select! {
                biased;
                () = owner.stop.cancelled() => {}
                () = reply.closed() => {}
                () = pace(jobs) => {}
            }
        }
        owner.answer(request);
    }
}

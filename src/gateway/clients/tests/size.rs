//! What an idle client costs.

use super::*;
use crate::gateway::clients::handle::Handle;
use crate::gateway::clients::socket;

#[tokio::test]
async fn an_idle_client_stays_small() {
    let bench = Bench::start(|_| {}).await;
    let seat = bench.hub.seats.take([127, 0, 0, 1].into()).unwrap();
    let arrival = Box::new(socket::Arrival { seat, remote: None, connect: None });
    let (stream, _other) = tokio::io::duplex(1);
    let task = size_of_val(&socket::serve(Arc::clone(&bench.hub), stream, arrival));
    let handle = size_of::<Handle>();
    // The read buffer, and what names and maps take, come on top; 3.5 KiB is the aim for all of it.
    assert!(task + handle <= 2048, "a task of {task} bytes, a handle of {handle}");
}

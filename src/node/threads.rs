//! Threads of their own for the log and the leases: a node that is busy with requests still hears heartbeats and renewals, and
//! answers them.
//!
//! Tasks of one runtime queue behind each other, and threads that are always busy wait longest for a processor. Those of the
//! log have little to do, so on a machine whose processors are all taken they get their turn soon.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// One applies entries and takes snapshots apart, one may wait for it to look a session up, and the third one goes on.
const THREADS: usize = 3;

/// The threads. They end with this; what still runs on them is left behind.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// When the process may not have more threads.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("raft").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn what shall run on them.
    pub(super) fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is taken only when this is dropped").handle().clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

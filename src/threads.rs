//! Threads of their own for what must not wait: a process that is busy with requests still hears heartbeats and renewals, and
//! answers or sends them.
//!
//! Tasks of one runtime queue behind each other, and threads that are always busy wait longest for a processor. Those that have
//! little to do get their turn soon, also on a machine whose processors are all taken.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;

/// The threads. They end with this; what still runs on them is left behind. A simulation has none but its own.
#[derive(Debug)]
pub struct Threads(Option<Runtime>);

/// Does `work` apart from the async workers, which it would hold for too long, and waits for it. A simulation does it at once.
///
/// # Errors
/// When the work panicked, or the process is about to end.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(feature = "simulation")]
    if crate::simulation::world().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

impl Threads {
    /// Starts so many, under a name for debuggers.
    ///
    /// # Errors
    /// When the process may not have more threads.
    pub fn start(count: usize, name: &str) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if crate::simulation::world().is_some() {
            return Ok(Self(None));
        }
        let runtime = Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn what shall run on them.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

//! Work that may take long, or wait for a disk, apart from the async workers.

use tokio::task::JoinError;

/// Does `work` where it may block, and waits for it. A simulation does it at once: it has no thread but one.
///
/// # Errors
/// When the work panicked, or the runtime is about to end.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_on() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

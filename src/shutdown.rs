//! How a process is asked to end: once to finish what it does, twice to stop at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two requests.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Finish and end: SIGTERM or SIGINT.
    pub stop: CancellationToken,
    /// End at once: a second one.
    pub kill: CancellationToken,
}

impl Shutdown {
    /// Waits for signals and passes them on; ends after the second.
    ///
    /// # Errors
    /// When the process may not handle signals.
    pub async fn on_signals(self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for asked in [&self.stop, &self.kill] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        }
        Ok(())
    }
}

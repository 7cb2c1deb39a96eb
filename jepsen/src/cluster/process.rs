//! One process of the program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{HarnessError, READY_WITHIN};

/// A process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
    frozen: bool,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Process {
    /// Starts the program and waits for the line that says that it listens; what it logs is added to `log`.
    ///
    /// # Errors
    /// When it can't be started, or ends before that line.
    pub async fn start(binary: &Path, arguments: Vec<String>, log: &Path) -> Result<Self, HarnessError> {
        let mut process =
            Self { child: None, frozen: false, binary: binary.to_owned(), arguments, log: log.to_owned() };
        process.restart().await?;
        Ok(process)
    }

    /// Starts it again with the same arguments.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<(), HarnessError> {
        let failed =
            |why: String| HarnessError(format!("{} {}: {why}", self.binary.display(), self.arguments.join(" ")));
        let log = File::options().create(true).append(true).open(&self.log).map_err(|e| failed(e.to_string()))?;
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .env_remove("SWITCHBOARD_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.map_err(|e| failed(e.to_string()))? {
                if line.starts_with('{') {
                    return Ok(());
                }
            }
            Err(failed(format!("it ended before it was ready; see {}", self.log.display())))
        };
        let in_time = tokio::time::timeout(READY_WITHIN, ready).await;
        in_time.unwrap_or_else(|_| Err(failed(format!("not ready within {READY_WITHIN:?}"))))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started, and has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> Result<(), HarnessError> {
        self.frozen = false;
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(|e| HarnessError(format!("can't kill a process: {e}"))),
            None => Ok(()),
        }
    }

    /// SIGSTOP; returns when every thread stands still, which is not when the signal is sent.
    ///
    /// # Errors
    /// When it does not run, or does not stand still in time.
    pub async fn freeze(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::STOP)?;
        self.frozen = true;
        let give_up = Instant::now() + READY_WITHIN;
        while self.threads().iter().any(|state| *state != 'T') {
            if Instant::now() > give_up {
                return Err(HarnessError(format!("a frozen process does not stand still: {:?}", self.threads())));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGCONT, if it is frozen.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn thaw(&mut self) -> Result<(), HarnessError> {
        if std::mem::take(&mut self.frozen) { self.signal(Signal::CONT) } else { Ok(()) }
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::TERM)
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| HarnessError("a process that does not run was to get a signal".to_owned()))?;
        kill_process(pid, signal).map_err(|e| HarnessError(format!("can't send a signal: {e}")))
    }

    /// The state of each thread, as the kernel abbreviates it.
    fn threads(&self) -> Vec<char> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid().unwrap_or_default()));
        let stats = threads.into_iter().flatten();
        let stats = stats.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        // The name in parentheses may contain anything; the state follows the last one.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }
}

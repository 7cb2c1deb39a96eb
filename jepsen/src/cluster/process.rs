//! One process of the program.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{HarnessError, READY_WITHIN};

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What stands before the program: a command that becomes it. May be empty.
    pub inside: Vec<String>,
    /// The program.
    pub binary: PathBuf,
    /// Its verb and flags.
    pub arguments: Vec<String>,
    /// Variables in its environment.
    pub environment: Vec<(String, String)>,
    /// What it logs is added there.
    pub log: PathBuf,
}

/// Why a process does not run after it was started.
#[derive(Debug)]
pub enum NotStarted {
    /// The harness could not start it.
    Failed(HarnessError),
    /// It ended before it was ready, or did not become ready in time: what it said last.
    Ended(String),
}

impl From<NotStarted> for HarnessError {
    fn from(not: NotStarted) -> Self {
        match not {
            NotStarted::Failed(error) => error,
            NotStarted::Ended(why) => Self(why),
        }
    }
}

/// A process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
    frozen: bool,
    /// Why it may end by itself: a word of what it must say last then.
    excuse: Option<&'static str>,
    launch: Launch,
    /// Length of the log when it was last started, bytes.
    logged_before: u64,
}

impl Process {
    /// One that does not run yet.
    pub fn new(launch: Launch) -> Self {
        Self { child: None, frozen: false, excuse: None, launch, logged_before: 0 }
    }

    /// How it is started the next time.
    pub fn launch(&mut self) -> &mut Launch {
        &mut self.launch
    }

    /// Starts it, with the same arguments as before, and waits for the line that says that it listens.
    ///
    /// # Errors
    /// When it can't be started, or ends before that line.
    pub async fn restart(&mut self) -> Result<(), NotStarted> {
        let launch = &self.launch;
        let told = format!("{} {}", launch.binary.display(), launch.arguments.join(" "));
        let failed = |why: std::io::Error| NotStarted::Failed(HarnessError(format!("{told}: {why}")));
        let log = File::options().create(true).append(true).open(&launch.log).map_err(failed)?;
        self.logged_before = log.metadata().map_err(failed)?.len();
        let mut words = launch.inside.iter().map(OsStr::new).chain([launch.binary.as_os_str()]);
        let mut child = Command::new(words.next().expect("the program itself at least"))
            .args(words)
            .args(&launch.arguments)
            .env_remove("SWITCHBOARD_CONFIG")
            .env(super::sweep::OWNER, std::process::id().to_string())
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with('{') {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(true) => {
                self.child = Some(child);
                self.excuse = None;
                Ok(())
            }
            Ok(false) => Err(NotStarted::Ended(format!("{told}: it ended before it was ready: {}", self.last_words()))),
            Err(_) => Err(NotStarted::Ended(format!("{told}: not ready within {READY_WITHIN:?}"))),
        }
    }

    /// Whether it was started, and has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// It may end by itself from now on, if the last thing that it says contains this word.
    pub fn excuse(&mut self, word: &'static str) {
        self.excuse = Some(word);
    }

    /// If it has ended and nobody wanted it to: what happened.
    pub fn ended_by_itself(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let said = self.last_words();
        self.child = None;
        let excused = self.excuse.take().is_some_and(|word| said.contains(word));
        (!excused).then(|| format!("it ended by itself ({status}); the last thing that it said: {said}"))
    }

    /// Waits until it ends by itself; how it did. `None` if it still runs then.
    pub async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let status = tokio::time::timeout(within, self.child.as_mut()?.wait()).await.ok()?.ok()?;
        self.child = None;
        Some(status)
    }

    /// Why it ended, by its own words since it was started; or else its last line.
    pub fn last_words(&self) -> String {
        let log = std::fs::read(&self.launch.log).unwrap_or_default();
        let since = usize::try_from(self.logged_before).unwrap_or(usize::MAX).min(log.len());
        last_words(&String::from_utf8_lossy(&log[since..])).to_owned()
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

/// The line of the program itself, which begins with its name. Threads that end beside it may log after that.
fn last_words(log: &str) -> &str {
    let own = log.lines().rfind(|line| line.starts_with("switchboard: "));
    own.or(log.lines().last()).unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_process_ended_is_what_it_says_itself_whatever_is_logged_after_that() {
        let ended = "switchboard: storage failed: x";
        assert_eq!(last_words(&format!("a\n{ended}\n2026-11-24T03:03:16Z ERROR openraft: b\n")), ended);
        assert_eq!((last_words("a\nb\n"), last_words("")), ("b", "nothing"));
    }
}

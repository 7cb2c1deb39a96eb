//! One process of the program.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, eventually};

/// A process. It is killed when the test ends.
pub struct Process {
    child: Child,
    ready: Value,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    dead: bool,
}

impl Process {
    /// Starts the program and waits for its line on stdout.
    pub async fn start(arguments: &[String], log: &Path) -> Self {
        Self::start_in(arguments, log, &[]).await
    }

    /// As [`Self::start`], with variables in its environment.
    pub async fn start_in(arguments: &[String], log: &Path, environment: &[(String, String)]) -> Self {
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_switchboard"))
            .args(arguments)
            .env_remove("SWITCHBOARD_CONFIG")
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        // What is meant for people may come before it.
        let line = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
            lines.find(|line| line.starts_with('{')).unwrap_or_default()
        });
        let line = line.await.unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{arguments:?} did not become ready: {line:?}\n{}", std::fs::read_to_string(log).unwrap())
        });
        let (arguments, environment) = (arguments.to_vec(), environment.to_vec());
        Self { child, ready, arguments, environment, log: log.to_owned(), dead: false }
    }

    /// Starts it again with the same arguments, after it ended.
    pub async fn restart(&mut self) {
        assert!(!self.is_running(), "it is still running");
        *self = Self::start_in(&self.arguments.clone(), &self.log.clone(), &self.environment.clone()).await;
    }

    pub fn is_running(&self) -> bool {
        !self.dead
    }

    /// Whether it has not ended by itself.
    pub fn still_runs(&mut self) -> bool {
        !self.dead && self.child.try_wait().unwrap().is_none()
    }

    /// What it told on stdout.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// `http://host:port` of its API.
    pub fn api(&self) -> String {
        format!("http://{}", self.address("api"))
    }

    /// One of the addresses that it told.
    pub fn address(&self, which: &str) -> &str {
        self.ready[which].as_str().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.dead = true;
    }

    /// SIGSTOP. Returns when every thread stands still, which is not when the signal is sent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let began = std::time::Instant::now();
        while self.threads().iter().any(|state| *state != 'T') {
            assert!(began.elapsed() < PATIENCE, "it does not stand still: {:?}", self.threads());
            std::thread::yield_now();
        }
    }

    /// The state of each thread, as the kernel abbreviates it. A thread that ends meanwhile is left out.
    fn threads(&self) -> Vec<char> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        // The name in parentheses may contain anything; the state follows the last one.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for it to end by itself; the exit code.
    pub async fn ended(&mut self) -> i32 {
        let code = eventually("the process ends", async || self.child.try_wait().unwrap()).await;
        self.dead = true;
        code.code().unwrap_or(-1)
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// A verb that has run to its end.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// What it printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a verb of the command line to its end.
pub async fn verb(words: &[&str]) -> Done {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
        command.args(words).env_remove("SWITCHBOARD_CONFIG").env_remove("SWITCHBOARD_API").stdin(Stdio::null());
        command.output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a frozen process, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} ---\n{}", self.log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

//! The process that is cut off: this test program, started again.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{Held, Plan, Step};
use super::{Subject, WITHOUT_SYNC, limits, pass};
use crate::entry::Group;
use crate::log::LogStore;
use crate::log::tests::{opened_with, run};

const DIR: &str = "RAFT_POWER_CUT_DIR";
const ENGINE: &str = "RAFT_POWER_CUT_ENGINE";
const SEED: &str = "RAFT_POWER_CUT_SEED";
const LONG: &str = "RAFT_POWER_CUT_LONG";
const CREATE: &str = "RAFT_POWER_CUT_CREATE";
/// Appends that wait for their flush at the same time.
const IN_FLIGHT: usize = 8;
const WRITES_WITHIN: Duration = Duration::from_secs(60);
const STANDS_STILL_WITHIN: Duration = Duration::from_secs(20);

/// What a writer said before it was cut off.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The log was open.
    pub(super) ready: bool,
    pub(super) begun: u64,
    pub(super) acknowledged: u64,
}

pub(super) struct Writer {
    child: Child,
    told: Option<JoinHandle<Told>>,
    /// Counts acknowledgements while it runs.
    acknowledgements: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(subject: &Subject, seed: u64) -> Writer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "log::tests::power_cut::writer::victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR, subject.dir())
            .env(ENGINE, subject.engine.to_string())
            .env(SEED, seed.to_string())
            .env(LONG, subject.long.to_string())
            .env(CREATE, (!subject.created).to_string())
            .stdout(Stdio::piped());
        if !subject.sync {
            command.env(WITHOUT_SYNC, "1");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledgements = Arc::new(AtomicU64::new(0));
        let count = acknowledgements.clone();
        let told = std::thread::spawn(move || {
            let mut told = Told::default();
            for line in lines.map_while(Result::ok) {
                match line.split_once(' ') {
                    Some(("ready", _)) => told.ready = true,
                    Some(("begun", nth)) => told.begun = nth.parse().unwrap(),
                    Some(("durable", nth)) => {
                        told.acknowledged = told.acknowledged.max(nth.parse().unwrap());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            told
        });
        Writer { child, told: Some(told), acknowledgements }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until so many steps were acknowledged.
    pub(super) fn has_written(&self, steps: u64) {
        let began = Instant::now();
        while self.acknowledgements.load(Ordering::Relaxed) < steps {
            assert!(began.elapsed() < WRITES_WITHIN, "it does not write");
            pass(Duration::from_millis(5));
        }
    }

    pub(super) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Waits until every thread is stopped: one that is in the midst of a write would still acknowledge it.
    pub(super) fn stands_still(&self) {
        let began = Instant::now();
        while self.threads().iter().any(|state| *state != 'T') {
            assert!(began.elapsed() < STANDS_STILL_WITHIN, "it does not stand still: {:?}", self.threads());
            std::thread::yield_now();
        }
    }

    /// The state of each thread, as the kernel abbreviates it.
    fn threads(&self) -> Vec<char> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        // The name in parentheses may contain anything; the state follows the last one.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// SIGKILL.
    pub(super) fn end(mut self) -> Told {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.told.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Where the test failed, it may still be running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(word: &str, nth: u64) {
    let mut out = std::io::stdout().lock();
    // The first line of this test begins with its name.
    out.write_all(format!("\n{word} {nth}\n").as_bytes()).unwrap();
}

#[test]
#[ignore = "started by the test of cut power"]
fn victim() {
    let Ok(dir) = std::env::var(DIR).map(PathBuf::from) else { return };
    // Should the test be killed, a stopped process would stay for ever.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let said = |name| std::env::var(name).unwrap();
    let (engine, long) = (said(ENGINE).parse().unwrap(), said(LONG) == "true");
    run(async move {
        let create = said(CREATE) == "true";
        let (mut store, _closer) = opened_with(&dir, engine, create, &limits(long)).unwrap();
        say("ready", 0);
        let held = Held::read(&mut store).await;
        write(&mut store, Plan::new(said(SEED).parse().unwrap(), held)).await;
    });
}

/// Takes steps until the end of its days.
async fn write(store: &mut LogStore, mut plan: Plan) {
    let slots = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT));
    for nth in 1.. {
        let step = plan.next();
        say("begun", nth);
        match step {
            Step::Vote(vote) => store.save_vote(&vote).await.unwrap(),
            Step::TruncateAfter(keep) => store.truncate_after(keep).await.unwrap(),
            Step::Commit(upto) => {
                store.save_committed(Some(upto)).await.unwrap();
                continue;
            }
            Step::Purge(upto) => {
                store.purge(upto).await.unwrap();
                continue;
            }
            Step::Append(entries) => {
                let slot = slots.clone().acquire_owned().await.unwrap();
                let (to, flushed) = Group::oneshot();
                store.append(entries, IOFlushed::signal(to)).await.unwrap();
                tokio::spawn(async move {
                    flushed.await.unwrap().unwrap();
                    say("durable", nth);
                    drop(slot);
                });
                continue;
            }
        }
        say("durable", nth);
    }
}

//! Runs that are ended before their time leave nothing behind but their report.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the verdict")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, interval};

/// Longest wait for anything; a busy machine needs some of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run of the program.
struct Run {
    child: Child,
    pid: u32,
    lines: Lines<BufReader<ChildStdout>>,
    store: tempfile::TempDir,
}

/// The program that is tested, if it was built.
fn switchboard() -> Option<PathBuf> {
    let binary = Path::new(env!("CARGO_BIN_EXE_jepsen")).with_file_name("switchboard");
    binary.exists().then_some(binary)
}

impl Run {
    fn start(binary: &Path, network: &str, faults: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
        command.args(["test", "--workload", "register", "--time", "600", "--seed", "7"]);
        command.args(["--network", network, "--nemesis", faults]).arg("--binary").arg(binary);
        command.arg("--store").arg(store.path()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { pid: child.id().unwrap(), child, lines, store }
    }

    /// Waits until it tells of this fault.
    async fn tells(&mut self, fault: &str) {
        let told = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(fault) && !line.contains(" under ") {
                    return;
                }
            }
            panic!("it ended before it told of {fault}");
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("it does not tell of {fault}"));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap(), signal).unwrap();
    }

    /// How it ended.
    async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap().code()
    }

    fn results(&self) -> Value {
        serde_json::from_slice(&fs::read(self.store.path().join("results.json")).unwrap()).unwrap()
    }

    /// What is left of it: processes, namespaces, links, mounts, loop devices and folders.
    fn left(&self) -> Vec<String> {
        let owner = format!("JEPSEN_OWNER={}\0", self.pid);
        let (network, folder) = (format!("sbj{}.", self.pid), format!("switchboard-jepsen-{}.", self.pid));
        let listed = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut left = Vec::new();
        for process in listed(Path::new("/proc")) {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environment).contains(&owner) {
                left.push(process.display().to_string());
            }
        }
        let folders = ["/run/netns".into(), "/sys/class/net".into(), std::env::temp_dir()];
        let found = folders.iter().flat_map(|path: &PathBuf| listed(path)).map(|path| path.display().to_string());
        left.extend(found.filter(|path| path.contains(&network) || path.contains(&folder)));
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        for device in listed(Path::new("/sys/block")) {
            let file = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
            left.extend(file.contains(&folder).then(|| device.display().to_string()));
        }
        left
    }

    async fn leaves_nothing(&self) {
        let give_up = Instant::now() + PATIENCE;
        let mut looks = interval(Duration::from_millis(50));
        while !self.left().is_empty() {
            assert!(Instant::now() < give_up, "left behind: {:#?}", self.left());
            looks.tick().await;
        }
    }

    fn assert_interrupted(&self, signal: &str) {
        let results = self.results();
        assert_eq!(results["verdict"], "unknown", "{results}");
        let said = results["checked"].as_array().unwrap().iter();
        assert!(said.clone().any(|checked| checked["summary"].as_str().unwrap().contains("interrupted")), "{results}");
        let history = fs::read_to_string(self.store.path().join("history.jsonl")).unwrap();
        let events = history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let value = events.filter(|event| event["f"] == "interrupted").map(|event| event["value"].clone());
        assert_eq!(value.collect::<Vec<_>>(), [json!(signal)]);
    }
}

#[tokio::test]
async fn an_interrupted_run_writes_its_report_and_leaves_nothing_behind() {
    let Some(binary) = switchboard() else {
        println!("SKIPPED interrupted: the program was not built; cargo build");
        return;
    };
    let mut run = Run::start(&binary, "loopback", "pause");
    run.tells("pause").await;
    assert!(run.left().len() >= 6, "all processes run: {:?}", run.left());
    run.signal(Signal::INT);
    assert_eq!(run.ended().await, Some(2));
    run.assert_interrupted("SIGINT");
    run.leaves_nothing().await;
}

/// Whether this can be done here, and with which program.
fn as_root() -> Option<PathBuf> {
    let found = switchboard().filter(|_| rustix::process::geteuid().is_root());
    if found.is_none() {
        println!("SKIPPED interrupted: network namespaces and mounts need root, and the program must have been built");
    }
    found
}

#[tokio::test]
#[ignore = "needs root"]
async fn namespaces_and_frozen_disks_go_away_when_a_run_is_told_to_stop() {
    let Some(binary) = as_root() else { return };
    let mut run = Run::start(&binary, "namespaces", "disk-freeze,delay");
    run.tells("disk-freeze").await;
    let left = run.left();
    for part in ["/run/netns/sbj", "/sys/class/net/sbj", "/mounted ext4", "/sys/block/loop", "/proc/"] {
        assert!(left.iter().any(|line| line.contains(part)), "{part} is missing in {left:#?}");
    }
    run.signal(Signal::TERM);
    assert_eq!(run.ended().await, Some(2));
    run.assert_interrupted("SIGTERM");
    run.leaves_nothing().await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_a_killed_run_left_is_swept_by_the_next_one() {
    let Some(binary) = as_root() else { return };
    let mut run = Run::start(&binary, "namespaces", "disk-freeze,pause");
    run.tells("disk-freeze").await;
    run.signal(Signal::KILL);
    assert_eq!(run.ended().await, None);
    assert!(run.left().len() > 10, "{:#?}", run.left());
    jepsen::cluster::sweep();
    run.leaves_nothing().await;
}

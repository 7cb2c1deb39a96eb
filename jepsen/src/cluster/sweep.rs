//! What a harness that was killed has left behind, and the folder that a harness works in.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::{disk, network};

/// Variable in the environment of every process that a harness starts: its own process id.
pub(super) const OWNER: &str = "JEPSEN_OWNER";

/// What folders of harnesses begin with, followed by the process id.
const FOLDER: &str = "switchboard-jepsen-";

/// The folder for images and the like of one cluster. It is removed when this is dropped, if nothing is mounted there.
#[derive(Debug)]
pub(super) struct Workplace(PathBuf);

impl Workplace {
    /// Makes it. `nth` tells the clusters of one harness apart.
    pub(super) fn new(nth: u32) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("{FOLDER}{}.{nth}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gone(pid: &str) -> bool {
    pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
}

/// Ends processes and removes namespaces, mounts and folders of harnesses that do not run any more.
pub fn sweep() {
    for process in orphans() {
        let _ = kill_process(process, Signal::KILL);
    }
    network::sweep(gone);
    for found in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = found.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(FOLDER).and_then(|rest| rest.split('.').next());
        if owner.is_some_and(gone) {
            disk::sweep(&found.path());
            let _ = fs::remove_dir_all(found.path());
        }
    }
}

/// Processes whose harness is gone.
fn orphans() -> Vec<Pid> {
    let mark = format!("{OWNER}=");
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<i32>() else { continue };
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        let owner = environment.split('\0').find_map(|variable| variable.strip_prefix(&mark));
        if owner.is_some_and(gone) {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

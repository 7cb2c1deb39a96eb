//! One run: start, act while things break, heal, look once more, judge, tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::{coverage, processes};
use crate::cluster::{Cluster, HarnessError, Plan};
use crate::history::{History, Kind, Recorder};
use crate::nemesis::{self, Fault};
use crate::report::{self, About, Counts};
use crate::verdict::{Checked, Verdict};
use crate::workload::{Context, Workload};

/// Before the first fault: what is slow here is not due to one.
const CALM: Duration = Duration::from_secs(3);

/// After the last fault, before clients stop.
const RECOVERY: Duration = Duration::from_secs(5);

/// Longest wait for clients to stop, and for the last look.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// What is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What clients do.
    pub workload: Workload,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// For how long things break.
    pub time: Duration,
    /// Of everything that is by chance. The same seed asks for the same, but processes and networks have their own mind.
    pub seed: u64,
    /// What is started.
    pub plan: Plan,
    /// Where the report goes.
    pub folder: PathBuf,
    /// Whether data directories are kept also when the verdict is valid.
    pub keep_data: bool,
    /// What the report says of where the run comes from.
    pub about: About,
}

/// What came of it; `results.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// The worst of all.
    pub verdict: Verdict,
    /// Name of the workload.
    pub workload: String,
    /// Names of the faults.
    pub nemesis: Vec<String>,
    /// For how long things broke, seconds.
    pub time_s: u64,
    /// Of the run.
    pub seed: u64,
    /// When, which program, and how to run it again.
    #[serde(default)]
    pub about: About,
    /// How much happened.
    #[serde(default)]
    pub counts: Counts,
    /// What each checker says.
    pub checked: Vec<Checked>,
}

/// Runs, and writes the report.
///
/// # Errors
/// When the harness fails. What was noted until then is in the folder.
pub async fn run(settings: &Settings) -> Result<Results, HarnessError> {
    let recorder = Recorder::default();
    let acted = tokio::select! {
        acted = act(settings, &recorder) => acted,
        signal = interrupted() => {
            recorder.fault(Kind::Info, coverage::INTERRUPTED, json!(signal));
            Ok(())
        }
    };
    let history = recorder.history();
    report::keep(&settings.folder, &history)?;
    acted?;
    let asked: Vec<String> = settings.faults.iter().map(|fault| fault.name.to_owned()).collect();
    let results = judge(settings.workload, &settings.folder, &history, &asked, |results| {
        results.time_s = settings.time.as_secs();
        results.seed = settings.seed;
        results.about = settings.about.clone();
    });
    if results.verdict == Verdict::Valid && !settings.keep_data {
        forget_data(settings)?;
    }
    report::write(&settings.folder, &history, &results)?;
    Ok(results)
}

/// Judges a history that is in a folder, and writes the report again.
///
/// # Errors
/// When the folder has no history, or none that can be read.
pub fn judge_again(folder: &Path, workload: Workload, former: &Results) -> Result<Results, HarnessError> {
    let history = report::kept(folder)?;
    let results = judge(workload, folder, &history, &former.nemesis, |results| {
        results.time_s = former.time_s;
        results.seed = former.seed;
        results.about = former.about.clone();
    });
    report::write(folder, &history, &results)?;
    Ok(results)
}

fn judge(
    workload: Workload,
    folder: &Path,
    history: &History,
    asked: &[String],
    about: impl FnOnce(&mut Results),
) -> Results {
    let mut checked: Vec<Checked> = workload.checkers.iter().map(|check| check(history)).collect();
    checked.extend([processes::check(history, folder), coverage::check(history, asked)]);
    let verdict = checked.iter().map(|checked| checked.verdict).max().unwrap_or(Verdict::Unknown);
    let workload = workload.name.to_owned();
    let (time_s, seed, about_run, counts) = (0, 0, About::default(), Counts::of(history));
    let nemesis = asked.to_vec();
    let mut results = Results { verdict, workload, nemesis, time_s, seed, about: about_run, counts, checked };
    about(&mut results);
    results
}

/// Removes the data directories of nodes, which are all the folders there: they are large, and tell nothing about a run in
/// which all was well.
fn forget_data(settings: &Settings) -> Result<(), HarnessError> {
    let failed = |error: std::io::Error| HarnessError(format!("{}: {error}", settings.folder.display()));
    for entry in std::fs::read_dir(&settings.folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            std::fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

async fn act(settings: &Settings, recorder: &Recorder) -> Result<(), HarnessError> {
    let mut cluster = Cluster::start(&settings.plan, &settings.folder).await?;
    let (stop, stopped) = watch::channel(false);
    let context = Context {
        recorder: recorder.clone(),
        addresses: cluster.addresses().clone(),
        http: Arc::default(),
        seed: settings.seed,
        stop: stopped,
    };
    let mut clients = JoinSet::new();
    clients.spawn((settings.workload.act)(context.clone()));
    tokio::time::sleep(CALM).await;
    let mut rng = Rng::with_seed(settings.seed);
    let until = Instant::now() + settings.time;
    nemesis::haunt(&mut cluster, &settings.faults, &mut rng, recorder, until).await?;
    tokio::time::sleep_until(until).await;
    let recovered = nemesis::heal_all(&mut cluster, &settings.faults, recorder).await?;
    tokio::time::sleep(RECOVERY).await;
    nemesis::note_violations(&mut cluster, recorder);
    stop.send_replace(true);
    let stopped = tokio::time::timeout(SETTLE_WITHIN, clients.join_next()).await;
    if let Some(Err(error)) =
        stopped.map_err(|_| HarnessError(format!("clients did not stop within {SETTLE_WITHIN:?}")))?
    {
        return Err(HarnessError(format!("the workload failed: {error}")));
    }
    // What did not recover is no place for a last look; the verdict is certain without.
    if recovered {
        let settled = tokio::time::timeout(SETTLE_WITHIN, (settings.workload.settle)(context)).await;
        settled.map_err(|_| HarnessError(format!("the last look took longer than {SETTLE_WITHIN:?}")))?;
        nemesis::note_violations(&mut cluster, recorder);
    }
    cluster.end().await
}

/// Waits for a signal to stop; its name.
async fn interrupted() -> &'static str {
    let listen = |kind| signal(kind).expect("signals can be listened to");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

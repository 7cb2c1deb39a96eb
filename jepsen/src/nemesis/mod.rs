//! What breaks things, and heals them.
//!
//! A fault is a pair of functions on the cluster. The nemesis picks one after the other by chance from those that were asked
//! for, keeps each up for a while, takes it back, and lets the cluster rest for a while. What it did is in the history.

mod process;

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, HarnessError};
use crate::history::{Kind, Recorder};

/// Why a fault was not injected.
#[derive(Debug)]
pub enum NotNow {
    /// It makes no sense now, or can't be done here; the reason is noted, and the run goes on.
    Skipped(String),
    /// The harness failed.
    Failed(HarnessError),
}

impl From<HarnessError> for NotNow {
    fn from(error: HarnessError) -> Self {
        Self::Failed(error)
    }
}

/// Breaks something; the value says what, for the history.
pub type Start = for<'a> fn(&'a mut Cluster, &'a mut Rng) -> BoxFuture<'a, Result<Value, NotNow>>;

/// Takes it all back, whatever was broken by this fault; there may be nothing to do.
pub type Stop = for<'a> fn(&'a mut Cluster) -> BoxFuture<'a, Result<(), HarnessError>>;

/// One kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// As the command line spells it.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    /// Colour of its bands in plots.
    pub colour: &'static str,
    /// Breaks.
    pub start: Start,
    /// Heals.
    pub stop: Stop,
}

/// Every fault that there is.
pub const FAULTS: &[Fault] = &[process::KILL, process::PAUSE];

/// How long faults and rests last, milliseconds.
const FAULT_MS: std::ops::Range<u64> = 300..5_000;
const REST_MS: std::ops::Range<u64> = 500..3_000;

/// Breaks and heals by chance until `until`; at the end everything is healed.
///
/// # Errors
/// When the harness fails; the caller heals then.
pub async fn haunt(
    cluster: &mut Cluster,
    faults: &[Fault],
    rng: &mut Rng,
    recorder: &Recorder,
    until: Instant,
) -> Result<(), HarnessError> {
    while Instant::now() < until && !faults.is_empty() {
        let fault = faults[rng.usize(..faults.len())];
        recorder.fault(Kind::Invoke, fault.name, Value::Null);
        match (fault.start)(cluster, rng).await {
            Ok(what) => recorder.fault(Kind::Ok, fault.name, what),
            Err(NotNow::Skipped(why)) => recorder.fault(Kind::Fail, fault.name, json!(why)),
            Err(NotNow::Failed(error)) => {
                recorder.fault(Kind::Info, fault.name, json!(error.to_string()));
                return Err(error);
            }
        }
        let end = Instant::now() + Duration::from_millis(rng.u64(FAULT_MS));
        tokio::time::sleep_until(end.min(until)).await;
        heal(cluster, &[fault], recorder).await?;
        tokio::time::sleep_until((Instant::now() + Duration::from_millis(rng.u64(REST_MS))).min(until)).await;
    }
    Ok(())
}

/// Takes back what these faults have broken.
///
/// # Errors
/// When something can't be healed.
pub async fn heal(cluster: &mut Cluster, faults: &[Fault], recorder: &Recorder) -> Result<(), HarnessError> {
    for fault in faults {
        let name = format!("{}-end", fault.name);
        recorder.fault(Kind::Invoke, &name, Value::Null);
        let healed = (fault.stop)(cluster).await;
        recorder.fault(if healed.is_ok() { Kind::Ok } else { Kind::Info }, &name, Value::Null);
        healed?;
    }
    Ok(())
}

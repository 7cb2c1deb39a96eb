//! Processes that die, stand still, or are restarted in good order.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, choice};
use crate::cluster::{Cluster, HarnessError, READY_WITHIN};

/// SIGKILL, then started again.
pub(super) const KILL: Fault = Fault {
    name: "kill",
    about: "kills some nodes and gateways, never a majority of the nodes, and starts them again",
    colour: "#E9A4A0",
    family: "kill",
    needs: &[],
    start: |cluster, rng| Box::pin(kill(cluster, rng)),
    stop: |cluster| Box::pin(cluster.revive("kill")),
};

/// SIGKILL to everyone.
pub(super) const KILL_ALL: Fault = Fault {
    name: "kill-all",
    about: "kills all directory nodes at once, and starts them again",
    colour: "#D98480",
    family: "kill",
    needs: &[],
    start: |cluster, _| Box::pin(kill_all(cluster)),
    stop: |cluster| Box::pin(cluster.revive("kill")),
};

/// SIGSTOP, then SIGCONT.
pub(super) const PAUSE: Fault = Fault {
    name: "pause",
    about: "freezes some nodes and gateways, never a majority of the nodes, and thaws them",
    colour: "#A0B1E9",
    family: "pause",
    needs: &[],
    start: |cluster, rng| Box::pin(pause(cluster, rng)),
    stop: |cluster| Box::pin(cluster.revive("pause")),
};

/// SIGSTOP for longer than a lease.
pub(super) const PAUSE_LEASE: Fault = Fault {
    name: "pause-lease",
    about: "freezes some gateways for longer than their lease, and thaws them",
    colour: "#8091D9",
    family: "pause",
    needs: &[],
    start: |cluster, rng| Box::pin(pause_past_the_lease(cluster, rng)),
    stop: |cluster| Box::pin(cluster.revive("pause")),
};

/// SIGTERM to one after the other.
pub(super) const ROLLING: Fault = Fault {
    name: "rolling-restart",
    about: "restarts all processes in good order, one after the other",
    colour: "#E9C4A0",
    family: "rolling",
    needs: &[Need::ShortDrain],
    start: |cluster, rng| Box::pin(rolling(cluster, rng)),
    stop: |_| Box::pin(async { Ok(()) }),
};

/// How long gateways are frozen beyond their lease.
const PAST: Duration = Duration::from_millis(1_500);

/// Longest time for a process to end after it was told to.
const END_WITHIN: Duration = Duration::from_secs(30);

async fn kill(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::some(cluster, rng)?;
    kill_these(cluster, &names).await?;
    Ok(json!(names))
}

async fn kill_all(cluster: &mut Cluster) -> Result<Value, NotNow> {
    let names = choice::all_members(cluster)?;
    kill_these(cluster, &names).await?;
    Ok(json!(names))
}

async fn kill_these(cluster: &mut Cluster, names: &[String]) -> Result<(), HarnessError> {
    cluster.claims.take("kill", names.iter().cloned());
    for name in names {
        cluster.process(name).kill().await?;
    }
    Ok(())
}

async fn pause(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::some(cluster, rng)?;
    freeze(cluster, &names).await?;
    Ok(json!(names))
}

async fn pause_past_the_lease(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::any(cluster.free_gateways(), rng)?;
    freeze(cluster, &names).await?;
    tokio::time::sleep(cluster.plan().lease + PAST).await;
    Ok(json!(names))
}

async fn freeze(cluster: &mut Cluster, names: &[String]) -> Result<(), HarnessError> {
    cluster.claims.take("pause", names.iter().cloned());
    for name in names {
        cluster.process(name).freeze().await?;
    }
    Ok(())
}

async fn rolling(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    if cluster.spare() == 0 {
        return Err(choice::enough());
    }
    let mut names = cluster.free_members();
    names.extend(cluster.free_gateways());
    rng.shuffle(&mut names);
    for name in &names {
        restart_in_order(cluster, name, "rolling").await?;
    }
    Ok(json!(names))
}

/// Stops a process as an operator would, starts it again, and waits until all who are under no other fault are ready.
pub(super) async fn restart_in_order(
    cluster: &mut Cluster,
    name: &str,
    family: &'static str,
) -> Result<(), HarnessError> {
    cluster.claims.take(family, [name.to_owned()]);
    let process = cluster.process(name);
    // One that has ended by itself already is told of when it is brought back.
    if process.runs() {
        process.terminate()?;
        match process.ended(END_WITHIN).await {
            Some(status) if status.success() => {}
            Some(status) => {
                let said = process.last_words();
                cluster.violation(format!("{name} was told to stop and ended with {status}: {said}"));
            }
            None => {
                process.kill().await?;
                cluster.violation(format!("{name} was told to stop and still ran {END_WITHIN:?} later"));
            }
        }
    }
    cluster.revive(family).await?;
    // Others may be under a fault, and then nobody may be ready; the last look of the run insists on it.
    if cluster.claims.is_empty()
        && let Err(late) = cluster.wait_ready(READY_WITHIN).await
    {
        cluster.violation(late.0);
    }
    Ok(())
}

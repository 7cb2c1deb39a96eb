//! What breaks things, and heals them.
//!
//! A fault is a pair of functions on the cluster. The nemesis picks by chance from those that were asked for, each once before
//! any comes again; keeps one or two up for a while, takes them back, and lets the cluster rest for a while. What it did is in
//! the history. Only faults that are named for it put a majority of the nodes out of order, alone or together.

mod choice;
mod clock;
mod damage;
mod disk;
mod members;
mod network;
mod packets;
mod power;
mod process;
mod snapshot;
mod upgrade;

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, Disks, HarnessError, Network, Plan, READY_WITHIN};
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

/// What a fault needs of the cluster that it is to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A network that can be cut.
    Namespaces,
    /// A file system for each node.
    Images,
    /// The library that is preloaded.
    Shim,
    /// Places for nodes that join.
    Spares,
    /// Another version of the program.
    Previous,
    /// Gateways that don't wait long for their clients when they are told to stop.
    ShortDrain,
    /// Snapshots and compactions every few seconds.
    ShortLog,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// As the command line spells it.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    /// Colour of its bands in plots.
    pub colour: &'static str,
    /// Of its kind only one is up at a time.
    pub family: &'static str,
    /// What must have been prepared.
    pub needs: &'static [Need],
    /// Breaks.
    pub start: Start,
    /// Heals.
    pub stop: Stop,
}

/// Every fault that there is.
pub const FAULTS: &[Fault] = &[
    process::KILL,
    process::KILL_ALL,
    process::PAUSE,
    process::PAUSE_LEASE,
    process::ROLLING,
    network::PARTITION,
    network::HALF,
    network::RING,
    network::ONE_WAY,
    network::BRIDGE,
    network::LEADER,
    network::GATEWAY_DIRECTORY,
    network::GATEWAYS,
    network::LINK,
    packets::PACKETS,
    packets::LOSS,
    packets::DELAY,
    packets::REORDER,
    packets::DUPLICATE,
    clock::JUMP,
    clock::STROBE,
    clock::DRIFT,
    disk::FULL,
    disk::SLOW,
    disk::ERROR,
    disk::FREEZE,
    power::ONE,
    power::ALL,
    power::TWICE,
    power::SNAPSHOT,
    damage::TORN_WRITE,
    damage::TORN_TAIL,
    damage::CORRUPT,
    members::GROW,
    members::SHRINK,
    members::REPLACE,
    members::TRANSFER,
    snapshot::SNAPSHOT,
    snapshot::COMPACT,
    upgrade::UPGRADE,
];

/// Those that `all` stands for: some hold others, which stand for them, and without another version there is none to go to.
pub fn all(other_version: bool) -> impl Iterator<Item = Fault> {
    let alone = |fault: &Fault| ![network::PARTITION.name, packets::PACKETS.name].contains(&fault.name);
    FAULTS.iter().copied().filter(alone).filter(move |fault| other_version || fault.name != upgrade::UPGRADE.name)
}

/// What broke in a run, in words.
pub fn told(names: &[String]) -> String {
    let has = |fault: Fault| names.iter().any(|name| name == fault.name);
    match names {
        [] => "none".to_owned(),
        _ if all(true).all(has) => "all, upgrade among them".to_owned(),
        _ if all(false).all(has) => "all".to_owned(),
        _ => names.join(", "),
    }
}

/// Places where nodes may join.
const SPARES: u64 = 2;

/// How long faults and rests last, milliseconds.
const FAULT_MS: std::ops::Range<u64> = 300..5_000;
const REST_MS: std::ops::Range<u64> = 500..3_000;

/// Lets a plan provide what these faults need.
///
/// # Errors
/// When it can't: which fault needs what.
pub fn prepare(plan: &mut Plan, faults: &[Fault]) -> Result<(), HarnessError> {
    for fault in faults {
        for need in fault.needs {
            let refuse = |why: &str| Err(HarnessError(format!("--nemesis {}: {why}", fault.name)));
            match need {
                Need::Namespaces if plan.network != Network::Namespaces => {
                    return refuse(
                        "it needs --network namespaces, that is root and the commands ip, iptables and nsenter",
                    );
                }
                Need::Previous if plan.previous.is_none() => {
                    return refuse("it needs --previous PATH, the program in another version");
                }
                Need::Namespaces | Need::Previous => {}
                Need::Images => plan.disks = Disks::Images,
                Need::Shim => plan.shim = true,
                Need::Spares => plan.spares = SPARES,
                Need::ShortDrain => flag(&mut plan.gateway_flags, "--drain", "1s"),
                Need::ShortLog => {
                    flag(&mut plan.node_flags, "--snapshot-every", "300");
                    flag(&mut plan.node_flags, "--retain-events", "1000");
                }
            }
        }
    }
    Ok(())
}

/// Adds a flag, unless somebody else has set it.
fn flag(flags: &mut Vec<String>, name: &str, value: &str) {
    if !flags.iter().any(|flag| flag == name) {
        flags.extend([name.to_owned(), value.to_owned()]);
    }
}

/// How often a fault that can't be had just now comes again before the others all come again.
const TRIES: usize = 4;

/// The faults that were asked for, as a deck of cards: each comes once before any comes again.
struct Deck<'a> {
    faults: &'a [Fault],
    left: Vec<Fault>,
    put_back: Vec<&'static str>,
}

impl<'a> Deck<'a> {
    fn new(faults: &'a [Fault]) -> Self {
        Self { faults, left: Vec::new(), put_back: Vec::new() }
    }

    /// The next one that is not of these families.
    fn draw(&mut self, rng: &mut Rng, up: &[&str]) -> Option<Fault> {
        if self.left.is_empty() {
            self.left = self.faults.to_vec();
            self.put_back.clear();
            rng.shuffle(&mut self.left);
        }
        let nth = self.left.iter().position(|fault| !up.contains(&fault.family))?;
        Some(self.left.remove(nth))
    }

    /// It could not be had just now: it comes again after the others that are left.
    fn put_back(&mut self, fault: Fault) {
        self.put_back.push(fault.name);
        if self.put_back.iter().filter(|name| **name == fault.name).count() < TRIES {
            self.left.push(fault);
        }
    }
}

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
    let mut deck = Deck::new(faults);
    while Instant::now() < until
        && let Some(first) = deck.draw(rng, &[])
    {
        let mut up = vec![(first, inject(cluster, first, rng, recorder).await?)];
        // Sometimes a second one, while the first is still up.
        if rng.bool()
            && let Some(second) = deck.draw(rng, &[first.family])
        {
            let before = Duration::from_millis(rng.u64(0..FAULT_MS.start));
            tokio::time::sleep_until((Instant::now() + before).min(until)).await;
            up.push((second, inject(cluster, second, rng, recorder).await?));
        }
        up.sort_by_key(|(_, end)| *end);
        for (fault, end) in up {
            match end {
                Some(end) => tokio::time::sleep_until(end.min(until)).await,
                None => deck.put_back(fault),
            }
            note_violations(cluster, recorder);
            heal(cluster, &[fault], recorder).await?;
        }
        tokio::time::sleep_until((Instant::now() + Duration::from_millis(rng.u64(REST_MS))).min(until)).await;
    }
    Ok(())
}

/// Breaks; until when it shall be so. `None` if it can't be had just now.
async fn inject(
    cluster: &mut Cluster,
    fault: Fault,
    rng: &mut Rng,
    recorder: &Recorder,
) -> Result<Option<Instant>, HarnessError> {
    recorder.fault(Kind::Invoke, fault.name, Value::Null);
    match (fault.start)(cluster, rng).await {
        Ok(what) => {
            println!("  {} {what}", fault.name);
            recorder.fault(Kind::Ok, fault.name, what);
            Ok(Some(Instant::now() + Duration::from_millis(rng.u64(FAULT_MS))))
        }
        Err(NotNow::Skipped(why)) => {
            println!("  {} skipped: {why}", fault.name);
            recorder.fault(Kind::Fail, fault.name, json!(why));
            Ok(None)
        }
        Err(NotNow::Failed(error)) => {
            recorder.fault(Kind::Info, fault.name, json!(error.to_string()));
            Err(error)
        }
    }
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
        note_violations(cluster, recorder);
    }
    Ok(())
}

/// Takes back everything, at the end of a run; whether all takes traffic again, as it must.
///
/// # Errors
/// When something can't be healed.
pub async fn heal_all(cluster: &mut Cluster, faults: &[Fault], recorder: &Recorder) -> Result<bool, HarnessError> {
    heal(cluster, faults, recorder).await?;
    members::regroup_at_last(cluster).await;
    let ready = cluster.wait_ready(READY_WITHIN).await;
    if let Err(late) = &ready {
        cluster.violation(format!("after everything was healed: {late}"));
    }
    note_violations(cluster, recorder);
    Ok(ready.is_ok())
}

/// What the history calls something that must not be.
pub const VIOLATION: &str = "violation";

/// Notes what the cluster did that it must not.
pub fn note_violations(cluster: &mut Cluster, recorder: &Recorder) {
    for what in cluster.violations() {
        println!("  {VIOLATION}: {what}");
        recorder.fault(Kind::Info, VIOLATION, json!(what));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn named(name: &str) -> Fault {
        *FAULTS.iter().find(|fault| fault.name == name).unwrap()
    }

    #[test]
    fn every_fault_has_a_name_of_its_own_and_says_what_it_does() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        assert!(FAULTS.iter().all(|fault| !fault.about.is_empty() && fault.colour.starts_with('#')));
    }

    #[test]
    fn all_faults_are_told_in_a_word() {
        let names = |faults: &[Fault]| faults.iter().map(|fault| fault.name.to_owned()).collect::<Vec<_>>();
        assert_eq!((told(&[]), told(&names(&[named("kill"), named("grow")]))), ("none".into(), "kill, grow".into()));
        let (without, with): (Vec<_>, Vec<_>) = (all(false).collect(), all(true).collect());
        assert_eq!((told(&names(&without)), told(&names(&with))), ("all".into(), "all, upgrade among them".into()));
        assert_ne!(told(&names(&without[1..])), "all");
    }

    #[test]
    fn a_plan_provides_what_faults_need_and_nothing_else() {
        let mut plan = Plan { network: Network::Namespaces, ..Plan::of(PathBuf::from("switchboard")) };
        prepare(&mut plan, &[named("kill"), named("partition-half")]).unwrap();
        assert_eq!((plan.disks, plan.shim, plan.spares), (Disks::Folder, false, 0));
        plan.node_flags = vec!["--snapshot-every".to_owned(), "50".to_owned()];
        prepare(&mut plan, &[named("power-all"), named("clock-jump"), named("grow"), named("compact")]).unwrap();
        assert_eq!((plan.disks, plan.shim, plan.spares), (Disks::Images, true, SPARES));
        assert_eq!(plan.node_flags, ["--snapshot-every", "50", "--retain-events", "1000"], "what is set is left");
    }

    #[test]
    fn what_can_not_be_done_is_refused_before_anything_starts() {
        let mut plan = Plan { network: Network::Loopback, ..Plan::of(PathBuf::from("switchboard")) };
        for fault in FAULTS.iter().filter(|fault| fault.needs.contains(&Need::Namespaces)) {
            let refused = prepare(&mut plan, &[*fault]).unwrap_err().to_string();
            assert!(refused.contains(fault.name) && refused.contains("--network namespaces"), "{refused}");
        }
        let refused = prepare(&mut plan, &[named("upgrade")]).unwrap_err().to_string();
        assert!(refused.contains("--previous"), "{refused}");
    }

    #[test]
    fn every_fault_comes_once_before_any_comes_again() {
        let mut rng = Rng::with_seed(7);
        let mut deck = Deck::new(FAULTS);
        let mut drawn = BTreeSet::new();
        for _ in FAULTS {
            drawn.insert(deck.draw(&mut rng, &[]).unwrap().name);
        }
        assert_eq!(drawn.len(), FAULTS.len());
        let two = [named("kill"), named("kill-all")];
        let mut kills = Deck::new(&two);
        assert!(kills.draw(&mut rng, &["kill"]).is_none(), "one of a kind at a time");
    }

    #[test]
    fn a_fault_that_can_not_be_had_comes_again_soon_but_not_for_ever() {
        let (mut rng, three) = (Rng::with_seed(7), [named("kill"), named("grow"), named("pause")]);
        let mut deck = Deck::new(&three);
        let mut tried = 0;
        for _ in 0..2 + TRIES {
            let fault = deck.draw(&mut rng, &[]).unwrap();
            if fault.name == "grow" {
                tried += 1;
                deck.put_back(fault);
            }
        }
        assert_eq!((tried, deck.left.len()), (TRIES, 0));
    }
}

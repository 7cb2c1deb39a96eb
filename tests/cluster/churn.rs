//! Members come, go and die in random order under load. Afterwards what was acknowledged is there, one node leads, the members
//! agree on one membership, and no id was used twice.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Cluster, Load, eventually, pause};

/// For how long members come and go.
const TROUBLE: Duration = Duration::from_secs(12);

/// Voters at most, and at least once there are that many.
const VOTERS_MAX: usize = 5;
const VOTERS_MIN: usize = 3;

/// A cluster whose voters change.
struct Churn {
    cluster: Cluster,
    rng: fastrand::Rng,
    voters: BTreeSet<u64>,
    next_id: u64,
    removed: Vec<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_die_and_nothing_acknowledged_is_lost() {
    let seed = std::env::var("SWITCHBOARD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SWITCHBOARD_SEED={seed}");
    let mut cluster = Cluster::start(1, 0).await;
    // Twice the usual lease: what a busy machine does to renewals is not what is tested.
    cluster.start_gateway_with("gw-1", &["--lease", "6s"]).await;
    cluster.wait_ready().await;
    let client = cluster.connect("gw-1", "stays").await;
    // Through the gateway, which was told of the one founder alone.
    let load = Load::start(&[cluster.gateway("gw-1").api()], 2);
    let rng = fastrand::Rng::with_seed(seed);
    let mut churn = Churn { cluster, rng, voters: [1].into(), next_id: 2, removed: Vec::new() };
    while churn.voters.len() < VOTERS_MAX {
        churn.grow().await;
    }
    while churn.voters.len() > VOTERS_MIN {
        churn.shrink().await;
    }
    let began = Instant::now();
    while began.elapsed() < TROUBLE {
        churn.step().await;
    }
    load.more(20).await;
    let users = load.finish().await;
    let Churn { cluster, voters, removed, .. } = churn;
    cluster.wait_ready().await;
    cluster.assert_all_online(&users).await;
    let leader = cluster.leader().await;
    assert!(voters.contains(&leader));
    for id in &voters {
        eventually("every member knows the same members", async || {
            let group = cluster.http.try_get(&cluster.node(*id).api(), "/v1/cluster").await?.body;
            let of = |member: &Value| (member["role"] == "voter").then(|| member["id"].as_u64()).flatten();
            let known: Option<BTreeSet<u64>> = group["members"].as_array()?.iter().map(of).collect();
            (known.as_ref() == Some(&voters) && group["changing"] == false && group["leader"] == leader).then_some(())
        })
        .await;
    }
    let api = cluster.node(leader).api();
    for id in removed {
        let body = json!({ "id": id, "peer": cluster.peer(voters.iter().next().copied().unwrap()) });
        let again = cluster.http.post(&api, "/v1/cluster/members", body).await;
        assert_eq!((again.status, &again.body["error"]["code"]), (409, &json!("conflict")), "{id}: {}", again.body);
    }
    let user = cluster.user(&api, "stays").await;
    assert_eq!(user["online"], true, "{user}");
    assert_eq!(user["connections"][0]["id"], client.id, "its session lived through it");
}

impl Churn {
    fn any_voter(&mut self) -> u64 {
        let nth = self.rng.usize(..self.voters.len());
        *self.voters.iter().nth(nth).unwrap()
    }

    async fn step(&mut self) {
        match self.rng.u8(0..7) {
            0 if self.voters.len() < VOTERS_MAX => self.grow().await,
            1 if self.voters.len() > VOTERS_MIN => self.shrink().await,
            2 => self.replace_a_dead_one().await,
            4 if self.voters.len() > VOTERS_MIN => self.shrink_as_the_leader_dies().await,
            3 => {
                let to = self.any_voter();
                println!("leadership goes to node {to}");
                self.cluster.transfer_leader(to).await;
            }
            _ => self.kill_one_for_a_moment().await,
        }
    }

    async fn grow(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        println!("node {id} joins {:?}", self.voters);
        self.cluster.join(id, "voter").await;
        self.voters.insert(id);
        self.cluster.wait_ready().await;
    }

    async fn shrink(&mut self) {
        let id = self.any_voter();
        println!("node {id} of {:?} is removed", self.voters);
        self.cluster.remove(id).await;
        self.forget(id);
    }

    /// The leader is killed somewhere between the two entries of a change, or before, or after.
    async fn shrink_as_the_leader_dies(&mut self) {
        let leader = self.cluster.leader().await;
        let id = self.voters.iter().copied().find(|id| *id != leader).unwrap();
        println!("node {id} of {:?} is removed as node {leader} dies", self.voters);
        let mut process = self.cluster.nodes.remove(&leader).unwrap();
        let api = self.cluster.node(id).api();
        let path = format!("/v1/cluster/members/{id}");
        let asked = self.cluster.http.send(Method::DELETE, &api, &path, &[], None);
        let pauses = self.rng.u8(0..4);
        let killed = async {
            for _ in 0..pauses {
                pause().await;
            }
            process.kill();
        };
        // Whatever came of it, it is repeated.
        let _ = tokio::join!(asked, killed);
        process.restart().await;
        self.cluster.nodes.insert(leader, process);
        self.cluster.remove(id).await;
        self.forget(id);
        self.cluster.wait_ready().await;
    }

    fn forget(&mut self, id: u64) {
        self.voters.remove(&id);
        self.removed.push(id);
        // Dropping a process kills it.
        self.cluster.nodes.remove(&id);
    }

    /// First the dead one goes, then another one comes: so the majority is of those that are there.
    async fn replace_a_dead_one(&mut self) {
        let id = self.any_voter();
        println!("node {id} of {:?} is lost and replaced", self.voters);
        self.cluster.nodes.get_mut(&id).unwrap().kill();
        self.cluster.remove(id).await;
        self.forget(id);
        self.grow().await;
    }

    /// Kills a node while another change is under way.
    async fn kill_one_for_a_moment(&mut self) {
        let (id, to) = (self.any_voter(), self.any_voter());
        println!("node {id} of {:?} is killed, perhaps as leadership goes to node {to}", self.voters);
        let mut process = self.cluster.nodes.remove(&id).unwrap();
        if to != id {
            let body = json!({ "to": to });
            let api = self.cluster.apis()[0].clone();
            let asked = self.cluster.http.try_post(&api, "/v1/cluster/transfer-leader", &body);
            let killed = async {
                tokio::task::yield_now().await;
                process.kill();
            };
            tokio::join!(asked, killed);
        } else {
            process.kill();
        }
        process.restart().await;
        self.cluster.nodes.insert(id, process);
        self.cluster.wait_ready().await;
    }
}

//! Replicas and feeds against the log itself: whatever happens, and wherever they are resumed, they show exactly what
//! follows from applying the log, or are told that they can't.
//!
//! Random commands go into two nodes that lag differently, retain little, and install snapshots now and then. Feeds with
//! filters and replicas of both kinds follow them, are cut off, and go on elsewhere. `SWITCHBOARD_SEED=n` repeats one run.

mod feeds;
mod log;
mod replicas;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use feeds::FeedRun;
use log::Log;
use replicas::ReplicaRun;

use crate::node::LoneNode;

const STEPS: usize = 700;

/// Few enough that most of what happens is compacted soon.
const RETAINED: usize = 60;

/// What has to have come up, or the test says less than it seems to.
#[derive(Debug, Default)]
struct Seen {
    /// Lines that feeds showed, and marks without a line.
    lines: usize,
    marks: usize,
    /// Feeds and watches that were told that what they asked for is gone.
    compacted: usize,
    histories: usize,
    /// Looks at users who were held and online, held and offline, and not held.
    online: usize,
    offline: usize,
    not_held: usize,
}

/// A node and how far it is in the log.
struct Node {
    node: LoneNode,
    applied: usize,
    /// Snapshots that it has installed: watches from before one end.
    installed: usize,
}

struct Run {
    log: Log,
    nodes: [Node; 2],
    feeds: Vec<FeedRun>,
    replicas: Vec<ReplicaRun>,
    seen: Seen,
}

#[tokio::test(start_paused = true)]
async fn replicas_and_feeds_show_what_the_log_says() {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seeds = match std::env::var("SWITCHBOARD_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => vec![1, 2, 3, 4, 5, u64::from(fresh)],
    };
    let mut seen = Seen::default();
    for seed in seeds {
        println!("SWITCHBOARD_SEED={seed}");
        seen = Run::new(seed, seen).run().await;
    }
    let Seen { lines, marks, compacted, histories, online, offline, not_held } = seen;
    let all = [lines, marks, compacted, histories, online, offline, not_held];
    assert!(all.iter().all(|count| *count > 20), "{seen:?}");
}

impl Run {
    fn new(seed: u64, seen: Seen) -> Self {
        let mut log = Log::new(seed);
        let node = || Node { node: LoneNode::new(RETAINED), applied: 0, installed: 0 };
        let feeds = (0..8).map(|_| FeedRun::new(&mut log)).collect();
        let replicas = [None, None, Some(3), Some(6)].into_iter().map(ReplicaRun::new).collect();
        Self { nodes: [node(), node()], feeds, replicas, log, seen }
    }

    async fn run(mut self) -> Seen {
        for _ in 0..STEPS {
            for _ in 0..self.log.rng.usize(0..3) {
                self.log.entry();
            }
            let which = self.log.rng.usize(0..2);
            self.advance(which).await;
            let which = self.log.rng.usize(0..self.feeds.len());
            self.feeds[which].step(&mut self.log, &self.nodes, &mut self.seen).await;
            let which = self.log.rng.usize(0..self.replicas.len());
            self.replicas[which].step(&mut self.log, &self.nodes, &mut self.seen);
        }
        // In the end everybody catches up.
        while self.nodes.iter().any(|node| node.applied < self.log.len()) {
            self.advance(0).await;
            self.advance(1).await;
        }
        for feed in &mut self.feeds {
            feed.catch_up(&mut self.log, &self.nodes, &mut self.seen).await;
        }
        for replica in &mut self.replicas {
            replica.catch_up(&mut self.log, &self.nodes, &mut self.seen);
        }
        self.seen
    }

    /// A node applies some of the log, or installs a snapshot of all of it.
    async fn advance(&mut self, which: usize) {
        let Node { node, applied, installed } = &mut self.nodes[which];
        node.confirm();
        if *applied > 0 && self.log.rng.usize(0..60) == 0 {
            node.install(self.log.state().clone());
            *applied = self.log.len();
            *installed += 1;
        }
        for _ in 0..self.log.rng.usize(0..6) {
            if *applied < self.log.len() {
                self.log.apply_to(node, *applied);
                *applied += 1;
            }
        }
        if self.log.rng.bool() {
            node.settle().await;
            self.log.check_history(node, &mut self.seen).await;
        }
        tokio::time::advance(Duration::from_millis(self.log.rng.u64(0..400))).await;
    }
}

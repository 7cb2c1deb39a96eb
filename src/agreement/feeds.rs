//! Feeds that are filtered, cut off and resumed.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use super::log::{Log, Told, USERS, told_of};
use super::{Node, Seen};
use crate::api::{Feed, FeedItem, FeedRefused, FeedRequest};
use crate::directory::Revision;

/// Nothing more is to come for now.
const IDLE: Duration = Duration::from_millis(1);

/// A feed, and what it has shown so far.
pub(super) struct FeedRun {
    filter: FeedRequest,
    mark: (Revision, Option<u32>),
    open: Option<(usize, Feed)>,
}

impl FeedRun {
    pub(super) fn new(log: &mut Log) -> Self {
        let rng = &mut log.rng;
        let kinds = ["user.online", "user.offline", "connection.closed", "gateway.down", "meta.changed"];
        let types = kinds.into_iter().filter(|_| rng.u8(0..4) == 0).map(str::to_owned).collect();
        let user = (rng.u8(0..3) == 0).then(|| USERS[rng.usize(0..USERS.len())].to_owned());
        let prefix = (rng.u8(0..4) == 0).then(|| "ad".to_owned());
        let filter = FeedRequest { from: None, types, user, prefix };
        Self { filter, mark: (0, None), open: None }
    }

    /// Reads on for a while, or is cut off, or opened where it ended.
    pub(super) async fn step(&mut self, log: &mut Log, nodes: &[Node; 2], seen: &mut Seen) {
        if log.rng.u8(0..6) == 0 {
            self.open = None;
        }
        let which = log.rng.usize(0..2);
        let Some((_, mut feed)) = self.open.take().or_else(|| self.open_at(which, nodes, seen)) else { return };
        for _ in 0..log.rng.usize(0..20) {
            match timeout(IDLE, feed.next()).await {
                Ok(Some(item)) => self.take(&item, log, seen),
                // It can't go on: a snapshot was installed, or it fell behind.
                Ok(None) => return,
                Err(_) => break,
            }
        }
        self.open = Some((which, feed));
    }

    /// Reads until nothing is left to show.
    pub(super) async fn catch_up(&mut self, log: &mut Log, nodes: &[Node; 2], seen: &mut Seen) {
        let end = log.state().revision();
        for turn in 0.. {
            assert!(turn < 10_000, "{:?} does not get to {end}: {:?}", self.filter, self.mark);
            nodes.iter().for_each(|node| node.node.confirm());
            if log.told_after(self.mark).iter().all(|told| !self.wants(told)) && turn > 0 {
                return;
            }
            self.step(log, nodes, seen).await;
        }
    }

    fn open_at(&mut self, which: usize, nodes: &[Node; 2], seen: &mut Seen) -> Option<(usize, Feed)> {
        let node = &nodes[which].node;
        let now = node.directory.revision();
        match node.feed(FeedRequest { from: Some(self.mark), ..self.filter.clone() }) {
            Ok(feed) => Some((which, feed)),
            // On a real node a linearizable read comes first, so that it is not behind.
            Err(FeedRefused::Ahead { asked, now: at, .. }) => {
                assert_eq!((asked, at, asked > now), (self.mark.0, now, true));
                None
            }
            Err(FeedRefused::Compacted { oldest }) => {
                let needed = self.mark.0 - u64::from(self.mark.1.is_some());
                assert_eq!((oldest, needed < oldest), (node.retained().floor, true), "it is told only if it is so");
                // The reader looks at the present state, and goes on from there.
                self.mark = (now, None);
                seen.compacted += 1;
                None
            }
            Err(refused) => panic!("{refused}"),
        }
    }

    fn take(&mut self, item: &FeedItem, log: &Log, seen: &mut Seen) {
        let expected = log.told_after(self.mark).iter().find(|told| self.wants(told));
        let line = serde_json::from_slice(&item.json).unwrap();
        if item.mark.1.is_some() {
            assert_eq!(Some(&told_of(&line)), expected, "{:?} after {:?}", self.filter, self.mark);
            seen.lines += 1;
        } else {
            assert_eq!((&line["type"], line["revision"].as_u64()), (&"progress".into(), Some(item.mark.0)));
            assert!(item.mark.0 >= self.mark.0, "{:?} leads back to {:?}", self.mark, item.mark);
            let passed_over = expected.filter(|told| told.mark.0 <= item.mark.0);
            assert_eq!(passed_over, None, "{:?} after {:?}", self.filter, self.mark);
            seen.marks += 1;
        }
        self.mark = item.mark;
    }

    fn wants(&self, told: &Told) -> bool {
        let FeedRequest { types, user, prefix, .. } = &self.filter;
        (types.is_empty() || types.iter().any(|kind| kind == told.kind))
            && user.as_ref().is_none_or(|user| told.user.as_ref() == Some(user))
            && prefix.as_ref().is_none_or(|prefix| told.user.as_ref().is_some_and(|user| user.starts_with(prefix)))
    }
}

//! Where a user was: the retained changes that are about them, as a feed would show them.

use std::sync::Arc;

use bytes::Bytes;

use super::closings::End;
use super::lines;
use super::trail::Place;
use super::watch_hub::{Change, WatchHub};
use crate::api::History;
use crate::clock;
use crate::directory::Revision;

/// Changes in one history. A user of whom there are more gets the newest of them, and is told from where on.
pub(super) const CHANGES_MAX: usize = 10_000;

/// Changes that are turned into lines before other tasks get their turn: some hundred microseconds.
const SLICE: usize = 128;

/// The history of a user, up to `revision` at least, which this node has applied.
pub(super) async fn of(hub: &WatchHub, user: &str, revision: Revision) -> History {
    hub.settled(revision).await;
    let mut places = hub.places(user).await;
    let cut = newest(&mut places);
    let mut found = Vec::new();
    let mut change: Option<Arc<Change>> = None;
    for (index, place) in places.iter().enumerate() {
        if change.as_ref().is_none_or(|change| change.revision != place.revision) {
            change = hub.change(place.revision);
        }
        if let Some(change) = &change {
            lines_of(change, place, &mut found);
        }
        if index % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
    }
    // What was dropped meanwhile is left out as a whole, so that nothing is missing after what is told.
    let oldest_revision = cut.max(hub.floor());
    found.retain(|(revision, _)| *revision > oldest_revision);
    History { lines: found.into_iter().map(|(_, line)| line).collect(), oldest_revision }
}

/// Keeps the newest, in whole revisions; the newest of those that are left out.
fn newest(places: &mut Vec<Place>) -> Revision {
    let Some(excess) = places.len().checked_sub(CHANGES_MAX).filter(|excess| *excess > 0) else { return 0 };
    let first = places[excess].revision;
    let from = places.partition_point(|place| place.revision < first);
    places.drain(..from).next_back().map_or(0, |last| last.revision)
}

fn lines_of(change: &Change, place: &Place, found: &mut Vec<(Revision, Bytes)>) {
    let at = clock::rfc3339(change.at_ms);
    let event = place.event as usize;
    let before = change.number(event);
    let listed = place.row.and_then(|row| Some((change.end(event).and_then(End::listed)?, row as usize)));
    let closed = listed.map(|(listed, row)| (listed.event(row), listed.row(row).1));
    let (event, first) = match &closed {
        // The line of the end itself comes first.
        Some((closed, rows_before)) => (closed, before + lines::count(&change.events[event]) + rows_before),
        None => (&change.events[event], before),
    };
    let lines = lines::lines(event, change.revision, &at);
    found.extend((first..).zip(lines).map(|(n, line)| (change.revision, line.json(n))));
}

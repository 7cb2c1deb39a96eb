//! What ends a member's part in the group: it was removed, or another process has its identity.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use crate::apply::{Applier, Progress};
use crate::entry::{Group, Seat};
use crate::founding::{Founders, Standing};
use crate::net::frame::{JoinAnswer, Purpose};
use crate::net::link::{Lines, Local};

type OpenRaft = openraft::Raft<Group, Applier>;

/// A file in the data directory of a member that was removed.
const MARK: &str = "removed";

/// How often a member that is known elsewhere looks whether somebody answers there.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whether the directory is that of a member that has learned that it was removed.
pub(crate) fn is_marked(dir: &Path) -> bool {
    dir.join(MARK).exists()
}

fn mark(dir: &Path) -> io::Result<()> {
    File::create(dir.join(MARK))?.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Waits until this member learns that it was removed: it has applied the entry that says so, or another member refuses it
/// for that reason. Then it never stands for election again, and never starts again with this directory.
pub(crate) async fn notice_removal(
    raft: &OpenRaft,
    local: &Local,
    progress: &Progress,
    founders: &Founders,
    dir: &Path,
) {
    let (mut told, mut known) = (local.removed.subscribe(), progress.known());
    tokio::select! {
        _ = told.wait_for(|told| *told) => {}
        _ = known.wait_for(|known| known.was_removed(local.id)) => {}
    }
    local.removed.send_replace(true);
    raft.runtime_config().elect(false);
    if let Err(e) = mark(dir) {
        warn!(error = %e, dir = %dir.display(), "the data directory of a removed node can't be marked as such");
    }
    founders.stand(Standing::Removed);
}

/// This member's seat, if the group knows it elsewhere than it says it is.
fn seat_elsewhere(progress: &Progress, local: &Local) -> Option<Seat> {
    let known = progress.known();
    let known = known.borrow();
    let seat = known.members.get(&local.id)?;
    (seat.nonce == local.nonce && seat.addresses != local.advertise).then(|| seat.clone())
}

/// The address at which another process answers with this member's identity. It can be told only where the group knows the
/// member at another address than its own: of two processes at one address there is only one to be asked.
pub(crate) async fn find_twin(progress: &Progress, local: &Arc<Local>, lines: &Lines) -> Option<String> {
    let seat = seat_elsewhere(progress, local).filter(|seat| seat.addresses.peer != local.advertise.peer)?;
    let to = (local.id, &Seat { nonce: 0, ..seat.clone() });
    let asked = lines.call(local, to, Purpose::Join, &(), local.limits.connect_within).await;
    match asked {
        Ok(JoinAnswer::Stored { nonce, process, .. }) if nonce == local.nonce && process != local.process => {
            Some(seat.addresses.peer)
        }
        _ => None,
    }
}

/// Says so where the group knows this member at other addresses than its own, and ends when another process answers there.
pub(crate) async fn notice_twin(progress: &Progress, local: &Arc<Local>, lines: &Lines) -> String {
    let mut told = false;
    loop {
        if let Some(seat) = seat_elsewhere(progress, local) {
            if !told {
                told = true;
                warn!(
                    id = local.id,
                    known = %seat.addresses,
                    given = %local.advertise,
                    "the group knows this node at other addresses than it was started with; they were fixed when it became a \
                     member, and others connect to those. Start it with the known ones, or remove it and add it with an \
                     empty directory and a new id"
                );
            }
            if let Some(address) = find_twin(progress, local, lines).await {
                error!(
                    id = local.id,
                    address, "another process answers as this node; one of the data directories is a copy"
                );
                return format!(
                    "another process answers at {address} as node {id} with the same data directory: one of them is a copy. \
                     Stop one of the two and remove its directory",
                    id = local.id
                );
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

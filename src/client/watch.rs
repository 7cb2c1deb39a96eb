//! A watch: every change of the directory, in order, from one node.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::net::ReadHalf;
use crate::net::framed::{self, FrameReader};
use crate::peer;
use crate::wire::peer::{ClusterMark, Hello, Stamp, WatchFrame};

/// A node says something at least every second; three times that is silence.
const IDLE: Duration = Duration::from_secs(3);

/// A write that takes longer means that the node does not read.
const WRITE_STALL: Duration = Duration::from_secs(5);

/// A watch at one node. Ends with an error when the node is gone, silent or can't go on; then another one is asked, from
/// where this one ended.
#[derive(Debug)]
pub struct WatchStream {
    reader: FrameReader<ReadHalf>,
    stamps: mpsc::Sender<Bytes>,
    node: String,
    cluster: Option<ClusterMark>,
    _writer: JoinSet<()>,
}

/// Sends the watcher's own clock, to be echoed.
#[derive(Debug, Clone)]
pub struct Stamper(mpsc::Sender<Bytes>);

impl Stamper {
    /// Whether the stamp is on its way. If not, too many are, and a later one will do.
    pub fn try_send(&self, stamp: Stamp) -> bool {
        self.0.try_send(framed::encode(&stamp)).is_ok()
    }
}

impl WatchStream {
    pub(super) async fn open(node: String, hello: &Hello) -> io::Result<Self> {
        let dialed = peer::dial(&node, hello).await?;
        let (stamps, mut waiting) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The reader notices a broken stream, too.
            let _ = framed::write_all(dialed.writer, &mut waiting, WRITE_STALL).await;
        });
        Ok(Self { reader: dialed.reader, stamps, node, cluster: dialed.cluster, _writer: tasks })
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// When the node is gone or silent for too long.
    pub async fn next(&mut self) -> io::Result<WatchFrame> {
        self.reader.expect(IDLE).await
    }

    /// A frame that has already arrived, without waiting.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn buffered(&mut self) -> io::Result<Option<WatchFrame>> {
        self.reader.buffered()
    }

    /// To send stamps with.
    pub fn stamper(&self) -> Stamper {
        Stamper(self.stamps.clone())
    }

    /// Whose state the node had when the watch began.
    pub(super) fn cluster(&self) -> Option<ClusterMark> {
        self.cluster
    }

    /// Address of the node.
    pub fn node(&self) -> &str {
        &self.node
    }
}

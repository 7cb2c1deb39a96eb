//! The start of a stream of the internal protocol, on both sides: preamble, hello, answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::framed::{self, FrameReader};
use crate::net::{self, ReadHalf, Stream, WriteHalf};
use crate::wire::peer::{ClusterMark, FRAME_BYTES_MAX, Hello, HelloAnswer, PREAMBLE, SPEAKS, common_version};

/// First bytes of a stream that belongs to `raft/`.
pub const RAFT_PREAMBLE: [u8; 5] = *b"SWBR\x01";

/// Longest time for the start of a stream; a caller that takes longer does not speak the protocol.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest hello. Nothing larger is read from a stranger.
const HELLO_BYTES_MAX: usize = 4 << 10;

/// Who answers on a peer listener.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Callers of another cluster are refused.
    pub cluster: String,
    /// Role and name: `node 2`, `gateway gw-1`.
    pub name: String,
    /// Names the process; chosen at random when it started.
    pub nonce: Arc<str>,
}

/// A stream that the other side has accepted.
#[derive(Debug)]
pub struct Dialed {
    /// Frames from the other side.
    pub reader: FrameReader<ReadHalf>,
    /// To the other side.
    pub writer: WriteHalf,
    /// Role and name of the process that answered.
    pub name: String,
    /// Names that process.
    pub nonce: Arc<str>,
    /// Of a directory node that has a state.
    pub cluster: Option<ClusterMark>,
}

/// A stream that was accepted.
#[derive(Debug)]
pub enum Greeted {
    /// It belongs to `raft/`; its preamble has been read, nothing else.
    Raft(Stream),
    /// It is one of ours, and has been answered.
    Peer {
        /// What the caller said.
        hello: Hello,
        /// Frames from the caller.
        reader: FrameReader<ReadHalf>,
        /// To the caller.
        writer: WriteHalf,
    },
}

/// Connects to `address` and says hello.
///
/// # Errors
/// `PermissionDenied` with the other side's words when it refused; whatever the network says otherwise.
pub async fn dial(address: &str, hello: &Hello) -> io::Result<Dialed> {
    let (read, mut writer) = net::connect(address).await?.into_split();
    let mut start = PREAMBLE.to_vec();
    start.extend_from_slice(&framed::encode(hello));
    writer.write_all(&start).await?;
    let mut reader = FrameReader::new(read, FRAME_BYTES_MAX);
    match reader.expect(START_TIMEOUT).await? {
        HelloAnswer::Accepted { name, nonce, version, cluster } => match common_version((version, version)) {
            Some(_) => Ok(Dialed { reader, writer, name, nonce, cluster }),
            None => {
                let why = format!("{name} wants to speak version {version} of the protocol, this process {SPEAKS:?}");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        },
        HelloAnswer::Refused { why } => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
    }
}

/// Reads who calls, and answers; a directory node tells whose state it has.
///
/// # Errors
/// For a caller that does not speak the protocol, takes too long, or belongs to another cluster (that one is told).
pub async fn greet(stream: Stream, me: &Identity, cluster: Option<ClusterMark>) -> io::Result<Greeted> {
    tokio::time::timeout(START_TIMEOUT, greet_in_time(stream, me, cluster))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the caller did not say hello in time")))
}

async fn greet_in_time(mut stream: Stream, me: &Identity, cluster: Option<ClusterMark>) -> io::Result<Greeted> {
    let mut preamble = [0; 5];
    stream.read_exact(&mut preamble).await?;
    if preamble == RAFT_PREAMBLE {
        return Ok(Greeted::Raft(stream));
    }
    let (read, mut writer) = stream.into_split();
    if preamble[..4] == PREAMBLE[..4] && preamble != PREAMBLE {
        let why = format!("the hello has form {}, {} knows form {}", preamble[4], me.name, PREAMBLE[4]);
        return refuse(&mut writer, "a caller", why).await;
    }
    if preamble != PREAMBLE {
        let why = format!("the caller speaks another protocol: it began with {preamble:02x?}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut reader = FrameReader::new(read, HELLO_BYTES_MAX);
    let hello: Hello = reader.expect(START_TIMEOUT).await?;
    if hello.cluster != me.cluster {
        let why =
            format!("this is {} of cluster {:?}, the caller is of cluster {:?}", me.name, me.cluster, hello.cluster);
        return refuse(&mut writer, &hello.from, why).await;
    }
    let Some(version) = common_version(hello.speaks) else {
        let why = format!("{} speaks versions {SPEAKS:?} of the protocol, the caller {:?}", me.name, hello.speaks);
        return refuse(&mut writer, &hello.from, format!("{why}; run releases that follow each other")).await;
    };
    let answer = HelloAnswer::Accepted { name: me.name.clone(), nonce: Arc::clone(&me.nonce), version, cluster };
    framed::write(&mut writer, &answer).await?;
    reader.set_limit(FRAME_BYTES_MAX);
    Ok(Greeted::Peer { hello, reader, writer })
}

/// Tells the caller why it is not served.
async fn refuse(writer: &mut WriteHalf, caller: &str, why: String) -> io::Result<Greeted> {
    framed::write(writer, &HelloAnswer::Refused { why: why.clone() }).await?;
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{caller}: {why}")))
}

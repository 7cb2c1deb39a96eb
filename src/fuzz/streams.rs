//! Streams between processes: frames, in whatever pieces they arrive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use arbitrary::{Arbitrary, Unstructured};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use crate::net::framed::FrameReader;
use crate::wire::peer::Request;

/// Small, so that frames of all sizes around it are tried.
const FRAME_BYTES_MAX: usize = 1024;

#[derive(Debug, Arbitrary)]
struct Arriving {
    /// Bytes of every piece, over and over.
    pieces: Vec<u8>,
    bytes: Vec<u8>,
}

thread_local! {
    /// Its clock stands still while there is something to do, so that nothing ever waits.
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing of the system");
}

/// Frames that arrive in pieces are those that arrive at once, and end the same way.
pub fn peer_streams(data: &[u8]) {
    let Ok(Arriving { pieces, bytes }) = Arriving::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let at_once = Pieces { rest: &bytes, sizes: &[], nth: 0 };
    let in_pieces = Pieces { rest: &bytes, sizes: &pieces, nth: 0 };
    RUNTIME.with(|runtime| {
        let (expected, found) = runtime.block_on(async { (all(at_once).await, all(in_pieces).await) });
        assert_eq!(found, expected, "the pieces in which a stream arrives make no difference");
    });
}

/// All frames, and how the stream ends.
async fn all(from: Pieces<'_>) -> (Vec<Request>, Option<io::ErrorKind>) {
    let mut reader = FrameReader::new(from, FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.kind())),
        }
    }
}

/// Bytes that arrive in pieces; without sizes, as fast as they are read.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: &'a [u8],
    nth: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = match self.sizes {
            [] => usize::MAX,
            sizes => usize::from(sizes[self.nth % sizes.len()]).max(1),
        };
        self.nth += 1;
        let (piece, rest) = self.rest.split_at(size.min(into.remaining()).min(self.rest.len()));
        into.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

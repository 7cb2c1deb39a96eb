//! Length-prefixed binary frames: a big-endian `u32` and that many bytes of postcard.
//!
//! Writers hand over to a task that gathers what is queued into one write; readers take from a buffer. Neither allocates
//! from a claimed length before the bytes are there.
//!
//! A cut stream never says so by itself. So a writer that has nothing to write sends an empty frame now and then, which
//! readers skip, and a reader that hears nothing for longer gives the stream up.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes gathered into one write at most.
const WRITE_BYTES_MAX: usize = 256 << 10;

/// A writer that has nothing to write says so this often.
const LIFE_EVERY: Duration = Duration::from_secs(5);

/// A reader that hears nothing for so long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(16);

/// A frame without content: not a value, a sign of life.
const SIGN_OF_LIFE: Bytes = Bytes::from_static(&[0; 4]);

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// A frame with its length in front.
///
/// # Panics
/// If the value can't be encoded or is longer than a `u32` can tell, which no type of ours is.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(value, frame).expect("wire types have a binary form");
    let length = u32::try_from(frame.len() - 4).expect("a frame is far shorter than 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

/// Reads frames of `T` from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    frame_bytes_max: usize,
    /// When something last arrived.
    heard: Instant,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames longer than `frame_bytes_max` are refused.
    pub fn new(from: R, frame_bytes_max: usize) -> Self {
        Self { from, buffer: BytesMut::new(), frame_bytes_max, heard: Instant::now() }
    }

    /// Reads on from what `replace` makes of the source; what was read ahead stays.
    ///
    /// # Errors
    /// Those of `replace`.
    pub fn replaced<S>(self, replace: impl FnOnce(R) -> io::Result<S>) -> io::Result<FrameReader<S>> {
        let Self { from, buffer, frame_bytes_max, heard } = self;
        Ok(FrameReader { from: replace(from)?, buffer, frame_bytes_max, heard })
    }

    /// Changes the limit: a stranger gets a small one.
    pub fn set_limit(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The next frame; `None` when the other side has closed the stream between two frames. Cancel-safe. Silence is an
    /// error, see the head of this file.
    pub async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            // What has arrived is read even if nobody looked for it in time.
            let read = tokio::time::timeout_at(self.heard + SILENCE_MAX, self.from.read_buf(&mut self.buffer));
            let Ok(read) = read.await else {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the other side is silent"));
            };
            let read = read?;
            self.heard = Instant::now();
            if read == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// As [`Self::next`], but silence longer than `idle` and a closed stream are errors.
    pub async fn expect<T: DeserializeOwned>(&mut self, idle: Duration) -> io::Result<T> {
        match tokio::time::timeout(idle, self.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the stream")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the other side is silent")),
        }
    }

    /// A frame that has already arrived in full, without waiting.
    pub fn buffered<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        while self.buffer.starts_with(&SIGN_OF_LIFE) {
            self.buffer.advance(SIGN_OF_LIFE.len());
        }
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.frame_bytes_max {
            let why = format!("a frame of {length} bytes; the limit is {}", self.frame_bytes_max);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(length);
        let value = postcard::from_bytes(&frame).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("a frame that can't be read: {error}"))
        })?;
        Ok(Some(value))
    }
}

/// Writes one frame at once.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    to.write_all(&encode(value)).await
}

/// Writes what arrives in `queue` until it is closed, gathering everything that waits into one write. A write that takes
/// longer than `stall` is an error: the other side does not read.
pub async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    queue: &mut mpsc::Receiver<Bytes>,
    stall: Duration,
) -> io::Result<()> {
    let mut gathered = BytesMut::new();
    loop {
        match tokio::time::timeout(LIFE_EVERY, queue.recv()).await {
            Ok(Some(first)) => gathered.put(first),
            Ok(None) => break,
            Err(_) => gathered.put(SIGN_OF_LIFE),
        }
        while gathered.len() < WRITE_BYTES_MAX {
            let Ok(more) = queue.try_recv() else { break };
            gathered.put(more);
        }
        match tokio::time::timeout(stall, to.write_all_buf(&mut gathered)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the other side does not read")),
        }
        gathered.clear();
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_cross_a_stream_whole_and_long_ones_are_refused() {
        let (mut a, b) = tokio::io::duplex(16);
        let sender = tokio::spawn(async move {
            write(&mut a, &"one").await.unwrap();
            write(&mut a, &"two, longer than the pipe is wide").await.unwrap();
            write(&mut a, &"x".repeat(200)).await.unwrap_err();
        });
        let mut reader = FrameReader::new(b, 100);
        assert_eq!(reader.next::<String>().await.unwrap().unwrap(), "one");
        assert_eq!(reader.next::<String>().await.unwrap().unwrap(), "two, longer than the pipe is wide");
        assert_eq!(reader.next::<String>().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(reader);
        sender.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_shows_that_it_lives_and_a_silent_one_is_given_up() {
        let (a, b) = tokio::io::duplex(64);
        let (queue, mut waiting) = mpsc::channel(1);
        let writer = tokio::spawn(async move { write_all(a, &mut waiting, SILENCE_MAX).await });
        let mut reader = FrameReader::new(b, 100);
        let reading = tokio::spawn(async move { reader.next::<String>().await });
        tokio::time::sleep(SILENCE_MAX * 10).await;
        queue.send(encode(&"late")).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap().unwrap(), "late");
        drop(queue);
        writer.await.unwrap().unwrap();

        let (_silent, b) = tokio::io::duplex(64);
        let given_up = FrameReader::new(b, 100).next::<String>().await.unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut reader = FrameReader::new(&[0, 0, 0, 9, 1][..], 100);
        assert_eq!(reader.next::<String>().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut reader = FrameReader::new(&[][..], 100);
        assert_eq!(reader.next::<String>().await.unwrap(), None);
    }
}

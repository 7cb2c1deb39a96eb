//! What the machine itself can do: appends that are on disk, and a packet there and back.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

use super::table::Times;

/// The argument that makes this program an echo server instead.
pub(crate) const ECHO: &str = "echo";

/// Bytes that go there and back.
const PACKET: usize = 256;

/// Appends chunks of so many bytes to three files at once, each flushed by `fdatasync` before the next: what three copies
/// cost when there is nothing but the disk. Chunks a second of the slowest.
pub(crate) fn durable_appends(dir: &Path, chunk_bytes: usize, time: Duration) -> f64 {
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let path = dir.join(format!("floor-{n}"));
            std::thread::spawn(move || {
                let mut file = File::create(&path).expect("a file can be created");
                let chunk = vec![0x5a; chunk_bytes];
                let (began, mut chunks) = (std::time::Instant::now(), 0_u32);
                while began.elapsed() < time {
                    file.write_all(&chunk).expect("the disk has room");
                    file.sync_data().expect("the disk works");
                    chunks += 1;
                }
                let rate = f64::from(chunks) / began.elapsed().as_secs_f64();
                // Left over, it only takes space until the directory goes.
                let _ = std::fs::remove_file(&path);
                rate
            })
        })
        .collect();
    writers.into_iter().map(|writer| writer.join().expect("no writer panics")).fold(f64::INFINITY, f64::min)
}

/// Answers every packet with itself, for ever.
pub(crate) async fn echo(address: &str) {
    let listener = TcpListener::bind(address).await.expect("the address is free");
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let mut packet = [0; PACKET];
            while stream.read_exact(&mut packet).await.is_ok() && stream.write_all(&packet).await.is_ok() {}
        });
    }
}

/// An echo server in a process of its own. Killed when dropped.
struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The time between two turns of one of so many callers, so that all together have this rate; none without a rate.
pub(crate) fn every(callers: usize, rate: Option<f64>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(callers as f64 / rate))
}

/// Times of a packet to another process and back, at the same pace and over as many connections as the pushes.
pub(crate) async fn ping_pong(address: &str, connections: usize, rate: Option<f64>, time: Duration) -> Times {
    let program = std::env::current_exe().expect("this program has a path");
    let child = Command::new(program).args([ECHO, address]).stdin(Stdio::null()).spawn().expect("it starts");
    let _echo = Echo(child);
    let every = every(connections, rate);
    let callers: Vec<_> = (0..connections)
        .map(|n| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut stream = connect(&address).await;
                let (mut packet, mut times) = ([1; PACKET], Times::default());
                let begin = Instant::now() + every.mul_f64(n as f64 / connections as f64);
                for turn in 0.. {
                    sleep_until(begin + every * turn).await;
                    let sent = Instant::now();
                    if sent >= begin + time {
                        break;
                    }
                    stream.write_all(&packet).await.expect("the echo server reads");
                    stream.read_exact(&mut packet).await.expect("the echo server answers");
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Times::default();
    for caller in callers {
        times.extend(caller.await.expect("no caller panics"));
    }
    times
}

/// Connects, and waits for a process that is just starting.
pub(crate) async fn connect(address: &str) -> TcpStream {
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).expect("a socket takes the option");
                return stream;
            }
            Err(error) => assert!(Instant::now() < give_up, "{address}: {error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

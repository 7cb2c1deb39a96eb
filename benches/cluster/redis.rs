//! The peer for registrations: Redis with `appendfsync always`, one durable copy. Left out where it is not installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::floors::connect;

/// A Redis of our own. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    address: String,
}

impl Redis {
    /// `None` where no `redis-server` is found.
    pub(crate) fn start(host: &str, dir: &Path) -> Option<Self> {
        let dir = dir.display().to_string();
        let args = ["--port", "6390", "--bind", host, "--dir", &dir, "--save", "", "--appendonly", "yes"];
        let child = Command::new("redis-server")
            .args(args)
            .args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { child, address: format!("{host}:6390") })
    }

    /// `SET`s a second: over so many connections, each with `depth` commands on their way, of values of so many bytes.
    pub(crate) async fn sets(&self, connections: usize, depth: usize, value_bytes: usize, time: Duration) -> f64 {
        let began = Instant::now();
        let callers: Vec<_> = (0..connections)
            .map(|n| {
                let address = self.address.clone();
                tokio::spawn(async move {
                    let mut stream = connect(&address).await;
                    let mut done = 0_usize;
                    let mut answers = vec![0; depth * OK.len()];
                    while began.elapsed() < time {
                        let commands: String = (0..depth).map(|i| set(n, done + i, value_bytes)).collect();
                        stream.write_all(commands.as_bytes()).await.expect("Redis reads");
                        stream.read_exact(&mut answers).await.expect("Redis answers");
                        assert!(answers.starts_with(OK), "Redis refuses");
                        done += depth;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for caller in callers {
            done += caller.await.expect("no caller panics");
        }
        done as f64 / began.elapsed().as_secs_f64()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const OK: &[u8] = b"+OK\r\n";

fn set(caller: usize, n: usize, value_bytes: usize) -> String {
    let key = format!("user:{:016x}", ((caller << 40) + n).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${value_bytes}\r\n{:x>value_bytes$}\r\n", key.len(), "")
}

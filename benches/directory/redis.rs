//! The peer in memory: Redis with the same connections, nothing of it on disk. Left out where it is not installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::{BATCH, address, user};

/// What each connection takes in Redis, kept in two ways.
pub(super) fn compare(count: u64) {
    let Some(mut redis) = Redis::start() else {
        println!("{:>52} no redis-server is installed", "Redis with the same");
        return;
    };
    redis.measure("Redis, a hash a user: connection -> its fields", count, |n| {
        let fields = format!("gw-{} web {n} {} {}", n % 4, 1_700_000_000_000 + n / 50, address(n));
        vec![command(&["HSET", &user(n), &connection(n), &fields])]
    });
    redis.ask(&command(&["FLUSHALL", "SYNC"]));
    redis.measure("Redis as goim keeps it: two keys, and a TTL on each", count, |n| {
        let (of_user, of_connection) = (format!("mid_{}", user(n)), format!("key_{}", connection(n)));
        let gateway = format!("gw-{}", n % 4);
        vec![
            command(&["HSET", &of_user, &connection(n), &gateway]),
            command(&["EXPIRE", &of_user, "1800"]),
            command(&["SET", &of_connection, &gateway, "EX", "1800"]),
        ]
    });
}

/// A Redis of our own. Killed when dropped.
struct Redis {
    child: Child,
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Redis {
    /// `None` where no `redis-server` is found.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        let socket = dir.path().join("redis");
        let mut child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        said.lines().map_while(Result::ok).find(|line| line.contains("eady to accept connections"))?;
        let stream = BufReader::new(UnixStream::connect(&socket).expect("it said that it is ready"));
        Some(Self { child, stream, _dir: dir })
    }

    /// Has every connection kept, and says what that took, by the figure of Redis itself.
    fn measure(&mut self, what: &str, count: u64, commands: impl Fn(u64) -> Vec<String>) {
        let before = self.used_memory();
        for first in (0..count).step_by(BATCH as usize) {
            let all: Vec<String> = (first..(first + BATCH).min(count)).flat_map(&commands).collect();
            self.send(&all.concat());
            all.iter().for_each(|_| assert!(matches!(self.answer().as_bytes()[0], b'+' | b':'), "Redis refuses"));
        }
        let bytes = self.used_memory().saturating_sub(before);
        let beyond = bytes / count - user(0).len() as u64;
        println!("{what:>52} {:>10} B, {beyond} B beyond the user", bytes / count);
    }

    fn used_memory(&mut self) -> u64 {
        let header = self.ask(&command(&["INFO", "memory"]));
        let length: usize = header[1..].parse().expect("INFO answers with a text");
        let mut info = vec![0; length + 2];
        self.stream.read_exact(&mut info).expect("Redis answers");
        let info = String::from_utf8(info).expect("INFO is text");
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.and_then(|bytes| bytes.parse().ok()).expect("INFO memory tells it")
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    fn send(&mut self, commands: &str) {
        self.stream.get_mut().write_all(commands.as_bytes()).expect("Redis reads");
    }

    /// One line of an answer.
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("Redis answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connection(n: u64) -> String {
    format!("c-{}-{n}", 1 + n % 4)
}

fn command(words: &[&str]) -> String {
    let texts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{texts}", words.len())
}

//! A push: HTTP in at one gateway, out of a socket of another one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::floors;
use super::processes::{Cluster, Process, load, own_cpu};
use super::sockets::Sockets;
use super::table::{Table, Target, Times, median};

const SOCKETS: usize = 1000;

/// Pushes a second, and the connections that they come over.
const RATE: f64 = 1500.0;
const CALLERS: usize = 64;

/// Pushes that can be told apart; far more than are ever under way.
const NUMBERS: u64 = 1 << 16;

const RUNS: usize = 3;
const RUN: Duration = Duration::from_secs(8);
const WARM_UP: Duration = Duration::from_secs(2);
const FLOOD: Duration = Duration::from_secs(4);

/// A push that leaves so late was held up by the driver.
const LATE: Duration = Duration::from_millis(5);

/// When each push left and how long it took to arrive, both in nanoseconds; 0: not yet.
struct Clock {
    zero: Instant,
    left: Vec<AtomicU64>,
    took: Mutex<Times>,
}

pub(crate) async fn run(table: &mut Table) {
    let cluster = Cluster::start().await;
    let (entrance, exit) = (cluster.gateway(1, "3s").await, cluster.gateway(2, "3s").await);
    let clock = Arc::new(Clock {
        zero: Instant::now(),
        left: (0..NUMBERS).map(|_| AtomicU64::new(0)).collect(),
        took: Mutex::default(),
    });
    let arrivals = Arc::clone(&clock);
    let users = (0..SOCKETS).map(|n| format!("u{n}")).collect();
    let _sockets = Sockets::open(&exit.clients, users, move |text| arrivals.arrived(text)).await;
    let next = Arc::new(AtomicU64::new(0));
    round(&entrance, &clock, &next, Some(RATE), WARM_UP).await;
    clock.taken();
    let (mut p50s, mut p99s, mut answered, mut late) = (Vec::new(), Vec::new(), Times::default(), 0);
    let (gateways, nodes, own) = (entrance.cpu() + exit.cpu(), cluster.cpu(), own_cpu());
    let mut total = 0;
    for _ in 0..RUNS {
        let sent = round(&entrance, &clock, &next, Some(RATE), RUN).await;
        let mut times = clock.taken();
        assert_eq!(times.len(), sent.times.len(), "a push did not arrive");
        total += times.len();
        p50s.push(times.percentile_ms(0.5));
        p99s.push(times.percentile_ms(0.99));
        answered.extend(sent.times);
        late += sent.late;
    }
    let each = 1e6 / total as f64;
    let cpu = [entrance.cpu() + exit.cpu() - gateways, cluster.cpu() - nodes, own_cpu() - own].map(|cpu| cpu * each);
    println!("  {total} pushes at {RATE:.0}/s over {SOCKETS} sockets, {late} sent late; load {}", load());
    println!(
        "  CPU each: {:.0} us in two gateways, {:.0} us in three nodes, {:.0} us in the driver",
        cpu[0], cpu[1], cpu[2]
    );
    let mut floor = floors::ping_pong(&format!("{}:9000", cluster.host(99)), CALLERS, Some(RATE), RUN / 2).await;
    let floor = (floor.percentile_ms(0.5), floor.percentile_ms(0.99));
    let (p50, low, high) = median(&p50s);
    println!("  p50 {p50:.3} ms ({low:.3} to {high:.3}); p99 of each run: {p99s:.2?} ms");
    let name = "TCP there and back, same pace";
    table.line("push to another gateway's socket, p50", "ms", Target::AtMost(1.0), p50, Some((name, floor.0)));
    table.line("... p99", "ms", Target::AtMost(5.0), median(&p99s).0, Some((name, floor.1)));
    table.line("... answered to the caller, p50", "ms", Target::None, answered.percentile_ms(0.5), None);
    table.line("... answered to the caller, p99", "ms", Target::None, answered.percentile_ms(0.99), None);
    let (pushes, echoes) = flood(&cluster, [&entrance, &exit], &clock, &next).await;
    let what = "pushes by 64 callers, each after the answer to the one before";
    table.line(what, "1/s", Target::None, pushes, Some(("TCP packets there and back, the same way", echoes)));
}

/// As fast as the answers come. Pushes a second, and packets there and back.
async fn flood(cluster: &Cluster, gateways: [&Process; 2], clock: &Arc<Clock>, next: &Arc<AtomicU64>) -> (f64, f64) {
    let cpu = || gateways.iter().map(|gateway| gateway.cpu()).sum::<f64>();
    let before = cpu();
    let pushes = round(gateways[0], clock, next, None, FLOOD).await.times.len() as f64;
    let each = (cpu() - before) * 1e6 / pushes;
    let echoes = floors::ping_pong(&format!("{}:9001", cluster.host(99)), CALLERS, None, FLOOD).await.len() as f64;
    let (pushes, echoes) = (pushes / FLOOD.as_secs_f64(), echoes / FLOOD.as_secs_f64());
    println!("  each after the answer to the one before: {pushes:.0}/s, {each:.0} us CPU each in two gateways");
    (pushes, echoes)
}

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).expect("a run is shorter than centuries")
    }

    /// A frame reached a client.
    fn arrived(&self, text: &str) {
        let now = self.now();
        let Some(n) = text.split("\"data\":{\"n\":").nth(1) else { return };
        let n: usize = n.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).expect("a number");
        let took = Duration::from_nanos(now - self.left[n].load(Ordering::Acquire));
        self.took.lock().expect("no code panics while holding this lock").push(took);
    }

    /// The times since the last call.
    fn taken(&self) -> Times {
        std::mem::take(&mut *self.took.lock().expect("no code panics while holding this lock"))
    }
}

/// What the callers saw.
#[derive(Default)]
struct Sent {
    times: Times,
    late: usize,
}

/// Pushes for some time, at a steady pace whatever the answers take; without a pace, each caller as soon as it is answered.
async fn round(
    entrance: &Process,
    clock: &Arc<Clock>,
    next: &Arc<AtomicU64>,
    rate: Option<f64>,
    time: Duration,
) -> Sent {
    let every = floors::every(CALLERS, rate);
    let begin = Instant::now() + Duration::from_millis(50);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (clock, next, api) = (Arc::clone(clock), Arc::clone(next), entrance.api.clone());
            tokio::spawn(async move {
                let mut stream = floors::connect(&api).await;
                let (begin, mut sent) = (begin + every.mul_f64(caller as f64 / CALLERS as f64), Sent::default());
                for turn in 0.. {
                    let due = begin + every * turn;
                    sleep_until(due).await;
                    let asked = Instant::now();
                    if due.max(asked) >= begin + time {
                        break;
                    }
                    sent.late += usize::from(asked - due > LATE);
                    let n = next.fetch_add(1, Ordering::Relaxed) % NUMBERS;
                    push(&mut stream, &api, &clock, n).await;
                    sent.times.push(asked.elapsed());
                }
                sent
            })
        })
        .collect();
    let mut all = Sent::default();
    for caller in callers {
        let sent = caller.await.expect("no caller panics");
        all.times.extend(sent.times);
        all.late += sent.late;
    }
    // What was answered as written may still be on its last few microseconds to the client.
    sleep(Duration::from_millis(200)).await;
    all
}

/// One push over a connection that stays open.
async fn push(stream: &mut TcpStream, api: &str, clock: &Clock, n: u64) {
    let user = n.wrapping_mul(7919) % SOCKETS as u64;
    let body = format!("{{\"event\":\"chat.message\",\"data\":{{\"n\":{n},\"text\":\"{:x>100}\"}}}}", "");
    let head = format!("POST /v1/users/u{user}/push HTTP/1.1\r\nhost: {api}\r\ncontent-type: application/json\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    clock.left[n as usize].store(clock.now(), Ordering::Release);
    stream.write_all(request.as_bytes()).await.expect("the gateway reads");
    let answer = answer(stream).await;
    assert!(answer.contains("\"outcome\":\"delivered\""), "{answer}");
}

/// An answer with its length in the head.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::with_capacity(1024);
    loop {
        assert_ne!(stream.read_buf(&mut text).await.expect("the gateway answers"), 0, "the gateway hung up");
        let shown = String::from_utf8_lossy(&text);
        let Some((head, body)) = shown.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length in the head");
        if body.len() >= length {
            return shown.into_owned();
        }
    }
}

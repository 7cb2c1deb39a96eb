//! Networks that can be cut: every process in a network namespace of its own, all of them on one bridge.
//!
//! The bridge is in a namespace, too, so that no rule of the machine meddles with what it forwards. The harness is on it as well,
//! and is never cut off by a fault between processes. What drops, delays or doubles packets stands in the namespace of the
//! process that receives or sends them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::netem::{Delay, Netem};
use super::{HarnessError, command};

/// How processes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// A network namespace for each process: needs root, `ip` and `iptables`.
    Namespaces,
    /// Addresses of the loopback device; nothing between processes can be broken.
    Loopback,
}

/// What namespaces, links and folders of runs are called, followed by the harness's process id.
pub(super) const PREFIX: &str = "sbj";

/// What a process does not hear: who, and from whom.
pub type Deaf = BTreeSet<(String, String)>;

/// What happens to packets between processes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Packets {
    /// Each is lost with this probability.
    Loss(f64),
    /// Each arrives twice with this probability.
    Twice(f64),
    /// They arrive later; with jitter they overtake each other.
    Late(Delay),
}

/// Namespaces of one run. They go away when this is dropped.
#[derive(Debug)]
pub struct Namespaces {
    /// Names everything.
    token: String,
    /// The first three numbers of all addresses.
    prefix: String,
    /// Last number of the address, by name of the process.
    places: BTreeMap<String, u64>,
    netem: Vec<Netem>,
}

/// What can't be done here without root or a command; `None` if all is there.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let commands = ["ip", "iptables", "iptables-restore", "nsenter"];
    let lacks = commands.into_iter().find(|name| !command::exists(name))?;
    Some(format!("network namespaces need the command {lacks}, which is not installed"))
}

impl Network {
    /// Namespaces where they can be made, else loopback.
    pub fn best() -> Self {
        if missing().is_none() { Self::Namespaces } else { Self::Loopback }
    }
}

fn ip(arguments: &str) -> Result<(), HarnessError> {
    let words: Vec<&str> = arguments.split(' ').collect();
    command::done("ip", &words).map(drop)
}

impl Namespaces {
    /// Makes the bridge, with the harness on it. `nth` tells the clusters of one harness apart.
    pub(super) fn new(nth: u32) -> Result<Self, HarnessError> {
        let pid = std::process::id();
        let number = (pid.wrapping_mul(7).wrapping_add(nth)) % (32 * 256);
        let prefix = format!("10.{}.{}", 224 + number / 256, number % 256);
        let made = Self { token: format!("{PREFIX}{pid}.{nth}"), prefix, places: BTreeMap::new(), netem: Vec::new() };
        let (token, hub) = (&made.token, made.namespace("hub"));
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        ip(&format!("link add {token} type veth peer name harness netns {hub}"))?;
        ip(&format!("-n {hub} link set harness master bridge up"))?;
        ip(&format!("addr add {}.254/24 dev {token}", made.prefix))?;
        ip(&format!("link set {token} up"))?;
        Ok(made)
    }

    /// Makes the namespace of a process, with an address that ends in `last`.
    pub(super) fn add(&mut self, name: &str, last: u64) -> Result<(), HarnessError> {
        let (hub, own, prefix) = (self.namespace("hub"), self.namespace(name), &self.prefix);
        ip(&format!("netns add {own}"))?;
        ip(&format!("-n {hub} link add port{last} type veth peer name eth0 netns {own}"))?;
        ip(&format!("-n {hub} link set port{last} master bridge up"))?;
        ip(&format!("-n {own} addr add {prefix}.{last}/24 dev eth0"))?;
        ip(&format!("-n {own} link set lo up"))?;
        ip(&format!("-n {own} link set eth0 up"))?;
        self.places.insert(name.to_owned(), last);
        let chains = ":INPUT ACCEPT [0:0]\n:CUT - [0:0]\n:PACKETS - [0:0]\n-A INPUT -j CUT\n-A INPUT -j PACKETS";
        self.restore(name, "filter", chains)?;
        self.restore(name, "mangle", ":PACKETS - [0:0]\n-A POSTROUTING -j PACKETS")
    }

    /// Name of the namespace of a process.
    pub(super) fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.token)
    }

    /// The first three numbers of all addresses.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn address(&self, name: &str) -> String {
        format!("{}.{}", self.prefix, self.places[name])
    }

    /// What must stand before a command that is to run in the namespace of a process. It becomes that command.
    pub(super) fn inside(&self, name: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(name)), "--".to_owned()]
    }

    /// Replaces the chains that are named in `rules`, all at once.
    fn restore(&self, name: &str, table: &str, rules: &str) -> Result<(), HarnessError> {
        let inside = self.inside(name);
        let mut words: Vec<&str> = inside[1..].iter().map(String::as_str).collect();
        words.extend(["iptables-restore", "--wait", "--noflush"]);
        command::fed(&inside[0], &words, &format!("*{table}\n{rules}\nCOMMIT\n")).map(drop)
    }

    /// From now on exactly these don't hear those; packets that are on their way are lost.
    pub fn cut(&self, deaf: &Deaf) -> Result<(), HarnessError> {
        for name in self.places.keys() {
            let mut rules = ":CUT - [0:0]\n".to_owned();
            for (_, from) in deaf.iter().filter(|(hearer, _)| hearer == name) {
                let _ = writeln!(rules, "-A CUT -s {} -j DROP", self.address(from));
            }
            self.restore(name, "filter", rules.trim_end())?;
        }
        Ok(())
    }

    /// Pulls the plug of a process, or puts it in again. The harness and clients don't reach it either.
    pub fn plug(&self, name: &str, plugged: bool) -> Result<(), HarnessError> {
        ip(&format!("-n {} link set eth0 {}", self.namespace(name), if plugged { "up" } else { "down" }))
    }

    /// From now on this happens to the packets that these processes receive from other processes (or send them, where
    /// they arrive twice), and nothing to those of the others.
    pub fn packets(&mut self, of: &[String], what: Packets) -> Result<(), HarnessError> {
        self.calm()?;
        if let Packets::Late(delay) = what {
            for name in of {
                self.netem.push(Netem::start(&self.namespace(name), delay)?);
            }
        }
        for name in of {
            let (table, mut rules) = match what {
                Packets::Twice(_) => ("mangle", ":PACKETS - [0:0]".to_owned()),
                Packets::Loss(_) | Packets::Late(_) => ("filter", ":PACKETS - [0:0]".to_owned()),
            };
            for other in self.places.keys().filter(|other| *other != name) {
                let address = self.address(other);
                let _ = match what {
                    Packets::Loss(chance) => write!(
                        rules,
                        "\n-A PACKETS -s {address} -m statistic --mode random --probability {chance:.3} -j DROP"
                    ),
                    Packets::Twice(chance) => write!(
                        rules,
                        "\n-A PACKETS -d {address} -m statistic --mode random --probability {chance:.3} -j TEE --gateway {address}"
                    ),
                    Packets::Late(_) => write!(rules, "\n-A PACKETS -s {address} -j NFQUEUE --queue-num 0"),
                };
            }
            self.restore(name, table, &rules)?;
        }
        Ok(())
    }

    /// Packets arrive as they are sent again.
    pub fn calm(&mut self) -> Result<(), HarnessError> {
        for name in self.places.keys() {
            self.restore(name, "filter", ":PACKETS - [0:0]")?;
            self.restore(name, "mangle", ":PACKETS - [0:0]")?;
        }
        // After the rules, because a queue without a reader is a black hole.
        self.netem.clear();
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.netem.clear();
        let names: Vec<String> = self.places.keys().map(|name| self.namespace(name)).collect();
        let _ = ip(&format!("link del {}", self.token));
        for name in names.iter().chain([&self.namespace("hub")]) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Removes what harnesses left that were ended before they could; `gone` tells whether a harness of this id is.
pub(super) fn sweep(gone: impl Fn(&str) -> bool) {
    let listed = command::done("ip", &["netns", "list"]).unwrap_or_default();
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('.').next());
        if owner.is_some_and(&gone) {
            // The harness's end of the link goes with the bridge's.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::*;

    /// Longest wait for a packet that comes, and for one that does not.
    const COMES: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(300);

    /// A socket in the namespace of a process: it belongs to the namespace of the thread that opens it.
    fn socket(network: &Namespaces, name: &str) -> UdpSocket {
        let (path, address) = (format!("/run/netns/{}", network.namespace(name)), network.address(name));
        let open = move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            UdpSocket::bind((address, 9000)).unwrap()
        };
        std::thread::spawn(open).join().unwrap()
    }

    /// How many of so many packets arrive, and when the first one does.
    fn arrive(from: &UdpSocket, to: &UdpSocket, count: usize) -> (usize, Duration) {
        let (began, mut first, mut arrived) = (Instant::now(), Duration::ZERO, 0);
        for _ in 0..count {
            // A link that is down says so to the sender.
            let _ = from.send_to(b"packet", to.local_addr().unwrap());
        }
        to.set_read_timeout(Some(NEVER)).unwrap();
        while to.recv(&mut [0; 64]).is_ok() {
            arrived += 1;
            first = if arrived == 1 { began.elapsed() } else { first };
        }
        (arrived, first)
    }

    fn reaches(from: &UdpSocket, to: &UdpSocket) -> bool {
        arrive(from, to, 1).0 > 0
    }

    /// Waits until packets get through: a link that came up again takes a moment.
    fn recovers(from: &UdpSocket, to: &UdpSocket) {
        let began = Instant::now();
        while !reaches(from, to) {
            assert!(began.elapsed() < COMES, "packets don't get through any more");
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn packets_are_dropped_delayed_and_doubled_where_that_was_asked_for() {
        if let Some(why) = missing() {
            println!("SKIPPED network: {why}");
            return;
        }
        let mut network = Namespaces::new(900).unwrap();
        for (last, name) in (1..).zip(["a", "b", "c"]) {
            network.add(name, last).unwrap();
        }
        let [a, b, c] = ["a", "b", "c"].map(|name| socket(&network, name));
        recovers(&a, &b);
        recovers(&c, &b);

        network.cut(&Deaf::from([("b".to_owned(), "a".to_owned())])).unwrap();
        assert_eq!((reaches(&a, &b), reaches(&b, &a), reaches(&c, &b)), (false, true, true), "one way, one pair");
        network.cut(&Deaf::new()).unwrap();
        recovers(&a, &b);

        let of = ["b".to_owned()];
        network.packets(&of, Packets::Loss(0.5)).unwrap();
        let (arrived, _) = arrive(&a, &b, 400);
        assert!((100..300).contains(&arrived), "{arrived} of 400 arrived");
        assert_eq!(arrive(&b, &a, 100).0, 100, "what it sends is not lost");
        network.packets(&["a".to_owned()], Packets::Twice(1.0)).unwrap();
        assert_eq!(arrive(&a, &b, 50).0, 100);
        let delay = Delay { least: Duration::from_millis(120), jitter: Duration::from_millis(10) };
        network.packets(&of, Packets::Late(delay)).unwrap();
        let (arrived, first) = arrive(&a, &b, 50);
        assert!(arrived == 50 && first >= delay.least, "{arrived} arrived, the first one after {first:?}");
        network.calm().unwrap();
        assert_eq!(arrive(&a, &b, 50).0, 50);

        network.plug("b", false).unwrap();
        assert_eq!((reaches(&a, &b), reaches(&a, &c)), (false, true));
        network.plug("b", true).unwrap();
        recovers(&a, &b);
        let token = network.token.clone();
        drop((a, b, c, network));
        assert!(!command::done("ip", &["netns", "list"]).unwrap().contains(&token));
    }
}

//! Stories read like a log: what is asked, and below `----` what came of it. They are run, and what came of it is compared.
//!
//! A block is one entry: its commands, with the operations of a batch indented below it; or questions, which change nothing.
//! After a deliberate change of meaning `SWITCHBOARD_REWRITE=1 cargo test --test directory` writes the answers anew; read the diff.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use switchboard::directory::limits::{BATCHES_IN_FLIGHT_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};
use switchboard::directory::{
    Applied, Ban, Batch, BatchDone, Command, ConnectionId, Directory, Disconnect, Entry, Event, GatewayAddresses,
    Handover, Op, OpOutcome, OpenSession, Outcome, Per, Policy, Reason, Register, Release, Whom,
};

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/directory/stories");
    let rewrite = std::env::var_os("SWITCHBOARD_REWRITE").is_some();
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let written = std::fs::read_to_string(&path).unwrap();
        let told = tell(&written);
        if rewrite {
            std::fs::write(&path, told).unwrap();
        } else {
            let first = written.lines().zip(told.lines()).position(|(a, b)| a != b);
            assert!(written == told, "{}, line {:?}; it should be:\n{told}", path.display(), first.map(|at| at + 1));
        }
        count += 1;
    }
    assert!(count > 0);
}

/// The story with the answers that the directory gives.
fn tell(story: &str) -> String {
    let mut directory = Directory::new();
    let mut told = Vec::new();
    for block in story.trim_end().split("\n\n") {
        let asked: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        let lines: Vec<&str> = asked.iter().filter(|line| !line.starts_with('#')).copied().collect();
        let mut text = asked.join("\n");
        if !lines.is_empty() {
            write!(text, "\n----\n{}", answer(&mut directory, &lines).trim_end()).unwrap();
            directory.check_invariants().unwrap();
        }
        told.push(text);
    }
    told.join("\n\n") + "\n"
}

fn answer(directory: &mut Directory, lines: &[&str]) -> String {
    if let Some(answers) = lines.iter().map(|line| question(directory, line)).collect::<Option<Vec<_>>>() {
        return answers.concat();
    }
    let mut commands: Vec<Command> = Vec::new();
    for line in lines {
        let words = Words::of(line);
        match (line.starts_with(' '), commands.last_mut()) {
            (true, Some(Command::Batch(batch))) => batch.ops.push(op(&words)),
            _ => commands.push(command(&words)),
        }
    }
    let revision = directory.revision() + 1;
    let applied = directory.apply(revision, &Entry { at_ms: 0, commands });
    applied_text(revision, &applied)
}

fn question(directory: &mut Directory, line: &str) -> Option<String> {
    let mut text = String::new();
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["lookup", user] => {
            let found = directory.connections_of(user);
            if found.is_empty() {
                writeln!(text, "{user} is offline").unwrap();
            }
            for live in found {
                let (meta, version) = (live.connection.meta.as_deref().unwrap_or("-"), live.connection.meta_version);
                let (granted, gateway) = (live.connection.granted, &live.session.gateway);
                writeln!(text, "{} on {gateway} granted {granted} meta {meta} version {version}", live.id).unwrap();
            }
        }
        ["stats"] => {
            let stats = directory.stats();
            write!(text, "{} connections, {} users, {} sessions", stats.connections, stats.users, stats.sessions)
                .unwrap();
            for ended in directory.ended_sessions() {
                let claims = if ended.claims { " and its claims" } else { "" };
                write!(text, "; session {} still holds {}{claims}", ended.epoch, ended.held).unwrap();
            }
            text.push('\n');
        }
        ["topics", prefix] => {
            for topic in directory.topics(prefix) {
                let on = topic.sessions.iter().map(|epoch| &*directory.session(*epoch).unwrap().session.gateway);
                writeln!(text, "{} on {}", topic.topic, on.collect::<Vec<_>>().join(" ")).unwrap();
            }
            if text.is_empty() {
                writeln!(text, "none").unwrap();
            }
        }
        ["restart", "from", "a", "snapshot"] => {
            let (mut bytes, before) = (Vec::new(), directory.digest());
            directory.write_to(&mut bytes).unwrap();
            *directory = Directory::read_from(&mut bytes.as_slice()).unwrap();
            writeln!(text, "equal: {}", directory.digest() == before).unwrap();
        }
        _ => return None,
    }
    Some(text)
}

/// A line: words in order, and words of the form `key=value`.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<&str>, Vec<&str>) = line.split_whitespace().partition(|word| word.contains('='));
        Self { plain, named: named.into_iter().filter_map(|word| word.split_once('=')).collect() }
    }

    fn text(&self, key: &str) -> Option<Arc<str>> {
        let (_, value) = self.named.iter().find(|(named, _)| *named == key)?;
        Some(long_or(value))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key).map(|text| text.parse().unwrap())
    }
}

/// Words that stand for texts which are too long to be read.
fn long_or(word: &str) -> Arc<str> {
    match word {
        "LONGEST-NAME" => "n".repeat(NAME_BYTES_MAX).into(),
        "TOO-LONG-NAME" => "n".repeat(NAME_BYTES_MAX + 1).into(),
        "TOO-LONG-TEXT" => "t".repeat(TEXT_BYTES_MAX + 1).into(),
        "NO-NAME" => "".into(),
        "CONTROL-CHARACTER" => "a\u{7}".into(),
        _ => word.into(),
    }
}

fn command(words: &Words<'_>) -> Command {
    match words.plain[..] {
        ["open", gateway] => Command::OpenSession(OpenSession {
            gateway: long_or(gateway),
            nonce: words.text("nonce").unwrap(),
            attempt: words.number("attempt").unwrap(),
            lease_ms: 3000,
            addresses: GatewayAddresses { peer: words.text("peer"), ..GatewayAddresses::default() },
        }),
        ["end", epoch, why] => end(epoch, why, true),
        ["end", epoch, why, "unfenced"] => end(epoch, why, false),
        ["release_claims", epoch] => Command::ReleaseClaims { epoch: epoch.parse().unwrap() },
        ["disconnect", user] => Command::Disconnect(Disconnect {
            whom: Whom::User {
                user: user.into(),
                devices: words.text("device").into_iter().collect(),
                except: Vec::new(),
            },
            release: Release { code: words.number("code").unwrap_or(4003) as u16, reason: words.text("reason") },
        }),
        ["ban", user] => {
            Command::Ban { user: long_or(user), ban: Ban { until_ms: None, reason: words.text("reason") } }
        }
        ["unban", user] => Command::Unban { user: user.into(), made: words.number("made") },
        ["reclaim", epoch, limit] => Command::Reclaim { epoch: epoch.parse().unwrap(), limit: limit.parse().unwrap() },
        ["batch", epoch] => {
            Command::Batch(Batch { epoch: epoch.parse().unwrap(), seq: words.number("seq"), ops: Vec::new() })
        }
        _ => panic!("no such command: {:?}", words.plain),
    }
}

fn op(words: &Words<'_>) -> Op {
    match words.plain[..] {
        ["register", serial, user] => Op::Register(Register {
            serial: serial.parse().unwrap(),
            user: long_or(user),
            device: words.text("device").unwrap_or_default(),
            policy: policy(words),
            since: words.number("since"),
            connected_at_ms: words.number("at").unwrap_or(0),
            remote: words.text("remote"),
            meta: words.text("meta"),
        }),
        ["unregister", serial, why] => Op::Unregister { serial: serial.parse().unwrap(), reason: reason(why) },
        ["join", topic] => Op::Join { topics: vec![long_or(topic)] },
        ["leave", topic] => Op::Leave { topics: vec![topic.into()] },
        ["meta", serial, meta] => Op::Meta {
            serial: serial.parse().unwrap(),
            meta: long_or(meta),
            if_version: words.number("if").map(|version| version as u32),
        },
        _ => panic!("no such operation: {:?}", words.plain),
    }
}

fn end(epoch: &str, why: &str, fenced: bool) -> Command {
    Command::EndSession { epoch: epoch.parse().unwrap(), reason: reason(why), fenced }
}

/// `max=N`, `newest=wait`, `newest=immediate` or `oldest=wins`; `per=device` is about the device.
fn policy(words: &Words<'_>) -> Policy {
    let per = if words.text("per").is_some() { Per::Device } else { Per::User };
    match (words.text("newest").as_deref(), words.text("oldest")) {
        (Some("wait"), _) => Policy::NewestWins { per, handover: Handover::Wait },
        (Some("immediate"), _) => Policy::NewestWins { per, handover: Handover::Immediate },
        (_, Some(_)) => Policy::OldestWins { per },
        _ => Policy::Multi { max: words.number("max").unwrap_or(16) as u32, per },
    }
}

fn reason(word: &str) -> Reason {
    match word {
        "closed" => Reason::Closed,
        "expired" => Reason::Expired,
        "died" => Reason::Died,
        "kicked" => Reason::Kicked,
        "drained" => Reason::Drained,
        "no_pong" => Reason::NoPong,
        "superseded" => Reason::Superseded,
        _ => panic!("no such reason: {word}"),
    }
}

fn applied_text(revision: u64, applied: &Applied) -> String {
    let mut text = String::new();
    for outcome in &applied.outcomes {
        match outcome {
            Outcome::Opened(Ok(epoch)) => writeln!(text, "session {epoch}"),
            Outcome::Opened(Err(error)) => writeln!(text, "refused: {error}"),
            Outcome::Ended(true) => writeln!(text, "ended"),
            Outcome::Ended(false) => writeln!(text, "was not alive"),
            Outcome::ClaimsReleased(released) => writeln!(text, "claims released: {released}"),
            Outcome::Asked(ids) | Outcome::Banned(Ok(ids)) => writeln!(text, "asked for {}", ids_text(ids)),
            Outcome::Banned(Err(error)) => writeln!(text, "refused: {error}"),
            Outcome::Unbanned(lifted) => writeln!(text, "lifted: {lifted}"),
            Outcome::Reclaimed { left } => writeln!(text, "{left} left"),
            Outcome::Batch(Err(error)) => writeln!(text, "refused: {error}"),
            Outcome::Batch(Ok(BatchDone { revision: applied_at, ops })) => {
                let repeated = if *applied_at == revision { "" } else { " already" };
                let ops = ops.iter().map(|op| format!("\n  {}", op_text(op))).collect::<String>();
                writeln!(text, "applied{repeated} at {applied_at}{ops}")
            }
        }
        .unwrap();
    }
    for (n, event) in applied.events.iter().enumerate() {
        writeln!(text, "({revision}, {n}) {}", event_text(event)).unwrap();
        for end in applied.ends.iter().filter(|end| end.n == n) {
            for closed in end.frozen.closed_by(end.epoch, None).chain(end.frozen.left_by(end.epoch, None)) {
                writeln!(text, "  so {}", event_text(&closed)).unwrap();
            }
        }
    }
    text
}

fn op_text(outcome: &OpOutcome) -> String {
    match outcome {
        OpOutcome::Registered { granted, superseded } if superseded.is_empty() => format!("granted {granted}"),
        OpOutcome::Registered { granted, superseded } => {
            format!("granted {granted}, in the place of {}", ids_text(superseded))
        }
        OpOutcome::Pending => "waits".into(),
        OpOutcome::Topics { changed } => format!("{changed} topics changed"),
        OpOutcome::Unregistered { existed: true } => "removed".into(),
        OpOutcome::Unregistered { existed: false } => "was not there".into(),
        OpOutcome::MetaSet { version } => format!("version {version}"),
        OpOutcome::Refused(error) => format!("refused: {error}"),
    }
}

fn ids_text(ids: &[ConnectionId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn event_text(event: &Event) -> String {
    let on = |id: &ConnectionId, user: &str, gateway: &str| format!("{id} of {user} on {gateway}");
    match event {
        Event::SessionOpened { epoch, session } => format!("session {epoch} of {} opened", session.gateway),
        Event::SessionEnded { epoch, gateway, reason } => format!("session {epoch} of {gateway} ended: {reason:?}"),
        Event::Opened { id, connection, gateway, first } => {
            let online = if *first { ", who is online" } else { "" };
            format!("{} opened{online}", on(id, &connection.user, gateway))
        }
        Event::Closed { id, user, gateway, granted, reason, last } => {
            let offline = if *last { ", who is offline" } else { "" };
            format!("{} granted {granted} closed: {reason:?}{offline}", on(id, user, gateway))
        }
        Event::ReleaseAsked { id, user, gateway, release } => {
            let reason = release.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
            format!("{} is asked to go: {}{reason}", on(id, user, gateway), release.code)
        }
        Event::TopicJoined { topic, gateway, .. } => format!("{gateway} joined {topic}"),
        Event::TopicLeft { topic, gateway, .. } => format!("{gateway} left {topic}"),
        Event::MetaChanged { id, user, gateway, meta, version, .. } => {
            format!("{} has meta {meta} version {version}", on(id, user, gateway))
        }
    }
}

/// The story about the window says how many batches it holds; it has to be told anew if that changes.
#[test]
fn the_stories_assume_the_size_of_the_window() {
    assert_eq!(BATCHES_IN_FLIGHT_MAX, 32);
}

//! The shape of the project, held by reading its text: sizes, heads, names, the arrows between folders, calls that have one
//! home, and documents that name only what exists.
//!
//! A rule that needs an exception lists it with the reason; one that is no longer needed is a finding, too.

mod source;

use std::collections::BTreeSet;
use std::path::Path;

use source::{climbs, depth, files, functions, has, imports, is_ours, part_of, quoted_after, read, root, sources};

/// A file has fewer lines, so that it is about one thing.
const FILE_LINES: usize = 500;

/// A function has fewer lines, so that it is read at a glance.
const FUNCTION_LINES: usize = 70;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["utils", "util", "helpers", "helper", "common", "types", "misc", "shared"];

/// What each part of the service may import of the others. Arrows point down only: a part stands below all that import it.
const ARROWS: [(&str, &[&str]); 27] = [
    ("chance", &[]),
    ("lease", &[]),
    ("pattern", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("directory", &[]),
    // What stands in for the system; it tells of log entries, and is not shipped.
    ("simulation", &["directory"]),
    ("clock", &["simulation"]),
    ("net", &["simulation"]),
    ("threads", &["simulation"]),
    ("memory", &["threads"]),
    ("view", &["directory"]),
    ("wire", &["directory"]),
    ("peer", &["net", "wire"]),
    ("tokens", &["chance", "clock", "directory", "net", "pattern"]),
    ("client", &["chance", "directory", "net", "peer", "wire"]),
    ("push", &["directory", "net", "peer", "view", "wire"]),
    ("api", &["chance", "clock", "directory", "lease", "net", "push", "telemetry", "view", "wire"]),
    (
        "node",
        &[
            "api",
            "chance",
            "client",
            "clock",
            "directory",
            "lease",
            "memory",
            "net",
            "peer",
            "push",
            "simulation",
            "telemetry",
            "threads",
            "view",
            "wire",
        ],
    ),
    (
        "gateway",
        &[
            "api",
            "chance",
            "client",
            "clock",
            "directory",
            "lease",
            "memory",
            "memory",
            "net",
            "pattern",
            "peer",
            "push",
            "telemetry",
            "threads",
            "tokens",
            "view",
            "wire",
        ],
    ),
    // Verbs that work on the files of a node that does not run.
    ("cli", &["chance", "clock", "net", "node", "pattern", "tokens", "wire"]),
    // Compares what nodes and gateways show, in tests.
    ("agreement", &["api", "directory", "gateway", "node", "view", "wire"]),
    ("config", &["gateway", "lease", "net", "node", "pattern", "tokens"]),
    ("roles", &["cli", "config", "gateway", "net", "node", "shutdown", "telemetry"]),
    ("command_line", &["cli", "config", "roles", "telemetry"]),
    // For jepsen/fuzz and for tests.
    ("fuzz", &["api", "command_line", "config", "directory", "gateway", "net", "node", "tokens", "wire"]),
    ("main", &["command_line"]),
];

/// Which code a rule about words looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Everything that is shipped; tests and benchmarks may.
    Shipped,
    /// Tests only.
    Tests,
    /// Everything.
    All,
}

/// A word that has one home, or none.
struct Word {
    words: &'static [&'static str],
    code: Where,
    homes: &'static [&'static str],
    why: &'static str,
}

/// The failure tests act from outside, on real time and real sockets.
const JEPSEN: &str = "jepsen/";

const WORDS: [Word; 11] = [
    Word {
        words: &["std::time::Instant", "SystemTime", "UNIX_EPOCH"],
        code: Where::Shipped,
        homes: &["src/clock.rs", JEPSEN],
        why: "time goes through tokio's clock and src/clock.rs, so that it can be paused and simulated",
    },
    Word {
        words: &["TcpListener", "TcpStream", "TcpSocket", "UdpSocket", "UnixStream", "UnixListener"],
        code: Where::Shipped,
        homes: &["src/net/", JEPSEN],
        why: "every socket is opened by src/net, so that a simulator can stand in there",
    },
    Word {
        words: &["fastrand", "rand::", "getrandom", "std::hash::RandomState", "BuildHasher, RandomState"],
        code: Where::Shipped,
        homes: &["src/chance.rs", JEPSEN],
        why: "every choice comes from the one seeded source, so that a run can be repeated",
    },
    Word {
        words: &["openraft", "raft_log", "sled::"],
        code: Where::All,
        homes: &["raft/"],
        why: "the log engine is known to raft/ alone, so that its next version costs one crate",
    },
    Word {
        words: &["switchboard_raft"],
        code: Where::All,
        homes: &["src/node/", "raft/", JEPSEN],
        why: "only a directory node stands on the log",
    },
    Word {
        words: &[".unwrap()", "todo!", "unimplemented!", "dbg!"],
        code: Where::Shipped,
        homes: &[],
        why: "what is believed is said with expect, and nothing is left for later",
    },
    Word {
        words: &["println!", "eprintln!", "print!", "eprint!"],
        code: Where::Shipped,
        homes: &["src/cli/", "src/roles/", "src/command_line.rs", "src/main.rs", JEPSEN],
        why: "a process logs; only what a person has typed prints",
    },
    Word {
        words: &["tokio::spawn", "task::spawn(", "task::spawn_local", "mem::forget"],
        code: Where::Shipped,
        homes: &[],
        why: "whoever spawns owns: tasks live in a set of their parent",
    },
    Word {
        words: &["thread::spawn", "thread::Builder", "spawn_blocking", "block_in_place"],
        code: Where::Shipped,
        homes: &[JEPSEN],
        why: "threads and blocking calls can't be simulated",
    },
    Word {
        words: &["thread::sleep", "process::exit", "process::abort"],
        code: Where::All,
        homes: &[],
        why: "a worker never sleeps, and a process ends by returning from main",
    },
    Word {
        words: &["sleep("],
        code: Where::Tests,
        // A benchmark keeps a pace, and looks again and again at processes.
        homes: &["tests/cluster/harness/", "raft/tests/it/harness.rs", "benches/"],
        why: "a test waits for a condition with a deadline, by the harness, or pauses the clock",
    },
];

/// Functions that may be longer: file, name, reason.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

/// What may break a rule: file, a word of the rule, reason.
const EXCEPTIONS: [(&str, &str, &str); 9] = [
    ("raft/src/log/writer.rs", "std::time::Instant", "measures flushes on the log's own thread, for a metric only"),
    ("raft/src/log/writer.rs", "thread::Builder", "the log's thread: it stands behind openraft's storage trait"),
    (
        "raft/src/log/writer.rs",
        "tokio::spawn",
        "what is a thread elsewhere is a task in a simulation, and ends as it does",
    ),
    ("raft/src/blocking.rs", "spawn_blocking", "its one home in raft/, where a simulation stands in"),
    (
        "raft/src/apply.rs",
        "block_in_place",
        "applies large entries apart; not where there is one thread, as in a simulation",
    ),
    ("src/threads.rs", "spawn_blocking", "its one home in the service, where a simulation stands in"),
    ("src/gateway/testing.rs", "sleep(", "a directory for tests answers late; who uses it pauses the clock"),
    ("raft/tests/it/founding.rs", "sleep(", "restarts at different moments of the founding are what is tested"),
    ("raft/src/tests.rs", "sleep(", "paces a load while a disk stands still"),
];

#[test]
fn files_begin_with_what_they_are_and_stay_small() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//! ") {
            findings.push(format!("{}: does not open with a //! sentence", source.path));
        }
        if lines >= FILE_LINES {
            findings.push(format!("{}: {lines} lines; fewer than {FILE_LINES} are allowed", source.path));
        }
        if source.path.split('/').any(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"))) {
            findings.push(format!("{}: the name does not say what is inside", source.path));
        }
    }
    report(&findings);
}

#[test]
fn functions_stay_small() {
    let mut findings = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources() {
        for (line, name, lines) in functions(&source.code) {
            if lines < FUNCTION_LINES {
                continue;
            }
            match LONG_FUNCTIONS.iter().position(|(path, long, _)| *path == source.path && *long == name) {
                Some(position) => drop(needed.insert(position)),
                None => findings.push(format!("{}:{line}: fn {name} has {lines} lines", source.path)),
            }
        }
    }
    let idle = LONG_FUNCTIONS.iter().enumerate().filter(|(position, _)| !needed.contains(position));
    findings.extend(idle.map(|(_, (path, name, _))| format!("{path}: the exception for {name} is no longer needed")));
    report(&findings);
}

#[test]
fn arrows_point_down() {
    let mut findings = Vec::new();
    for (position, (part, below)) in ARROWS.iter().enumerate() {
        let upward = below.iter().filter(|name| !ARROWS[..position].iter().any(|(lower, _)| lower == *name));
        findings.extend(upward.map(|name| format!("the table lets {part} import {name}, which is not below it")));
    }
    for source in sources() {
        let Some(part) = part_of(&source.path) else { continue };
        let Some((_, below)) = ARROWS.iter().find(|(name, _)| *name == part) else {
            findings.push(format!("{}: {part} has no place in the table of arrows", source.path));
            continue;
        };
        for (line, name) in imports(&source.code) {
            if name != part && !below.contains(&name) {
                findings.push(format!("{}:{line}: {part} must not import {name}", source.path));
            }
        }
        for (line, steps) in climbs(&source.code) {
            if steps >= depth(&source.path) + usize::from(source.is_test(line) && !source.is_test(0)) {
                findings
                    .push(format!("{}:{line}: name other parts by crate::, so that the arrow is seen", source.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn the_directory_is_pure() {
    let banned = [
        "tokio",
        "async ",
        ".await",
        "std::time",
        "std::fs",
        "std::net",
        "std::thread",
        "Mutex",
        "RwLock",
        "HashMap",
        "HashSet",
    ];
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/directory/")) {
        for (line, text) in source.lines() {
            let found = banned.iter().filter(|word| has(text, word));
            findings.extend(
                found.map(|word| format!("{}:{line}: {} has no place in the directory", source.path, word.trim())),
            );
        }
    }
    report(&findings);
}

#[test]
fn calls_stay_in_their_homes() {
    let mut findings = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("tests/tidy/")) {
        for Word { words, code, homes, why } in WORDS {
            if homes.iter().any(|home| source.path.starts_with(home)) {
                continue;
            }
            for (line, text) in source.lines() {
                let looked_at = match code {
                    Where::All => true,
                    // Where the clock is paused, sleeping takes no time and is exact.
                    Where::Tests => source.is_test(line) && !source.text.contains("start_paused = true"),
                    Where::Shipped => !source.is_test(line),
                };
                for word in words.iter().filter(|word| looked_at && has(text, word)) {
                    match EXCEPTIONS.iter().position(|(path, excepted, _)| *path == source.path && excepted == word) {
                        Some(position) => drop(needed.insert(position)),
                        None => findings.push(format!("{}:{line}: {word}: {why}", source.path)),
                    }
                }
            }
        }
    }
    let idle = EXCEPTIONS.iter().enumerate().filter(|(position, _)| !needed.contains(position));
    findings.extend(idle.map(|(_, (path, word, _))| format!("{path}: the exception for {word} is no longer needed")));
    report(&findings);
}

#[test]
fn the_log_engine_is_a_dependency_of_raft_alone() {
    let mut findings = Vec::new();
    for path in files(&|path| path.ends_with("Cargo.toml") && path != "raft/Cargo.toml") {
        let text = read(&path);
        let found =
            text.lines().filter(|line| ["openraft", "raft-log", "sled"].iter().any(|name| line.starts_with(name)));
        findings.extend(found.map(|line| format!("{path}: {line}")));
    }
    report(&findings);
}

#[test]
fn nothing_names_the_machine_that_it_was_written_on() {
    let machine = ["/ho me/", "/ro ot/", "/wo rk/", "/Us ers/", "/t mp/"].map(|path| path.replace(' ', ""));
    let mut findings = Vec::new();
    for path in files(&is_ours) {
        for (number, line) in read(&path).lines().enumerate() {
            if machine.iter().any(|word| line.contains(word.as_str())) {
                findings.push(format!("{path}:{}: a path of one machine", number + 1));
            }
        }
    }
    report(&findings);
}

#[test]
fn documents_name_what_exists() {
    let mut findings = Vec::new();
    let code: String = sources().iter().map(|source| source.text.as_str()).collect();
    for path in files(&|path| path.ends_with(".md")) {
        let text = read(&path);
        let here = Path::new(&path).parent().expect("a file is in a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            let file = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !file.is_empty() && !root().join(here).join(file).exists() {
                findings.push(format!("{path}: links to {target}, which is not there"));
            }
        }
        // Tests are named by their functions, which read as sentences; metrics by their prefix.
        for name in text.split('`').skip(1).step_by(2).filter(|name| is_sentence(name)) {
            let mark = if name.starts_with("switchboard_") { format!("\"{name}\"") } else { format!("fn {name}(") };
            if !code.contains(&mark) {
                findings.push(format!("{path}: names `{name}`, which is not in the code"));
            }
        }
    }
    report(&findings);
}

#[test]
fn settings_and_routes_are_documented() {
    let (configuration, protocol) = (read("docs/CONFIGURATION.md"), read("docs/PROTOCOL.md"));
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        for name in quoted_after(&source.text.replace("target_env", ""), "env = \"") {
            if !configuration.contains(&format!("`{name}`")) {
                findings.push(format!("{}: {name} is not in docs/CONFIGURATION.md", source.path));
            }
        }
        if source.path.starts_with("src/api/") && !source.is_test(0) {
            for route in
                quoted_after(&source.text, ".route(\"").into_iter().chain(quoted_after(&source.text, "        (\"/"))
            {
                let route = route.trim_start_matches('/');
                if !route.is_empty() && !protocol.contains(route) {
                    findings.push(format!("{}: /{route} is not in docs/PROTOCOL.md", source.path));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn the_readme_gives_the_test_command() {
    let script = read(".ci/run");
    let commands = quoted_after(&script, "test_command=\"");
    assert!(commands.iter().all(|command| read("README.md").contains(command)) && !commands.is_empty(), "{commands:?}");
}

/// Whether it is a name of at least four words.
fn is_sentence(name: &str) -> bool {
    name.matches('_').count() > 2 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

//! The verb: one seed in this process, or many, each in a process of its own.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};

use super::course::{self, Plan};
use super::planted::Planted;

/// Lines of the trace that are shown with a violation.
const LAST_LINES: usize = 60;

/// What `simulate` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Run this one seed, here.
    #[arg(long, conflicts_with_all = ["seeds", "time"])]
    seed: Option<u64>,
    /// Run these seeds, the last one excluded.
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "1..21")]
    seeds: (u64, u64),
    /// Go on with further seeds for so long.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// How long faults go on in each run, simulated.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    faults: Duration,
    /// Runs at once; each takes one processor.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Stop at the first seed that is not valid.
    #[arg(long)]
    until_found: bool,
    /// Print every line of the trace.
    #[arg(long)]
    trace: bool,
    /// Plant a bug, to see that it is found.
    #[arg(long, value_name = "BUG", value_enum, default_value = "nothing")]
    plant: Planted,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.filter(|(from, to)| from < to).ok_or_else(|| String::from("it is A..B, with A below B"))
}

/// Runs what is asked for; fails if an invariant did not hold.
pub fn run(arguments: &Arguments) -> ExitCode {
    match arguments.seed {
        Some(seed) => run_one(arguments, seed),
        None => run_many(arguments),
    }
}

fn run_one(arguments: &Arguments, seed: u64) -> ExitCode {
    let plan = Plan { seed, faults: arguments.faults, planted: arguments.plant };
    // A thread of its own: whatever the first one has drawn at random before is of no account there.
    let verdict = std::thread::scope(|scope| scope.spawn(|| course::run(&plan)).join());
    let Ok(verdict) = verdict else {
        println!("seed {seed}: the simulation itself panicked");
        return ExitCode::from(2);
    };
    // Others may use the processor, too.
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let took = Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0));
    let lines = verdict.book.lines();
    if arguments.trace {
        lines.iter().for_each(|line| println!("{line}"));
    } else if verdict.violation.is_some() {
        lines[lines.len().saturating_sub(LAST_LINES)..].iter().for_each(|line| println!("{line}"));
    }
    let ratio = verdict.time.as_secs_f64() / took.as_secs_f64();
    let counts: Vec<String> =
        verdict.book.pages().counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("seed {seed}: {}", counts.join(", "));
    println!(
        "seed {seed}: trace {} of {} lines; {:.1} s simulated in {:.1} s of one processor, {ratio:.1} times real time",
        verdict.book.hash(),
        lines.len(),
        verdict.time.as_secs_f64(),
        took.as_secs_f64(),
    );
    match verdict.violation {
        None => {
            println!("seed {seed}: valid");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: VIOLATION of {violation}");
            println!("reproduce with: cargo run -p jepsen -- simulate --seed {seed}{}", told(arguments));
            ExitCode::FAILURE
        }
    }
}

/// The arguments that a run depends on, where they are not the usual ones.
fn told(arguments: &Arguments) -> String {
    let mut told = String::new();
    if arguments.faults != Duration::from_secs(60) {
        told += &format!(" --faults {}", humantime::format_duration(arguments.faults).to_string().replace(' ', ""));
    }
    if arguments.plant != Planted::Nothing {
        told += &format!(" --plant {}", name_of(arguments.plant));
    }
    told
}

fn name_of(planted: Planted) -> String {
    planted.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let (first, end) = arguments.seeds;
    let wanted = |seed: u64| match arguments.time {
        Some(time) => began.elapsed() < time,
        None => seed < end,
    };
    let (mut next, mut runs, mut valid) = (first, Vec::new(), 0_u64);
    let (mut bad, mut simulated, mut used) = (Vec::new(), 0.0, 0.0);
    loop {
        let enough = arguments.until_found && !bad.is_empty();
        while runs.len() < arguments.jobs.max(1) && wanted(next) && !enough {
            match begin(arguments, next) {
                Ok(run) => runs.push((next, run)),
                Err(error) => {
                    println!("seed {next} could not be started: {error}");
                    return ExitCode::from(2);
                }
            }
            next += 1;
        }
        if runs.is_empty() {
            break;
        }
        let (seed, run) = runs.remove(0);
        match run.wait_with_output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                print!("{text}");
                let (of_run, for_it) = times(&text).unwrap_or_default();
                (simulated, used) = (simulated + of_run, used + for_it);
                if output.status.success() {
                    valid += 1;
                } else {
                    eprint!("{}", String::from_utf8_lossy(&output.stderr));
                    bad.push(seed);
                }
            }
            Err(error) => {
                println!("seed {seed} was lost: {error}");
                bad.push(seed);
            }
        }
    }
    println!(
        "{valid} seeds valid, {} not {bad:?}; {simulated:.0} s simulated in {used:.0} s of one processor, {:.1} times real \
         time; {:.0} s in all",
        bad.len(),
        simulated / used,
        began.elapsed().as_secs_f64()
    );
    if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many seconds a run has simulated, and how many it took, from what it printed.
fn times(text: &str) -> Option<(f64, f64)> {
    let told = text.lines().find_map(|line| line.split_once(" lines; ").map(|(_, told)| told))?;
    let (simulated, rest) = told.split_once(" s simulated in ")?;
    Some((simulated.parse().ok()?, rest.split_once(" s of")?.0.parse().ok()?))
}

fn begin(arguments: &Arguments, seed: u64) -> std::io::Result<std::process::Child> {
    let faults = humantime::format_duration(arguments.faults).to_string().replace(' ', "");
    Command::new(std::env::current_exe()?)
        .args(["simulate", "--seed", &seed.to_string(), "--faults", &faults, "--plant", &name_of(arguments.plant)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

//! The command line: `test`, `check`, `runs`, `mutants`, `list`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::cluster::{HarnessError, Network, Plan};
use crate::mutants;
use crate::nemesis::{self, FAULTS, Fault};
use crate::report::{self, About, runs};
use crate::run::{self, Results, Settings};
use crate::simulation;
use crate::verdict::Verdict;
use crate::workload::{WORKLOADS, Workload};

/// The harness failed: neither valid, invalid nor unknown.
const FAILED: u8 = 3;

/// The folder for all runs.
const STORE: &str = "jepsen/store";

/// Failure tests of Switchboard. Exit code: 0 valid, 1 a promise was broken, 2 nothing can be said, 3 the harness failed.
#[derive(Debug, Parser)]
#[command(name = "jepsen")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a workload while things break, and judges what happened.
    Test(Box<Test>),
    /// Judges the history of a former run again.
    Check {
        /// Folder of the run.
        folder: PathBuf,
    },
    /// Prints a table of former runs, as Markdown.
    Runs {
        /// Folders of runs, or folders that hold such.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Runs the whole cluster in simulated time, with faults drawn from seeds.
    Simulate(simulation::Arguments),
    /// Breaks the program on purpose, in a copy, and shows that tests and runs notice. Exit code 1: not all were noticed.
    Mutants {
        /// One of them; may be repeated. By default all.
        #[arg(long)]
        only: Vec<String>,
        /// Only tells which there are.
        #[arg(long)]
        list: bool,
    },
    /// Lists workloads and faults.
    List,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// What clients do: names of workloads with commas between them, one run each, or `all`; see `list`.
    #[arg(long)]
    workload: String,
    /// What breaks: names of faults with commas between them, `none`, or `all` that can be had; see `list`.
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// For how long things break: a number of seconds, or with a unit.
    #[arg(long, default_value = "60", value_parser = duration)]
    time: Duration,
    /// Of everything that is by chance; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Directory nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Gateways.
    #[arg(long, default_value_t = 3)]
    gateways: u64,
    /// The program; by default the one beside this program, built when it is missing or old.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Another version of the program, for faults that go to and from it.
    #[arg(long)]
    previous: Option<PathBuf>,
    /// How processes reach each other; by default namespaces where they can be made.
    #[arg(long)]
    network: Option<Network>,
    /// How long gateways hold their leases.
    #[arg(long, default_value = "3s", value_parser = duration)]
    lease: Duration,
    /// Where the report goes; by default `jepsen/store/<workload>-<nemesis>-<time of day>`.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Keep the data directories of nodes also when the verdict is valid; else they are kept only when it is not.
    #[arg(long)]
    keep_data: bool,
}

fn workload(name: &str) -> Result<Workload, String> {
    let known = || WORKLOADS.iter().map(|workload| workload.name).collect::<Vec<_>>().join(", ");
    let found = WORKLOADS.iter().find(|workload| workload.name == name);
    found.copied().ok_or_else(|| format!("no workload has this name; there are: {}", known()))
}

fn workloads(names: &str) -> Result<Vec<Workload>, HarnessError> {
    if names == "all" {
        return Ok(WORKLOADS.to_vec());
    }
    let found = names.split(',').map(|name| workload(name.trim()));
    found.collect::<Result<_, _>>().map_err(|why| HarnessError(format!("--workload: {why}")))
}

fn faults(arguments: &Test) -> Result<Vec<Fault>, HarnessError> {
    if arguments.nemesis == "all" {
        return Ok(nemesis::all(arguments.previous.is_some()).collect());
    }
    let known = || FAULTS.iter().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
    let names = arguments.nemesis.split(',').map(str::trim);
    let found = names.filter(|name| !name.is_empty() && *name != "none").map(|name| {
        let fault = FAULTS.iter().find(|fault| fault.name == name).copied();
        fault.ok_or_else(|| HarnessError(format!("--nemesis: no fault is called {name}; there are: {}", known())))
    });
    found.collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Test(arguments) => test_all(&arguments),
        Verb::Check { folder } => check(&folder).map(|results| results.verdict),
        Verb::Runs { folders } => return exit(table(&folders)),
        Verb::Simulate(arguments) => return simulation::run(&arguments),
        Verb::Mutants { list: true, .. } => return exit(mutants::list().map(|()| 0)),
        Verb::Mutants { only, .. } => return exit(try_mutants(&only)),
        Verb::List => {
            list();
            return ExitCode::SUCCESS;
        }
    };
    exit(done.map(Verdict::exit_code))
}

fn exit(done: Result<u8, HarnessError>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("jepsen: the harness failed, which says nothing about what is tested: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// One run after the other. The verdict is the worst of them.
fn test_all(arguments: &Test) -> Result<Verdict, HarnessError> {
    let (workloads, faults) = (workloads(&arguments.workload)?, faults(arguments)?);
    if arguments.store.is_some() && workloads.len() > 1 {
        return Err(HarnessError("--store is the folder of one run, and several workloads are asked for".to_owned()));
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => built()?,
    };
    let mut verdict = Verdict::Valid;
    for workload in workloads {
        verdict = verdict.max(test(arguments, workload, faults.clone(), binary.clone())?.verdict);
    }
    Ok(verdict)
}

fn test(arguments: &Test, workload: Workload, faults: Vec<Fault>, binary: PathBuf) -> Result<Results, HarnessError> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    let mut plan = Plan {
        nodes: arguments.nodes,
        gateways: arguments.gateways,
        previous: arguments.previous.clone(),
        lease: arguments.lease,
        network: arguments.network.unwrap_or_else(Network::best),
        ..Plan::of(binary)
    };
    (workload.plan)(&mut plan);
    nemesis::prepare(&mut plan, &faults)?;
    let folder = arguments.store.clone().unwrap_or_else(|| default_folder(workload.name, &arguments.nemesis));
    std::fs::create_dir_all(&folder).map_err(|error| HarnessError(format!("{}: {error}", folder.display())))?;
    let settings = Settings {
        workload,
        faults,
        time: arguments.time,
        seed,
        about: About::now(&plan.binary, seed),
        plan,
        folder,
        keep_data: arguments.keep_data,
    };
    println!("{} under {} for {:?}, seed {seed}", settings.workload.name, arguments.nemesis, settings.time);
    let results = runtime()?.block_on(run::run(&settings))?;
    tell(&results, &settings.folder)?;
    Ok(results)
}

fn check(folder: &Path) -> Result<Results, HarnessError> {
    let former = report::results(folder)?;
    let workload = workload(&former.workload).map_err(HarnessError)?;
    let results = run::judge_again(folder, workload, &former)?;
    tell(&results, folder)?;
    Ok(results)
}

fn runtime() -> Result<Runtime, HarnessError> {
    Runtime::new().map_err(|error| HarnessError(error.to_string()))
}

fn try_mutants(only: &[String]) -> Result<u8, HarnessError> {
    let all_caught = runtime()?.block_on(mutants::run(only))?;
    Ok(u8::from(!all_caught))
}

fn table(folders: &[PathBuf]) -> Result<u8, HarnessError> {
    print!("{}", runs::markdown(&runs::found(folders)?));
    Ok(0)
}

/// Prints the verdict; in the folder for all runs the page that lists them is written again.
fn tell(results: &Results, folder: &Path) -> Result<(), HarnessError> {
    for checked in &results.checked {
        println!("{:?}  {}: {}", checked.verdict, checked.checker, checked.summary);
        for anomaly in checked.anomalies.iter().take(5) {
            println!("    {}: {}", anomaly.name, anomaly.what);
        }
    }
    println!("{:?}; the report is {}", results.verdict, folder.join("index.html").display());
    match folder.parent().filter(|parent| parent.file_name() == Path::new(STORE).file_name()) {
        Some(store) => runs::write_index(store),
        None => Ok(()),
    }
}

fn list() {
    println!("workloads");
    for workload in WORKLOADS {
        println!("  {:<18} {} ({})", workload.name, workload.about, workload.proves.join(", "));
    }
    println!("faults");
    for fault in FAULTS {
        println!("  {:<18} {}", fault.name, fault.about);
    }
}

fn default_folder(workload: &str, nemesis: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = format!("{workload}-{}-{now}", nemesis.replace(',', "+"));
    Path::new(STORE).join(name)
}

/// The program beside this one, after it was built with the same profile. Without cargo it must be there already.
fn built() -> Result<PathBuf, HarnessError> {
    let me = std::env::current_exe().map_err(|error| HarnessError(error.to_string()))?;
    let binary = me.with_file_name("switchboard");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        // With this crate, so that both are built with the same features, once.
        build.args(["build", "--quiet", "--locked", "--package", "jepsen", "--package", "switchboard", "--bins"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.status().map_err(|error| HarnessError(format!("cargo: {error}")))?;
        if !status.success() {
            return Err(HarnessError("cargo could not build the program".to_owned()));
        }
    }
    if !binary.exists() {
        return Err(HarnessError(format!("{} is missing; build it, or pass --binary", binary.display())));
    }
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_tells_of_every_workload_and_every_fault() {
        let readme = std::fs::read_to_string(mutants::root().join("jepsen/README.md")).unwrap();
        let tables = readme.split("\n## ");
        let table = |title: &str| tables.clone().find(|part| part.starts_with(title)).unwrap().to_owned();
        let (workloads, faults) = (table("Workloads"), table("Faults"));
        for Workload { name, .. } in WORKLOADS {
            let named = [format!("| {name} |"), format!("| {name},"), format!(", {name} |")];
            assert!(named.iter().any(|named| workloads.contains(named)), "jepsen/README.md: no workload {name}");
        }
        for Fault { name, .. } in FAULTS {
            assert!(faults.contains(&format!("`{name}`")), "jepsen/README.md: no fault {name}");
        }
    }
}

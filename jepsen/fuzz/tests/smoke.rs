//! A short run of fuzz targets without a fuzzer, for the tests of the crates: over the committed seeds, and over random changes
//! of them. It finds what is near the surface, on every run of the tests; the rest is for `jepsen/fuzz/run`.
//!
//! `SWITCHBOARD_SEED=n` makes the changes of another run; `UPDATE_SEEDS=1` writes the seeds anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Changed inputs of one target.
const CHANGED: u64 = 10_000;

/// An input is not made longer than this.
const BYTES_MAX: usize = 4096;

type Target = (&'static str, fn(&[u8]));

/// Gives every target its seeds and random changes of them.
pub(crate) fn run(targets: &[Target], seeds_of: impl Fn(&str) -> Vec<Vec<u8>>) {
    let seed = std::env::var("SWITCHBOARD_SEED").map_or(1, |seed| seed.parse().unwrap());
    for (name, target) in targets {
        let fuzzed = std::fs::read_to_string(package().join(format!("targets/{name}.rs"))).unwrap_or_default();
        assert!(fuzzed.contains(&format!("::{name}(data)")), "jepsen/fuzz/targets/{name}.rs does not call {name}");
        let seeds = seeds_of(name);
        check_seeds(name, &seeds);
        for input in &seeds {
            try_one(name, *target, input);
        }
        let mut chance = Chance(seed);
        for _ in 0..CHANGED / targets.len() as u64 {
            try_one(name, *target, &changed(&seeds, &mut chance));
        }
    }
}

/// Compares the committed seeds of a target with those that are made here, or writes them.
fn check_seeds(target: &str, seeds: &[Vec<u8>]) {
    let folder = folder(target);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        for (nth, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("{nth:03}")), seed).unwrap();
        }
    }
    let bytes: usize = seeds.iter().map(Vec::len).sum();
    assert!(bytes < 16 * 1024, "the seeds of {target} have {bytes} bytes; all targets together stay small");
    assert!(committed(target) == seeds, "the seeds of {target} are not what is made here (UPDATE_SEEDS=1)");
}

fn package() -> PathBuf {
    let found = ["jepsen/fuzz", "../jepsen/fuzz"].map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    found.into_iter().find(|path| path.is_dir()).expect("it is a folder of the project")
}

fn folder(target: &str) -> PathBuf {
    package().join("seeds").join(target)
}

fn committed(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder(target)).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn try_one(name: &str, target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} fails with the bytes {hex}");
    }
}

/// A few changes of one seed.
fn changed(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut input = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(input.len() + 1);
        match chance.below(7) {
            0 => input.truncate(at),
            1 => input.insert(at, chance.next() as u8),
            2 => input.splice(at..at, (0..chance.below(16)).map(|_| 0)).for_each(drop),
            3 => {
                // A part of another seed, or of this one.
                let other = &seeds[chance.below(seeds.len())];
                let part = other.iter().skip(chance.below(other.len() + 1)).take(chance.below(64)).copied();
                input.splice(at..at, part).for_each(drop);
            }
            4 => drop(input.drain(at..(at + chance.below(8)).min(input.len()))),
            5 => input[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << chance.below(8)),
            _ => {
                let value = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'-'][chance.below(8)];
                input[at..].iter_mut().take(1).for_each(|byte| *byte = value);
            }
        }
    }
    input.truncate(BYTES_MAX);
    input
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

//! A disk that fails and clocks that are wrong on command: preloaded into a process of the program, it stands between it and the C library.
//!
//! Compiled by itself (`rustc --edition 2024 --crate-type cdylib`), without dependencies; see the harness beside it.
//! Files below the directory that `FAULTS_BELOW` names are affected, nothing else: no socket and no log line. What
//! happens to them is read from the file that `FAULTS_FILE` names, again whenever it was replaced. A rule is a line:
//!
//! ```text
//! fsync eio                     fsync, fdatasync and sync_file_range fail
//! fsync delay 350               they take so many milliseconds longer
//! fsync delay 350 0.1           one out of ten does, by chance
//! write eio                     write, writev, pwrite and pwritev fail
//! write enospc in snapshots     those of files whose path contains the word do
//! write torn                    half of it is written, then the process is gone
//! space 1000000                 statvfs and fstatvfs tell so many free bytes
//! clock -3600                   the wall clock is so many seconds ahead, or behind; no other clock is
//! drift 1.1                     the monotonic clock is so many times as fast from now on; it never goes back
//! ```
//! The first rule that fits counts. What was made to fail is noted, a line each, in the control file's neighbour that ends in
//! `.failed`. Without the two variables, and without the file, nothing is changed.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::fs::{Metadata, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
/// As if it had been killed.
const GONE: c_int = 137;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn usleep(microseconds: c_uint) -> c_int;
    fn _exit(code: c_int) -> !;
}

#[repr(C)]
pub struct IoVec {
    base: *const c_void,
    length: usize,
}

/// The beginning of `struct statvfs` on 64-bit Linux.
#[repr(C)]
pub struct StatVfs {
    block_bytes: u64,
    fragment_bytes: u64,
    blocks: u64,
    free: u64,
    available: u64,
}

#[derive(Clone, Copy)]
enum Fault {
    Fails(c_int),
    Delay { milliseconds: u64, chance: f64 },
    Torn,
    Space(u64),
    Clock(i64),
    Drift(f64),
}

struct Rule {
    call: String,
    fault: Fault,
    within: String,
}

impl Rule {
    fn parse(line: &str) -> Option<Rule> {
        let (rule, within) = line.split_once(" in ").unwrap_or((line, ""));
        let mut words = rule.split_whitespace();
        let call = words.next()?.to_owned();
        let fault = match words.next()? {
            "eio" => Fault::Fails(EIO),
            "enospc" => Fault::Fails(ENOSPC),
            "torn" => Fault::Torn,
            "delay" => {
                let milliseconds = words.next()?.parse().ok()?;
                Fault::Delay { milliseconds, chance: words.next().map_or(Some(1.0), |chance| chance.parse().ok())? }
            }
            bytes if call == "space" => Fault::Space(bytes.parse().ok()?),
            seconds if call == "clock" => Fault::Clock(seconds.parse().ok()?),
            times if call == "drift" => Fault::Drift(times.parse().ok()?),
            _ => return None,
        };
        Some(Rule { call, fault, within: within.trim().to_owned() })
    }
}

/// What one version of the control file says.
#[derive(Default)]
struct Rules {
    version: Option<(u64, i64, i64, u64)>,
    rules: Vec<Rule>,
}

fn version(meta: &Metadata) -> (u64, i64, i64, u64) {
    (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

struct Control {
    file: PathBuf,
    below: PathBuf,
    rules: Mutex<Rules>,
}

fn control() -> Option<&'static Control> {
    static CONTROL: OnceLock<Option<Control>> = OnceLock::new();
    let control = CONTROL.get_or_init(|| {
        let (file, below) = (std::env::var_os("FAULTS_FILE")?, std::env::var_os("FAULTS_BELOW")?);
        Some(Control { file: file.into(), below: below.into(), rules: Mutex::default() })
    });
    control.as_ref()
}

impl Control {
    /// What happens to a call on a file, if anything.
    fn fault(&self, call: &str, path: impl FnOnce() -> Option<PathBuf>) -> Option<Fault> {
        let mut known = self.rules.lock().ok()?;
        let found = std::fs::metadata(&self.file).ok().map(|meta| version(&meta));
        if known.version != found {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            *known = Rules { version: found, rules: text.lines().filter_map(Rule::parse).collect() };
        }
        if !known.rules.iter().any(|rule| rule.call == call) {
            return None;
        }
        let path = path().filter(|path| path.starts_with(&self.below))?;
        let path = path.to_string_lossy();
        known.rules.iter().find(|rule| rule.call == call && path.contains(&rule.within)).map(|rule| rule.fault)
    }
}

fn path_of(fd: c_int) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

/// Notes a call that is made to fail.
fn note(call: &str, fd: c_int) {
    let (Some(control), Some(path)) = (control(), path_of(fd)) else { return };
    let notes = OpenOptions::new().create(true).append(true).open(control.file.with_extension("failed"));
    if let Ok(mut notes) = notes {
        let _ = notes.write_all(format!("{call} {}\n", path.display()).as_bytes());
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut x = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ u64::from(std::process::id()) << 32;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn failed(errno: c_int) {
    // SAFETY: the C library gives every thread a place for its errno.
    unsafe { *__errno_location() = errno };
}

/// The function of the C library behind one of ours.
fn real(known: &OnceLock<usize>, name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string, and the handle is the one that means "the next one".
    *known.get_or_init(|| unsafe { dlsym(RTLD_NEXT, name.as_ptr()) as usize }) as *mut c_void
}

/// Whether a call on a file may go on; otherwise its errno is set.
fn allowed(call: &str, fd: c_int) -> Result<bool, ()> {
    match control().and_then(|control| control.fault(call, || path_of(fd))) {
        Some(Fault::Fails(errno)) => {
            note(call, fd);
            failed(errno);
            Err(())
        }
        Some(Fault::Delay { milliseconds, chance: part }) => {
            if chance() < part {
                // SAFETY: it takes a number.
                unsafe { usleep((milliseconds * 1000) as c_uint) };
            }
            Ok(true)
        }
        Some(Fault::Torn) => Ok(false),
        Some(Fault::Space(_) | Fault::Clock(_) | Fault::Drift(_)) | None => Ok(true),
    }
}

macro_rules! syncs {
    ($($name:ident ( $($more:ident : $kind:ty),* ) $symbol:literal;)*) => {$(
        /// # Safety
        /// As the function of the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int $(, $more: $kind)*) -> c_int {
            static REAL: OnceLock<usize> = OnceLock::new();
            if allowed("fsync", fd).is_err() {
                return -1;
            }
            // SAFETY: the symbol has this type.
            unsafe {
                let real: extern "C" fn(c_int $(, $kind)*) -> c_int = std::mem::transmute(real(&REAL, $symbol));
                real(fd $(, $more)*)
            }
        }
    )*};
}

syncs! {
    fsync() c"fsync";
    fdatasync() c"fdatasync";
    sync_file_range(offset: i64, bytes: i64, flags: c_uint) c"sync_file_range";
}

/// The first half of some bytes.
///
/// # Safety
/// As the one for vectors, which needs a promise.
unsafe fn half_of_bytes(data: *const c_void, length: usize) -> (*const c_void, usize, Vec<IoVec>) {
    (data, length / 2, Vec::new())
}

/// The first half of the bytes that the vectors hold, as vectors that live as long as the third part of the answer.
///
/// # Safety
/// There are so many vectors.
unsafe fn half_of_vectors(vectors: *const IoVec, count: c_int) -> (*const IoVec, c_int, Vec<IoVec>) {
    // SAFETY: by the promise of the caller.
    let all = unsafe { std::slice::from_raw_parts(vectors, usize::try_from(count).unwrap_or(0)) };
    let mut left = all.iter().map(|vector| vector.length).sum::<usize>() / 2;
    let mut half = Vec::new();
    for vector in all {
        let length = vector.length.min(left);
        left -= length;
        half.push(IoVec { base: vector.base, length });
    }
    (half.as_ptr(), count, half)
}

macro_rules! writes {
    ($($name:ident ( $data:ident : $kind:ty, $length:ident : $number:ty $(, $more:ident : $also:ty)* ) $half:ident $symbol:literal;)*) => {$(
        /// # Safety
        /// As the function of the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, $data: $kind, $length: $number $(, $more: $also)*) -> isize {
            static REAL: OnceLock<usize> = OnceLock::new();
            let Ok(whole) = allowed("write", fd) else { return -1 };
            // SAFETY: the symbol has this type, and no more is written than was asked for.
            unsafe {
                let (data, length, _held) = if whole { ($data, $length, Vec::new()) } else { $half($data, $length) };
                let real: extern "C" fn(c_int, $kind, $number $(, $also)*) -> isize =
                    std::mem::transmute(real(&REAL, $symbol));
                let written = real(fd, data, length $(, $more)*);
                if !whole {
                    _exit(GONE);
                }
                written
            }
        }
    )*};
}

writes! {
    write(data: *const c_void, length: usize) half_of_bytes c"write";
    writev(data: *const IoVec, length: c_int) half_of_vectors c"writev";
    pwrite(data: *const c_void, length: usize, offset: i64) half_of_bytes c"pwrite";
    pwrite64(data: *const c_void, length: usize, offset: i64) half_of_bytes c"pwrite64";
    pwritev(data: *const IoVec, length: c_int, offset: i64) half_of_vectors c"pwritev";
    pwritev64(data: *const IoVec, length: c_int, offset: i64) half_of_vectors c"pwritev64";
}

/// Tells another amount of free space, if a rule says so.
///
/// # Safety
/// `told` is what a call that succeeded has filled in.
unsafe fn tell_space(told: *mut StatVfs, path: impl FnOnce() -> Option<PathBuf>) {
    if let Some(Fault::Space(bytes)) = control().and_then(|control| control.fault("space", path)) {
        // SAFETY: by the promise of the caller.
        let told = unsafe { &mut *told };
        let unit = told.fragment_bytes.max(1);
        (told.free, told.available) = (bytes / unit, bytes / unit);
    }
}

macro_rules! spaces {
    ($($name:ident ( $of:ident : $kind:ty ) $path:expr, $symbol:literal;)*) => {$(
        /// # Safety
        /// As the function of the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($of: $kind, told: *mut StatVfs) -> c_int {
            static REAL: OnceLock<usize> = OnceLock::new();
            // SAFETY: the symbol has this type; it has succeeded before `told` is touched.
            unsafe {
                let real: extern "C" fn($kind, *mut StatVfs) -> c_int = std::mem::transmute(real(&REAL, $symbol));
                let done = real($of, told);
                if done == 0 {
                    tell_space(told, || $path);
                }
                done
            }
        }
    )*};
}

/// # Safety
/// `path` is a C string.
unsafe fn given(path: *const c_char) -> Option<PathBuf> {
    // SAFETY: by the promise of the caller.
    let path = CString::from(unsafe { CStr::from_ptr(path) });
    std::fs::canonicalize(Path::new(OsStr::from_bytes(path.as_bytes()))).ok()
}

spaces! {
    statvfs(path: *const c_char) given(path), c"statvfs";
    statvfs64(path: *const c_char) given(path), c"statvfs64";
    fstatvfs(fd: c_int) path_of(fd), c"fstatvfs";
    fstatvfs64(fd: c_int) path_of(fd), c"fstatvfs64";
}

const CLOCK_REALTIME: c_int = 0;
const CLOCK_MONOTONIC: c_int = 1;
const SECOND_NS: i64 = 1_000_000_000;
/// Between two looks at the rule for the monotonic clock, which is asked for all the time.
const LOOK_NS: i64 = 5_000_000;

#[repr(C)]
pub struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

/// A clock that goes at another speed since it was last set, without a jump. Nanoseconds.
struct Drift {
    real: i64,
    told: i64,
    times: f64,
    looked: i64,
}

/// What the monotonic clock tells when it is really `now`.
fn drifted(now: i64) -> i64 {
    static DRIFT: Mutex<Option<Drift>> = Mutex::new(None);
    let (Some(control), Ok(mut drift)) = (control(), DRIFT.lock()) else { return now };
    let drift = drift.get_or_insert(Drift { real: now, told: now, times: 1.0, looked: now - LOOK_NS });
    // Another thread may have read the clock later and come here earlier.
    let gone = (now - drift.real).max(0);
    let told = drift.told + if drift.times == 1.0 { gone } else { (gone as f64 * drift.times) as i64 };
    if now - drift.looked >= LOOK_NS {
        let rule = control.fault("drift", || Some(control.below.clone()));
        let times = if let Some(Fault::Drift(times)) = rule { times } else { 1.0 };
        *drift = Drift { real: drift.real.max(now), told, times, looked: now };
    }
    told
}

/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, told: *mut TimeSpec) -> c_int {
    static REAL: OnceLock<usize> = OnceLock::new();
    // SAFETY: the symbol is the function of this name, and the caller's pointer is handed on.
    let result = unsafe {
        let real: extern "C" fn(c_int, *mut TimeSpec) -> c_int = std::mem::transmute(real(&REAL, c"clock_gettime"));
        real(clock, told)
    };
    if clock == CLOCK_REALTIME
        && result == 0
        && let Some(control) = control()
        && let Some(Fault::Clock(seconds)) = control.fault("clock", || Some(control.below.clone()))
    {
        // SAFETY: the C library has just written there.
        unsafe { (*told).seconds += seconds };
    }
    if clock == CLOCK_MONOTONIC && result == 0 {
        // SAFETY: as above.
        let told = unsafe { &mut *told };
        let now = drifted(told.seconds * SECOND_NS + told.nanoseconds);
        (told.seconds, told.nanoseconds) = (now / SECOND_NS, now % SECOND_NS);
    }
    result
}

//! Disks that fail on command; see `faults/shim.rs` for what can be commanded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The disk of one process.
#[derive(Debug, Clone)]
pub struct Disk {
    rules: PathBuf,
    below: PathBuf,
}

impl Disk {
    /// Of files below `below`, commanded by the file `rules`.
    pub fn new(below: &Path, rules: &Path) -> Self {
        Self { rules: rules.to_owned(), below: below.to_owned() }
    }

    /// What the process must find in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(shim())),
            ("FAULTS_FILE".to_owned(), text(&self.rules)),
            ("FAULTS_BELOW".to_owned(), text(&self.below)),
        ]
    }

    /// From now on it does what these lines say, and nothing else.
    pub fn obey(&self, rules: &str) {
        // Replaced as a whole, so that no half of it is read.
        let new = self.rules.with_extension("new");
        std::fs::write(&new, rules).unwrap();
        std::fs::rename(&new, &self.rules).unwrap();
    }

    /// It works again.
    pub fn heal(&self) {
        self.obey("");
    }

    /// The calls that were made to fail since the last time that this was asked: the call, and the file.
    pub fn failed(&self) -> Vec<String> {
        let noted = self.rules.with_extension("failed");
        let lines = std::fs::read_to_string(&noted).unwrap_or_default();
        let _ = std::fs::remove_file(&noted);
        lines.lines().map(str::to_owned).collect()
    }
}

/// The library that is preloaded, compiled once a run.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/faults/shim.rs");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let arguments = ["--edition", "2024", "--crate-type", "cdylib", "-C", "opt-level=1", "-D", "warnings", "-o"];
        let made = Command::new(compiler).args(arguments).arg(&library).arg(source).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        library
    })
}

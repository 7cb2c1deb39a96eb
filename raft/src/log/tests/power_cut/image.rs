//! A file system of its own whose power can be cut: an image file, mounted over a loop device.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const PREFIX: &str = "switchboard-power-cut-";
const IMAGE_BYTES: u64 = 512 * 1024 * 1024;
/// `FS_IOC_SHUTDOWN`, and its way of doing it that flushes neither data nor the journal.
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
const WITHOUT_FLUSH: u32 = 2;

pub(super) struct Image {
    /// Holds the image file and the place where it is mounted; named after this process.
    dir: PathBuf,
}

fn done(command: &str, arguments: &[&str]) -> Result<(), String> {
    let failed = |why: String| format!("{command} {}: {}", arguments.join(" "), why.trim());
    let output = Command::new(command).args(arguments).output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())) }
}

impl Image {
    /// Makes and mounts one. An error says what is missing here.
    pub(super) fn new(name: &str) -> Result<Image, String> {
        let image = Image { dir: std::env::temp_dir().join(format!("{PREFIX}{}-{name}", std::process::id())) };
        fs::create_dir_all(image.place()).map_err(|e| e.to_string())?;
        let file = image.file();
        File::create(&file).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(|e| e.to_string())?;
        done("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", file.to_str().unwrap()])?;
        image.mount()?;
        Ok(image)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Where it is mounted.
    pub(super) fn place(&self) -> PathBuf {
        self.dir.join("mounted")
    }

    fn mount(&self) -> Result<(), String> {
        done("mount", &["-o", "loop", self.file().to_str().unwrap(), self.place().to_str().unwrap()])
    }

    /// From now on nothing reaches the image, and what had not is lost.
    #[expect(unsafe_code, reason = "there is no other way to ask for it than an ioctl")]
    pub(super) fn cut(&self) {
        let place = File::open(self.place()).unwrap();
        // SAFETY: the request reads one u32 and returns nothing.
        unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSH);
            rustix::ioctl::ioctl(&place, request).unwrap();
        }
    }

    /// The power is back. Nobody may use it any more from before.
    pub(super) fn restore(&self) {
        done("umount", &[self.place().to_str().unwrap()]).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    // Lazily, because whoever used it may just be ending. The loop device goes with the mount.
    let _ = done("umount", &["-l", dir.join("mounted").to_str().unwrap()]);
    let _ = fs::remove_file(dir.join("image"));
    let _ = fs::remove_dir(dir.join("mounted"));
    let _ = fs::remove_dir(dir);
}

/// Removes what processes left that were ended before they could.
pub(super) fn sweep() {
    for found in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = found.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&found.path());
        }
    }
}

//! Disks: a file system of its own for each node, in an image file, whose power can be cut, that can be full, or stand still.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{HarnessError, command};

/// Where nodes keep their data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Disks {
    /// In the folder of the run.
    #[default]
    Folder,
    /// Each on a file system of its own: needs root, loop mounts and `mkfs.ext4`.
    Images,
}

/// More than the space that nodes keep free by default, and so much besides. The file is sparse.
const IMAGE_BYTES: u64 = 512 << 20;

/// What a disk is filled with at a time, when hardly any space is left.
const BLOCK_BYTES: usize = 4096;

/// `FS_IOC_SHUTDOWN`, and its way of doing it that flushes neither data nor the journal.
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
const WITHOUT_FLUSH: u32 = 2;

/// What can't be done here; `None` if images can be made.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("images of disks need root".to_owned());
    }
    let commands = ["mkfs.ext4", "mount", "umount", "fsfreeze"];
    let lacks = commands.into_iter().find(|name| !command::exists(name))?;
    Some(format!("images of disks need the command {lacks}, which is not installed"))
}

/// One file system. It is gone when this is dropped.
#[derive(Debug)]
pub struct Image {
    /// Holds the image file and the place where it is mounted.
    folder: PathBuf,
    frozen: bool,
}

impl Image {
    /// Makes and mounts one in `folder`, which is its own.
    pub(super) fn new(folder: PathBuf) -> Result<Self, HarnessError> {
        let image = Self { folder, frozen: false };
        let failed = |error: io::Error| HarnessError(format!("{}: {error}", image.folder.display()));
        fs::create_dir_all(image.place()).map_err(failed)?;
        File::create(image.file()).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(failed)?;
        let file = image.file().display().to_string();
        // Nothing is reserved for root, so that a full disk is full for whoever writes.
        command::done("mkfs.ext4", &["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", &file])?;
        image.mount()?;
        Ok(image)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("image")
    }

    fn filler(&self) -> PathBuf {
        self.place().join("filler")
    }

    /// Where it is mounted.
    pub(super) fn place(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    fn mount(&self) -> Result<(), HarnessError> {
        let (file, place) = (self.file().display().to_string(), self.place().display().to_string());
        command::done("mount", &["-o", "loop", &file, &place]).map(drop)
    }

    /// From now on nothing reaches the image, and what had not is lost. Whoever writes there must stand still before: what a sync was
    /// told to be done at this very moment may otherwise be acknowledged and lost.
    #[expect(unsafe_code, reason = "there is no other way to ask for it than an ioctl")]
    pub fn cut(&self) -> Result<(), HarnessError> {
        let failed = |error: io::Error| HarnessError(format!("cutting {}: {error}", self.place().display()));
        let place = File::open(self.place()).map_err(failed)?;
        // SAFETY: the request reads one u32 and returns nothing.
        let cut = unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSH);
            rustix::ioctl::ioctl(&place, request)
        };
        cut.map_err(|error| failed(error.into()))
    }

    /// The power is back. Nobody may use it any more from before.
    pub fn restore(&self) -> Result<(), HarnessError> {
        command::done("umount", &[&self.place().display().to_string()])?;
        self.mount()
    }

    /// Whoever writes or syncs waits until it is thawed.
    pub fn freeze(&mut self) -> Result<(), HarnessError> {
        self.frozen = true;
        command::done("fsfreeze", &["--freeze", &self.place().display().to_string()]).map(drop)
    }

    /// It goes on, if it was frozen.
    pub fn thaw(&mut self) -> Result<(), HarnessError> {
        if std::mem::take(&mut self.frozen) {
            command::done("fsfreeze", &["--unfreeze", &self.place().display().to_string()])?;
        }
        Ok(())
    }

    /// Takes all the space but so many bytes.
    pub fn fill(&self, but_bytes: u64) -> Result<(), HarnessError> {
        let filled = || -> io::Result<()> {
            let filler = File::create(self.filler())?;
            match rustix::fs::fallocate(
                &filler,
                FallocateFlags::empty(),
                0,
                self.free()?.saturating_sub(but_bytes).max(1),
            ) {
                // What the file itself needs to be told of comes on top; what could be had is taken.
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => return Err(error.into()),
            }
            let mut end = File::options().append(true).open(self.filler())?;
            while self.free()? > but_bytes {
                match end.write_all(&[0; BLOCK_BYTES]) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    written => written?,
                }
            }
            Ok(())
        };
        filled().map_err(|error| HarnessError(format!("filling {}: {error}", self.place().display())))
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.place())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Copies everything that is on it.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<(), HarnessError> {
        self.empty()?;
        let (all, folder) = (self.place().display().to_string(), folder.display().to_string());
        command::done("cp", &["-r", "--sparse=always", "--no-target-directory", &all, &folder]).map(drop)
    }

    /// Gives the space back, if it was taken.
    pub fn empty(&self) -> Result<(), HarnessError> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HarnessError(format!("{}: {error}", self.filler().display())))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.thaw();
        remove(&self.folder);
    }
}

/// Unmounts and removes the image in a folder.
fn remove(folder: &Path) {
    let place = folder.join("mounted").display().to_string();
    // Lazily, because whoever used it may just be ending. The loop device goes with the mount.
    let _ = command::done("umount", &["--lazy", &place]);
    let _ = fs::remove_dir_all(folder);
}

/// Removes the images in the folder of a harness that was ended before it could.
pub(super) fn sweep(folder: &Path) {
    for image in fs::read_dir(folder).into_iter().flatten().flatten() {
        let place = image.path().join("mounted");
        if place.exists() {
            let _ = command::done("fsfreeze", &["--unfreeze", &place.display().to_string()]);
            remove(&image.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_cut_loses_what_was_not_synced_and_a_full_disk_takes_nothing() {
        if let Some(why) = missing() {
            println!("SKIPPED disk: {why}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = Image::new(folder.path().join("node-1")).unwrap();
        let (synced, written) = (image.place().join("synced"), image.place().join("written"));
        let mut file = File::create(&synced).unwrap();
        file.write_all(b"kept").and_then(|()| file.sync_all()).unwrap();
        File::open(image.place()).unwrap().sync_all().unwrap();
        fs::write(&written, b"lost").unwrap();
        image.cut().unwrap();
        assert!(fs::write(image.place().join("late"), b"refused").is_err());
        drop(file);
        image.restore().unwrap();
        assert_eq!(fs::read(&synced).unwrap(), b"kept");
        assert!(fs::read(&written).is_ok_and(|bytes| bytes.is_empty()) || !written.exists());

        image.fill(0).unwrap();
        assert!(fs::write(&written, vec![0; 1 << 20]).is_err());
        image.empty().unwrap();
        image.empty().unwrap();
        fs::write(&written, vec![0; 1 << 20]).unwrap();
        let place = image.place();
        drop(image);
        assert!(!place.exists());
    }
}

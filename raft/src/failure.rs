//! What a disk that fails is called: where, what, and what to do about it.

use std::io;
use std::path::Path;

/// The error with which a replica ends, because reading or writing below `path` failed.
///
/// After a failed write or flush nobody knows what is on the disk: the kernel may have dropped what it could not write, and
/// the next flush would succeed without it. So nothing is tried again by the same process; a new one reads what is there.
pub(crate) fn of_disk(path: &Path, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Free some space there, then start this node again"
        }
        _ => "Look at the disk and at the kernel's log, then start this node again",
    };
    let what = format!("{}: {error}. {advice}; it comes back with what its files hold", path.display());
    io::Error::new(error.kind(), what)
}

/// Whether the system refused something, rather than one of us refused what was read or found no space in time.
pub(crate) fn is_of_disk(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

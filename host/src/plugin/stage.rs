//! Private copies: what is hashed, checked and opened are the same bytes, whatever happens to the file meanwhile.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, StatVfsMountFlags};

use super::settle::Settled;
use crate::ids::Generation;

/// How staging directories are named; what follows is the process and a number. Nothing that a person would call a
/// directory, for what bears such a name and is in nobody's use is removed.
const PREFIX: &str = ".muster-staged-";

/// The directory of this process's copies. Removed when dropped; those of dead processes are removed at the next start.
#[derive(Debug)]
pub(crate) struct Stage {
    path: PathBuf,
    /// Locked while this process lives: that is how others tell that it does, across containers and recycled pids.
    _lock: fs::File,
}

// === impl Stage ===

impl Stage {
    /// Makes a fresh directory below `parent`, and removes those that dead processes left there.
    ///
    /// # Errors
    /// When it cannot be made, or nothing may be executed from it.
    pub(crate) fn create(parent: &Path) -> io::Result<Stage> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(parent)?;
        if rustix::fs::statvfs(parent)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{} is mounted noexec, so that no plugin can run from it: choose another state directory",
                    parent.display()
                ),
            ));
        }
        sweep(parent);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Another process that starts just now may take it for a dead one's, before it is locked.
            let Ok(lock) = fs::File::open(&path) else { continue };
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            let same = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|held| held.ino() == now.ino()));
            if locked && same {
                return Ok(Stage { path, _lock: lock });
            }
        }
    }

    /// Writes `file` under a name that no library of this process has had.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, stem: &str, generation: Generation, file: &Settled) -> io::Result<PathBuf> {
        let path = self.path.join(format!("{stem}-{:.12}-{generation}.so", file.hash));
        let mut copy = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        match copy.write_all(&file.content) {
            Ok(()) => Ok(path),
            Err(error) => {
                // Half a copy is of no use, and the disk may be full.
                drop(fs::remove_file(&path));
                Err(error)
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "staging directory stays");
        }
    }
}

/// Removes the staging directories below `parent` that no process holds.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let uid = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_staged)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid);
        if !ours {
            continue;
        }
        let Ok(directory) = fs::File::open(entry.path()) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::debug!(path = %entry.path().display(), "removed what a dead process had staged"),
                Err(error) => tracing::debug!(path = %entry.path().display(), %error, "stale staging directory stays"),
            }
        }
    }
}

/// Whether a directory has the name of one of ours, down to the numbers: beside them may be anything, in `/tmp` above all.
pub(super) fn is_staged(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_look_into_the_directory() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let stage = Stage::create(parent.path()).unwrap();
        assert_eq!(fs::metadata(&stage.path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_dead_processes_staged_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = Stage::create(parent.path()).unwrap();
        let others = ["muster-plugins-1-1", ".muster-staged-mine", ".muster-staged-1-", ".muster-staged-1-1-1"];
        for name in others.into_iter().chain([".muster-staged-999999999-1"]) {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let stage = Stage::create(parent.path()).unwrap();
        assert!(!parent.path().join(".muster-staged-999999999-1").exists());
        assert!(in_use.path.exists() && stage.path.exists());
        for name in others {
            assert!(parent.path().join(name).exists(), "{name}");
        }
    }
}

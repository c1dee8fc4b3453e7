//! Content that must not be run again, by its hash, until somebody says otherwise.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::settle::ContentHash;

/// The file in the state directory.
const FILE: &str = "quarantine.json";

/// What is quarantined. Durable if there is a state directory.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    file: Option<PathBuf>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    reason: String,
    /// Seconds since 1970.
    since: u64,
}

impl Quarantine {
    /// What was quarantined when the daemon ended, if there is a state directory. A file that cannot be read is said,
    /// and not believed.
    pub(crate) fn open(state: Option<&Path>) -> Quarantine {
        let file = state.map(|directory| directory.join(FILE));
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let entries = file.as_ref().map_or_else(|| Ok(BTreeMap::new()), read).unwrap_or_else(|error| {
            tracing::error!(file = ?file, %error, "what was quarantined is not known any more");
            BTreeMap::new()
        });
        Quarantine { file, entries: Mutex::new(entries) }
    }

    /// Why this content must not be run, if it must not.
    pub(crate) fn is_quarantined(&self, hash: &ContentHash) -> Option<String> {
        self.entries().get(&hash.to_string()).map(|entry| entry.reason.clone())
    }

    /// Keeps this content from being run again. To be called on a thread that may write to a disk.
    pub(crate) fn quarantine(&self, hash: &ContentHash, reason: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut entries = self.entries();
        entries.insert(hash.to_string(), Entry { reason: reason.to_owned(), since });
        self.keep(&entries);
    }

    /// Lets this content be run again; says whether it was quarantined.
    pub(crate) fn lift(&self, hash: &ContentHash) -> bool {
        let mut entries = self.entries();
        let was = entries.remove(&hash.to_string()).is_some();
        if was {
            self.keep(&entries);
        }
        was
    }

    fn keep(&self, entries: &BTreeMap<String, Entry>) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, entries) {
            tracing::error!(file = %file.display(), %error, "what is quarantined is forgotten at the next start");
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole or not at all: beside it, to the disk, then by a rename.
fn write(file: &Path, entries: &BTreeMap<String, Entry>) -> io::Result<()> {
    let directory = file.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut beside = tempfile::NamedTempFile::new_in(directory)?;
    beside.write_all(&serde_json::to_vec_pretty(entries)?)?;
    beside.as_file().sync_all()?;
    beside.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quarantined_stays_so_over_a_restart_until_it_is_lifted() {
        let state = tempfile::tempdir().unwrap();
        let [bad, good] = [ContentHash::of(b"bad"), ContentHash::of(b"good")];
        Quarantine::open(Some(state.path())).quarantine(&bad, "it died");
        let again = Quarantine::open(Some(state.path()));
        assert_eq!(again.is_quarantined(&bad).as_deref(), Some("it died"));
        assert_eq!(again.is_quarantined(&good), None);
        assert!(again.lift(&bad) && !again.lift(&bad));
        assert_eq!(Quarantine::open(Some(state.path())).is_quarantined(&bad), None);
    }

    #[test]
    fn a_file_that_is_damaged_keeps_nobody_from_working() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "{").unwrap();
        let quarantine = Quarantine::open(Some(state.path()));
        quarantine.quarantine(&ContentHash::of(b"bad"), "it died");
        assert!(Quarantine::open(Some(state.path())).is_quarantined(&ContentHash::of(b"bad")).is_some());
    }

    #[test]
    fn without_a_state_directory_it_is_kept_in_memory() {
        let quarantine = Quarantine::open(None);
        quarantine.quarantine(&ContentHash::of(b"bad"), "it died");
        assert!(quarantine.is_quarantined(&ContentHash::of(b"bad")).is_some());
    }
}

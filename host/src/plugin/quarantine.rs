//! Contents that must not be opened again, because the daemon died of them; and how that is found out.
//!
//! Before a library is opened a marker is written, and removed once its modules run. The marker is locked for as long as
//! the daemon lives that wrote it, so that one without a lock is left by a daemon that died there. If there is one, it
//! names the culprit. If there are several, all are suspects, and each of them is opened alone from then on: should the
//! daemon die again, there is one. A daemon that could say what it died of ([`postmortem`](super::postmortem)) accuses
//! that alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::{postmortem, settle::ContentHash};

const FILE: &str = "quarantine.json";
const MARKER: &str = "loading-";

/// The quarantined contents. Durable if there is a state directory.
#[derive(Debug)]
pub(crate) struct Quarantine {
    directory: Option<PathBuf>,
    state: Mutex<State>,
    /// Suspects are opened alone.
    opening: Arc<RwLock<()>>,
}

/// Why a content must not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    reason: String,
    /// Seconds since 1970.
    since: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    quarantined: BTreeMap<String, Entry>,
    suspects: BTreeSet<String>,
}

/// Says, while it lives, that a content is being opened. Removed by the daemon that wrote it, or found by the next one.
#[derive(Debug)]
pub(crate) struct Marker {
    quarantine: Arc<Quarantine>,
    hash: String,
    /// With a lock on it.
    written: Option<(PathBuf, File)>,
    _alone: Turn,
}

#[derive(Debug)]
#[expect(dead_code, reason = "the guards are only held")]
enum Turn {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    file: String,
    hash: String,
    pid: u32,
}

// === impl Quarantine ===

impl Quarantine {
    /// Reads what is in the directory, and judges the markers that were left there. Without one, all is forgotten with
    /// this process.
    pub(crate) fn open(directory: Option<&Path>) -> Arc<Quarantine> {
        let state = directory.map(read).unwrap_or_default();
        let directory = directory.map(Path::to_owned);
        let quarantine = Quarantine { directory, state: Mutex::new(state), opening: Arc::default() };
        quarantine.judge_the_dead();
        Arc::new(quarantine)
    }

    /// Why this content must not be opened, if so.
    pub(crate) fn is_quarantined(&self, hash: &ContentHash) -> Option<String> {
        self.state().quarantined.get(&hash.to_string()).map(|entry| entry.reason.clone())
    }

    /// Takes the content out of circulation.
    pub(crate) fn quarantine(&self, hash: &ContentHash, reason: &str) {
        self.add(&hash.to_string(), reason.to_owned());
        self.save();
    }

    /// Gives the content another chance; says whether it needed one.
    pub(crate) fn lift(&self, hash: &ContentHash) -> bool {
        let lifted = self.state().quarantined.remove(&hash.to_string()).is_some();
        if lifted {
            self.save();
        }
        lifted
    }

    /// To be called before the content is opened. The marker is to be kept until its modules run.
    pub(crate) async fn begin(self: &Arc<Self>, hash: ContentHash, file: &str) -> Marker {
        let suspect = self.state().suspects.contains(&hash.to_string());
        let turn = if suspect {
            Turn::Alone(self.opening.clone().write_owned().await)
        } else {
            Turn::Shared(self.opening.clone().read_owned().await)
        };
        let hash = hash.to_string();
        let opened = Opened { file: file.to_owned(), hash: hash.clone(), pid: std::process::id() };
        let written = match self.directory.clone() {
            None => None,
            Some(directory) => tokio::task::spawn_blocking(move || write_marker(&directory, &opened))
                .await
                .map_err(io::Error::from)
                .flatten()
                .inspect_err(|error| tracing::warn!(file, %error, "no marker can be written: it is opened without"))
                .ok(),
        };
        Marker { quarantine: self.clone(), hash, written, _alone: turn }
    }

    /// What dead daemons said they died of, and what those were loading that said nothing.
    fn judge_the_dead(&self) {
        let Some(directory) = &self.directory else { return };
        let mut left = left_behind(directory);
        for postmortem in postmortem::examine(directory) {
            if let Some(culprit) = postmortem.culprit {
                tracing::error!(file = culprit.file, hash = %culprit.hash, reason = culprit.reason, "quarantined");
                self.add(&culprit.hash.to_string(), culprit.reason);
                self.save();
                for (path, _) in left.extract_if(.., |(_, opened)| opened.pid == culprit.process) {
                    drop(fs::remove_file(path));
                }
            }
            drop(fs::remove_file(postmortem.path));
        }
        if left.is_empty() {
            return;
        }
        let alone = left.len() == 1;
        for (path, opened) in left {
            if alone {
                let reason = format!("the daemon (process {}) died while it was being loaded", opened.pid);
                tracing::error!(file = opened.file, hash = opened.hash, reason, "quarantined");
                self.add(&opened.hash, reason);
            } else {
                tracing::warn!(
                    file = opened.file,
                    "the daemon died while this and others were being loaded: suspected"
                );
                self.state().suspects.insert(opened.hash);
            }
            // After the next line the marker says nothing new.
            self.save();
            drop(fs::remove_file(path));
        }
    }

    fn add(&self, hash: &str, reason: String) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut state = self.state();
        state.suspects.remove(hash);
        state.quarantined.insert(hash.to_owned(), Entry { reason, since });
    }

    /// Writes all of it, whole or not at all.
    fn save(&self) {
        let Some(directory) = &self.directory else { return };
        let state = self.state();
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            serde_json::to_writer_pretty(&mut file, &*state)?;
            file.as_file().sync_all()?;
            file.persist(directory.join(FILE))?;
            sync(directory)
        };
        if let Err(error) = write() {
            tracing::error!(%error, "the quarantine could not be written: it holds until the daemon ends");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // Whether it runs or was refused: the daemon lives.
        let acquitted = self.quarantine.state().suspects.remove(&self.hash);
        if let Some((path, _lock)) = self.written.take() {
            if acquitted {
                self.quarantine.save();
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a marker stays");
            }
        }
    }
}

fn read(directory: &Path) -> State {
    let text = match fs::read(directory.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return State::default(),
        Err(error) => {
            tracing::error!(%error, "the quarantine cannot be read: nothing is quarantined");
            return State::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::error!(%error, "the quarantine is damaged: nothing is quarantined");
        State::default()
    })
}

fn write_marker(directory: &Path, opened: &Opened) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{MARKER}{}-{}", opened.hash, opened.pid));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    // Before there is anything in it that another daemon could judge.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    serde_json::to_writer(&mut file, opened)?;
    file.flush()?;
    file.sync_all()?;
    sync(directory)?;
    Ok((path, file))
}

/// The markers of daemons that are dead.
fn left_behind(directory: &Path) -> Vec<(PathBuf, Opened)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let markers = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(MARKER));
    let dead = markers.filter_map(|entry| {
        let file = File::open(entry.path()).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        // Half a marker is one of a daemon that died before it opened anything.
        let opened = serde_json::from_reader(&file).inspect_err(|_| drop(fs::remove_file(entry.path()))).ok()?;
        Some((entry.path(), opened))
    });
    dead.collect()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(content: u8) -> ContentHash {
        ContentHash::of(&[content])
    }

    fn reopen(directory: &tempfile::TempDir) -> Arc<Quarantine> {
        Quarantine::open(Some(directory.path()))
    }

    /// A daemon dies: its locks are gone, its files are not.
    fn die(marker: &mut Marker) {
        drop(marker.written.take());
    }

    #[test]
    fn what_is_quarantined_stays_so_over_a_restart_until_it_is_lifted() {
        let directory = tempfile::tempdir().unwrap();
        reopen(&directory).quarantine(&hash(1), "it crashed");
        let quarantine = reopen(&directory);
        assert_eq!(quarantine.is_quarantined(&hash(1)).as_deref(), Some("it crashed"));
        assert_eq!(quarantine.is_quarantined(&hash(2)), None);
        assert!(quarantine.lift(&hash(1)) && !quarantine.lift(&hash(1)));
        assert_eq!(reopen(&directory).is_quarantined(&hash(1)), None);
    }

    #[tokio::test]
    async fn the_content_that_a_daemon_died_of_is_quarantined_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let mut marker = reopen(&directory).begin(hash(1), "a.so").await;
        assert_eq!(reopen(&directory).is_quarantined(&hash(1)), None, "the one that opens it lives");
        die(&mut marker);
        let reason = reopen(&directory).is_quarantined(&hash(1)).unwrap();
        assert!(reason.contains("died while it was being loaded"), "{reason}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the marker has done its work");
    }

    #[tokio::test]
    async fn of_several_that_were_being_opened_none_is_condemned_and_each_is_then_opened_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = reopen(&directory);
        let (mut a, mut b) = (first.begin(hash(1), "a.so").await, first.begin(hash(2), "b.so").await);
        die(&mut a);
        die(&mut b);
        let second = reopen(&directory);
        assert_eq!((second.is_quarantined(&hash(1)), second.is_quarantined(&hash(2))), (None, None));
        let mut a = second.begin(hash(1), "a.so").await;
        let other = tokio::spawn({
            let second = second.clone();
            async move { second.begin(hash(3), "c.so").await }
        });
        tokio::task::yield_now().await;
        assert!(!other.is_finished(), "nobody is opened beside a suspect");
        die(&mut a);
        assert!(reopen(&directory).is_quarantined(&hash(1)).is_some());
        other.abort();
    }

    #[tokio::test]
    async fn what_runs_is_acquitted_and_leaves_no_marker() {
        let directory = tempfile::tempdir().unwrap();
        let quarantine = reopen(&directory);
        drop(quarantine.begin(hash(1), "a.so").await);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(reopen(&directory).is_quarantined(&hash(1)), None);
    }

    #[tokio::test]
    async fn without_a_directory_it_works_and_forgets() {
        let quarantine = Quarantine::open(None);
        drop(quarantine.begin(hash(1), "a.so").await);
        quarantine.quarantine(&hash(1), "so");
        assert!(quarantine.is_quarantined(&hash(1)).is_some());
    }
}

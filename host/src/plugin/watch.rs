//! What is in the plugin directory. Events of the file system are hints to look; what is seen decides.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::trust::signature_of;

/// Events that come in quick succession are one hint. Short, since a look costs microseconds. (A debouncer of events would
/// wake its thread as often, whether there are any or not.)
const DEBOUNCE: Duration = Duration::from_millis(50);

/// What tells one state of a file from another without reading it. The `ctime` also betrays a writer that restores size
/// and `mtime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) is_file: bool,
    pub(crate) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Tells one signature from another: it may come later, or be replaced. 0 without one.
    signature: u32,
}

impl Fingerprint {
    /// Of what cannot be looked at.
    pub(super) const UNREADABLE: Fingerprint =
        Fingerprint { is_file: false, size: 0, device: 0, inode: 0, modified: (0, 0), changed: (0, 0), signature: 0 };

    /// Of a file of which nothing else is known.
    #[cfg(test)]
    pub(super) fn of_size(size: u64) -> Fingerprint {
        Fingerprint { size, ..Fingerprint::UNREADABLE }
    }

    /// Of the file that a path leads to (links are followed before), and of the signature beside it.
    pub(crate) fn of(path: &Path, metadata: &fs::Metadata) -> Fingerprint {
        Fingerprint {
            signature: fs::metadata(signature_of(path)).map(|signature| mark(&signature)).unwrap_or_default(),
            is_file: metadata.is_file(),
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago the file was last changed in any way; nothing if that lies ahead.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        let nanoseconds = u32::try_from(self.changed.1).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        now.duration_since(changed).unwrap_or_default()
    }
}

/// One of some billion numbers, by what changes when a file does.
fn mark(metadata: &fs::Metadata) -> u32 {
    let mut hasher = DefaultHasher::new();
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()).hash(&mut hasher);
    hasher.finish() as u32 | 1
}

/// Looks into the directory: names of candidates and what they look like. A link that leads nowhere counts as not being
/// there.
///
/// # Errors
/// When there is no such directory, or it cannot be read: then nothing is known about any file.
pub(crate) fn scan(directory: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_candidate(&name) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => drop(seen.insert(name, Fingerprint::of(&entry.path(), &metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => drop(seen.insert(name, Fingerprint::UNREADABLE)),
        }
    }
    Ok(seen)
}

/// Whether a file of this name is meant as a plugin: `*.so`, and not hidden, as copies under way often are.
pub(crate) fn is_candidate(name: &str) -> bool {
    name.strip_suffix(".so").is_some_and(|stem| !stem.is_empty()) && !name.starts_with('.')
}

/// Tells when it is worth while to look.
pub(crate) struct Hints {
    directory: PathBuf,
    hint: Arc<Notify>,
    /// The watch, and which directory it is on: one that was removed and made again is another.
    watch: Option<(RecommendedWatcher, (u64, u64))>,
    /// When a hint that has come will have rested.
    due: Option<Instant>,
}

impl Hints {
    /// Watches the directory, if it is there.
    pub(crate) fn new(directory: &Path) -> Hints {
        let mut hints = Hints { directory: directory.to_owned(), hint: Arc::default(), watch: None, due: None };
        hints.renew();
        hints
    }

    /// Sees to it that the watch is on the directory that is there now.
    pub(crate) fn renew(&mut self) {
        let now = fs::metadata(&self.directory).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if now == self.watch.as_ref().map(|(_, watched)| *watched) {
            return;
        }
        self.watch = None;
        let Some(identity) = now else { return };
        let hint = self.hint.clone();
        // Errors are hints, too: an overflow is a reason to look.
        let tell = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                hint.notify_one();
            }
        };
        let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => {
                self.watch = Some((watcher, identity));
                // What came between the last look and the watch is not lost.
                self.hint.notify_one();
            }
            Err(error) => tracing::warn!(
                directory = %self.directory.display(),
                %error,
                "cannot watch the plugin directory; looking into it every few seconds instead"
            ),
        }
    }

    /// Waits for the next hint, and until it has rested.
    ///
    /// # Cancel safety
    /// Cancel safe: a hint that nobody waited for is kept.
    pub(crate) async fn next(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                self.hint.notified().await;
                *self.due.insert(Instant::now() + DEBOUNCE)
            }
        };
        sleep_until(due).await;
        self.due = None;
        // What came meanwhile is seen by the same look.
        self.hint.notified().now_or_never();
    }
}

/// Whether something may be different now. Looking into the directory opens and reads it, and must not lead to the next look.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hints_in_quick_succession_are_one_and_none_is_lost_with_its_wait() {
        let mut hints = Hints { directory: PathBuf::new(), hint: Arc::default(), watch: None, due: None };
        let (hint, begun) = (hints.hint.clone(), Instant::now());
        hint.notify_one();
        assert_eq!(hints.next().now_or_never(), None, "it has not rested");
        hint.notify_one();
        hints.next().await;
        assert_eq!(begun.elapsed(), DEBOUNCE);
        assert_eq!(hints.next().now_or_never(), None, "both were one");
        hint.notify_one();
        hints.next().await;
        assert_eq!(begun.elapsed(), 2 * DEBOUNCE);
    }

    #[test]
    fn what_is_only_looked_at_has_not_changed() {
        for access in [AccessKind::Read, AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read)] {
            assert!(!is_change(EventKind::Access(access)), "{access:?}");
        }
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for change in
            [written, EventKind::Create(CreateKind::File), EventKind::Modify(ModifyKind::Any), EventKind::Other]
        {
            assert!(is_change(change), "{change:?}");
        }
    }
}

//! All that outlives the process. In memory alone when there is no `--state-dir`.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use parking_lot::RwLock;
use redb::{Database, ReadableTable, TableDefinition};
use tokio::sync::oneshot;
use tracing::{error, warn};

/// Server id → its type when it showed a valid token.
const KNOWN: TableDefinition<'_, &str, &str> = TableDefinition::new("known_servers");
/// Kind and name → what is kept of it; see [`Kept`].
const KEPT: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("kept");
const FILE: &str = "muster.redb";

/// The durable state of a master.
pub(crate) struct Store {
    known: RwLock<HashSet<Known>>,
    kept: RwLock<BTreeMap<(Kept, String), String>>,
    /// `None`: nothing is durable.
    writer: Option<mpsc::Sender<(Fact, oneshot::Sender<bool>)>>,
}

/// What is kept by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    /// Plugin files that an administrator has disabled.
    DisabledPlugin,
    /// The contents, by SHA-256, of plugin files that an administrator has pinned.
    PinnedPlugin,
    /// Modules of the master that an administrator has disabled.
    DisabledModule,
    /// The highest version of a signed plugin that ran.
    HighestVersion,
}

/// What is written.
#[derive(Debug)]
enum Fact {
    Known(Known),
    /// `None` removes it.
    Kept(Kept, String, Option<String>),
}

/// A server that has shown a valid token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    id: String,
    server_type: String,
}

/// The state directory is of no use.
#[derive(Debug, thiserror::Error)]
#[error("the state directory {path}: {source}; give a directory that belongs to this user, or leave --state-dir out", path = .path.display())]
pub(crate) struct StoreError {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Store {
    /// Opens the store in `dir`, or one that forgets.
    ///
    /// # Errors
    /// When the directory or the file in it cannot be used, or another master uses it.
    pub(crate) fn open(dir: Option<&Path>) -> Result<Store, StoreError> {
        let Some(dir) = dir else {
            warn!("no --state-dir: what has to outlive this process is kept in memory");
            return Ok(Store::default());
        };
        let open = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            fs::create_dir_all(dir)?;
            let database = Database::create(dir.join(FILE))?;
            let write = database.begin_write()?;
            let known = read_known(&write.open_table(KNOWN)?)?;
            let kept = read_kept(&write.open_table(KEPT)?)?;
            write.commit()?;
            let (writer, orders) = mpsc::channel();
            std::thread::Builder::new().name("store".into()).spawn(move || write_all(&database, &orders))?;
            Ok(Store { known: RwLock::new(known), kept: RwLock::new(kept), writer: Some(writer) })
        };
        open().map_err(|source| StoreError { path: dir.to_owned(), source })
    }

    /// Whether this server has ever shown a valid token.
    pub(crate) fn is_known(&self, id: &str, server_type: &str) -> bool {
        self.known.read().contains(&Known { id: id.to_owned(), server_type: server_type.to_owned() })
    }

    /// Remembers that this server has shown a valid token; returns when that is durable.
    pub(crate) async fn remember(&self, id: &str, server_type: &str) {
        if self.is_known(id, server_type) {
            return;
        }
        let known = Known { id: id.to_owned(), server_type: server_type.to_owned() };
        if !self.write(Fact::Known(known.clone())).await {
            // The server is let in all the same: refusing a fleet because a disk is full would be worse.
            warn!(id, "not remembered durably: after a restart it has to show its token");
        }
        self.known.write().insert(known);
    }

    /// What is kept under this name.
    pub(crate) fn kept(&self, kind: Kept, name: &str) -> Option<String> {
        self.kept.read().get(&(kind, name.to_owned())).cloned()
    }

    /// All names of this kind.
    pub(crate) fn names(&self, kind: Kept) -> Vec<String> {
        self.kept.read().keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Keeps something under this name, or nothing any more. It holds at once, in the order of the calls; the future
    /// says whether it will hold after a restart.
    pub(crate) fn keep(&self, kind: Kept, name: &str, value: Option<&str>) -> impl Future<Output = bool> + use<> {
        let mut kept = self.kept.write();
        match value {
            Some(value) => drop(kept.insert((kind, name.to_owned()), value.to_owned())),
            None => drop(kept.remove(&(kind, name.to_owned()))),
        }
        // Still locked: what is written last is what holds.
        self.write(Fact::Kept(kind, name.to_owned(), value.map(str::to_owned)))
    }

    /// Says whether it was written, or need not be.
    fn write(&self, fact: Fact) -> impl Future<Output = bool> + use<> {
        let written = self.writer.as_ref().map(|writer| {
            let (done, written) = oneshot::channel();
            // A writer that is gone drops `done`, and that is heard.
            drop(writer.send((fact, done)));
            written
        });
        async move {
            match written {
                Some(written) => written.await.unwrap_or(false),
                None => true,
            }
        }
    }
}

impl Default for Store {
    /// One that forgets.
    fn default() -> Store {
        Store { known: RwLock::default(), kept: RwLock::default(), writer: None }
    }
}

impl Kept {
    const ALL: [Kept; 4] = [Kept::DisabledPlugin, Kept::PinnedPlugin, Kept::DisabledModule, Kept::HighestVersion];

    /// As it is written.
    fn key(self) -> &'static str {
        match self {
            Kept::DisabledPlugin => "disabled plugin",
            Kept::PinnedPlugin => "pinned plugin",
            Kept::DisabledModule => "disabled module",
            Kept::HighestVersion => "highest version",
        }
    }
}

/// Writes what comes, all that waits in one transaction.
fn write_all(database: &Database, orders: &mpsc::Receiver<(Fact, oneshot::Sender<bool>)>) {
    while let Ok(first) = orders.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(orders.try_iter()).collect();
        let write = || -> Result<(), Box<redb::Error>> {
            let write = database.begin_write().map_err(boxed)?;
            {
                let mut servers = write.open_table(KNOWN).map_err(boxed)?;
                let mut table = write.open_table(KEPT).map_err(boxed)?;
                for (fact, _) in &batch {
                    match fact {
                        Fact::Known(known) => {
                            servers.insert(known.id.as_str(), known.server_type.as_str()).map_err(boxed)?;
                        }
                        Fact::Kept(kind, name, Some(value)) => {
                            table.insert((kind.key(), name.as_str()), value.as_str()).map_err(boxed)?;
                        }
                        Fact::Kept(kind, name, None) => {
                            table.remove((kind.key(), name.as_str())).map_err(boxed)?;
                        }
                    }
                }
            }
            write.commit().map_err(boxed)
        };
        let written = write().inspect_err(|error| error!(%error, "the state could not be written")).is_ok();
        for (_, done) in batch {
            if done.send(written).is_err() {
                tracing::debug!("whoever registered did not wait");
            }
        }
    }
}

/// redb's errors are large, and rare.
fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}

fn read_known(table: &impl ReadableTable<&'static str, &'static str>) -> Result<HashSet<Known>, redb::StorageError> {
    let mut known = HashSet::new();
    for entry in table.iter()? {
        let (id, server_type) = entry?;
        known.insert(Known { id: id.value().to_owned(), server_type: server_type.value().to_owned() });
    }
    Ok(known)
}

/// Kinds that are not known here are left to those who wrote them.
fn read_kept(
    table: &impl ReadableTable<(&'static str, &'static str), &'static str>,
) -> Result<BTreeMap<(Kept, String), String>, redb::StorageError> {
    let mut kept = BTreeMap::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let (kind, name) = key.value();
        if let Some(kind) = Kept::ALL.into_iter().find(|known| known.key() == kind) {
            kept.insert((kind, name.to_owned()), value.value().to_owned());
        }
    }
    Ok(kept)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("durable", &self.writer.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_was_known_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        assert!(!store.is_known("chat-1", "chat"));
        store.remember("chat-1", "chat").await;
        assert!(store.is_known("chat-1", "chat"));
        drop(store);
        // The writer thread lets go of the file when the last sender is gone.
        let again = loop {
            match Store::open(Some(dir.path())) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(again.is_known("chat-1", "chat"));
        assert!(!again.is_known("chat-1", "gate"), "the type counts");
    }

    #[tokio::test]
    async fn what_is_kept_by_name_is_kept_over_a_restart_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        assert!(store.keep(Kept::DisabledPlugin, "a", Some("")).await);
        assert!(store.keep(Kept::DisabledPlugin, "b", Some("")).await);
        assert!(store.keep(Kept::HighestVersion, "a", Some("1.2.3")).await);
        assert!(store.keep(Kept::DisabledPlugin, "a", None).await);
        drop(store);
        let again = loop {
            match Store::open(Some(dir.path())) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(again.names(Kept::DisabledPlugin), ["b"]);
        assert_eq!(again.kept(Kept::HighestVersion, "a").as_deref(), Some("1.2.3"));
        assert_eq!(again.kept(Kept::DisabledModule, "a"), None);
    }

    #[tokio::test]
    async fn without_a_directory_all_works_and_is_forgotten() {
        let store = Store::open(None).unwrap();
        store.remember("chat-1", "chat").await;
        assert!(store.is_known("chat-1", "chat"));
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_a_clear_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::open(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("--state-dir"), "{error}");
    }
}

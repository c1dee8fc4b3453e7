//! All that outlives the process. In memory alone when there is no `--state-dir`.

use std::{
    collections::HashSet,
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
const FILE: &str = "muster.redb";

/// The durable state of a master.
pub(crate) struct Store {
    known: RwLock<HashSet<Known>>,
    /// `None`: nothing is durable.
    writer: Option<mpsc::Sender<(Known, oneshot::Sender<bool>)>>,
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
            return Ok(Store { known: RwLock::default(), writer: None });
        };
        let open = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            fs::create_dir_all(dir)?;
            let database = Database::create(dir.join(FILE))?;
            let write = database.begin_write()?;
            let known = read_known(&write.open_table(KNOWN)?)?;
            write.commit()?;
            let (writer, orders) = mpsc::channel();
            std::thread::Builder::new().name("store".into()).spawn(move || write_all(&database, &orders))?;
            Ok(Store { known: RwLock::new(known), writer: Some(writer) })
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
        if let Some(writer) = &self.writer {
            let (done, written) = oneshot::channel();
            if writer.send((known.clone(), done)).is_err() || !written.await.unwrap_or(false) {
                // The server is let in all the same: refusing a fleet because a disk is full would be worse.
                warn!(id, "not remembered durably: after a restart it has to show its token");
            }
        }
        self.known.write().insert(known);
    }
}

/// Writes what comes, all that waits in one transaction.
fn write_all(database: &Database, orders: &mpsc::Receiver<(Known, oneshot::Sender<bool>)>) {
    while let Ok(first) = orders.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(orders.try_iter()).collect();
        let write = || -> Result<(), Box<redb::Error>> {
            let write = database.begin_write().map_err(boxed)?;
            {
                let mut table = write.open_table(KNOWN).map_err(boxed)?;
                for (known, _) in &batch {
                    table.insert(known.id.as_str(), known.server_type.as_str()).map_err(boxed)?;
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

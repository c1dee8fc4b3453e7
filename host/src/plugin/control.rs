//! What people may order: the supervisor's desk. Orders are carried out by the supervisor's task; a file that is
//! installed is written here, beside the others and under a name that is not seen, and then renamed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::NamedTempFile;
use tokio::sync::{mpsc, oneshot, watch as published};

use super::{
    FileStatus,
    orders::Action,
    refusal::Refusal,
    supervisor::Input,
    trust::{Trust, signature_of},
    watch::is_candidate,
};

/// Names of files have 255 bytes at most; the endings and the hidden names of copies under way need some.
const LONGEST_NAME: usize = 200;

/// What can be done with a file, beside replacing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Look at it now, and tell what becomes of it.
    Look,
    /// Start a new generation of it, also if it is the same.
    Reload,
    /// Load it again.
    Enable,
    /// Unload it, and do not load it again.
    Disable,
    /// It was removed: do not wait for it to come back.
    Forget,
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("there is no plugin directory: start the master with `--plugins DIR`")]
    NoDirectory,
    #[error(
        "{0:?} is no name of a plugin: it is the file's without .so, without separators and no dot in front, of at most \
         {LONGEST_NAME} bytes"
    )]
    BadName(String),
    #[error("there is no plugin {0}: `muster plugin list` shows them")]
    NoSuchPlugin(String),
    #[error("{0} is disabled: `muster plugin enable {0}` loads it")]
    Disabled(String),
    #[error("{0} is pinned: `muster plugin unpin {0}` lets other contents be loaded")]
    Pinned(String),
    #[error("{0}")]
    Untrusted(Refusal),
    #[error("the plugin directory cannot be written: {0}")]
    Unwritable(io::Error),
}

/// The desk. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    orders: mpsc::Sender<Input>,
    pub(super) status: published::Receiver<Arc<[FileStatus]>>,
    directory: Option<PathBuf>,
    trust: Arc<Trust>,
}

impl Control {
    pub(super) fn new(
        orders: mpsc::Sender<Input>,
        status: published::Receiver<Arc<[FileStatus]>>,
        directory: Option<PathBuf>,
        trust: Arc<Trust>,
    ) -> Control {
        Control { orders, status, directory, trust }
    }

    /// What is known about each file at this moment.
    pub(crate) fn status(&self) -> Arc<[FileStatus]> {
        self.status.borrow().clone()
    }

    /// What is known about one plugin.
    ///
    /// # Errors
    /// When nothing is.
    pub(crate) fn find(&self, name: &str) -> Result<FileStatus, Denied> {
        let status = self.status();
        let found = status.iter().find(|file| file.name() == name);
        found.cloned().ok_or_else(|| Denied::NoSuchPlugin(name.to_owned()))
    }

    /// Gives an order, and waits until nothing is under way any more; `None` if there is no such file then.
    ///
    /// # Cancel safety
    /// The order stands; only its end is not heard of.
    pub(crate) async fn order(&self, name: &str, change: Change) -> Option<FileStatus> {
        let (done, settled) = oneshot::channel();
        let file = file_of(name).into();
        self.orders.send(Input::Settle { file, change, done }).await.ok()?;
        settled.await.ok().flatten()
    }

    /// Has it done at once, to the plugin of this name; tells what was done.
    ///
    /// # Errors
    /// When it cannot be done, with the reason.
    pub(crate) async fn give(&self, action: Action, name: String) -> Result<String, String> {
        let stopping = || "the daemon is stopping".to_owned();
        let (done, outcome) = oneshot::channel();
        self.orders.send(Input::Order { action, name, done }).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// A file in the directory that is not seen, for [`install`](Self::install). It is removed when it is dropped.
    ///
    /// # Errors
    /// When there is no directory, or others may write it, or it cannot be written.
    pub(crate) fn receive(&self) -> Result<NamedTempFile, Denied> {
        let directory = self.directory.as_deref().ok_or(Denied::NoDirectory)?;
        self.trust.directory(directory).map_err(Denied::Untrusted)?;
        hidden(directory).map_err(Denied::Unwritable)
    }

    /// Puts a received file, and its signature if there is one, in the place of what has this name.
    ///
    /// # Errors
    /// When that cannot be done; then the old file is untouched.
    pub(crate) fn install(&self, name: &str, file: NamedTempFile, signature: Option<&str>) -> Result<(), Denied> {
        let directory = self.directory.as_deref().ok_or(Denied::NoDirectory)?;
        place(directory, name, file, signature).map_err(Denied::Unwritable)
    }

    /// Removes the file of this name, and its signature.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Denied> {
        let directory = self.directory.as_deref().ok_or(Denied::NoDirectory)?;
        let path = directory.join(file_of(name));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Denied::Unwritable(error)),
        }
        // Without its file it signs nothing, and many have none.
        drop(fs::remove_file(signature_of(&path)));
        Ok(())
    }
}

/// Copies a file, and the signature beside it if there is one, into a plugin directory: whole, by a rename.
///
/// # Errors
/// When that cannot be done; then the old file is untouched.
pub(crate) fn copy_into(directory: &Path, name: &str, from: &Path) -> io::Result<()> {
    let mut file = hidden(directory)?;
    io::copy(&mut fs::File::open(from)?, &mut file)?;
    let signature = fs::read_to_string(signature_of(from)).ok();
    place(directory, name, file, signature.as_deref())
}

/// The name of a plugin, from what people write: with or without `.so`.
///
/// # Errors
/// When it is none.
pub(crate) fn name_of(text: &str) -> Result<&str, Denied> {
    let name = text.strip_suffix(".so").unwrap_or(text);
    let good = name.len() <= LONGEST_NAME
        && is_candidate(&file_of(name))
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control());
    if good { Ok(name) } else { Err(Denied::BadName(text.to_owned())) }
}

fn file_of(name: &str) -> String {
    format!("{name}.so")
}

fn hidden(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".install-").tempfile_in(directory)
}

fn place(directory: &Path, name: &str, file: NamedTempFile, signature: Option<&str>) -> io::Result<()> {
    let path = directory.join(file_of(name));
    // What runs is not judged anew for a signature of what comes.
    if let Some(signature) = signature {
        let mut beside = hidden(directory)?;
        beside.write_all(signature.as_bytes())?;
        publish(beside, &signature_of(&path))?;
    }
    publish(file, &path)
}

/// Shows a file under its name once all of it is on the disk.
fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_file_and_never_a_path() {
        for (text, name) in [("echo", "echo"), ("echo.so", "echo"), ("a.b-c_1", "a.b-c_1"), ("é", "é")] {
            assert_eq!(name_of(text).unwrap(), name);
        }
        let long = "x".repeat(201);
        for text in ["", ".so", ".hidden", "..", "../echo", "a/b", "/etc/a.so", "a\\b", "a\0", "a\nb", long.as_str()] {
            assert!(matches!(name_of(text), Err(Denied::BadName(_))), "{text:?}");
        }
    }

    #[test]
    fn a_copy_is_never_seen_half_and_takes_its_signature_along() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        fs::write(from.path().join("new.so"), "library").unwrap();
        fs::write(from.path().join("new.so.minisig"), "signature").unwrap();
        copy_into(to.path(), "echo", &from.path().join("new.so")).unwrap();
        let mut names: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["echo.so", "echo.so.minisig"], "nothing else is left");
        assert_eq!(fs::read(to.path().join("echo.so")).unwrap(), b"library");
        assert!(copy_into(&to.path().join("missing"), "echo", &from.path().join("new.so")).is_err());
    }
}

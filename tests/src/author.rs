//! Somebody who writes a plugin: a crate outside of this workspace, cargo, and the commands for authors.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::cli::{Finished, muster, muster_within};
use crate::daemon::target_dir;
use crate::deadline::within;

/// How long a build may take: the first one builds the dependencies, and others wait for it.
pub const BUILD: Duration = Duration::from_secs(900);

/// The interface that is under test.
pub fn plugin_api() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api");
    path.canonicalize().expect("this workspace has the crate")
}

/// A crate of a plugin, of which cargo's output is shared with other tests.
#[derive(Debug)]
pub struct Author {
    /// The crate's directory.
    pub directory: PathBuf,
    name: String,
    _temporary: Option<TempDir>,
}

impl Author {
    /// Has `muster plugin new` write a crate.
    pub async fn begin(name: &str, template: &str) -> Self {
        let temporary = TempDir::with_prefix("muster-test-author-").expect("a temporary directory can be made");
        let directory = temporary.path().join(name);
        let (place, api) = (text(&directory), text(&plugin_api()));
        let done = muster(&["plugin", "new", &place, "--template", template, "--api-path", &api]).await;
        assert_eq!(done.code, 0, "{done:?}");
        Self { directory, name: name.to_owned(), _temporary: Some(temporary) }
    }

    /// A crate that is there already.
    pub fn of(directory: PathBuf, name: &str) -> Self {
        Self { directory, name: name.to_owned(), _temporary: None }
    }

    /// Cargo in the crate's directory.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null()).kill_on_drop(true);
        // As outside of this workspace, less debug information that nobody looks at.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PROFILE") || name == "RUSTFLAGS") {
            command.env_remove(name);
        }
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_TARGET_DIR", target());
        command
    }

    /// Runs cargo to its end, which has to be good.
    pub async fn builds(&self, arguments: &[&str]) {
        let output = within(&format!("cargo {arguments:?}"), BUILD, self.cargo(arguments).output()).await;
        let output = output.expect("cargo can be started");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "cargo {arguments:?} in {}:\n{said}", self.directory.display());
    }

    /// The library that `cargo build` makes.
    pub fn library(&self) -> String {
        text(&target().join(format!("debug/lib{}.so", self.name.replace('-', "_"))))
    }

    /// Changes the source.
    ///
    /// # Panics
    /// When `from` is not in it.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.directory.join("src/lib.rs");
        let source = std::fs::read_to_string(&path).expect("a crate has a source");
        assert!(source.contains(from), "{from} is not in {}", path.display());
        std::fs::write(&path, source.replacen(from, to, 1)).expect("the source can be written");
    }
}

/// Runs `muster plugin COMMAND FILE -o json`; its exit code, and what it found.
pub async fn tried(command: &str, file: &str) -> (i32, serde_json::Value) {
    let done: Finished = muster_within(BUILD, &[], &["plugin", command, file, "-o", "json"]).await;
    (done.code, done.json())
}

/// Where crates outside of this workspace are built.
fn target() -> PathBuf {
    target_dir().join("third-party")
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths of tests are text").to_owned()
}

//! The files of a pomelo application, as the recordings used them, in a directory that goes away with its test.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Server types that have a token in [`ConfigDir::recorded`].
pub const SERVER_TYPES: [&str; 5] = ["connector", "chat", "gate", "test", "area"];

/// The token that [`ConfigDir::recorded`] wants from monitors of this type.
pub fn token_for(server_type: &str) -> String {
    format!("token-for-{server_type}")
}

/// A directory with configuration files.
#[derive(Debug)]
pub struct ConfigDir {
    /// The application; its files are in `config`, where pomelo wants them.
    app: TempDir,
}

impl ConfigDir {
    /// No files: every server is accepted, and no user.
    pub fn empty() -> Self {
        let app = TempDir::with_prefix("muster-config-").expect("a temporary directory can be made");
        std::fs::create_dir(app.path().join("config")).expect("a directory can be made in a temporary directory");
        Self { app }
    }

    /// As in the recordings: users `admin` (level 1) and `monitor` (level 2), whose passwords are their
    /// names, and a token for each of [`SERVER_TYPES`].
    pub fn recorded() -> Self {
        let tokens: Vec<Value> =
            SERVER_TYPES.iter().map(|name| json!({"type": name, "token": token_for(name)})).collect();
        Self::empty().with_users().with("adminServer.json", &Value::Array(tokens))
    }

    /// Adds the two users and nothing else, so that servers need no token.
    pub fn with_users(self) -> Self {
        let user =
            |id: &str, name: &str, level: u32| json!({"id": id, "username": name, "password": name, "level": level});
        let users = json!([user("user-1", "admin", 1), user("user-2", "monitor", 2)]);
        self.with("adminUser.json", &users)
    }

    /// Adds a file.
    pub fn with(self, name: &str, content: &Value) -> Self {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a directory can be made in a temporary directory");
        }
        std::fs::write(path, content.to_string()).expect("a file can be written to a temporary directory");
        self
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.app.path().join("config")
    }
}

//! Editing adminUser.json: what is there and unknown to us stays, in its order.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::Password;

/// The name of the file, in the configuration directory or in a folder named after the environment.
const NAME: &str = "adminUser.json";

/// A user, as lists show them: how their password is kept, and never what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) username: String,
    pub(crate) level: Value,
    pub(crate) kept: &'static str,
}

/// The file, read.
#[derive(Debug)]
pub(crate) struct UsersFile {
    path: PathBuf,
    content: Value,
    /// Where the users are, if the file is keyed by environments.
    env: Option<String>,
}

/// Why it cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    #[error("{what} {path}", path = .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not JSON", path = .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path} holds no list of users{keyed}", path = .path.display(), keyed = keyed(.env))]
    NoList { path: PathBuf, env: Option<String> },
    #[error("there is a user {0} already")]
    Exists(String),
    #[error("there is no user {0}")]
    Unknown(String),
    #[error("an empty password is none")]
    Empty,
    #[error("the password cannot be hashed")]
    Hash(#[source] io::Error),
}

fn keyed(env: &Option<String>) -> String {
    env.as_ref().map(|env| format!(" under {env:?}")).unwrap_or_default()
}

impl UsersFile {
    /// Reads the file where the master finds it; an empty one if there is none.
    pub(crate) fn open(dir: &Path, env: &str) -> Result<UsersFile, UsersError> {
        for path in [dir.join(NAME), dir.join(env).join(NAME)] {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(UsersError::File { what: "cannot read", path, source }),
            };
            let content = serde_json::from_str(text.trim_start_matches('\u{feff}'));
            let content: Value = content.map_err(|source| UsersError::Json { path: path.clone(), source })?;
            let env = content.get(env).is_some().then(|| env.to_owned());
            let file = UsersFile { path, content, env };
            return if file.users().is_some() {
                Ok(file)
            } else {
                Err(UsersError::NoList { path: file.path, env: file.env })
            };
        }
        Ok(UsersFile { path: dir.join(NAME), content: json!([]), env: None })
    }

    /// Everybody in it.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let users = self.users().map_or(&[][..], Vec::as_slice).iter();
        let kept = |user: &Value| match user["password"].as_str().and_then(Password::of) {
            Some(Password::Hashed(hash)) if hash.of_md5() => "argon2",
            Some(Password::Hashed(_)) => "argon2, for logins without md5",
            Some(Password::Plain(_)) => "plain text",
            None => "not at all",
        };
        let entry =
            |user: &Value| Entry { username: name(user).to_owned(), level: user["level"].clone(), kept: kept(user) };
        users.map(entry).collect()
    }

    /// Adds somebody.
    pub(crate) fn add(&mut self, username: &str, level: u32, password: &str) -> Result<(), UsersError> {
        if self.find(username).is_some() {
            return Err(UsersError::Exists(username.to_owned()));
        }
        let password = hash(password)?;
        let Some(users) = self.users_mut() else { return Err(UsersError::Unknown(username.to_owned())) };
        let taken = |id: &String| users.iter().any(|user| user["id"] == **id);
        let id = (1..).map(|number| format!("user-{number}")).find(|id| !taken(id));
        users.push(json!({ "id": id, "username": username, "password": password, "level": level }));
        Ok(())
    }

    /// Gives somebody another password.
    pub(crate) fn set_password(&mut self, username: &str, password: &str) -> Result<(), UsersError> {
        let password = hash(password)?;
        let user = self.find(username).ok_or_else(|| UsersError::Unknown(username.to_owned()))?;
        user.insert("password".to_owned(), password.into());
        Ok(())
    }

    /// Whether somebody is in it.
    pub(crate) fn has(&mut self, username: &str) -> bool {
        self.find(username).is_some()
    }

    /// Puts the file into place in one step, with the owner and mode that it had; a new one is its owner's alone.
    pub(crate) fn save(&self) -> Result<&Path, UsersError> {
        self.replace().map_err(|source| UsersError::File { what: "cannot write", path: self.path.clone(), source })?;
        Ok(&self.path)
    }

    fn replace(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::with_prefix_in(".adminUser-", dir)?;
        serde_json::to_writer_pretty(&mut file, &self.content)?;
        file.write_all(b"\n")?;
        if let Ok(before) = fs::metadata(&self.path) {
            file.as_file().set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
            // Whoever may not give files away keeps it as their own; the daemon's user could not read it then.
            if before.uid() != file.as_file().metadata()?.uid() {
                std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()))?;
            }
        }
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        fs::File::open(dir)?.sync_all()
    }

    fn users(&self) -> Option<&Vec<Value>> {
        let list = self.env.as_ref().map_or(Some(&self.content), |env| self.content.get(env));
        list?.as_array()
    }

    fn users_mut(&mut self) -> Option<&mut Vec<Value>> {
        let list = match &self.env {
            Some(env) => self.content.get_mut(env)?,
            None => &mut self.content,
        };
        list.as_array_mut()
    }

    fn find(&mut self, username: &str) -> Option<&mut Map<String, Value>> {
        self.users_mut()?.iter_mut().find(|user| name(user) == username)?.as_object_mut()
    }
}

fn name(user: &Value) -> &str {
    user["username"].as_str().unwrap_or_default()
}

fn hash(password: &str) -> Result<String, UsersError> {
    if password.is_empty() {
        return Err(UsersError::Empty);
    }
    Password::hash(password).map_err(UsersError::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_stays_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"other":[1],"production":[{"zeta":1,"username":"a","level":1,"password":"x","alpha":[2]}]}"#;
        fs::write(dir.path().join(NAME), text).unwrap();
        fs::set_permissions(dir.path().join(NAME), fs::Permissions::from_mode(0o640)).unwrap();
        let mut file = UsersFile::open(dir.path(), "production").unwrap();
        assert!(matches!(file.add("a", 1, "y"), Err(UsersError::Exists(_))));
        assert!(matches!(file.set_password("b", "y"), Err(UsersError::Unknown(_))));
        assert!(matches!(file.set_password("a", ""), Err(UsersError::Empty)));
        file.set_password("a", "y").unwrap();
        file.add("b", 2, "z").unwrap();
        let path = file.save().unwrap().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let written = fs::read_to_string(&path).unwrap();
        let order: Vec<usize> = ["other", "production", "zeta", "username", "level", "password", "alpha", "user-1"]
            .map(|key| written.find(key).unwrap())
            .to_vec();
        assert!(order.is_sorted(), "{written}");
        assert!(!written.contains("\"x\"") && written.matches("$argon2id$").count() == 2, "{written}");
        let again = UsersFile::open(dir.path(), "production").unwrap();
        let shown: Vec<_> = again.entries().into_iter().map(|entry| (entry.username, entry.kept)).collect();
        assert_eq!(shown, [("a".to_owned(), "argon2"), ("b".to_owned(), "argon2")]);
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_a_broken_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = UsersFile::open(dir.path(), "development").unwrap();
        file.add("a", 1, "x").unwrap();
        let path = file.save().unwrap().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        for broken in ["[", "{}", "7"] {
            fs::write(&path, broken).unwrap();
            assert!(UsersFile::open(dir.path(), "development").is_err(), "{broken}");
        }
    }
}

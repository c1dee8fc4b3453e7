//! pomelo's own files: users, tokens, the master's address and the servers of a fleet.
//!
//! Each is looked for in the configuration directory, then in `<env>/` below it. A file may be keyed by environment at
//! the top (`{"production": …}`), as pomelo's templates are, or not: both are understood in both places.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    defaults,
    fault::{Fault, FaultList, Origin, Problem},
    password::Password,
    value::{Address, Secret},
};
use crate::ids::ServerId;

/// Everything that the files say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    /// adminUser.json; without it nobody can log in.
    pub users: Users,
    /// adminServer.json; without it every server may register.
    pub tokens: Option<Tokens>,
    /// master.json.
    pub master: Option<MasterInfo>,
    /// servers.json; without it empty.
    pub servers: Servers,
    /// crons.json; without it empty.
    pub crons: Crons,
}

/// The crons of servers, by id or type: whatever the file says of each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Crons(BTreeMap<String, Vec<Map<String, Value>>>);

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Users(Vec<User>);

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Empty if the file has none.
    pub id: String,
    /// The name to log in with.
    pub username: String,
    /// As pomelo keeps it, plain, or as a hash.
    pub password: Password,
    /// 1 may do everything; 0 stands for none.
    pub level: u32,
}

/// Which servers may register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

/// What servers of a type show to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Such as `connector`.
    pub server_type: String,
    /// What they show.
    pub token: Secret,
}

/// The master of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterInfo {
    /// The id of its own monitor.
    pub id: ServerId,
    /// Where it listens.
    pub address: Address,
}

/// The servers of a fleet, by type: whatever the file says of each, always with `id` and `serverType`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Servers(BTreeMap<String, Vec<Map<String, Value>>>);

impl From<Vec<User>> for Users {
    fn from(users: Vec<User>) -> Users {
        Users(users)
    }
}

impl From<Vec<Token>> for Tokens {
    fn from(tokens: Vec<Token>) -> Tokens {
        Tokens(tokens)
    }
}

impl Users {
    /// The user with this name.
    pub fn find(&self, username: &str) -> Option<&User> {
        self.0.iter().find(|user| user.username == username)
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.0.iter()
    }
}

impl Tokens {
    /// Whether a server of this type may register with this token. Compared in constant time.
    pub fn accept(&self, server_type: &str, given: &str) -> bool {
        self.of(server_type).any(|token| token.matches(given))
    }

    /// What a server of this type shows.
    pub fn first_of(&self, server_type: &str) -> Option<&Secret> {
        self.of(server_type).next()
    }

    fn of<'a, 'b>(&'a self, server_type: &'b str) -> impl Iterator<Item = &'a Secret> + use<'a, 'b> {
        self.0.iter().filter(move |token| token.server_type == server_type).map(|token| &token.token)
    }
}

impl Crons {
    /// Those of a server: of its type, then its own.
    pub fn of<'a>(&'a self, id: &str, server_type: &str) -> impl Iterator<Item = &'a Map<String, Value>> + use<'a> {
        let named = |name: &str| self.0.get(name).into_iter().flatten();
        named(server_type).chain(named(id))
    }
}

impl Servers {
    /// All servers; the type is in `serverType`.
    pub fn iter(&self) -> impl Iterator<Item = &Map<String, Value>> {
        self.0.values().flatten()
    }

    /// Those of a type.
    pub fn of_type(&self, server_type: &str) -> &[Map<String, Value>] {
        self.0.get(server_type).map_or(&[], Vec::as_slice)
    }

    /// The server with this id.
    pub fn find(&self, id: &str) -> Option<&Map<String, Value>> {
        self.iter().find(|server| server.get("id").and_then(Value::as_str) == Some(id))
    }

    /// Adds what the configuration itself says of servers, in the form of servers.json. An id that is there already is
    /// replaced.
    pub(super) fn extend(&mut self, types: Map<String, Value>, faults: &FaultList) {
        let file = File { path: PathBuf::from("[fleet]"), content: Value::Object(types), faults };
        for (server_type, added) in servers(&file).0 {
            for info in added {
                let id = info.get("id").cloned();
                self.0.values_mut().for_each(|of_type| of_type.retain(|known| known.get("id").cloned() != id));
                self.0.entry(server_type.clone()).or_default().push(info);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === reading ===

impl Fleet {
    /// Reads the files that are there. What is wrong is noted and left out.
    pub(super) fn read(dir: &Path, env: &str, faults: &FaultList) -> Fleet {
        if !dir.is_dir() {
            let problem = Problem::Unreadable("is not a directory; it should hold adminUser.json and the like".into());
            faults.add(Fault { origin: Some(Origin::file(dir, None)), key: Some("config_dir".to_owned()), problem });
            return Fleet::default();
        }
        let find = |name| File::find(dir, env, name, faults);
        Fleet {
            users: find("adminUser.json").map(|file| Users(file.list(user))).unwrap_or_default(),
            tokens: find("adminServer.json").map(|file| Tokens(file.list(token))),
            master: find("master.json").and_then(|file| master(&file)),
            servers: find("servers.json").map(|file| servers(&file)).unwrap_or_default(),
            crons: find("crons.json").map(|file| crons(&file)).unwrap_or_default(),
        }
    }
}

/// A file, read; its content is that of the environment if it is keyed by environments.
struct File<'a> {
    path: PathBuf,
    content: Value,
    faults: &'a FaultList,
}

/// An object in a file.
struct Entry<'a> {
    file: &'a File<'a>,
    place: String,
    fields: &'a Map<String, Value>,
}

impl<'a> File<'a> {
    fn find(dir: &Path, env: &str, name: &str, faults: &'a FaultList) -> Option<File<'a>> {
        for path in [dir.join(name), dir.join(env).join(name)] {
            let unreadable = |line, reason: String| {
                let problem = Problem::Unreadable(reason);
                faults.add(Fault { origin: Some(Origin::file(&path, line)), key: None, problem });
                // A file that is there and broken is not one that is absent: without users nobody gets in, without
                // tokens everybody would. The fault keeps the daemon from starting.
                Some(File { path: path.clone(), content: Value::Null, faults })
            };
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return unreadable(None, format!("cannot be read: {error}")),
            };
            // Editors on other systems put a mark there.
            return match serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}')) {
                Ok(Value::Object(mut keyed)) if keyed.contains_key(env) => {
                    Some(File { path, content: keyed.remove(env).unwrap_or_default(), faults })
                }
                Ok(content) => Some(File { path, content, faults }),
                Err(error) => unreadable(Some(error.line()), format!("is not JSON: {error}")),
            };
        }
        None
    }

    /// Reads an array of objects.
    fn list<T>(&self, read: impl Fn(&Entry<'_>) -> Option<T>) -> Vec<T> {
        match &self.content {
            Value::Array(items) => self.entries("", items).filter_map(|entry| read(&entry)).collect(),
            Value::Null => Vec::new(),
            other => {
                self.expected("", "a list of objects, or one under the name of the environment", other);
                Vec::new()
            }
        }
    }

    fn entries(&'a self, place: &str, items: &'a [Value]) -> impl Iterator<Item = Entry<'a>> {
        items.iter().enumerate().filter_map(move |(at, item)| {
            let place = format!("{place}[{at}]");
            match item {
                Value::Object(fields) => Some(Entry { file: self, place, fields }),
                other => {
                    self.expected(&place, "an object", other);
                    None
                }
            }
        })
    }

    /// Says of which kind a value is, and never what it is: it may be a secret.
    fn expected(&self, place: &str, expected: &str, found: &Value) {
        let found = match found {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(text) if text.is_empty() => "an empty text",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.faults.add(Fault {
            origin: Some(Origin::file(&self.path, None)),
            key: (!place.is_empty()).then(|| place.to_owned()),
            problem: Problem::Expected { expected: expected.to_owned(), found: found.to_owned() },
        });
    }
}

impl Entry<'_> {
    fn field<T>(&self, name: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let found = self.fields.get(name).unwrap_or(&Value::Null);
        let value = read(found);
        if value.is_none() {
            let place = if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) };
            self.file.expected(&place, expected, found);
        }
        value
    }

    fn text(&self, name: &str) -> Option<String> {
        self.field(name, "a text", text)
    }
}

/// A text that is not empty. JavaScript compares `1` with `"1"` happily, so numbers are taken for texts.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number, perhaps in quotes.
fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    let number = match value {
        Value::String(text) => text.parse().ok()?,
        value => value.as_u64()?,
    };
    T::try_from(number).ok()
}

fn user(entry: &Entry<'_>) -> Option<User> {
    let level = |value: &Value| if value.is_null() { Some(0) } else { number(value) };
    // All three are looked at, so that all faults are noted.
    let words = "a hash of argon2 such as `muster user passwd` makes, or a password that does not look like one";
    let (username, password) = (entry.text("username"), entry.text("password"));
    let password = password.and_then(|text| entry.field("password", words, |_| Password::of(&text)));
    let level = entry.field("level", "a whole number, 1 for administrators", level);
    let id = entry.fields.get("id").and_then(text).unwrap_or_default();
    Some(User { id, username: username?, password: password?, level: level? })
}

fn token(entry: &Entry<'_>) -> Option<Token> {
    let (server_type, token) = (entry.text("type"), entry.text("token"));
    Some(Token { server_type: server_type?, token: Secret::from(token?) })
}

fn master(file: &File<'_>) -> Option<MasterInfo> {
    let expected = "an object with host and port, or one under the name of the environment";
    let fields = match &file.content {
        Value::Object(fields) if fields.contains_key("port") || fields.contains_key("host") => fields,
        Value::Null => return None,
        other => {
            file.expected("", expected, other);
            return None;
        }
    };
    let entry = Entry { file, place: String::new(), fields };
    let (host, port) = (entry.text("host"), entry.field("port", "a port number", number));
    let id = entry.fields.get("id").and_then(text).unwrap_or_else(|| defaults::MASTER_ID.to_owned());
    Some(MasterInfo { id: ServerId::from(id), address: Address::new(host?, port?) })
}

fn servers(file: &File<'_>) -> Servers {
    let types = match &file.content {
        Value::Object(types) => types,
        Value::Null => return Servers::default(),
        other => {
            file.expected("", "an object: server type to list of servers", other);
            return Servers::default();
        }
    };
    let mut servers = BTreeMap::new();
    for (server_type, items) in types {
        let Value::Array(items) = items else {
            file.expected(server_type, "a list of servers (is this environment in the file?)", items);
            continue;
        };
        let of_type = file.entries(server_type, items).filter_map(|entry| {
            let id = entry.text("id")?;
            let mut info = entry.fields.clone();
            info.insert("id".to_owned(), id.into());
            info.insert("serverType".to_owned(), server_type.as_str().into());
            Some(info)
        });
        servers.insert(server_type.clone(), of_type.collect());
    }
    Servers(servers)
}

fn crons(file: &File<'_>) -> Crons {
    let names = match &file.content {
        Value::Object(names) => names,
        Value::Null => return Crons::default(),
        other => {
            file.expected("", "an object: server id or type to list of crons", other);
            return Crons::default();
        }
    };
    let mut crons = BTreeMap::new();
    for (name, items) in names {
        let Value::Array(items) = items else {
            file.expected(name, "a list of crons (is this environment in the file?)", items);
            continue;
        };
        let of_name = file.entries(name, items).filter_map(|entry| {
            // All are looked at, so that all faults are noted.
            let found = ["id", "time", "action"].map(|field| entry.text(field));
            found.iter().all(Option::is_some).then(|| entry.fields.clone())
        });
        crons.insert(name.clone(), of_name.collect());
    }
    Crons(crons)
}

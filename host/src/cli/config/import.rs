//! From an application of pomelo to a configuration: what is there is used where it is, and what has no counterpart is
//! told.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    cli::{CliError, shown::Shown},
    config::{MasterConfig, Password, Sources},
};

/// Files of pomelo that say nothing to us, and what takes their place.
const NOT_TAKEN: [(&str, &str); 4] = [
    ("log4js.json", "logs are configured in [log]"),
    ("masterha.json", "there is no second master"),
    ("adminServer.js", "tokens are read from adminServer.json only"),
    ("adminUser.js", "users are read from adminUser.json only"),
];

/// Fields of a server that Node alone understands.
const OF_NODE: [&str; 1] = ["args"];

pub(super) fn run(dir: &Path, to: &Path, env: &str, force: bool) -> Result<Shown, CliError> {
    let config_dir = [dir.join("config"), dir.to_owned()].into_iter().find(|dir| dir.join("master.json").exists());
    let config_dir = config_dir.ok_or(io::ErrorKind::NotFound.into()).and_then(fs::canonicalize);
    let config_dir = config_dir.map_err(|error| failed("cannot find pomelo's master.json in", dir, error))?;
    let text = toml_of(&config_dir, env);
    write(to, &text, force)?;
    // What is written is what a master would be started with.
    let config = MasterConfig::load(Sources::new().file(Some(to.to_owned())))?;
    let servers = config.daemon.fleet.servers.len();
    let users = config.daemon.fleet.users.iter().count();
    let notes = notes(&config_dir, env, &config);
    let mut told = vec![format!(
        "{} is written: a master at {} with {servers} servers and {users} users ({env})",
        to.display(),
        config.listen
    )];
    told.extend(notes.iter().map(|note| format!("not taken over: {note}")));
    told.push(format!("start it: muster master --config {} --plugins DIR --state-dir DIR", to.display()));
    let json = json!({ "file": to, "servers": servers, "users": users, "notTakenOver": notes });
    Ok(Shown::Sentence(told.join("\n"), json))
}

fn toml_of(config_dir: &Path, env: &str) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    format!(
        "# For the application in {dir}, whose files are read where they are:\n\
         # adminUser.json, adminServer.json, master.json and servers.json.\n\
         env = {env}\n\
         config_dir = {path}\n\
         # Without it the state is in memory, and which servers are known is forgotten at a restart.\n\
         #state_dir = \"/var/lib/muster\"\n\n\
         [plugins]\n\
         #dir = \"/usr/lib/muster/plugins\"\n\n\
         # While a running Node fleet moves over: its servers come back without their tokens.\n\
         [auth]\n\
         #reconnect = \"open\"\n",
        dir = config_dir.display(),
        env = quoted(env),
        path = quoted(&config_dir.to_string_lossy()),
    )
}

fn notes(config_dir: &Path, env: &str, config: &MasterConfig) -> Vec<String> {
    let has = |name: &&(&str, &str)| config_dir.join(name.0).exists() || config_dir.join(env).join(name.0).exists();
    let mut notes: Vec<String> =
        NOT_TAKEN.iter().filter(has).map(|(name, instead)| format!("{name}: {instead}")).collect();
    let fleet = &config.daemon.fleet;
    for field in OF_NODE {
        let count = fleet.servers.iter().filter(|server| server.contains_key(field)).count();
        if count > 0 {
            notes.push(format!("servers.json: {field:?} of {count} servers is for Node"));
        }
    }
    let plain = fleet.users.iter().filter(|user| matches!(user.password, Password::Plain(_))).count();
    if plain > 0 {
        notes.push(format!("adminUser.json: {plain} passwords stay in plain text until `muster user passwd NAME`"));
    }
    if fleet.tokens.is_none() {
        notes.push("adminServer.json is not there: every server may register, as before".to_owned());
    }
    let crons = [config_dir.join("crons.json"), config_dir.join(env).join("crons.json")];
    if crons.iter().any(|path| path.exists()) {
        notes.push(
            "crons.json: servers of pomelo read it themselves, monitors with this --config-dir run theirs of it"
                .to_owned(),
        );
    }
    notes
}

fn write(to: &Path, text: &str, force: bool) -> Result<(), CliError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let written = options.open(to).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            CliError::Usage(format!("{} is there already; --force writes over it", to.display()))
        }
        _ => failed("cannot write", to, error),
    })
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> CliError {
    CliError::File { what, path: path.to_owned(), source }
}

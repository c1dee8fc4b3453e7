//! `muster user`: who may log in, in the file that the master reads. Passwords come from the terminal or standard input,
//! never from the command line, which everybody on the machine can read.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    CliError,
    ask::Output,
    render::{self, cell},
    shown::{Listing, Row, Shown},
};
use crate::config::{
    defaults,
    users::{Entry, UsersError, UsersFile},
};

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// List the users: their levels, and how their passwords are kept
    List(Place),
    /// Add a user; the password is asked for, or the first line of standard input
    Add {
        /// The name to log in with
        name: String,
        /// 1 may give every command, 2 and more only look, unless the master's roles say otherwise
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        level: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Give a user another password, kept as a hash with which pomelo-cli can log in as well
    Passwd {
        /// The name to log in with
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the file is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory of adminUser.json
    #[arg(long, value_name = "DIR", env = "MUSTER_CONFIG_DIR", default_value = "config")]
    config_dir: PathBuf,
    /// Environment, which chooses the part of the file that counts
    #[arg(long, value_name = "NAME", env = "MUSTER_ENV", default_value = defaults::ENV)]
    env: String,
    /// How to show the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl UserCommand {
    pub(super) fn output(&self) -> Output {
        match self {
            UserCommand::List(place) | UserCommand::Add { place, .. } | UserCommand::Passwd { place, .. } => {
                place.output
            }
        }
    }
}

pub(super) fn run(command: UserCommand) -> Result<Shown, CliError> {
    match command {
        UserCommand::List(place) => Ok(listed(place.open()?.entries())),
        UserCommand::Add { name, level, place } => {
            let mut file = place.open()?;
            if file.has(&name) {
                return Err(UsersError::Exists(name).into());
            }
            file.add(&name, level, &password(&name)?)?;
            saved(&file, &name, "added")
        }
        UserCommand::Passwd { name, place } => {
            let mut file = place.open()?;
            if !file.has(&name) {
                return Err(UsersError::Unknown(name).into());
            }
            file.set_password(&name, &password(&name)?)?;
            saved(&file, &name, "changed")
        }
    }
}

impl Place {
    fn open(&self) -> Result<UsersFile, CliError> {
        Ok(UsersFile::open(&self.config_dir, &self.env)?)
    }
}

fn saved(file: &UsersFile, name: &str, what: &str) -> Result<Shown, CliError> {
    let path = file.save()?.display().to_string();
    let text = format!("{} is {what} in {path}; a master that runs reads it at SIGHUP", render::printable(name));
    Ok(Shown::Sentence(text, json!({ "user": name, "file": path })))
}

fn listed(entries: Vec<Entry>) -> Shown {
    let row = |Entry { username, level, kept }: Entry| Row {
        item: json!({ "username": username, "level": level, "password": kept }),
        cells: vec![username, cell(&level), kept.to_owned()],
    };
    let header = vec!["USER", "LEVEL", "PASSWORD"];
    Shown::Listing(Listing { header, rows: entries.into_iter().map(row).collect(), ..Listing::default() })
}

fn password(name: &str) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(CliError::Output)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let ask = |prompt: String| rpassword::prompt_password(prompt).map_err(CliError::Output);
    let first = ask(format!("password of {}: ", render::printable(name)))?;
    if first != ask("once more: ".to_owned())? {
        return Err(CliError::Usage("the passwords differ".to_owned()));
    }
    Ok(first)
}

//! `[start]`: how a master starts servers.

use std::path::{Path, PathBuf};

use super::{defaults, section::Section};

/// `[start]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartConfig {
    /// The words of the command: `{name}` in one stands for a field of the server, `{env}` for the environment; the word
    /// `{fields}` for all fields as `key=value`, `{args}` for what servers.json says in `args`.
    pub command: Vec<String>,
    /// Where it is run: as configured, else the directory above `config_dir`, as in a pomelo application.
    pub dir: Option<PathBuf>,
    /// What reaches another machine, before its name.
    pub ssh: Vec<String>,
}

pub(super) fn start_section(mut section: Section<'_>, config_dir: Option<&Path>) -> StartConfig {
    let words = |given: Vec<String>, default: &[&str]| {
        if given.is_empty() { default.iter().map(|word| (*word).to_owned()).collect() } else { given }
    };
    let above = || config_dir?.canonicalize().ok()?.parent().map(Path::to_owned);
    let start = StartConfig {
        command: words(section.command("command"), &defaults::START_COMMAND),
        dir: section.text("dir").map(PathBuf::from).or_else(above),
        ssh: words(section.command("ssh"), &defaults::START_SSH),
    };
    section.finish();
    start
}

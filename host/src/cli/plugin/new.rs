//! `muster plugin new`: a crate outside of this workspace, from what is embedded here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use crate::cli::CliError;

/// The crate that plugins are built with.
const API: &str = "muster-plugin-api";

/// Arguments of `muster plugin new`.
#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Name of the crate, which is also the id of its module; or a directory to be made, that ends in it
    #[arg(value_name = "NAME")]
    directory: PathBuf,
    /// What to begin with
    #[arg(long, value_enum, default_value_t = Template::Minimal)]
    template: Template,
    /// Directory of the crate muster-plugin-api [default: that of the checkout that this program was built in]
    #[arg(long, value_name = "DIR", conflicts_with = "api_git")]
    api_path: Option<PathBuf>,
    /// Git repository with the crate muster-plugin-api
    #[arg(long, value_name = "URL")]
    api_git: Option<String>,
}

/// What a new plugin begins with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Template {
    /// Answers: the smallest module
    Minimal,
    /// Collects a figure of every server at an interval
    Periodic,
    /// Commands for clients: levels, typed messages, questions to servers
    ClientFacing,
}

/// Why there is no new crate.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NewError {
    #[error(
        "{0:?} is no name for a crate: letters, digits, `-` and `_`, a letter first; it becomes the module id as well"
    )]
    Name(String),
    #[error("{0} is there already: choose another name, or remove it")]
    Exists(PathBuf),
    #[error("{0} is no directory of the crate {API}: give that of a checkout of Muster, or its plugin-api")]
    NotTheApi(PathBuf),
    #[error("this program does not lie in a checkout of Muster: say with --api-path or --api-git where {API} is")]
    NoApi,
    #[error("cannot write {path}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

impl New {
    /// Writes the crate, and says how to go on.
    pub(super) fn run(self) -> Result<String, CliError> {
        let New { directory, template, api_path, api_git } = self;
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !is_crate_name(&name) {
            return Err(NewError::Name(name).into());
        }
        let api = match (api_path, api_git) {
            (_, Some(url)) => format!("git = {}", quoted(&url)),
            (Some(path), None) => dependency(&crate_at(&path).ok_or(NewError::NotTheApi(path))?),
            (None, None) => dependency(&own_checkout().ok_or(NewError::NoApi)?),
        };
        if directory.exists() {
            return Err(NewError::Exists(directory).into());
        }
        for (file, content) in template.files(&name, &api) {
            let path = directory.join(file);
            let parent = path.parent().unwrap_or(&directory);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, content))
                .map_err(|error| NewError::Write(path.clone(), error))?;
        }
        let shown = directory.display();
        Ok(format!("{shown} is written; go on with\n  cd {shown} && cargo test\n  muster plugin dev {shown}"))
    }
}

impl Template {
    fn files(self, name: &str, api: &str) -> [(&'static str, String); 5] {
        let (code, what, call) = match self {
            Template::Minimal => (include_str!("templates/minimal/lib.rs"), "it answers", "{}"),
            Template::Periodic => (
                include_str!("templates/periodic/lib.rs"),
                "the load of every server, collected every five seconds",
                "{}",
            ),
            Template::ClientFacing => {
                (include_str!("templates/client-facing/lib.rs"), "notes about servers", r#"{"do":"list"}"#)
            }
        };
        let library = format!("target/release/lib{}.so", name.replace('-', "_"));
        let filled = |text: &str| {
            let filled = text.replace("{name}", name).replace("{api}", api).replace("{what}", what);
            filled.replace("{so}", &library).replace("{call}", call)
        };
        [
            ("Cargo.toml", filled(include_str!("templates/Cargo.toml.in"))),
            ("README.md", filled(include_str!("templates/README.md.in"))),
            (".gitignore", "target\n".to_owned()),
            ("src/lib.rs", code.to_owned()),
            ("tests/library.rs", include_str!("templates/library.rs.in").to_owned()),
        ]
    }
}

/// What cargo takes for a name, less what would make a library or a module id that nobody can write.
fn is_crate_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_')
}

/// The crate's own directory, if it is there or one below.
fn crate_at(path: &Path) -> Option<PathBuf> {
    [path.to_owned(), path.join("plugin-api")].into_iter().find_map(|directory| {
        let manifest: toml::Table = fs::read_to_string(directory.join("Cargo.toml")).ok()?.parse().ok()?;
        let name = manifest.get("package")?.get("name")?.as_str()?;
        // Whoever is told the path stands elsewhere than whoever gave it.
        (name == API).then(|| directory.canonicalize()).and_then(Result::ok)
    })
}

fn own_checkout() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().skip(1).find_map(crate_at)
}

fn dependency(path: &Path) -> String {
    format!("path = {}", quoted(&path.display().to_string()))
}

/// A string of TOML; those of JSON are some.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cargo_takes() {
        for name in ["load", "disk-usage", "a1_b"] {
            assert!(is_crate_name(name), "{name}");
        }
        for name in ["", "1a", "-a", "a b", "../a", "a.b", "ä"] {
            assert!(!is_crate_name(name), "{name}");
        }
    }

    #[test]
    fn every_template_is_filled_in_completely() {
        for template in Template::value_variants() {
            for (file, content) in template.files("disk-usage", "path = \"/api\"") {
                for blank in ["{name}", "{api}", "{what}", "{so}", "{call}"] {
                    assert!(!content.contains(blank), "{template:?}: {blank} in {file}");
                }
            }
            let (_, manifest) = &template.files("disk-usage", "path = \"/api\"")[0];
            let manifest: toml::Table = manifest.parse().expect("it is TOML");
            assert_eq!(manifest["dependencies"].as_table().expect("a table").len(), 1, "nothing but the interface");
        }
    }
}

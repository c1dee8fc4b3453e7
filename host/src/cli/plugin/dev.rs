//! `muster plugin dev`: a crate is built whenever a file of it changes, checked, and replaced in a sandbox that runs on.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use notify::RecursiveMode;
use notify_debouncer_full::{NoCache, new_debouncer_opt};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{check::vetted, found::Unfit};
use crate::{
    cli::{CliError, ask::body_of, plugin::MODULE, render},
    client::Client,
    config::Address,
    plugin::control::{copy_into, name_of},
    sandbox::{Line, Sandbox, SandboxError, failed},
};

/// Changes that come in quick succession are one: editors write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What is not looked at: cargo's own output, and what versions are kept in.
const NOT_SOURCE: [&str; 2] = ["target", ".git"];

/// Who speaks in the lines that are no daemon's.
const DEV: &str = "dev";

/// Arguments of `muster plugin dev`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Dev {
    /// Directory of the crate
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Build as for production
    #[arg(long)]
    release: bool,
    /// Address for the sandbox's master to listen on; port 0 for any
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: Address,
}

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum DevError {
    #[error("{0} has no Cargo.toml: give the directory of a plugin's crate (`muster plugin new` writes one)")]
    NoCrate(PathBuf),
    #[error("cannot watch {0}")]
    Watch(PathBuf, #[source] notify::Error),
}

/// What a build came to.
enum Built {
    Library(PathBuf),
    /// Cargo has said what is wrong.
    Failed,
    /// It built, but no `cdylib`.
    NoLibrary,
}

/// The sandbox, and what is tried in it.
struct Bench<'a, W> {
    sandbox: Sandbox,
    client: Client,
    address: String,
    plugins: &'a Path,
    out: &'a mut W,
}

impl Dev {
    /// Runs until Ctrl-C or SIGTERM, writing to `out`.
    pub(super) async fn run(self, out: &mut (impl Write + Send)) -> Result<String, CliError> {
        let crate_dir = self.directory.canonicalize().ok().filter(|path| path.join("Cargo.toml").is_file());
        let crate_dir = crate_dir.ok_or_else(|| DevError::NoCrate(self.directory.clone()))?;
        let changed = Arc::new(Notify::new());
        let _watch = watch(&crate_dir, changed.clone()).map_err(|error| DevError::Watch(crate_dir.clone(), error))?;
        let plugins = tempfile::tempdir().map_err(failed("make a directory for the plugin"))?;
        let executable = std::env::current_exe().map_err(CliError::Runtime)?;
        let mut sandbox = Sandbox::new(executable, plugins.path(), &[])?;
        let started = start(&mut sandbox, &self.listen.to_string(), out).await;
        let ended = match started {
            Err(error) => Err(error),
            Ok((address, client)) => {
                let mut bench = Bench { sandbox, client, address, plugins: plugins.path(), out: &mut *out };
                let ended = bench.work(&crate_dir, self.release, &changed).await;
                sandbox = bench.sandbox;
                ended
            }
        };
        sandbox.end(&mut |line| line.show(out)).await;
        ended?;
        Ok(String::new())
    }
}

async fn start(sandbox: &mut Sandbox, listen: &str, out: &mut impl Write) -> Result<(String, Client), SandboxError> {
    let address = sandbox.master(listen, &mut |line| line.show(out)).await?;
    sandbox.monitor(("sandbox-1", "sandbox", 4050), &[], &[], &mut |line| line.show(out)).await?;
    let client = sandbox.client().await?;
    Ok((address, client))
}

impl<W: Write> Bench<'_, W> {
    /// Builds and replaces, again and again.
    async fn work(&mut self, crate_dir: &Path, release: bool, changed: &Notify) -> Result<(), SandboxError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listen for signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed("listen for signals"))?;
        loop {
            let (sandbox, out) = (&mut self.sandbox, &mut *self.out);
            let mut building = std::pin::pin!(build(crate_dir, release));
            // What the daemons say meanwhile is shown: a plugin may be at work.
            let built = loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    line = sandbox.line() => line.show(out),
                    built = &mut building => break built?,
                }
            };
            match built {
                Built::Library(library) => self.replace(&library).await,
                Built::Failed => say(self.out, "it does not build; what was built before serves on"),
                Built::NoLibrary => {
                    say(self.out, "it builds no plugin: set crate-type = [\"cdylib\", \"rlib\"] in [lib]")
                }
            }
            say(self.out, "waiting for a change");
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    line = self.sandbox.line() => line.show(self.out),
                    () = changed.notified() => break,
                }
            }
        }
    }

    /// Checks a library, and puts it into the place of the one that is served.
    async fn replace(&mut self, library: &Path) {
        let survey = match vetted(library, false).await {
            Ok(survey) => survey,
            Err(Unfit { headline, .. }) => return say(self.out, &headline),
        };
        for concern in &survey.concerns {
            say(self.out, &format!("warning: {concern}"));
        }
        let stem = library.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let stem = stem.strip_prefix("lib").unwrap_or(stem);
        let placed = name_of(stem)
            .map_err(|error| error.to_string())
            .and_then(|name| copy_into(self.plugins, name, library).map_err(|error| error.to_string()));
        if let Err(error) = placed {
            return say(self.out, &format!("it cannot be put into the sandbox: {error}"));
        }
        let looked = self.client.request(MODULE, json!({ "action": "look", "name": stem, "wait": true })).await;
        let body = looked.map_err(CliError::from).and_then(|response| body_of(MODULE, response));
        match body {
            Ok(plugin) => {
                say(self.out, &verdict(stem, &plugin));
                let module = survey.verdict.ok().and_then(|plugin| Some(plugin.modules.first()?.id.clone()));
                let module = module.unwrap_or_default();
                say(self.out, &format!("ask it: muster call {module} '{{}}' --master {}", self.address));
            }
            Err(error) => say(self.out, &error.to_string()),
        }
    }
}

fn verdict(name: &str, plugin: &Value) -> String {
    let [state, reason, generation] = ["state", "reason", "generation"].map(|key| render::cell(&plugin[key]));
    match plugin["reason"].is_null() {
        true => format!("{name} is {state} as generation {generation}"),
        false => format!("{name} is {state}: {reason}"),
    }
}

/// Builds the crate. What the compiler says goes where this program's own errors go.
async fn build(crate_dir: &Path, release: bool) -> Result<Built, SandboxError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--message-format=json-render-diagnostics"]).current_dir(crate_dir);
    if release {
        command.arg("--release");
    }
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    // Not `output`, which would take what the compiler says as well.
    let cargo = command.stdout(Stdio::piped()).spawn().map_err(failed("start cargo"))?;
    let output = cargo.wait_with_output().await.map_err(failed("wait for cargo"))?;
    if !output.status.success() {
        return Ok(Built::Failed);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut told = messages.lines().rev();
    let found = told.find_map(|line| library_in(&serde_json::from_str(line).ok()?, crate_dir));
    Ok(found.map_or(Built::NoLibrary, Built::Library))
}

/// The library that a message of cargo tells of, if it is one of this crate.
fn library_in(message: &Value, crate_dir: &Path) -> Option<PathBuf> {
    let of_this = Path::new(message["manifest_path"].as_str()?) == crate_dir.join("Cargo.toml");
    let is_plugin = message["target"]["crate_types"].as_array()?.iter().any(|kind| kind == "cdylib");
    let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    files.filter(|file| of_this && is_plugin && file.ends_with(".so")).map(PathBuf::from).next()
}

/// Tells of changes to the sources of a crate, as long as what is returned lives.
fn watch(crate_dir: &Path, changed: Arc<Notify>) -> Result<impl Sized + use<>, notify::Error> {
    let root = crate_dir.to_owned();
    let tell = move |events: notify_debouncer_full::DebounceEventResult| {
        let is_source = |path: &PathBuf| {
            let inside = path.strip_prefix(&root).ok().and_then(|path| path.components().next());
            inside.is_none_or(|first| NOT_SOURCE.iter().all(|name| first.as_os_str() != *name))
        };
        // Reading is no change: cargo reads all of it.
        let is_change = |event: &notify_debouncer_full::DebouncedEvent| {
            !event.kind.is_access() && event.paths.iter().any(is_source)
        };
        // A watch that has lost something might have lost a change.
        if events.map_or(true, |events| events.iter().any(is_change)) {
            changed.notify_one();
        }
    };
    let config = notify::Config::default();
    let mut debouncer =
        new_debouncer_opt::<_, notify::RecommendedWatcher, NoCache>(DEBOUNCE, None, tell, NoCache, config)?;
    debouncer.watch(crate_dir, RecursiveMode::Recursive)?;
    Ok(debouncer)
}

fn say(out: &mut impl Write, text: &str) {
    for line in text.lines() {
        Line::by(DEV, line).show(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_the_crate_is_found_in_what_cargo_says() {
        let message = |manifest: &str, kind: &str| {
            json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "target": { "crate_types": [kind, "rlib"] },
                "filenames": ["/t/debug/libload.rlib", "/t/debug/libload.so"],
            })
        };
        let found = |message: Value| library_in(&message, Path::new("/w/load"));
        assert_eq!(found(message("/w/load/Cargo.toml", "cdylib")), Some("/t/debug/libload.so".into()));
        assert_eq!(found(message("/w/load/Cargo.toml", "proc-macro")), None);
        assert_eq!(found(message("/w/other/Cargo.toml", "cdylib")), None);
        assert_eq!(found(json!({ "reason": "build-finished" })), None);
    }
}

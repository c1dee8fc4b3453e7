//! `muster plugin test`: a file goes through its life in temporary daemons, in both isolation modes, before it does in
//! those that are in use.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use muster_plugin_api::{Manifest, Role};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{check::vetted, found::Unfit};
use crate::{
    cli::{
        CliError,
        ask::{body_of, words_of},
        plugin::MODULE,
        render,
        shown::Shown,
    },
    client::{Client, ClientError},
    plugin::control::{copy_into, name_of},
    sandbox::{Line, Sandbox, SandboxError, failed},
};

/// How long a module may take for a call; beyond it, it is taken for silent.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a tick is waited for: schedules tick every second meanwhile.
const TICKS: Duration = Duration::from_secs(10);
/// How long a library may take to be unmapped: the host tries again every five seconds.
const UNMAPPED: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Reloads while it is called.
const RELOADS: usize = 5;
/// Clients that call it meanwhile.
const CALLERS: usize = 4;

/// Arguments of `muster plugin test`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Trial {
    /// The library
    file: PathBuf,
}

/// What was tried, and what came of it.
struct Step {
    isolation: &'static str,
    what: &'static str,
    /// A sentence, good or bad.
    outcome: Result<String, String>,
}

/// One run of the file through its life.
struct Run {
    isolation: &'static str,
    name: String,
    modules: Vec<String>,
    client: Client,
    steps: Vec<Step>,
}

impl Trial {
    /// Tries the file; an error names the first step that failed, and lists all.
    pub(super) async fn run(self) -> Result<Shown, CliError> {
        let Trial { file } = self;
        let survey = vetted(&file, false).await?;
        let modules = survey.verdict.map(|plugin| plugin.modules).unwrap_or_default();
        let stem = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name_of(stem.strip_prefix("lib").unwrap_or(stem)).map(str::to_owned);
        let name = name.map_err(|error| CliError::Plugin { name: stem.to_owned(), reason: error.to_string() })?;
        let mut steps = Vec::new();
        for isolation in ["thread", "process"] {
            steps.extend(through_life(&file, &name, &modules, isolation).await?);
        }
        let report = json!({
            "file": file,
            "passed": steps.iter().all(|step| step.outcome.is_ok()),
            "steps": steps.iter().map(Step::to_json).collect::<Vec<_>>(),
        });
        let table = table(&steps);
        match steps.iter().find_map(Step::failure) {
            Some(reason) => {
                let headline = format!("{} does not pass: {reason}", file.display());
                Err(Unfit { headline, details: Some(table), report }.into())
            }
            None => Ok(Shown::Sentence(table, report)),
        }
    }
}

/// Loads the file in a master and a monitor, calls it, reloads it under load, and unloads it.
async fn through_life(
    file: &Path,
    name: &str,
    modules: &[Manifest],
    isolation: &'static str,
) -> Result<Vec<Step>, CliError> {
    let directory = tempfile::tempdir().map_err(failed("make a directory for the plugin"))?;
    copy_into(directory.path(), name, file).map_err(failed("copy the plugin"))?;
    let executable = std::env::current_exe().map_err(CliError::Runtime)?;
    let isolated = format!("plugins.{name}.isolation={isolation}");
    // Nothing is kept of older generations: what stays mapped then does so by itself.
    let mut settings = vec![isolated.as_str(), "plugins.probation=0s"];
    let ticks: Vec<String> = modules.iter().flat_map(|module| ticking(module, Role::Master)).collect();
    settings.extend(ticks.iter().map(String::as_str));
    let mut sandbox = Sandbox::new(executable, directory.path(), &settings)?;
    let mut errors = Vec::new();
    let tried = in_sandbox(&mut sandbox, name, modules, isolation, &mut errors).await;
    sandbox.end(&mut |_| {}).await;
    Ok(tried?)
}

async fn in_sandbox(
    sandbox: &mut Sandbox,
    name: &str,
    modules: &[Manifest],
    isolation: &'static str,
    errors: &mut Vec<Line>,
) -> Result<Vec<Step>, SandboxError> {
    let mut listen = |line: Line| errors.extend(Some(line).filter(|line| line.is_error));
    sandbox.master("127.0.0.1:0", &mut listen).await?;
    let client = sandbox.client().await?;
    let mut run = Run { isolation, name: name.to_owned(), modules: Vec::new(), client, steps: Vec::new() };
    if !run.load().await {
        return Ok(run.steps);
    }
    let ticks: Vec<String> = modules.iter().flat_map(|module| ticking(module, Role::Monitor)).collect();
    let ticks: Vec<&str> = ticks.iter().map(String::as_str).collect();
    sandbox.monitor(("sandbox-1", "sandbox", 4050), &ticks, &[], &mut listen).await?;
    run.call().await;
    run.tick(sandbox).await;
    run.reload().await;
    run.unload().await;
    while let Some(line) = sandbox.line_now() {
        errors.extend(Some(line).filter(|line| line.is_error));
    }
    let of_the_plugin = |line: &&Line| line.text.contains("panicked") || line.text.contains("hung");
    if let Some(line) = errors.iter().find(of_the_plugin) {
        run.steps.push(Step { isolation, what: "log", outcome: Err(format!("{}: {}", line.name, line.text)) });
    }
    run.client.close().await;
    Ok(run.steps)
}

/// Settings by which a module ticks in a daemon, so that its handler is called there whatever its own schedule says.
fn ticking(Manifest { id, roles, .. }: &Manifest, daemon: Role) -> [String; 2] {
    let kind = if roles.contains(&daemon) && daemon == Role::Master { "pull" } else { "push" };
    [format!("modules.{id}.interval=1"), format!("modules.{id}.type={kind}")]
}

// === impl Run ===

impl Run {
    fn note(&mut self, what: &'static str, outcome: Result<String, String>) -> bool {
        let ended_well = outcome.is_ok();
        self.steps.push(Step { isolation: self.isolation, what, outcome });
        ended_well
    }

    async fn load(&mut self) -> bool {
        let outcome = match self.listed().await {
            Err(error) => Err(error),
            Ok(plugin) if plugin["state"] == "running" => {
                let modules = plugin["modules"].as_array().map_or(&[][..], Vec::as_slice);
                self.modules = modules.iter().filter_map(|module| Some(module["id"].as_str()?.to_owned())).collect();
                Ok(format!("{} is served: {}", render::cell(&plugin["version"]), self.modules.join(", ")))
            }
            Ok(plugin) => Err(state(&plugin)),
        };
        self.note("load", outcome)
    }

    /// Asks every module as a client does. Any answer is one, errors included: only the module knows what it expects.
    async fn call(&mut self) {
        for id in self.modules.clone() {
            let outcome = match self.client.with_timeout(ANSWER).request(&id, json!({})).await {
                Ok(response) => match response.error.as_deref().map(words_of) {
                    Some(text) if text.contains("panicked") || text.contains("timed out") => {
                        Err(format!("{id}: {text}"))
                    }
                    Some(text) => Ok(format!("{id} answers with an error: {text}")),
                    None => Ok(format!("{id} answers")),
                },
                Err(ClientError::Timeout { .. }) => Ok(format!("{id} is silent")),
                Err(error) => Err(format!("{id}: {error}")),
            };
            self.note("call", outcome);
        }
    }

    /// Waits until every module has ticked twice in the master: by then it has in the monitor.
    async fn tick(&mut self, sandbox: &mut Sandbox) {
        let until = Instant::now() + TICKS;
        let mut seen = String::new();
        let mut look = tokio::time::interval(LOOK);
        while Instant::now() < until {
            tokio::select! {
                line = sandbox.line() => {
                    if line.is_error && line.name == "sandbox-1" {
                        seen = line.text;
                        break;
                    }
                }
                _ = look.tick() => {
                    let Ok(plugin) = self.listed().await else { break };
                    if plugin["handled"].as_u64() >= Some(self.modules.len() as u64 * 3) {
                        break;
                    }
                }
            }
        }
        let outcome = match self.listed().await {
            Ok(_) if seen.contains("panicked") => Err(format!("its monitor says: {seen}")),
            Ok(plugin) if plugin["panics"].as_u64() > Some(0) => Err(format!("{} panics", plugin["panics"])),
            Ok(plugin) => Ok(format!("{} handlers ran, {} with an error", plugin["handled"], plugin["errors"])),
            Err(error) => Err(error),
        };
        self.note("tick", outcome);
    }

    /// Reloads it while clients call it. Every call has to end, with an answer of one generation or the other.
    async fn reload(&mut self) {
        let (stop, stopped) = watch::channel(false);
        let mut callers = JoinSet::new();
        for n in 0..CALLERS {
            let (client, id, stopped) =
                (self.client.with_timeout(ANSWER * 4), self.modules[n % self.modules.len()].clone(), stopped.clone());
            callers.spawn(call_until(client, id, stopped));
        }
        let mut outcome = Ok(String::new());
        for _ in 0..RELOADS {
            let ordered = self.order("reload").await;
            match ordered {
                Ok(plugin) if plugin["state"] == "running" && plugin["reason"].is_null() => {}
                Ok(plugin) => outcome = Err(state(&plugin)),
                Err(error) => outcome = Err(error),
            }
            if outcome.is_err() {
                break;
            }
        }
        stop.send_replace(true);
        let mut calls = 0;
        while let Some(ended) = callers.join_next().await {
            match ended.map_err(|error| error.to_string()).flatten() {
                Ok(made) => calls += made,
                Err(error) => outcome = Err(error),
            }
        }
        let outcome = outcome.map(|_| format!("{RELOADS} times under {calls} calls, none lost"));
        self.note("reload", outcome);
    }

    /// Unloads it, and looks whether it is gone.
    async fn unload(&mut self) {
        let mut outcome = self.order("disable").await.map(|_| String::new());
        let until = Instant::now() + UNMAPPED;
        while outcome.is_ok() {
            match self.listed().await {
                Err(error) => outcome = Err(error),
                Ok(plugin) => {
                    let left = plugin["stillMapped"].as_array().cloned().unwrap_or_default();
                    let Some(first) = left.first() else {
                        outcome = Ok("every generation of it is unmapped".to_owned());
                        break;
                    };
                    if Instant::now() >= until {
                        let reason = render::cell(&first["reason"]);
                        outcome = Err(format!("{} generations of it stay in memory: {reason}", left.len()));
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        self.note("unload", outcome);
    }

    async fn order(&self, action: &str) -> Result<Value, String> {
        self.ask(json!({ "action": action, "name": self.name, "wait": true })).await
    }

    async fn listed(&self) -> Result<Value, String> {
        let list = self.ask(json!({ "action": "list" })).await?;
        let plugins = list["plugins"].as_array().map_or(&[][..], Vec::as_slice);
        let found = plugins.iter().find(|plugin| plugin["name"] == *self.name);
        found.cloned().ok_or_else(|| "the master does not see it".to_owned())
    }

    async fn ask(&self, body: Value) -> Result<Value, String> {
        let response = self.client.request(MODULE, body).await.map_err(|error| error.to_string())?;
        body_of(MODULE, response).map_err(|error| error.to_string())
    }
}

/// What the master says of a plugin that is not as it should be.
fn state(plugin: &Value) -> String {
    format!("it is {}: {}", render::cell(&plugin["state"]), render::cell(&plugin["reason"]))
}

/// Calls a module again and again; how often, or how a call was lost.
async fn call_until(client: Client, id: String, stopped: watch::Receiver<bool>) -> Result<u64, String> {
    let mut calls = 0;
    while !*stopped.borrow() {
        match client.request(&id, json!({})).await {
            Ok(response) => {
                let text = response.error.as_deref().map(words_of).unwrap_or_default();
                // Silence is what some modules answer; that it takes the whole deadline is their affair.
                if ["panicked", "unknown moduleId", "gone"].iter().any(|word| text.contains(word)) {
                    return Err(format!("a call during the reload ended with: {text}"));
                }
            }
            Err(error) => return Err(format!("a call during the reload was lost: {error}")),
        }
        calls += 1;
    }
    Ok(calls)
}

// === impl Step ===

impl Step {
    fn to_json(&self) -> Value {
        let (ok, text) = self.result();
        json!({ "isolation": self.isolation, "step": self.what, "ok": ok, "text": text })
    }

    fn result(&self) -> (bool, &str) {
        match &self.outcome {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        }
    }

    fn failure(&self) -> Option<String> {
        let reason = self.outcome.as_ref().err()?;
        Some(format!("{} ({}): {reason}", self.what, self.isolation))
    }
}

fn table(steps: &[Step]) -> String {
    let rows = steps.iter().map(|step| {
        let (ok, text) = step.result();
        let verdict = if ok { "ok" } else { "FAILED" };
        vec![step.isolation.to_owned(), step.what.to_owned(), verdict.to_owned(), text.to_owned()]
    });
    render::table(&["ISOLATION", "STEP", "", ""], rows)
}

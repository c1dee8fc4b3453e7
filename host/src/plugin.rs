//! Plugins: what is in the directory becomes what is served.
//!
//! One task, the supervisor, decides; it owns the lives of all files and publishes what it knows. What takes time (a file
//! that has to come to rest, a child that vets it, a start, a drain) runs beside it and reports back, so that no file
//! waits for another.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use muster_plugin_api::Role;
use tokio::sync::{mpsc, oneshot, watch as published};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::StillMappedPolicy,
    modules::{Modules, services::Services},
    store::Store,
    worker,
};

mod content;
pub(crate) mod control;
mod elf;
mod generation;
mod handover;
mod history;
pub(crate) mod lifecycle;
mod needs;
pub(crate) mod orders;
mod postmortem;
pub(crate) mod preflight;
pub(crate) mod probation;
pub(crate) mod quarantine;
pub(crate) mod recorder;
pub(crate) mod refusal;
#[doc(hidden)]
pub mod rig;
pub(crate) mod settle;
mod stage;
pub(crate) mod status;
mod supervisor;
pub(crate) mod survey;
pub(crate) mod trust;
pub(crate) mod unload;
mod vet;
mod watch;

use control::Control;
pub(crate) use preflight::Checker;
use quarantine::Quarantine;
pub(crate) use settle::{ContentHash, LARGEST};
pub(crate) use status::FileStatus;
use supervisor::{Input, Task};
use trust::Trust;

/// The host's own module, under which the state of plugins is asked for; no plugin may take the id.
pub(crate) const MODULE: &str = "__plugins__";

/// A child answers within 2 ms; a thousand times that is a constructor that does not return.
pub(crate) const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(2);
/// A file has settled when it has the same content twice, this far apart: longer than the pauses of any copy on a disk.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);
/// A file that is away for less is being replaced: `rm` and `cp` by hand take a second.
pub(crate) const GONE: Duration = Duration::from_secs(2);
/// What an old generation gets to finish: most handlers take milliseconds, and two generations cost memory.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// What `create` and `start` get: they may read files or ask a peer, but the daemon's own start waits for them.
pub(crate) const START: Duration = Duration::from_secs(10);
/// How often the directory is looked at without a hint: events get lost, and a directory may be replaced.
pub(crate) const RESCAN: Duration = Duration::from_secs(5);
/// How long what was replaced is kept to go back to: faults of a new version show in its first calls.
pub(crate) const PROBATION: Duration = Duration::from_secs(30);
/// What each step of a hand-over of state may take: calls of the module wait meanwhile, and people notice a second.
pub(crate) const HANDOVER: Duration = Duration::from_secs(1);
/// As much as the largest body that gets into a daemon: what is more than that belongs into a file.
pub(crate) const STATE_LIMIT: usize = 16 << 20;
/// So many generations of one file that could not be unmapped are no accident, and cost memory.
pub(crate) const STILL_MAPPED_CAP: usize = 8;

/// Options of a module, by the name of its file (without `.so`) and its id.
pub(crate) type Options = dyn Fn(&str, &str) -> serde_json::Value + Send + Sync;

/// The limits of a plugin's worker, by the name of its file (without `.so`); `None` for a plugin without one.
pub(crate) type Isolation = dyn Fn(&str) -> Option<worker::Limits> + Send + Sync;

/// What the supervisor needs to know.
#[derive(Clone)]
pub(crate) struct Config {
    /// Where plugins are dropped; no plugins without one.
    pub(crate) directory: Option<PathBuf>,
    /// Below which directory private copies are kept: it must allow execution.
    pub(crate) stage_parent: PathBuf,
    pub(crate) checker: Checker,
    /// Whose files are loaded.
    pub(crate) trust: Arc<Trust>,
    /// Remembers which files are disabled.
    pub(crate) store: Arc<Store>,
    /// See [`SETTLE`].
    pub(crate) settle: Duration,
    /// See [`GONE`].
    pub(crate) gone: Duration,
    /// See [`DRAIN`].
    pub(crate) drain: Duration,
    /// See [`START`].
    pub(crate) start: Duration,
    /// See [`RESCAN`].
    pub(crate) rescan: Duration,
    /// See [`HANDOVER`].
    pub(crate) handover: Duration,
    /// How many bytes the state of an instance may have; see [`STATE_LIMIT`].
    pub(crate) state_limit: usize,
    /// See [`PROBATION`]; zero for not at all.
    pub(crate) probation: Duration,
    /// When a generation on probation goes.
    pub(crate) rollback: probation::Limits,
    /// See [`STILL_MAPPED_CAP`].
    pub(crate) still_mapped_cap: usize,
    pub(crate) still_mapped: StillMappedPolicy,
    /// The roles of this daemon, and what each does for modules.
    pub(crate) roles: Vec<(Role, Arc<dyn Services>)>,
    /// Options of a module, by the name of its file (without `.so`) and its id. Asked at each start of an instance.
    pub(crate) options: Arc<Options>,
    /// Who runs in a worker. Asked at each start of a generation.
    pub(crate) isolation: Arc<Isolation>,
    pub(crate) launcher: worker::Launcher,
    /// How long a turn of a worker may take that has no call with a deadline.
    pub(crate) turn: Duration,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// The handle of the supervisor. Dropping it stops the supervisor without unloading anything.
#[derive(Debug)]
pub(crate) struct Supervisor {
    orders: mpsc::Sender<Input>,
    control: Control,
    settled: published::Receiver<bool>,
    task: AbortOnDropHandle<()>,
}

// === impl Config ===

impl Config {
    /// The defaults, for a daemon without plugins and roles.
    pub(crate) fn new(stage_parent: PathBuf) -> Config {
        Config {
            directory: None,
            stage_parent,
            checker: Checker::default(),
            trust: Arc::default(),
            store: Arc::default(),
            settle: SETTLE,
            gone: GONE,
            drain: DRAIN,
            start: START,
            rescan: RESCAN,
            handover: HANDOVER,
            state_limit: STATE_LIMIT,
            probation: PROBATION,
            rollback: probation::Limits::default(),
            still_mapped_cap: STILL_MAPPED_CAP,
            still_mapped: StillMappedPolicy::Refuse,
            roles: Vec::new(),
            options: Arc::new(|_, _| serde_json::json!({})),
            isolation: Arc::new(|_| None),
            launcher: worker::Launcher::default(),
            turn: crate::config::defaults::REQUEST_DEADLINE,
            quarantine: Quarantine::open(None),
        }
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// Starts to look after the directory, and what the registry needs: ticks and deadlines.
    ///
    /// # Errors
    /// When there can be no place for private copies.
    pub(crate) fn start(config: Config, modules: Arc<Modules>) -> io::Result<Supervisor> {
        let (directory, trust) = (config.directory.clone(), config.trust.clone());
        let (task, orders, inputs) = Task::new(config, modules)?;
        let (status, settled) = (task.status(), task.settled());
        let control = Control::new(orders.clone(), status, directory, trust);
        let task = AbortOnDropHandle::new(tokio::spawn(task.run(inputs)));
        Ok(Supervisor { orders, control, settled, task })
    }

    /// Waits until every plugin that was there at the start is running or refused.
    pub(crate) async fn settled(&self) {
        // An error means that the supervisor is gone: there is nothing to wait for either.
        drop(self.settled.clone().wait_for(|settled| *settled).await);
    }

    /// What is known about each file, in order of their names. Changes with every step.
    #[cfg(test)]
    pub(crate) fn status(&self) -> published::Receiver<Arc<[FileStatus]>> {
        self.control.status.clone()
    }

    /// Where orders are given.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Looks into the directory at once, and judges anew what was refused. Returns when it has looked; what it found
    /// shows in the status.
    pub(crate) async fn rescan(&self) {
        let (done, looked) = oneshot::channel();
        if self.orders.send(Input::Rescan { done }).await.is_ok() {
            // Gone meanwhile: then it shuts down.
            drop(looked.await);
        }
    }

    /// Ends all modules: they finish what they have begun, are stopped, and unloaded. Takes `grace` at most, and names
    /// what was not done by then.
    pub(crate) async fn shutdown(self, grace: Duration) -> Vec<String> {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Input::Shutdown { grace, done }).await.is_err() {
            return Vec::new();
        }
        let left = ended.await.unwrap_or_default();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the plugin supervisor did not end in order");
        }
        left
    }
}

#[cfg(test)]
mod tests;

//! The supervisor's task: one owner of all lives, one writer of what is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch as published},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{
    Config,
    control::Change,
    generation::{Candidate, NotStarted, Running},
    handover::Outcome,
    history::{By, History},
    lifecycle::{Life, Verdict},
    needs::Wants,
    orders::Action,
    preflight::Refused,
    quarantine::Quarantine,
    refusal::Refusal,
    settle::ContentHash,
    status::{Content, FileStatus, Serving, Step},
    unload::Leftover,
    vet::Vetter,
    watch::Hints,
};
use crate::{
    ids::Generation,
    modules::{Modules, schedule},
};

mod ending;
mod handing;
mod leftovers;
mod looking;
mod orders;
mod probation;
mod publishing;
mod starting;

use leftovers::Remains;
use probation::{JUDGE, Warm};

/// The longest that [`Supervisor::settled`](super::Supervisor::settled) waits, for a copy that is still under way when the daemon starts.
const PATIENCE_AT_START: Duration = Duration::from_secs(15);
/// Reports of steps on their way to the supervisor; it does nothing that takes time, so they do not pile up.
const REPORTS: usize = 64;

/// All that can happen to the supervisor.
#[derive(Debug)]
pub(super) enum Input {
    Vetted { file: Arc<str>, verdict: Verdict, candidate: Option<Box<Candidate>> },
    Created { file: Arc<str> },
    Started { file: Arc<str>, hash: ContentHash, outcome: Box<Result<Running, NotStarted>> },
    HandedOver { file: Arc<str>, generation: Generation, outcome: Box<Result<Outcome, Refusal>> },
    Retired { file: Arc<str>, generation: Generation, outcome: Result<(), Box<Leftover>> },
    Retried { generation: Generation, outcome: Result<(), Box<Leftover>> },
    Condemned { file: Arc<str>, generation: Generation, reason: String },
    Settle { file: Arc<str>, change: Change, done: oneshot::Sender<Option<FileStatus>> },
    Rescan { done: oneshot::Sender<()> },
    Order { action: Action, name: String, done: oneshot::Sender<Result<String, String>> },
    Shutdown { grace: Duration, done: oneshot::Sender<Vec<String>> },
}

/// What the steps beside the supervisor share.
struct Shared {
    config: Config,
    modules: Arc<Modules>,
    vetter: Vetter,
    quarantine: Arc<Quarantine>,
    reports: mpsc::Sender<Input>,
}

/// One file.
struct Slot {
    life: Life,
    place: u64,
    running: Option<Running>,
    /// What is routed to already, and waits for the state of `running`, which it then replaces.
    heir: Option<Running>,
    /// What was vetted last, unless it is what runs.
    candidate: Option<Content>,
    /// What ran last, if nothing does.
    last: Option<Serving>,
    /// What `running` replaced, while that is on probation.
    warm: Option<Warm>,
    draining: BTreeSet<Generation>,
    /// No other content than this is loaded.
    pinned: Option<ContentHash>,
    /// There is a new file, and it was not loaded.
    ignored: bool,
    history: History,
    /// It was there when the daemon started, and is not settled yet.
    awaited: bool,
    /// It was there when the daemon started: ids go by name then, not by who is faster.
    first: bool,
    /// It was removed by order, and nobody waits for it to come back.
    removed: bool,
    /// What it needs and would serve, while it is refused for that.
    wants: Option<Wants>,
    /// Who wants to know when nothing is under way.
    waiting: Vec<oneshot::Sender<Option<FileStatus>>>,
}

/// The supervisor's own state: one owner, one writer.
pub(super) struct Task {
    shared: Arc<Shared>,
    slots: BTreeMap<Arc<str>, Slot>,
    remains: BTreeMap<Generation, Remains>,
    steps: JoinSet<()>,
    next_place: u64,
    directory_missing: bool,
    /// Why nothing may be loaded from the directory.
    directory_fault: Option<Refusal>,
    started: Instant,
    status: published::Sender<Arc<[FileStatus]>>,
    settled: published::Sender<bool>,
}

// === impl Task ===

impl Task {
    /// A supervisor that has looked at nothing, and where to send it its input.
    ///
    /// # Errors
    /// When there can be no place for private copies.
    pub(super) fn new(
        config: Config,
        modules: Arc<Modules>,
    ) -> io::Result<(Task, mpsc::Sender<Input>, mpsc::Receiver<Input>)> {
        let quarantine = config.quarantine.clone();
        let vetter = Vetter::new(&config, quarantine.clone())?;
        let (reports, inputs) = mpsc::channel(REPORTS);
        let shared = Shared { config, modules, vetter, quarantine, reports: reports.clone() };
        let task = Task {
            shared: Arc::new(shared),
            slots: BTreeMap::new(),
            remains: BTreeMap::new(),
            steps: JoinSet::new(),
            next_place: 0,
            directory_missing: false,
            directory_fault: None,
            started: Instant::now(),
            status: published::Sender::new(Arc::from([])),
            settled: published::Sender::new(false),
        };
        Ok((task, reports, inputs))
    }

    /// What will be known of each file.
    pub(super) fn status(&self) -> published::Receiver<Arc<[FileStatus]>> {
        self.status.subscribe()
    }

    /// Whether everything that was there at the start is settled.
    pub(super) fn settled(&self) -> published::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Works until it is told to shut down.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let modules = self.shared.modules.clone();
        let upset = modules.clone();
        let mut attendants = JoinSet::new();
        attendants.spawn({
            let modules = modules.clone();
            async move { modules.sweep().await }
        });
        attendants.spawn(schedule::run(modules));

        let Some(directory) = self.shared.config.directory.clone() else {
            self.settled.send_replace(true);
            return self.serve_nothing(inputs).await;
        };
        let mut hints = Hints::new(&directory);
        let mut rescan = tokio::time::interval(self.shared.config.rescan);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut judge = tokio::time::interval(JUDGE);
        judge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let gone_at = self.slots.values().filter_map(|slot| slot.life.gone_at(self.shared.config.gone)).min();
            let gone_at = gone_at.map(tokio::time::Instant::from_std);
            tokio::select! {
                input = inputs.recv() => match input {
                    None => return,
                    Some(Input::Shutdown { grace, done }) => {
                        let left = self.shut_down(inputs, grace).await;
                        // Whoever asked may not want to know any more.
                        drop(done.send(left));
                        return;
                    }
                    Some(input) => self.take(input, &directory),
                },
                () = hints.next() => self.look(&directory),
                () = upset.upset() => self.judge(),
                _ = judge.tick(), if self.slots.values().any(|slot| slot.warm.is_some()) => self.judge(),
                _ = rescan.tick() => {
                    hints.renew();
                    self.retry_unloading();
                    self.reconsider_untrusted();
                    self.look(&directory);
                }
                () = tokio::time::sleep_until(gone_at.unwrap_or_else(tokio::time::Instant::now)), if gone_at.is_some() => {
                    self.look(&directory);
                }
                Some(step) = self.steps.join_next(), if !self.steps.is_empty() => {
                    if let Err(error) = step {
                        tracing::error!(%error, "a step in the life of a plugin failed");
                    }
                }
            }
            self.publish();
        }
    }

    /// A daemon without a plugin directory still has to be shut down.
    async fn serve_nothing(self, mut inputs: mpsc::Receiver<Input>) {
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Shutdown { done, .. } => {
                    drop(done.send(Vec::new()));
                    return;
                }
                Input::Rescan { done } => done.send(()).unwrap_or(()),
                // Dropped, it says that there is no such file.
                Input::Settle { .. } => {}
                // Whoever asked may not want to know any more.
                Input::Order { name, done, .. } => drop(done.send(Err(format!("there is no plugin {name}")))),
                other => tracing::error!(?other, "there are no plugins that this could be about"),
            }
        }
    }

    fn take(&mut self, input: Input, directory: &Path) {
        match input {
            Input::Vetted { file, verdict, candidate } => self.vetted(&file, verdict, candidate),
            Input::Created { file } => {
                if let Some(slot) = self.slots.get_mut(&file) {
                    slot.life.created();
                }
                return;
            }
            Input::Started { file, hash, outcome } => self.started(&file, hash, *outcome),
            Input::HandedOver { file, generation, outcome } => self.handed_over(&file, generation, *outcome),
            Input::Retired { file, generation, outcome } => self.retired(&file, generation, outcome),
            Input::Retried { generation, outcome } => {
                if let Err(leftover) = outcome {
                    self.keep(generation, *leftover);
                    return;
                }
                let Some(remains) = self.remains.remove(&generation) else { return };
                tracing::info!(file = &*remains.file, %generation, "unloaded after all");
                let Some(slot) = self.slots.get_mut(&remains.file) else { return };
                let full = |refused: &Refused| matches!(refused.refusal, Refusal::StillMapped { .. });
                if slot.life.refusal().is_some_and(full) {
                    slot.life.reconsider();
                }
            }
            Input::Condemned { file, generation, reason } => self.condemned(&file, generation, reason),
            Input::Settle { file, change, done } => return self.order(&file, change, done, directory),
            Input::Rescan { done } => {
                for slot in self.slots.values_mut().filter(|slot| !slot.is_frozen()) {
                    slot.life.reconsider();
                }
                self.retry_unloading();
                self.look(directory);
                // Whoever asked may not want to know any more.
                done.send(()).unwrap_or(());
                return;
            }
            Input::Order { action, name, done } => {
                let outcome = self.obey(action, &name);
                let written = self.write_pin(&file_of(&name));
                self.look(directory);
                self.publish();
                self.steps.spawn(async move {
                    // What is acknowledged was written before.
                    written.await;
                    // Whoever asked may not want to know any more.
                    drop(done.send(outcome));
                });
                return;
            }
            // Taken by the loop, which ends with it.
            Input::Shutdown { .. } => return,
        }
        // What was seen while the step was under way may call for the next one.
        self.look(directory);
    }

    /// Ends everything within `grace`; names what is left.
    async fn shut_down(&mut self, mut inputs: mpsc::Receiver<Input>, grace: Duration) -> Vec<String> {
        let until = tokio::time::Instant::now() + grace;
        let files: Vec<Arc<str>> = self.slots.keys().cloned().collect();
        for file in files {
            self.unload(&file, "the daemon is stopping");
        }
        // Started just now, or about to be: their reports are answered with the same.
        while self.slots.values().any(|slot| !slot.draining.is_empty()) {
            match tokio::time::timeout_at(until, inputs.recv()).await {
                Ok(Some(Input::Retired { file, generation, outcome })) => self.retired(&file, generation, outcome),
                Ok(Some(Input::Started { file, outcome, .. })) => {
                    if let Ok(running) = *outcome {
                        self.end(&file, running, Duration::ZERO, "the daemon is stopping");
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let draining = self.slots.iter().flat_map(|(file, slot)| {
            slot.draining.iter().map(move |generation| format!("{file} {generation} has not ended what it had begun"))
        });
        let remains = self.remains.iter().map(|(generation, remains)| {
            format!("{} {generation} is still mapped: {}", remains.file, remains.told.reason)
        });
        let left = draining.chain(remains).collect();
        // Children are killed, threads leave after the call they are in.
        self.steps.shutdown().await;
        left
    }
}

// === impl Slot ===

impl Slot {
    /// Whether nothing is under way. What is pinned stays as it is, whatever its file looks like.
    fn is_settled(&self, directory_missing: bool) -> bool {
        self.life.is_settled(directory_missing || self.is_frozen())
    }

    /// What is known of a content that is not served, and how far it has come.
    fn candidate(&self) -> Option<(Step, Content)> {
        let step = match (&self.heir, self.life.is_starting()) {
            (Some(_), _) => Step::HandingOver,
            (None, true) => Step::Starting,
            (None, false) => self.life.refusal().map(|_| Step::Refused)?,
        };
        Some((step, self.candidate.clone()?))
    }

    /// Whether what runs is pinned: then its file is not looked into.
    fn is_frozen(&self) -> bool {
        self.pinned.is_some() && self.running.is_some()
    }

    /// Why this content must not be served, if another is pinned.
    fn pinned_to_another(&self, found: ContentHash) -> Option<Refusal> {
        let pinned = self.pinned.filter(|pinned| *pinned != found)?;
        Some(Refusal::PinnedToAnother { pinned: pinned.to_string(), found: found.to_string() })
    }

    fn note_refusal(&mut self, refused: &Refused) {
        let from = self.running.as_ref().map(|running| running.actor.generation);
        self.history.add(By::File, from, None, format!("refused: {}", refused.refusal));
    }
}

// === impl Shared ===

impl Shared {
    /// Reports when no further worker is started for a generation that has them.
    fn watch_worker(self: Arc<Self>, steps: &mut JoinSet<()>, file: &Arc<str>, running: &Running) {
        let Some(worker) = running.actor.worker.clone() else { return };
        let (file, generation, mailbox) = (file.clone(), running.actor.generation, running.actor.mailbox.clone());
        steps.spawn(async move {
            tokio::select! {
                biased;
                reason = worker.condemned() => self.report(Input::Condemned { file, generation, reason }).await,
                () = mailbox.closed() => {}
            }
        });
    }

    async fn report(&self, input: Input) {
        // The supervisor is gone: so is what this was about.
        drop(self.reports.send(input).await);
    }
}

/// The file of a plugin, by its name or itself.
fn file_of(name: &str) -> Arc<str> {
    if name.ends_with(".so") { name.into() } else { format!("{name}.so").into() }
}

/// The name of a plugin: that of its file without `.so`.
fn stem(file: &str) -> &str {
    file.strip_suffix(".so").unwrap_or(file)
}

fn log_refusal(file: &str, refused: &Refused, serves_on: bool) {
    let Refused { refusal, details } = refused;
    tracing::warn!(file, serves_on, reason = %refusal, "plugin refused");
    if let Some(details) = details {
        tracing::debug!(file, details, "plugin refused: details");
    }
}

//! The supervisor's task: one owner of all lives, one writer of what is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
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
    history::{By, History},
    lifecycle::{Life, Order, State, Verdict},
    needs::{self, Wants},
    orders::Action,
    preflight::Refused,
    quarantine::Quarantine,
    refusal::Refusal,
    settle::ContentHash,
    status::FileStatus,
    unload::Leftover,
    vet::{Vetter, remove_copy},
    watch::{self, Hints},
};
use crate::{
    ids::Generation,
    modules::{Modules, schedule},
    store::Kept,
};

mod leftovers;
mod orders;
mod probation;

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
    /// What `running` replaced, while that is on probation.
    warm: Option<Warm>,
    draining: BTreeSet<Generation>,
    /// New files are not loaded.
    pinned: bool,
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
                for slot in self.slots.values_mut() {
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
                self.look(directory);
                self.publish();
                // Whoever asked may not want to know any more.
                drop(done.send(outcome));
                return;
            }
            // Taken by the loop, which ends with it.
            Input::Shutdown { .. } => return,
        }
        // What was seen while the step was under way may call for the next one.
        self.look(directory);
    }

    /// Looks into the directory, and does what has to be done about what is there and what is not.
    fn look(&mut self, directory: &Path) {
        let mut seen = match watch::scan(directory) {
            Ok(seen) => seen,
            Err(error) => {
                // A directory that cannot be read is no order to unload anything.
                if !std::mem::replace(&mut self.directory_missing, true) {
                    tracing::warn!(directory = %directory.display(), %error, "no plugin directory; looking again");
                }
                return;
            }
        };
        if std::mem::take(&mut self.directory_missing) {
            tracing::info!(directory = %directory.display(), "the plugin directory is there");
        }
        self.judge_directory(directory);
        let is_first_look = self.next_place == 0 && !*self.settled.borrow();
        let now = Instant::now();
        let patience = self.shared.config.gone;
        let mut forget = Vec::new();
        let mut orders = Vec::new();
        for (file, slot) in &mut self.slots {
            let look = seen.remove(&**file);
            slot.removed &= look.is_none();
            let gone = if slot.removed { Duration::ZERO } else { patience };
            if let Some(fingerprint) = look
                && slot.pinned
                && slot.running.is_some()
            {
                let ignored = !slot.life.look_only(fingerprint);
                if ignored && !std::mem::replace(&mut slot.ignored, ignored) {
                    tracing::warn!(file = &**file, "the file has changed, and is not loaded: it is pinned");
                }
                continue;
            }
            match slot.life.look(look, now, gone) {
                Some(Order::Forget) => forget.push(file.clone()),
                Some(order) => orders.push((file.clone(), order)),
                None => {}
            }
        }
        for (name, fingerprint) in seen {
            let file: Arc<str> = name.into();
            let mut life = Life::new(SystemTime::now());
            if self.shared.config.store.kept(Kept::DisabledPlugin, stem(&file)).is_some() {
                // Nothing of it runs that would have to end.
                life.disable();
            }
            if let Some(order) = life.look(Some(fingerprint), now, patience) {
                orders.push((file.clone(), order));
            }
            let place = self.next_place;
            self.next_place += 1;
            let slot = Slot {
                life,
                place,
                running: None,
                warm: None,
                draining: BTreeSet::new(),
                pinned: false,
                ignored: false,
                history: History::default(),
                awaited: is_first_look,
                first: is_first_look,
                removed: false,
                wants: None,
                waiting: Vec::new(),
            };
            self.slots.insert(file, slot);
        }
        for file in forget {
            // What is still mapped keeps its file in the list.
            let remains = self.remains.values().any(|remains| remains.file == file);
            if !remains && self.slots.get(&file).is_some_and(|slot| slot.draining.is_empty()) {
                self.slots.remove(&file);
            }
        }
        for (file, order) in orders {
            match order {
                Order::Vet => self.vet(file),
                Order::Unload => self.unload(&file, "its file is gone"),
                Order::Forget => {}
            }
        }
    }

    /// Does what an administrator says. It was written down before.
    fn order(&mut self, file: &Arc<str>, change: Change, done: oneshot::Sender<Option<FileStatus>>, directory: &Path) {
        // A file that has just been installed is there from now on.
        self.look(directory);
        if let Some(slot) = self.slots.get_mut(file) {
            let order = match change {
                Change::Look => None,
                Change::Reload => {
                    slot.life.reload();
                    None
                }
                Change::Enable => {
                    slot.life.enable();
                    None
                }
                Change::Disable => slot.life.disable(),
                Change::Forget => {
                    slot.removed = true;
                    None
                }
            };
            slot.waiting.push(done);
            if order.is_some() {
                self.unload(file, "it was disabled");
            }
            self.look(directory);
        }
    }

    /// Whether the directory may be loaded from; each file in one that may not is refused for that. What runs goes on.
    fn judge_directory(&mut self, directory: &Path) {
        let fault = self.shared.config.trust.directory(directory).err();
        if fault == self.directory_fault {
            return;
        }
        match &fault {
            Some(fault) => tracing::error!(reason = %fault, "nothing is loaded from the plugin directory"),
            None => tracing::info!(directory = %directory.display(), "the plugin directory is trusted now"),
        }
        self.directory_fault = fault;
        self.reconsider_untrusted();
    }

    /// Owners and modes above a file may have been put right. To look is cheap: nothing is read before that is right.
    fn reconsider_untrusted(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.life.refusal().is_some_and(|refused| refused.refusal.is_about_owners()) {
                slot.life.reconsider();
            }
        }
    }

    fn vet(&mut self, file: Arc<str>) {
        let Some(slot) = self.slots.get_mut(&file) else { return };
        let (serving, refused) = (slot.life.take_known(), slot.life.refused_content());
        let shared = self.shared.clone();
        self.steps.spawn(async move {
            let (verdict, candidate) = shared.vetter.vet(&file, serving, refused).await;
            shared.report(Input::Vetted { file, verdict, candidate: candidate.map(Box::new) }).await;
        });
    }

    fn vetted(&mut self, file: &Arc<str>, verdict: Verdict, candidate: Option<Box<Candidate>>) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        if let Verdict::Refused(_, _, refused) = &verdict
            && slot.life.refusal() != Some(refused)
        {
            log_refusal(file, refused, slot.running.is_some());
            slot.note_refusal(refused);
        }
        if !matches!(verdict, Verdict::StillRefused(_)) {
            slot.wants = None;
        }
        slot.life.vetted(verdict);
        let Some(candidate) = candidate else { return };
        if slot.life.is_disabled() {
            slot.life.abandoned();
            return remove_copy(&candidate.path);
        }
        let roles = self.shared.config.roles.iter().map(|(role, _)| *role);
        // Known before anything runs; at the start, the faster one of two is not always the one that is to have the id.
        if !slot.first
            && let Err(taken) = self.shared.modules.check_ids(file, candidate.served(roles))
        {
            remove_copy(&candidate.path);
            return self.refuse(file, candidate.hash, Refusal::from(taken).into());
        }
        if let Some(refusal) = self.too_many_mapped(file).or_else(|| self.unmet_needs(file, &candidate)) {
            remove_copy(&candidate.path);
            return self.refuse(file, candidate.hash, refusal.into());
        }
        let (shared, file) = (self.shared.clone(), file.clone());
        self.steps.spawn(async move {
            // Should the daemon die in here, its successor will know of what.
            let marker = shared.quarantine.begin(candidate.hash, &file).await;
            let (hash, path) = (candidate.hash, candidate.path.clone());
            let (created, was_created) = oneshot::channel();
            let start = candidate.start(&shared.config, &shared.modules, || {
                // Nobody waits when the supervisor ends.
                created.send(()).unwrap_or(());
            });
            let tell = async {
                if was_created.await.is_ok() {
                    shared.report(Input::Created { file: file.clone() }).await;
                }
            };
            let (outcome, ()) = tokio::join!(start, tell);
            drop(marker);
            if outcome.as_ref().is_err_and(|not_started| not_started.leftover.is_none()) {
                // Nothing is mapped from it; it may never have been opened.
                remove_copy(&path);
            }
            shared.report(Input::Started { file, hash, outcome: Box::new(outcome) }).await;
        });
    }

    fn started(&mut self, file: &Arc<str>, hash: ContentHash, outcome: Result<Running, NotStarted>) {
        let running = match outcome {
            Ok(running) => running,
            Err(NotStarted { refused, leftover }) => {
                if let Some(leftover) = leftover {
                    self.remember(file, *leftover);
                }
                return self.refuse(file, hash, refused);
            }
        };
        let Some(slot) = self.slots.get_mut(file) else { return };
        let place = slot.place;
        if slot.life.is_disabled() {
            slot.life.abandoned();
            return self.end(file, running, Duration::ZERO, "it was disabled");
        }
        let generation = running.actor.generation;
        if let Some(rival) = self.slower_rival(file, &running) {
            let reason = Refusal::IdTaken { id: rival.1, owner: file.to_string() };
            self.displace(&rival.0, reason.into());
        }
        if let Err(taken) = self.shared.modules.install(running.offer(file, place)) {
            self.end(file, running, Duration::ZERO, "it was not served");
            return self.refuse(file, hash, Refusal::from(taken).into());
        }
        let Some(slot) = self.slots.get_mut(file) else { return };
        slot.life.started(hash);
        let (shared, manifest) = (self.shared.clone(), running.status().manifest);
        self.steps.spawn(async move { shared.config.trust.ran(&manifest).await });
        self.shared.clone().watch_worker(&mut self.steps, file, &running);
        let old = slot.running.replace(running);
        let from = old.as_ref().map(|old| old.actor.generation);
        slot.history.add(By::File, from, Some(generation), "running".to_owned());
        tracing::info!(file = &**file, %generation, hash = format!("{hash:.12}"), replaced = old.is_some(), "running");
        if let Some(old) = old {
            self.keep_warm(file, old);
            self.reconsider_rivals(file);
        }
        self.reconsider_needs();
    }

    /// Why a candidate has to wait, if modules that it needs are not served.
    fn unmet_needs(&mut self, file: &Arc<str>, candidate: &Candidate) -> Option<Refusal> {
        let roles = self.shared.config.roles.iter().map(|(role, _)| *role);
        let wants = Wants::of(candidate.served(roles));
        let missing = wants.missing(|role, id| self.shared.modules.find(role, id).is_some());
        if missing.is_empty() {
            return None;
        }
        self.slots.get_mut(file)?.wants = Some(wants);
        let wants = self.slots.iter().filter_map(|(file, slot)| Some((file, slot.wants.as_ref()?))).collect();
        let Some(needs::Circle { modules, files }) = needs::circle(file, &wants) else {
            return Some(Refusal::Needs(missing));
        };
        // The others in it were refused before it was closed.
        for file in files {
            if let Some(slot) = self.slots.get_mut(&file)
                && slot.life.refusal().is_some_and(|refused| matches!(refused.refusal, Refusal::Needs(_)))
            {
                slot.life.reconsider();
            }
        }
        Some(Refusal::NeedsCircle(modules))
    }

    /// Who was refused for the lack of a module may have it now.
    fn reconsider_needs(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.life.refusal().is_some_and(|refused| refused.refusal.is_about_needs()) {
                slot.life.reconsider();
            }
        }
    }

    /// No further worker is started for this generation.
    fn condemned(&mut self, file: &Arc<str>, generation: Generation, reason: String) {
        let running = self.slots.get(file).and_then(|slot| slot.running.as_ref());
        if running.is_some_and(|running| running.actor.generation == generation) {
            self.displace(file, Refusal::Quarantined(reason).into());
        }
    }

    /// Who was refused because this file had an id may have it now.
    fn reconsider_rivals(&mut self, file: &Arc<str>) {
        for slot in self.slots.values_mut() {
            let rival = slot
                .life
                .refusal()
                .is_some_and(|refused| matches!(&refused.refusal, Refusal::IdTaken { owner, .. } if **owner == **file));
            if rival {
                slot.life.reconsider();
            }
        }
    }

    /// At the start, ids go to the first file by name. Its rival may have been faster: who is it, and which id is it?
    fn slower_rival(&self, file: &Arc<str>, running: &Running) -> Option<(Arc<str>, String)> {
        let slot = self.slots.get(file).filter(|slot| slot.first)?;
        let offer = running.offer(file, slot.place);
        let taken = self.shared.modules.check_ids(file, offer.served()).err()?;
        let owner = taken.owner?;
        self.slots.get(&owner).filter(|rival| rival.first && rival.place > slot.place)?;
        Some((owner, taken.id))
    }

    fn displace(&mut self, file: &Arc<str>, refused: Refused) {
        log_refusal(file, &refused, false);
        if let Some(slot) = self.slots.get_mut(file) {
            slot.life.displaced(refused);
        }
        self.unload(file, "its ids belong to another file");
    }

    fn refuse(&mut self, file: &Arc<str>, hash: ContentHash, refused: Refused) {
        let Some(slot) = self.slots.get_mut(file) else { return };
        log_refusal(file, &refused, slot.running.is_some());
        slot.note_refusal(&refused);
        slot.life.failed(hash, refused);
    }

    /// Takes a file's modules out of service.
    fn unload(&mut self, file: &Arc<str>, why: &str) {
        self.shared.modules.retire(file);
        self.end_probation(file, why);
        let Some(slot) = self.slots.get_mut(file) else { return };
        let Some(running) = slot.running.take() else { return };
        slot.history.add(By::File, Some(running.actor.generation), None, why.to_owned());
        self.end(file, running, self.shared.config.drain, why);
        self.reconsider_rivals(file);
    }

    /// Lets a generation end that is not routed to any more.
    fn end(&mut self, file: &Arc<str>, running: Running, drain: Duration, why: &str) {
        // At once, so that whoever still holds the old route is sent to the new one.
        running.actor.mailbox.drain();
        let generation = running.actor.generation;
        if let Some(slot) = self.slots.get_mut(file) {
            slot.draining.insert(generation);
        }
        let (shared, file, why) = (self.shared.clone(), file.clone(), why.to_owned());
        self.steps.spawn(async move {
            let outcome = running.retire(drain, &why).await;
            shared.report(Input::Retired { file, generation, outcome }).await;
        });
    }

    fn publish(&mut self) {
        let now = SystemTime::now();
        let files: Arc<[FileStatus]> = self
            .slots
            .iter_mut()
            .map(|(file, slot)| {
                slot.life.refresh(now);
                let hang = slot.running.as_ref().and_then(|running| running.actor.mailbox.hang());
                let (state, since) = match &hang {
                    Some(hang) if slot.life.state().0 == State::Running => (State::Hung, hang.since),
                    _ => slot.life.state(),
                };
                let of_file = |remains: &&Remains| remains.file == *file;
                FileStatus {
                    file: file.clone(),
                    state,
                    since,
                    refused: slot.life.refusal().cloned(),
                    hang,
                    pinned: slot.pinned.then_some(slot.ignored),
                    probation: slot.probation(),
                    history: slot.history.clone(),
                    serving: slot.running.as_ref().map(Running::status),
                    draining: slot.draining.iter().copied().collect(),
                    still_mapped: self.remains.values().filter(of_file).map(|remains| remains.told.clone()).collect(),
                }
            })
            .collect();
        for (slot, file) in
            self.slots.values_mut().zip(files.iter()).filter(|(slot, _)| slot.is_settled(self.directory_missing))
        {
            for waiting in slot.waiting.drain(..) {
                // Whoever asked may not want to know any more.
                drop(waiting.send(Some(file.clone())));
            }
        }
        // What waits for another is not settled before the other is.
        let others = self.slots.values().any(|slot| slot.awaited && !slot.is_settled(self.directory_missing));
        for slot in self.slots.values_mut().filter(|slot| slot.awaited) {
            let settled = slot.is_settled(self.directory_missing);
            slot.awaited = !settled || (others && slot.wants.is_some());
        }
        self.status.send_replace(files);
        if *self.settled.borrow() {
            return;
        }
        let awaited: Vec<&str> = self.slots.iter().filter(|(_, slot)| slot.awaited).map(|(file, _)| &**file).collect();
        if !awaited.is_empty() {
            if self.started.elapsed() < PATIENCE_AT_START {
                return;
            }
            tracing::warn!(?awaited, "going on without plugins that are not ready");
        }
        for slot in self.slots.values_mut() {
            (slot.awaited, slot.first) = (false, false);
        }
        self.settled.send_replace(true);
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
        let stays = directory_missing || (self.pinned && self.running.is_some());
        self.life.is_settled(stays)
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

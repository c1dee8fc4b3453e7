//! A program that is run and watched: by a monitor, which wraps it, or by a master, which started it as a server.
//!
//! ```text
//!            started, or found again          it ended              the pause is over
//!   ─────────────────────────────▶ Running ────────────▶ Waiting ─────────────────────▶ Running
//!                                     │                    │
//!                        ordered, or  │                    │  too often
//!                   its policy says so▼                    ▼
//!                                   Ended  ◀──────────  GivenUp          an order starts it again
//! ```
//!
//! One task owns the program; others send it orders, and watch its [`Status`]. What runs is written down before it matters
//! (`store.rs`), and marked (`kin.rs`): a supervisor that was killed leaves nothing that its successor does not find.

mod cpus;
mod kin;
mod output;
mod run;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tracing::{error, info, warn};

pub(crate) use self::{
    cpus::{Cpus, NotCpus},
    output::{Logs, file_name},
    run::{How, Launch},
};
use self::{
    kin::Mark,
    output::{Output, Stream},
    run::{Record, Run},
};
use crate::{
    deaths::{Deaths, Next, Patience},
    store::{Kept, Store},
};

/// Orders that may wait: people give them, one at a time.
const ORDERS: usize = 8;

/// Lines of stderr that are kept of a run that ended.
const LAST_WORDS: usize = 20;

/// What processes that outlived the first one of their program get to end, before the next run.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(2);

/// When a program that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// When it did not end with exit code 0.
    OnFailure,
    /// However it ended.
    Always,
    /// Not by itself.
    Never,
}

/// What becomes of a program that an earlier supervisor has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphans {
    /// It is watched again.
    Adopt,
    /// It is ended, and started anew.
    End,
}

/// How programs are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Care {
    pub(crate) restart: Restart,
    pub(crate) patience: Patience,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    pub(crate) orphans: Orphans,
    pub(crate) logs: Logs,
}

/// What is known of a program at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) command: Vec<String>,
    pub(crate) state: State,
    /// How often it was started by this supervisor.
    pub(crate) starts: u64,
    pub(crate) last_end: Option<End>,
    /// Where its output is: stdout and stderr.
    files: [PathBuf; 2],
}

/// Where it is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    Running {
        pid: u32,
        since: SystemTime,
        adopted: bool,
    },
    /// Ended, to be started again.
    Waiting {
        pause: Duration,
    },
    /// Ended, and not to be started again but by an order.
    Ended {
        ordered: bool,
    },
    /// It ended too often, or cannot be started.
    GivenUp {
        why: String,
    },
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) how: How,
    at: SystemTime,
    ran_for: Duration,
    /// The last lines that it wrote to stderr.
    pub(crate) stderr: Vec<String>,
}

/// A program, for those who order and watch it. It is left running when the last of these is gone.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
}

enum Order {
    /// Ends it, with or without a grace; answered when nothing of it is left.
    End {
        grace: Option<Duration>,
        done: oneshot::Sender<()>,
    },
    /// Ends it and starts it again; answered by the new pid, or why there is none.
    Restart {
        done: oneshot::Sender<Result<u32, String>>,
    },
    Signal(Signal),
}

/// The task that owns a program.
struct Keeper {
    name: String,
    launch: Launch,
    care: Care,
    mark: Mark,
    store: Arc<Store>,
    output: Output,
    deaths: Deaths,
    status: watch::Sender<Status>,
    orders: mpsc::Receiver<Order>,
}

impl Program {
    /// Starts a program, or takes over what an earlier supervisor has left of it. `name` is that of its server; no other
    /// program of this store has it.
    ///
    /// # Errors
    /// When it cannot be started, or its output has no place.
    pub(crate) async fn start(
        name: &str,
        launch: Launch,
        care: Care,
        store: Arc<Store>,
        state_dir: &std::path::Path,
    ) -> io::Result<Program> {
        let (mut keeper, program) = Keeper::new(name, launch, care, store, state_dir)?;
        let run = match keeper.take_over().await {
            Some(run) => run,
            None => keeper.run().await?,
        };
        tokio::spawn(keeper.keep(run));
        Ok(program)
    }

    /// Takes over what an earlier supervisor has left of a program, if it is to be adopted; what is not is ended.
    ///
    /// # Errors
    /// When its output has no place.
    pub(crate) async fn find(
        name: &str,
        care: Care,
        store: Arc<Store>,
        state_dir: &std::path::Path,
    ) -> io::Result<Option<Program>> {
        let record = store.kept(Kept::Program, name).and_then(|text| serde_json::from_str::<Record>(&text).ok());
        let command = record.map(Record::into_command).unwrap_or_default();
        let launch = Launch { command, ..Launch::default() };
        let (mut keeper, program) = Keeper::new(name, launch, care, store, state_dir)?;
        let Some(run) = keeper.take_over().await else { return Ok(None) };
        tokio::spawn(keeper.keep(run));
        Ok(Some(program))
    }

    /// What is known now; changes are seen.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends it: SIGTERM, and SIGKILL after the grace; without one SIGKILL at once. Returns when nothing of it is left.
    pub(crate) async fn end(&self, grace: Option<Duration>) {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::End { grace, done }).await.is_ok() {
            // A keeper that is gone keeps nothing.
            drop(ended.await);
        }
    }

    /// Ends it if it runs, and starts it: the new pid.
    ///
    /// # Errors
    /// Why it does not run.
    pub(crate) async fn restart(&self) -> Result<u32, String> {
        let (done, restarted) = oneshot::channel();
        let gone = || "its supervisor has ended".to_owned();
        self.orders.send(Order::Restart { done }).await.map_err(|_| gone())?;
        restarted.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Passes a signal on to its first process.
    pub(crate) async fn signal(&self, signal: Signal) {
        if self.orders.send(Order::Signal(signal)).await.is_err() {
            warn!(?signal, "a signal found no program");
        }
    }
}

impl Status {
    /// The process, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Waiting { .. } | State::Ended { .. } | State::GivenUp { .. } => None,
        }
    }

    /// `{"state", "pid", "since", "adopted", "starts", "pauseMs", "why", "command", "stdout", "stderr", "lastEnd"}`; times
    /// are seconds since 1970, and `lastEnd` is `{"how", "code", "signal", "at", "ranForS", "stderr": [lines]}`.
    pub(crate) fn to_json(&self) -> Value {
        let Status { command, state, starts, last_end, files: [stdout, stderr] } = self;
        let mut json = json!({ "state": state.name(), "starts": starts, "command": command,
            "stdout": stdout, "stderr": stderr, "lastEnd": last_end.as_ref().map(End::to_json) });
        let more = match state {
            State::Running { pid, since, adopted } => {
                json!({ "pid": pid, "since": seconds(*since), "adopted": adopted })
            }
            State::Waiting { pause } => json!({ "pauseMs": u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) }),
            State::Ended { ordered } => json!({ "ordered": ordered }),
            State::GivenUp { why } => json!({ "why": why }),
        };
        if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
            json.extend(more);
        }
        json
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Running { .. } => "running",
            State::Waiting { .. } => "waiting",
            State::Ended { .. } => "ended",
            State::GivenUp { .. } => "given up",
        }
    }
}

impl End {
    fn to_json(&self) -> Value {
        let End { how, at, ran_for, stderr } = self;
        let mut json = how.to_json();
        if let Some(json) = json.as_object_mut() {
            json.insert("at".into(), seconds(*at).into());
            json.insert("ranForS".into(), ran_for.as_secs_f64().into());
            json.insert("stderr".into(), stderr.clone().into());
        }
        json
    }
}

impl Keeper {
    fn new(
        name: &str,
        launch: Launch,
        care: Care,
        store: Arc<Store>,
        state_dir: &std::path::Path,
    ) -> io::Result<(Keeper, Program)> {
        let mark = Mark::new(state_dir, name);
        let output = Output::open(&care.logs, name)?;
        let files = [Stream::Stdout, Stream::Stderr].map(|stream| output.path(stream).to_owned());
        let state = State::Ended { ordered: false };
        let status = Status { command: launch.command.clone(), state, starts: 0, last_end: None, files };
        let (status, watched) = watch::channel(status);
        let (orders, taken) = mpsc::channel(ORDERS);
        let deaths = Deaths::new(care.patience);
        let name = name.to_owned();
        let keeper = Keeper { name, launch, care, mark, store, output, deaths, status, orders: taken };
        Ok((keeper, Program { orders, status: watched }))
    }

    /// Looks for what an earlier supervisor has left, and ends all of it that is not adopted.
    async fn take_over(&mut self) -> Option<Run> {
        let record = self.store.kept(Kept::Program, &self.name);
        let record = record.and_then(|text| serde_json::from_str::<Record>(&text).ok());
        let found = record.and_then(|record| Run::find(&record, &self.mark));
        match found {
            Some(run) if self.care.orphans == Orphans::Adopt => {
                info!(name = self.name, pid = raw(&run), "the program still runs and is watched again");
                self.status.send_modify(|status| {
                    status.state = State::Running { pid: raw(&run), since: SystemTime::now(), adopted: true };
                });
                Some(run)
            }
            left => {
                if let Some(run) = &left {
                    info!(name = self.name, pid = raw(run), "an earlier supervisor has left the program: it is ended");
                }
                self.mark.end(left.as_ref().map(Run::pid), Some(self.care.grace)).await;
                self.forget().await;
                None
            }
        }
    }

    async fn run(&mut self) -> io::Result<Run> {
        self.output.catch_up().await;
        self.output.begin();
        let (stdout, stderr) = self.output.files()?;
        let run = Run::start(&self.launch, &self.mark, stdout, stderr)?;
        let record = serde_json::to_string(&run.record(&self.launch)).map_err(io::Error::other)?;
        if !self.store.keep(Kept::Program, &self.name, Some(&record)).await {
            warn!(name = self.name, "not written down: if this daemon is killed, its successor ends the program");
        }
        info!(name = self.name, pid = raw(&run), "the program was started");
        self.status.send_modify(|status| {
            status.starts += 1;
            status.state = State::Running { pid: raw(&run), since: SystemTime::now(), adopted: false };
        });
        Ok(run)
    }

    async fn keep(mut self, first: Run) {
        let mut next = Some(first);
        loop {
            let Some(run) = next.take() else {
                // Not running: only an order starts it again.
                match self.orders.recv().await {
                    Some(order) => next = self.obey_idle(order).await,
                    None => return,
                }
                continue;
            };
            let begun = Instant::now();
            let order = loop {
                tokio::select! {
                    () = run.over() => break None,
                    order = self.orders.recv() => match order {
                        Some(Order::Signal(signal)) => run.signal(signal),
                        Some(order) => break Some(order),
                        None => return,
                    }
                }
            };
            next = match order {
                None => {
                    let how = self.ended(run, begun, Some(LEFTOVERS_GRACE)).await;
                    self.after(how, begun.elapsed()).await
                }
                Some(Order::End { grace, done }) => {
                    self.ended(run, begun, grace).await;
                    self.set(State::Ended { ordered: true });
                    done.send(()).unwrap_or(());
                    None
                }
                Some(Order::Restart { done }) => {
                    self.ended(run, begun, Some(self.care.grace)).await;
                    self.again(done).await
                }
                Some(Order::Signal(_)) => None,
            };
        }
    }

    /// Ends what is left of a run, and takes note of how it ended.
    async fn ended(&mut self, run: Run, begun: Instant, grace: Option<Duration>) -> How {
        self.mark.end(Some(run.pid()), grace).await;
        let pid = raw(&run);
        let how = run.how();
        self.output.catch_up().await;
        self.forget().await;
        let stderr = self.output.last(Stream::Stderr, LAST_WORDS);
        let ran_for = begun.elapsed();
        let last_words = stderr.last().map(String::as_str).unwrap_or_default();
        info!(name = self.name, pid, %how, ?ran_for, last_words, "the program ended");
        self.status.send_modify(|status| {
            status.last_end = Some(End { how, at: SystemTime::now(), ran_for, stderr });
        });
        how
    }

    async fn forget(&self) {
        if !self.store.keep(Kept::Program, &self.name, None).await {
            warn!(name = self.name, "that the program ended is not written down; its process will not be found");
        }
    }

    /// After an end that nobody ordered.
    async fn after(&mut self, how: How, ran_for: Duration) -> Option<Run> {
        let again = match self.care.restart {
            Restart::Always => true,
            Restart::OnFailure => how.is_failure(),
            Restart::Never => false,
        };
        if !again {
            self.set(State::Ended { ordered: false });
            return None;
        }
        let mut lived = ran_for;
        loop {
            match self.deaths.record(Instant::now(), lived) {
                Next::Never { deaths, within } => {
                    return self.give_up(format!("{deaths} times within {} s; the last time {how}", within.as_secs()));
                }
                Next::Again(pause) => {
                    warn!(name = self.name, %how, again_in = ?pause, "the program ended and is started again");
                    self.set(State::Waiting { pause });
                    tokio::select! {
                        () = sleep(pause) => match self.run().await {
                            Ok(run) => return Some(run),
                            Err(error) => {
                                error!(name = self.name, %error, "the program cannot be started");
                                lived = Duration::ZERO;
                            }
                        },
                        Some(order) = self.orders.recv() => {
                            // A signal that comes in the pause is for nobody.
                            if !matches!(order, Order::Signal(_)) {
                                return self.obey_idle(order).await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Obeys while nothing runs.
    async fn obey_idle(&mut self, order: Order) -> Option<Run> {
        match order {
            Order::Restart { done } => self.again(done).await,
            Order::End { done, .. } => {
                self.set(State::Ended { ordered: true });
                done.send(()).unwrap_or(());
                None
            }
            Order::Signal(_) => None,
        }
    }

    /// Somebody ordered it to run, so what it died of before does not count.
    async fn again(&mut self, done: oneshot::Sender<Result<u32, String>>) -> Option<Run> {
        self.deaths = Deaths::new(self.care.patience);
        match self.run().await {
            Ok(run) => {
                drop(done.send(Ok(raw(&run))));
                Some(run)
            }
            Err(error) => {
                drop(done.send(Err(error.to_string())));
                self.give_up(format!("it cannot be started: {error}"))
            }
        }
    }

    fn give_up(&mut self, why: String) -> Option<Run> {
        error!(name = self.name, why, "the program is not started again, unless it is ordered");
        self.set(State::GivenUp { why });
        None
    }

    fn set(&self, state: State) {
        self.status.send_modify(|status| status.state = state);
    }
}

fn raw(run: &Run) -> u32 {
    run.pid().as_raw_nonzero().get().unsigned_abs()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;

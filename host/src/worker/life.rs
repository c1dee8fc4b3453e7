//! One worker process, from its start to its end: what it is given, what it says, and whether it still does its work.
//!
//! Three threads know it: the bridge, which starts it, gives it mail and buries it; one that reads what it says; and one
//! that passes on what it writes to its standard error. The reader never waits for anything but the worker, so that a
//! turn that does not end is seen whatever the bridge is doing.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use muster_plugin_api::abi::{Mail, status};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::{
    Plan,
    cgroup::{Group, Grouped},
    death::Death,
    frame::{self, Incoming, ToHost},
};
use crate::{
    batch,
    modules::{
        host::{Host, fence},
        presence::Presence,
        services::Operation,
    },
    plugin::{refusal::human, unload::HostThread},
};

/// How often a worker is looked at.
const BEAT: Duration = Duration::from_millis(250);
/// A worker that has nothing to do is asked for a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What a turn may take beyond the deadline of the calls in it: callers are told by then.
const GRACE: Duration = Duration::from_millis(500);
/// A turn that takes so long is looked at: a process that is stopped will not end it.
const SUSPICIOUS: Duration = Duration::from_millis(750);
/// Parcels that a worker may have at a time: one in its hands, one or two on the way. The rest waits in the mailbox,
/// where it is counted.
const WINDOW: usize = 3;
/// What a worker gets to end in order, or to be gone after it has closed its socket.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Between two looks at a process that is about to be gone.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A longer line of the standard error is cut into several.
const LONGEST_LINE: u64 = 4096;

/// Calls with this bit are the bridge's own: instances that start again. The tables of calls count from 1.
const AGAIN: u64 = 1 << 63;
/// Operations get the number of the life above this bit, so that a worker never gets the answer to a dead one's question.
const LIFE_SHIFT: u32 = 40;

/// A worker process.
#[derive(Debug)]
pub(super) struct Life {
    shared: Arc<Shared>,
    child: Child,
    group: Option<Group>,
    reader: JoinHandle<()>,
}

/// The process is gone, or as good as gone.
#[derive(Debug)]
pub(super) struct Over;

#[derive(Debug)]
struct Shared {
    number: u64,
    host: Arc<Host>,
    presence: Arc<Presence>,
    leader: Pid,
    patience: Duration,
    /// Locked before `state`, if both are.
    wire: Mutex<Wire>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Wire {
    stream: UnixStream,
    buffer: Vec<u8>,
    parcels: u64,
}

#[derive(Debug)]
struct State {
    /// Whether the plugin exists, or why not.
    created: Option<Result<(), String>>,
    /// Calls that were given to it and have not ended.
    delivered: HashSet<u64>,
    /// Instances that have not started again.
    starting: BTreeSet<u32>,
    turns: VecDeque<Turn>,
    looked: Instant,
    /// The longest that a call had left: what a turn without calls may take.
    longest: Duration,
    /// Why it was killed.
    verdict: Option<String>,
    /// It was killed because somebody else had stopped it.
    stopped: bool,
    over: bool,
    /// The bridge waits for a change.
    awaited: bool,
}

/// A parcel that the worker has not done with.
#[derive(Debug)]
struct Turn {
    number: u64,
    /// For how long it was seen to be the one under way: a daemon that was stopped itself has not seen anything.
    waited: Duration,
    limit: Option<Duration>,
}

// === impl Life ===

impl Life {
    /// Starts a worker. To be called on a thread that outlives it: the kernel kills it when that thread ends.
    ///
    /// # Errors
    /// When there can be no further process or thread.
    pub(super) fn begin(
        stem: &str,
        path: &Path,
        plan: &Plan,
        host: Arc<Host>,
        presence: Arc<Presence>,
        number: u64,
    ) -> io::Result<Life> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(BEAT))?;
        ours.set_read_timeout(Some(BEAT))?;
        let hearing = ours.try_clone()?;
        let group = plan.group(stem);
        let mut child = Command::new(&plan.launcher.program)
            .args(&plan.launcher.arguments)
            .args(plan.limits.arguments())
            .args(group.iter().flat_map(|group| [OsStr::new("--group"), group.directory().as_os_str()]))
            .arg(path)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let Some(leader) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::other("the system gave it no number"));
        };
        let state = State {
            created: None,
            delivered: HashSet::new(),
            starting: BTreeSet::new(),
            turns: VecDeque::new(),
            looked: Instant::now(),
            longest: Duration::ZERO,
            verdict: None,
            stopped: false,
            over: false,
            awaited: false,
        };
        let shared = Arc::new(Shared {
            number,
            host,
            presence,
            leader,
            patience: plan.patience,
            wire: Mutex::new(Wire { stream: ours, buffer: Vec::new(), parcels: 0 }),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let errors = child.stderr.take();
        let threads = || {
            if let Some(errors) = errors {
                let plugin = stem.to_owned();
                std::thread::Builder::new().name("w-stderr".to_owned()).spawn(move || pass_on(&plugin, errors))?;
            }
            let shared = shared.clone();
            std::thread::Builder::new().name("w-reader".to_owned()).spawn(move || shared.listen(&hearing))
        };
        match threads() {
            Ok(reader) => Ok(Life { shared, child, group, reader }),
            Err(error) => {
                kill(leader);
                child.wait()?;
                Err(error)
            }
        }
    }

    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.shared.leader.as_raw_nonzero().get()
    }

    /// Its control group.
    pub(super) fn group(&self) -> Option<Grouped> {
        self.group.as_ref().map(Group::shown)
    }

    /// Waits until the plugin exists.
    ///
    /// # Errors
    /// When it cannot be made, or not within `patience`.
    pub(super) fn created(&self, patience: Duration) -> Result<(), Over> {
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        loop {
            match &state.created {
                Some(Ok(())) => return Ok(()),
                Some(Err(_)) => return Err(Over),
                None if state.over => return Err(Over),
                None if Instant::now() >= until => {
                    self.shared.kill(&mut state, format!("its worker had not created it after {}", human(&patience)));
                    return Err(Over);
                }
                None => state = self.shared.wait(state),
            }
        }
    }

    /// Waits until the worker can be given something more; not for ever, so that the caller can look around.
    ///
    /// # Errors
    /// When there is nobody to give anything to.
    pub(super) fn has_room(&self) -> Result<bool, Over> {
        let mut state = self.shared.state();
        if state.turns.len() >= WINDOW && !state.over {
            state = self.shared.wait(state);
        }
        if state.over { Err(Over) } else { Ok(state.turns.len() < WINDOW) }
    }

    /// Whether the process is gone, or as good as gone.
    pub(super) fn is_over(&self) -> bool {
        self.shared.state().over
    }

    /// Gives mail to the worker, for one turn. Returns the number of the parcel, and whether it is on its way.
    pub(super) fn give(&self, mail: &[Mail<'_>], calls: &[u64]) -> (u64, Result<(), Over>) {
        let limit = mail.iter().map(|mail| mail.left_ms).max().filter(|left| *left > 0).map(Duration::from_millis);
        let mut wire = self.shared.wire();
        let given = self.shared.give(&mut wire, mail, calls, limit);
        (wire.parcels, given)
    }

    /// The oldest parcel that the worker has not done with: it may have begun with this one, but with no later one.
    pub(super) fn in_hand(&self) -> Option<u64> {
        self.shared.state().turns.front().map(|turn| turn.number)
    }

    /// Starts instances of an earlier life again: mail of kind `START` by the number of the instance.
    ///
    /// # Errors
    /// When there is nobody to start them.
    pub(super) fn start_again(&self, starts: &mut [Mail<'_>]) -> Result<(), Over> {
        for start in &mut *starts {
            start.id = AGAIN | u64::from(start.instance);
        }
        self.shared.state().starting = starts.iter().map(|start| start.instance).collect();
        self.give(starts, &[]).1
    }

    /// Whether all instances have started again.
    ///
    /// # Errors
    /// When they will not.
    pub(super) fn has_started(&self) -> Result<bool, Over> {
        let state = self.shared.state();
        if state.over { Err(Over) } else { Ok(state.starting.is_empty()) }
    }

    /// Kills the worker for a reason that is told.
    pub(super) fn condemn(&self, why: String) {
        self.shared.kill(&mut self.shared.state(), why);
    }

    /// The id under which the worker knows an operation; `None` for one of an earlier life.
    pub(super) fn own_operation(&self, id: u64) -> Option<u64> {
        (id >> LIFE_SHIFT == self.shared.number).then_some(id & ((1 << LIFE_SHIFT) - 1))
    }

    /// Ends a worker that is not needed any more: its plugin is dropped if that takes no longer than it may.
    pub(super) fn end(self) {
        // It may be gone already.
        drop(self.shared.wire().stream.shutdown(Shutdown::Write));
        self.bury(LAST_WORDS);
    }

    /// Buries a worker that died.
    pub(super) fn bury(mut self, patience: Duration) -> Death {
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        while !state.over && Instant::now() < until {
            state = self.shared.wait(state);
        }
        let closed = state.over;
        drop(state);
        let until = Instant::now() + LAST_WORDS;
        // Who has closed the socket is about to die of something, which is worth knowing.
        while closed && !has_died(self.shared.leader) && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
        kill(self.shared.leader);
        // Before the number of the process is given back: the reader may want to kill it as well.
        if self.reader.join().is_err() {
            tracing::error!("what a worker said was not understood to its end");
        }
        let status = self.child.wait();
        let mut state = self.shared.state();
        let delivered = std::mem::take(&mut state.delivered);
        let in_hand = state.turns.front().map(|turn| turn.number);
        let created = state.created.take().and_then(Result::err);
        // The group goes with this, and all that is left in it.
        let starved = self.group.as_ref().and_then(Group::fate);
        let told = state.verdict.take().or(created).or(starved);
        Death::of(status, told, state.stopped, delivered, in_hand)
    }
}

// === impl Shared ===

impl Shared {
    /// Reads what the worker says until it says no more, and looks after it meanwhile.
    fn listen(&self, stream: &UnixStream) {
        let _mark = HostThread::mark();
        let _runtime = self.host.runtime.enter();
        let mut incoming = Incoming::default();
        let mut heartbeat = Instant::now();
        loop {
            match incoming.fill(stream) {
                Ok(0) => break,
                Ok(_) => {
                    if self.understand(&mut incoming).is_err() {
                        self.kill(&mut self.state(), "its worker sent what is no message".to_owned());
                        break;
                    }
                }
                // A process that it left behind may hold the socket: then its death is the end.
                Err(error) if is_timeout(&error) && has_died(self.leader) => break,
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            self.look();
            if heartbeat.elapsed() >= HEARTBEAT {
                heartbeat = Instant::now();
                self.ask_for_a_sign();
            }
        }
        let mut state = self.state();
        state.over = true;
        self.notify(&state);
        drop(state);
        // The bridge may be waiting for mail.
        self.host.mailbox.wake();
    }

    fn understand(&self, incoming: &mut Incoming) -> Result<(), frame::Malformed> {
        // What ended together is told together.
        let _batch = batch::begin();
        while let Some(frame) = incoming.next()? {
            let said = ToHost::read(frame)?;
            fence(|| self.hear(said));
        }
        Ok(())
    }

    fn hear(&self, said: ToHost<'_>) {
        match said {
            ToHost::Created { error } => {
                let mut state = self.state();
                state.created = Some(if error.is_empty() { Ok(()) } else { Err(error.to_owned()) });
                self.notify(&state);
            }
            ToHost::Turn { number } => {
                let mut state = self.state();
                while state.turns.front().is_some_and(|turn| turn.number <= number) {
                    state.turns.pop_front();
                }
                self.presence.set_inside(!state.turns.is_empty());
                self.notify(&state);
            }
            ToHost::Reply { call, status, error, body } if call & AGAIN == 0 => {
                if self.state().delivered.remove(&call) {
                    self.host.mailbox.calls().end(call, status, error, body);
                } else {
                    self.host.mailbox.calls().figures().unclaimed.fetch_add(1, Ordering::Relaxed);
                }
            }
            ToHost::Reply { call, status, body, .. } => {
                let mut state = self.state();
                if matches!(status, status::PANIC | status::FAILED) {
                    self.kill(&mut state, format!("it did not start again: {}", String::from_utf8_lossy(body)));
                } else if u32::try_from(call & !AGAIN).is_ok_and(|instance| state.starting.remove(&instance)) {
                    drop(state);
                    self.host.mailbox.wake();
                }
            }
            ToHost::Log { instance, level, message, fields } => self.host.log(instance, level, message, fields),
            ToHost::Ask { instance, id, op, a, b, n, body } => {
                let id = self.number << LIFE_SHIFT | id & ((1 << LIFE_SHIFT) - 1);
                self.host.ask(instance, id, Operation { op, a, b, n, body });
            }
            ToHost::Tell { id, instance, op, a, b, n, body } => {
                let result = self.host.tell(instance, Operation { op, a, b, n, body });
                self.answer(id, result, &[]);
            }
            ToHost::Query { id, instance, op, a, b } => {
                let body = self.host.query(instance, op, a, b);
                self.answer(id, 0, &body);
            }
            // A turn without mail. If it is over, there is nobody to have it.
            ToHost::Wake => drop(self.give(&mut self.wire(), &[], &[], None)),
        }
    }

    fn give(&self, wire: &mut Wire, mail: &[Mail<'_>], calls: &[u64], limit: Option<Duration>) -> Result<(), Over> {
        wire.parcels += 1;
        wire.buffer.clear();
        frame::parcel(&mut wire.buffer, wire.parcels, mail.iter().copied());
        let mut state = self.state();
        state.delivered.extend(calls);
        state.longest = state.longest.max(limit.unwrap_or_default());
        if state.turns.is_empty() {
            state.looked = Instant::now();
            self.presence.set_inside(true);
        }
        state.turns.push_back(Turn { number: wire.parcels, waited: Duration::ZERO, limit });
        drop(state);
        self.write(wire)
    }

    fn answer(&self, id: u32, result: i64, body: &[u8]) {
        let mut wire = self.wire();
        wire.buffer.clear();
        frame::answer(&mut wire.buffer, id, result, body);
        // If it is over, nobody waits for it.
        drop(self.write(&mut wire));
    }

    fn write(&self, wire: &mut Wire) -> Result<(), Over> {
        let Wire { stream, buffer, .. } = wire;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(Over),
                Ok(written) => rest = &rest[written..],
                Err(error) if is_timeout(&error) => {
                    // It does not read. Whoever writes keeps the reader from looking after it.
                    self.look();
                    if self.host.mailbox.is_closed() {
                        self.kill(&mut self.state(), "its worker does not read what it is told".to_owned());
                        return Err(Over);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }

    /// Kills the worker if its turn has taken too long.
    fn look(&self) {
        let mut state = self.state();
        let passed = state.looked.elapsed();
        if passed < BEAT {
            return;
        }
        state.looked = Instant::now();
        let longest = state.longest;
        let Some(turn) = state.turns.front_mut() else { return };
        turn.waited += passed.min(2 * BEAT);
        let (waited, limit) = (turn.waited, turn.limit.unwrap_or(self.patience.max(longest)));
        if waited >= limit + GRACE {
            let seconds = format!("{:.1} s", waited.as_secs_f64());
            self.kill(&mut state, format!("its worker was killed: a handler had not returned after {seconds}"));
        } else if waited >= SUSPICIOUS && is_stopped(self.leader) {
            state.stopped = true;
            self.kill(&mut state, "its worker was killed: it had been stopped from outside".to_owned());
        }
    }

    /// Asks a worker that has nothing to do for a turn without mail.
    fn ask_for_a_sign(&self) {
        if !self.state().turns.is_empty() {
            return;
        }
        match self.wire.try_lock() {
            Ok(mut wire) => drop(self.give(&mut wire, &[], &[], None)),
            Err(TryLockError::Poisoned(wire)) => drop(self.give(&mut wire.into_inner(), &[], &[], None)),
            // Somebody gives it something to do.
            Err(TryLockError::WouldBlock) => {}
        }
    }

    fn kill(&self, state: &mut State, why: String) {
        // Not once it is over: then it is buried, and its number may be another's.
        if !state.over && state.verdict.is_none() {
            state.verdict = Some(why);
            kill(self.leader);
        }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.awaited = true;
        let (mut state, _) = self.changed.wait_timeout(state, BEAT).unwrap_or_else(PoisonError::into_inner);
        state.awaited = false;
        state
    }

    fn notify(&self, state: &State) {
        if state.awaited {
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kills the process and all of its group. To be called before it is reaped.
fn kill(leader: Pid) {
    // There may be nobody left to kill.
    rustix::process::kill_process_group(leader, Signal::KILL).unwrap_or(());
}

fn has_died(leader: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(leader), options), Ok(None))
}

fn is_stopped(leader: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", leader.as_raw_nonzero())).unwrap_or_default();
    // The state follows the name, which may contain anything. `t` would be a debugger, which knows what it does.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Passes on what a worker writes to its standard error.
fn pass_on(plugin: &str, errors: ChildStderr) {
    let _mark = HostThread::mark();
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    while matches!(errors.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        tracing::warn!(target: "module", plugin, "stderr: {}", text.trim_end());
        line.clear();
    }
}

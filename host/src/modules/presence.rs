//! Where a generation's thread is, seen from outside: inside whose code, since when, running or blocked.
//!
//! The thread itself only stores numbers. Whoever watches reads them a few times a second, so that a handler that does
//! not return is found by somebody it cannot stop.

use std::{
    fmt, fs,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use muster_plugin_api::{Role, abi::kind};

use super::actor::{Instance, role_name};
use crate::plugin::recorder::Plate;

/// The default of `plugins.slow`.
pub(crate) const SLOW: Duration = Duration::from_millis(100);

/// Where the thread is, for those who watch it from outside.
#[derive(Debug)]
pub(crate) struct Presence {
    /// When the turn under way began, in nanoseconds of [`monotonic_ns`]; 0 outside the plugin.
    in_plugin_since: AtomicU64,
    /// When the step under way began; a turn has one for each piece of work.
    step_since: AtomicU64,
    /// When the step under way gave its answer, which is the last that it does; 0 before that.
    answered: AtomicU64,
    /// With the step, for the case that the daemon dies of it.
    plate: Plate,
    tid: AtomicI32,
    slow_limit: AtomicU64,
    slow_count: AtomicU64,
    slowest: AtomicU64,
    slowest_step: AtomicU64,
}

/// One piece of work in a turn: whose, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) instance: u32,
    /// The kind of mail, as the ABI numbers them; 0 for a task of the module, or unknown.
    pub(crate) kind: u32,
}

/// A step that lasts longer than any call may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hang {
    /// Which module's handler, in words.
    pub(crate) handler: String,
    /// When it was entered.
    pub(crate) since: SystemTime,
    /// Whether the thread runs or is blocked, and where.
    pub(crate) activity: String,
    /// The step, by its beginning.
    step: u64,
    began: Instant,
}

/// Steps that took too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slow {
    pub(crate) count: u64,
    pub(crate) slowest: Duration,
    pub(crate) step: Step,
}

// === impl Presence ===

impl Default for Presence {
    fn default() -> Presence {
        let slow_limit = AtomicU64::new(nanoseconds(SLOW));
        let zero = || AtomicU64::new(0);
        Presence {
            in_plugin_since: zero(),
            step_since: zero(),
            answered: zero(),
            plate: Plate::default(),
            tid: AtomicI32::new(0),
            slow_limit,
            slow_count: zero(),
            slowest: zero(),
            slowest_step: zero(),
        }
    }
}

impl Presence {
    /// For how long the turn under way has lasted; `None` outside the plugin.
    pub(crate) fn inside_for(&self) -> Option<Duration> {
        elapsed_since(self.in_plugin_since.load(Ordering::SeqCst))
    }

    /// For how long the step under way has lasted; `None` outside the plugin.
    pub(crate) fn in_step_for(&self) -> Option<Duration> {
        elapsed_since(self.step_since.load(Ordering::SeqCst))
    }

    /// The thread; 0 before it runs.
    pub(crate) fn tid(&self) -> i32 {
        self.tid.load(Ordering::SeqCst)
    }

    /// Notes that a turn of a worker begins now, or that none is under way. A worker that hangs is its bridge's to end,
    /// so it has no steps.
    pub(crate) fn set_inside(&self, inside: bool) {
        self.in_plugin_since.store(if inside { monotonic_ns() } else { 0 }, Ordering::SeqCst);
    }

    /// This is the thread.
    pub(crate) fn arrive(&self) {
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
    }

    /// What is served by this thread, and from which staged library.
    pub(super) fn describe(&self, library: &Path, instances: &[Instance]) {
        let modules = instances.iter().map(|instance| (instance.module.as_str(), role_name(instance.role)));
        self.plate.describe(library, modules);
    }

    /// How much processor time the thread has used; `None` when it is gone.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let text = fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.tid())).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// Steps longer than this are slow.
    pub(crate) fn set_slow(&self, limit: Duration) {
        self.slow_limit.store(nanoseconds(limit), Ordering::Relaxed);
    }

    /// The thread goes into the plugin, and comes back.
    pub(super) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = monotonic_ns();
        self.answered.store(0, Ordering::Relaxed);
        self.in_plugin_since.store(now, Ordering::SeqCst);
        self.begin_step(Step { instance: 0, kind: 0 }, now);
        let inside = self.plate.put_up();
        let result = work();
        drop(inside);
        self.end_step(monotonic_ns());
        self.step_since.store(0, Ordering::SeqCst);
        self.in_plugin_since.store(0, Ordering::SeqCst);
        result
    }

    /// The plugin has answered a call at this moment: its next step begins with it, and need not look at the clock.
    pub(super) fn answered(&self, now: Instant) {
        self.answered.store(monotonic_ns_at(now), Ordering::Relaxed);
    }

    /// The plugin says what it does next. To be called on its own thread; elsewhere it means nothing.
    pub(super) fn step(&self, step: Step) {
        let now = match self.answered.load(Ordering::Relaxed) {
            0 => monotonic_ns(),
            answered => answered,
        };
        self.answered.store(0, Ordering::Relaxed);
        self.end_step(now);
        self.begin_step(step, now);
    }

    /// The whole process was stopped for so long: no handler took that time.
    pub(super) fn forgive(&self, stopped: Duration) {
        for since in [&self.in_plugin_since, &self.step_since] {
            let began = since.load(Ordering::SeqCst);
            if began != 0 {
                let forgiven = began.saturating_add(nanoseconds(stopped)).min(monotonic_ns());
                // One that has begun meanwhile was not stopped.
                since.compare_exchange(began, forgiven, Ordering::SeqCst, Ordering::SeqCst).ok();
            }
        }
    }

    fn begin_step(&self, step: Step, now: u64) {
        // In this order: whoever sees the beginning sees whose it is.
        self.plate.step.store(step.pack(), Ordering::Relaxed);
        self.step_since.store(now, Ordering::Release);
    }

    fn end_step(&self, now: u64) {
        let took = now.saturating_sub(self.step_since.load(Ordering::Relaxed));
        if took > self.slow_limit.load(Ordering::Relaxed) {
            self.slow_count.fetch_add(1, Ordering::Relaxed);
            if self.slowest.fetch_max(took, Ordering::Relaxed) < took {
                self.slowest_step.store(self.plate.step.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// What was slow since the last time; forgets it.
    pub(super) fn take_slow(&self) -> Option<Slow> {
        let count = self.slow_count.swap(0, Ordering::Relaxed);
        let slowest = Duration::from_nanos(self.slowest.swap(0, Ordering::Relaxed));
        let step = Step::unpack(self.slowest_step.load(Ordering::Relaxed));
        (count > 0).then_some(Slow { count, slowest, step })
    }

    /// A step that has lasted longer than `limit` of its instance.
    pub(super) fn hang(&self, instances: &[Instance], limit: impl Fn(Option<&Instance>) -> Duration) -> Option<Hang> {
        let began = self.step_since.load(Ordering::SeqCst);
        let lasted = elapsed_since(began)?;
        let step = Step::unpack(self.plate.step.load(Ordering::Relaxed));
        if lasted < limit(Instance::of(instances, step.instance)) {
            return None;
        }
        Some(Hang {
            handler: step.name(instances),
            since: SystemTime::now().checked_sub(lasted)?,
            activity: activity(self.tid()),
            step: began,
            began: Instant::now().checked_sub(lasted)?,
        })
    }

    /// Whether that step has not ended.
    pub(super) fn is_still_in(&self, hang: &Hang) -> bool {
        self.step_since.load(Ordering::SeqCst) == hang.step
    }
}

// === impl Step ===

impl Step {
    fn pack(self) -> u64 {
        u64::from(self.instance) << 32 | u64::from(self.kind)
    }

    pub(crate) fn unpack(packed: u64) -> Step {
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
        Step { instance: low(packed >> 32), kind: low(packed) }
    }

    /// Which handler, by its name in the protocol.
    pub(crate) fn handler(self, role: Option<Role>) -> &'static str {
        match (self.kind, role) {
            (kind::START, _) => "start",
            (kind::STOP, _) => "stop",
            (kind::EXPORT, _) => "exportState",
            (kind::IMPORT, _) => "importState",
            (kind::CLIENT, _) => "clientHandler",
            (kind::EVENT, _) => "onEvent",
            (kind::MESSAGE | kind::TICK, Some(Role::Monitor)) => "monitorHandler",
            (kind::MESSAGE | kind::TICK, _) => "masterHandler",
            _ => "a task",
        }
    }

    /// Which handler of which module, in words.
    pub(super) fn name(self, instances: &[Instance]) -> String {
        let instance = Instance::of(instances, self.instance);
        let handler = self.handler(instance.map(|instance| instance.role));
        match instance {
            Some(instance) => format!("{handler} of module {}", instance.module),
            None => handler.to_owned(),
        }
    }
}

// === impl Hang ===

impl fmt::Display for Hang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.began.elapsed().as_secs_f64();
        write!(f, "{} has not returned for {seconds:.1} s (its thread {})", self.handler, self.activity)
    }
}

/// What a thread of this process does, in words.
fn activity(tid: i32) -> String {
    let of_thread = |file: &str| fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).unwrap_or_default();
    let stat = of_thread("stat");
    // The name before it is in brackets, and may have anything in it.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    let syscall = of_thread("syscall");
    let call = syscall.split_whitespace().next().filter(|word| word.parse::<i64>().is_ok_and(|number| number >= 0));
    match (state, call) {
        (Some('R'), _) => "is running".to_owned(),
        (Some('S'), Some(call)) => format!("is blocked in system call {call}"),
        (Some('D'), Some(call)) => format!("is blocked in the kernel, in system call {call}"),
        (Some('S' | 'D'), None) => "is blocked".to_owned(),
        (Some('T' | 't'), _) => "is stopped".to_owned(),
        _ => "is in a state that the kernel does not tell".to_owned(),
    }
}

fn elapsed_since(ns: u64) -> Option<Duration> {
    (ns != 0).then(|| Duration::from_nanos(monotonic_ns().saturating_sub(ns)))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds on the monotonic clock, from an arbitrary start; never 0.
fn monotonic_ns() -> u64 {
    monotonic_ns_at(Instant::now())
}

fn monotonic_ns_at(now: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    nanoseconds(now.saturating_duration_since(*START.get_or_init(|| now))).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_outlasts_its_limit_is_a_hang_until_it_ends() {
        let presence = Presence::default();
        presence.arrive();
        let limit = |limit: Duration| move |_: Option<&Instance>| limit;
        assert_eq!(presence.hang(&[], limit(Duration::ZERO)), None, "outside");
        let hang = presence.enter(|| {
            presence.step(Step { instance: 1, kind: kind::CLIENT });
            assert_eq!(presence.hang(&[], limit(Duration::from_secs(60))), None, "there is time left");
            let hang = presence.hang(&[], limit(Duration::ZERO)).expect("there is none");
            assert!(presence.is_still_in(&hang));
            hang
        });
        assert!(!presence.is_still_in(&hang));
        assert_eq!((hang.handler.as_str(), hang.activity.as_str()), ("clientHandler", "is running"));
    }

    #[test]
    fn a_step_is_not_charged_with_the_time_for_which_all_was_stopped() {
        let presence = Presence::default();
        presence.forgive(Duration::from_secs(1));
        assert_eq!(presence.in_step_for(), None, "nobody is inside");
        presence.enter(|| {
            std::thread::sleep(Duration::from_millis(20));
            presence.forgive(Duration::from_millis(15));
            let limit = |_: Option<&Instance>| Duration::from_millis(20);
            assert!(presence.hang(&[], limit).is_none() || presence.in_step_for() > Some(Duration::from_millis(20)));
            presence.forgive(Duration::from_secs(3600));
            assert!(presence.in_step_for() < Some(Duration::from_secs(60)), "and not given time in advance");
        });
    }

    #[test]
    fn a_step_begins_with_the_answer_of_the_one_before() {
        let presence = Presence::default();
        let later = Instant::now() + Duration::from_secs(60);
        presence.enter(|| {
            presence.step(Step { instance: 1, kind: kind::CLIENT });
            presence.answered(later);
            presence.step(Step { instance: 2, kind: kind::CLIENT });
            assert_eq!(presence.in_step_for(), Some(Duration::ZERO), "in a minute");
            presence.step(Step { instance: 3, kind: 0 });
            assert!(presence.in_step_for() < Some(Duration::from_secs(30)));
        });
        let slow = presence.take_slow().expect("the first took a minute");
        assert_eq!((slow.count, slow.step), (1, Step { instance: 1, kind: kind::CLIENT }));
        presence.answered(later);
        presence.enter(|| presence.step(Step { instance: 4, kind: 0 }));
        assert_eq!(presence.take_slow(), None, "an answer of another turn");
    }

    #[test]
    fn slow_steps_are_counted_and_the_slowest_is_named() {
        let presence = Presence::default();
        presence.enter(|| presence.step(Step { instance: 1, kind: kind::TICK }));
        assert_eq!(presence.take_slow(), None);
        presence.set_slow(Duration::ZERO);
        presence.enter(|| {
            presence.step(Step { instance: 2, kind: kind::CLIENT });
            std::thread::sleep(Duration::from_millis(2));
            presence.step(Step { instance: 3, kind: kind::EVENT });
        });
        let slow = presence.take_slow().expect("all were");
        assert_eq!((slow.count, slow.step), (3, Step { instance: 2, kind: kind::CLIENT }));
        assert_eq!(presence.take_slow(), None, "told once");
    }
}

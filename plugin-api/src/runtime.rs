//! The plugin's side of the boundary: one small executor for all modules of a library.
//!
//! The host delivers mail in batches; each piece becomes a task that is polled at once and kept only if it has to wait.
//! No unwinding leaves this file: every poll and every drop of the author's code is fenced.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use abi_stable::std_types::{RSlice, RStr};
use foldhash::fast::FixedState;

use crate::{
    abi::{HostObj, Mail, RawPlugin, kind, outcome, status, tell},
    agent::{Agent, MasterAgent, MonitorAgent},
    event::Event,
    manifest::{Manifest, Role},
    message::{Answer, Body, HandlerResult, Kind, ModuleError, RequestError},
    module::{Caller, ClientCall, Context, Imported, Input, Message, Module, Options, Peer, State},
    tasks::Tasks,
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Rounds of polling in one turn, each of what was woken before it; a task that keeps waking itself then waits for the next turn like everybody else.
const ROUNDS_PER_TURN: usize = 32;

/// A module that a library exports: how to describe it and how to make it.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    pub(crate) manifest: fn() -> Manifest,
    make: fn(Context) -> Result<Rc<dyn Instance>, ModuleError>,
}

impl Export {
    /// The export of `M`.
    pub const fn of<M: Module>() -> Export {
        Export { manifest: M::manifest, make: |context| Ok(Rc::new(Made(M::create(context)?))) }
    }
}

/// All modules of one library, and their tasks.
pub(crate) struct Runtime {
    shared: Rc<Shared>,
    exports: &'static [Export],
    instances: RefCell<BTreeMap<u32, Live>>,
    tasks: Tasks<Task>,
    signal: Arc<Signal>,
}

/// What agents and futures share with the runtime.
pub(crate) struct Shared {
    pub(crate) host: HostObj,
    next_ask: Cell<u64>,
    /// By ids of our own, so that a fast hash is safe.
    asks: RefCell<HashMap<u64, Ask, FixedState>>,
    spawned: RefCell<Vec<BoxFuture<()>>>,
}

enum Ask {
    Waiting(Option<Waker>),
    Done(Result<Answer, RequestError>),
}

#[derive(Clone)]
struct Live {
    instance: Rc<dyn Instance>,
    agent: Agent,
}

/// A module with its type forgotten.
trait Instance {
    fn start(self: Rc<Self>, agent: Agent) -> BoxFuture<Result<(), ModuleError>>;
    fn message(self: Rc<Self>, agent: Agent, input: Input) -> BoxFuture<HandlerResult>;
    fn client(self: Rc<Self>, agent: Agent, call: ClientCall) -> BoxFuture<HandlerResult>;
    fn event(self: Rc<Self>, agent: Agent, event: Event) -> BoxFuture<()>;
    fn export(self: Rc<Self>, agent: Agent) -> BoxFuture<HandlerResult>;
    fn import(self: Rc<Self>, agent: Agent, state: State) -> BoxFuture<HandlerResult>;
    fn stop(self: Rc<Self>, agent: Agent) -> BoxFuture<()>;
}

struct Made<M>(M);

/// One callback under way.
struct Task {
    work: Option<BoxFuture<HandlerResult>>,
    shared: Rc<Shared>,
    purpose: Purpose,
    origin: Origin,
}

/// What a callback is for: an instance and the kind of the mail, 0 for a task that the module began itself.
#[derive(Clone, Copy)]
struct Origin {
    instance: u32,
    kind: u32,
}

#[derive(Clone, Copy)]
enum Purpose {
    /// The host waits for the end of this call.
    Call(u64),
    /// The host waits for a step in the life of an instance.
    Life(u64),
    /// Nobody waits.
    Background(u32),
}

/// Wakes the runtime: by another round of the turn that runs, or by asking the host for a turn.
struct Signal {
    host: HostObj,
    woken: AtomicBool,
    in_turn: AtomicBool,
}

struct AskFuture {
    shared: Rc<Shared>,
    id: u64,
}

// === impl Runtime ===

impl Runtime {
    pub(crate) fn new(host: HostObj, exports: &'static [Export]) -> Runtime {
        let signal =
            Arc::new(Signal { host: host.clone(), woken: AtomicBool::new(false), in_turn: AtomicBool::new(false) });
        let shared =
            Rc::new(Shared { host, next_ask: Cell::new(1), asks: RefCell::default(), spawned: RefCell::default() });
        let tell = signal.clone();
        let tasks = Tasks::new(move || tell.wake());
        Runtime { shared, exports, instances: RefCell::default(), tasks, signal }
    }

    fn deliver(&self, mail: &Mail<'_>) {
        match mail.kind {
            kind::START => self.start(mail),
            kind::COMPLETE => self.shared.complete(mail),
            kind::EVENT => self.event(mail),
            kind::MESSAGE | kind::TICK | kind::CLIENT | kind::STOP | kind::EXPORT | kind::IMPORT => self.call(mail),
            // A later host: nothing that this plugin can do, but nobody shall wait.
            _ => self.shared.reply(mail.id, status::NO_SUCH_HANDLER, &Body::ABSENT, &Body::ABSENT),
        }
    }

    fn start(&self, mail: &Mail<'_>) {
        let role = if mail.b == "master" { Role::Master } else { Role::Monitor };
        let Some(export) = self.exports.iter().find(|export| (export.manifest)().id == mail.a.as_str()) else {
            let reason = Body::text(&format!("the library has no module {}", mail.a));
            return self.shared.reply(mail.id, status::FAILED, &Body::ABSENT, &reason);
        };
        let agent =
            Agent { shared: self.shared.clone(), instance: mail.instance, module: mail.a.as_str().into(), role };
        let options = serde_json::from_slice(mail.body.as_slice()).unwrap_or_default();
        let context = Context { role, options: Options::new(options), agent: agent.clone() };
        let origin = Origin { instance: mail.instance, kind: kind::START };
        self.shared.step(origin);
        let made = fence(|| (export.make)(context)).unwrap_or_else(|panic| Err(ModuleError::new(panicked(&panic))));
        match made {
            Ok(instance) => {
                let live = Live { instance: instance.clone(), agent: agent.clone() };
                self.instances.borrow_mut().insert(mail.instance, live);
                let work = async move { instance.start(agent).await.map(|()| Answer::Silence) };
                self.run(Purpose::Life(mail.id), origin, Box::pin(work));
            }
            Err(error) => {
                self.shared.reply(mail.id, status::FAILED, &Body::ABSENT, &Body::text(error.message()));
            }
        }
    }

    fn call(&self, mail: &Mail<'_>) {
        let Some(Live { instance, agent }) = self.instances.borrow().get(&mail.instance).cloned() else {
            return self.shared.reply(mail.id, status::NO_SUCH_HANDLER, &Body::ABSENT, &Body::ABSENT);
        };
        let body = Body::from_wire(mail.body.as_slice());
        let time_left = Duration::from_millis(mail.left_ms);
        let is_request = mail.status != 0;
        let (purpose, work) = match mail.kind {
            kind::TICK => (Purpose::Call(mail.id), instance.message(agent, Input::Tick)),
            kind::MESSAGE => {
                let from = Peer { id: mail.a.into(), server_type: mail.b.into(), incarnation: mail.connection };
                let message = Message { body, from, is_request, time_left };
                (Purpose::Call(mail.id), instance.message(agent, Input::Message(message)))
            }
            kind::CLIENT => {
                let caller = Caller {
                    connection: mail.connection,
                    client_id: mail.a.into(),
                    user: mail.b.into(),
                    level: mail.level,
                };
                let call = ClientCall { body, caller, is_request, time_left };
                (Purpose::Call(mail.id), instance.client(agent, call))
            }
            kind::EXPORT => (Purpose::Life(mail.id), instance.export(agent)),
            kind::IMPORT => {
                let state = State { schema: mail.status, body };
                (Purpose::Life(mail.id), instance.import(agent, state))
            }
            _ => {
                let stop = instance.stop(agent);
                let work: BoxFuture<HandlerResult> = Box::pin(async move {
                    stop.await;
                    Ok(Answer::Silence)
                });
                (Purpose::Life(mail.id), work)
            }
        };
        self.run(purpose, Origin { instance: mail.instance, kind: mail.kind }, work);
    }

    fn event(&self, mail: &Mail<'_>) {
        let event = serde_json::from_slice(mail.body.as_slice()).unwrap_or(Event::Unknown);
        let concerned: Vec<(u32, Live)> = self
            .instances
            .borrow()
            .iter()
            .filter(|(number, _)| mail.instance == kind::EVERYONE || mail.instance == **number)
            .map(|(number, live)| (*number, live.clone()))
            .collect();
        for (number, Live { instance, agent }) in concerned {
            let event = event.clone();
            let work = async move {
                instance.event(agent, event).await;
                Ok(Answer::Silence)
            };
            let origin = Origin { instance: number, kind: kind::EVENT };
            self.run(Purpose::Background(number), origin, Box::pin(work));
        }
    }

    /// Polls a new task once, and keeps it only if it has to wait: most handlers end here.
    fn run(&self, purpose: Purpose, origin: Origin, work: BoxFuture<HandlerResult>) {
        self.tasks.begin(Task { work: Some(work), shared: self.shared.clone(), purpose, origin });
        self.adopt_spawned();
    }

    fn adopt_spawned(&self) {
        let spawned = self.shared.spawned.take();
        if spawned.is_empty() {
            return;
        }
        for work in spawned {
            let work = Box::pin(async move {
                work.await;
                Ok(Answer::Silence)
            });
            self.tasks.add(Task {
                work: Some(work),
                shared: self.shared.clone(),
                purpose: Purpose::Background(kind::EVERYONE),
                origin: Origin { instance: kind::EVERYONE, kind: 0 },
            });
        }
    }

    fn poll_fenced(&self) {
        // Nothing in here but tasks, which fence themselves: a panic would be this file's.
        if let Err(panic) = fence(|| self.poll_tasks()) {
            self.shared.host.log(kind::EVERYONE, 1, RStr::from_str(&panicked(&panic)), RStr::from_str(""));
        }
    }

    fn poll_tasks(&self) {
        for _ in 0..ROUNDS_PER_TURN {
            if !self.signal.woken.swap(false, Ordering::SeqCst) {
                return;
            }
            self.tasks.poll_woken(|| self.adopt_spawned());
        }
    }
}

impl RawPlugin for Runtime {
    fn turn(&self, mail: RSlice<'_, Mail<'_>>) {
        self.signal.in_turn.store(true, Ordering::SeqCst);
        for one in mail.as_slice() {
            if let Err(panic) = fence(|| self.deliver(one)) {
                self.shared.reply(one.id, status::PANIC, &Body::ABSENT, &Body::text(&panic));
            }
            // Whoever waited for this goes on before the next piece is handled: a module sees answers and messages in
            // the order in which they came. (A watcher that takes a directory must not put it over a later change.)
            if one.kind == kind::COMPLETE {
                self.poll_fenced();
            }
        }
        self.poll_fenced();
        self.signal.in_turn.store(false, Ordering::SeqCst);
        if self.signal.woken.load(Ordering::SeqCst) {
            self.shared.host.wake();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Each on its own: a panic in the drop of one must not keep the others from theirs. What they say is in the log.
        let tasks = self.tasks.take();
        let spawned = self.shared.spawned.take();
        let instances = self.instances.take();
        drop(fence(move || drop(tasks)));
        drop(fence(move || drop(spawned)));
        for (_, live) in instances {
            drop(fence(move || drop(live)));
        }
        PANIC_LOG.with(|log| log.take());
        drop(of_other_threads().take());
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    pub(crate) fn ask(
        self: &Rc<Self>,
        instance: u32,
        op: u32,
        a: &str,
        b: &str,
        n: u64,
        body: &[u8],
    ) -> impl Future<Output = Result<Answer, RequestError>> + use<> {
        let id = self.next_ask.replace(self.next_ask.get() + 1);
        self.asks.borrow_mut().insert(id, Ask::Waiting(None));
        self.host.ask(instance, id, op, RStr::from_str(a), RStr::from_str(b), n, RSlice::from_slice(body));
        AskFuture { shared: self.clone(), id }
    }

    fn complete(&self, mail: &Mail<'_>) {
        let body = Body::from_wire(mail.body.as_slice());
        let result = if mail.status == outcome::ANSWER {
            Ok(Answer::Reply { error: Body::from_wire(mail.error.as_slice()), body })
        } else {
            Err(body.parse().unwrap_or_else(|_| RequestError::Refused("the request failed".into())))
        };
        let waiting = match self.asks.borrow_mut().get_mut(&mail.id) {
            Some(slot) => std::mem::replace(slot, Ask::Done(result)),
            // Whoever asked has stopped waiting.
            None => return,
        };
        if let Ask::Waiting(Some(waker)) = waiting {
            waker.wake();
        }
    }

    /// Says whose code runs next.
    fn step(&self, Origin { instance, kind }: Origin) {
        let nothing = RStr::from_str("");
        self.host.tell(instance, tell::STEP, nothing, nothing, kind.into(), RSlice::from_slice(&[]));
    }

    fn reply(&self, call: u64, status: u32, error: &Body, body: &Body) {
        if call != 0 {
            self.host.reply(call, status, RSlice::from_slice(error.wire()), RSlice::from_slice(body.wire()));
        }
    }
}

impl Future for AskFuture {
    type Output = Result<Answer, RequestError>;

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut asks = self.shared.asks.borrow_mut();
        match asks.remove(&self.id) {
            Some(Ask::Done(result)) => Poll::Ready(result),
            _ => {
                asks.insert(self.id, Ask::Waiting(Some(context.waker().clone())));
                Poll::Pending
            }
        }
    }
}

impl Drop for AskFuture {
    fn drop(&mut self) {
        let slot = self.shared.asks.borrow_mut().remove(&self.id);
        drop(slot);
    }
}

// === impl Task ===

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        let (shared, origin) = (&self.shared, self.origin);
        shared.step(origin);
        let Some(work) = self.work.as_mut() else { return Poll::Ready(()) };
        let result = match fence(|| work.as_mut().poll(context)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => Ok(result),
            Err(panic) => Err(panic),
        };
        self.discard();
        self.report(result);
        Poll::Ready(())
    }
}

impl Task {
    fn report(&self, result: Result<HandlerResult, String>) {
        let none = Body::ABSENT;
        match (self.purpose, result) {
            (Purpose::Call(id) | Purpose::Life(id), Ok(Ok(Answer::Reply { error, body }))) => {
                self.shared.reply(id, status::ANSWER, &error, &body);
            }
            (Purpose::Call(id) | Purpose::Life(id), Ok(Ok(_))) => {
                self.shared.reply(id, status::SILENCE, &none, &none);
            }
            (Purpose::Call(id), Ok(Err(error))) if error.kind() == Kind::NoSuchHandler => {
                self.shared.reply(id, status::NO_SUCH_HANDLER, &none, &none);
            }
            (Purpose::Call(id), Ok(Err(error))) => {
                if let Answer::Reply { error, body } = error.into_answer() {
                    self.shared.reply(id, status::ERROR, &error, &body);
                }
            }
            (Purpose::Life(id), Ok(Err(error))) => {
                self.shared.reply(id, status::FAILED, &none, &Body::text(error.message()));
            }
            (Purpose::Call(id) | Purpose::Life(id), Err(panic)) => {
                self.shared.reply(id, status::PANIC, &none, &Body::text(&panic));
            }
            (Purpose::Background(_), Ok(_)) => {}
            (Purpose::Background(instance), Err(panic)) => {
                self.shared.host.log(instance, 1, RStr::from_str(&panicked(&panic)), RStr::from_str(""));
            }
        }
    }

    fn discard(&mut self) {
        if let Some(work) = self.work.take() {
            // The panic hook has logged it; the call itself has its result already.
            drop(fence(move || drop(work)));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.discard();
    }
}

// === impl Made ===

impl<M: Module> Instance for Made<M> {
    fn start(self: Rc<Self>, agent: Agent) -> BoxFuture<Result<(), ModuleError>> {
        Box::pin(async move { self.0.start(agent).await })
    }

    fn message(self: Rc<Self>, agent: Agent, input: Input) -> BoxFuture<HandlerResult> {
        match agent.role() {
            Role::Master => Box::pin(async move { self.0.master_handler(MasterAgent::new(agent), input).await }),
            Role::Monitor => Box::pin(async move { self.0.monitor_handler(MonitorAgent::new(agent), input).await }),
        }
    }

    fn client(self: Rc<Self>, agent: Agent, call: ClientCall) -> BoxFuture<HandlerResult> {
        Box::pin(async move { self.0.client_handler(MasterAgent::new(agent), call).await })
    }

    fn event(self: Rc<Self>, agent: Agent, event: Event) -> BoxFuture<()> {
        Box::pin(async move { self.0.on_event(agent, event).await })
    }

    fn export(self: Rc<Self>, agent: Agent) -> BoxFuture<HandlerResult> {
        Box::pin(async move {
            let state = self.0.export_state(agent).await?;
            Ok(if state.is_absent() { Answer::Silence } else { Answer::ok(state) })
        })
    }

    fn import(self: Rc<Self>, agent: Agent, state: State) -> BoxFuture<HandlerResult> {
        Box::pin(async move {
            Ok(match self.0.import_state(agent, state).await? {
                Imported::Taken => Answer::done(),
                Imported::Empty => Answer::Silence,
            })
        })
    }

    fn stop(self: Rc<Self>, agent: Agent) -> BoxFuture<()> {
        Box::pin(async move { self.0.stop(agent).await })
    }
}

// === impl Signal ===

impl Signal {
    fn wake(&self) {
        // In a turn the flag is enough: the turn looks at it before and after it ends.
        if !self.woken.swap(true, Ordering::SeqCst) && !self.in_turn.load(Ordering::SeqCst) {
            self.host.wake();
        }
    }
}

// === panics ===

thread_local! {
    static PANIC_LOG: RefCell<Option<HostObj>> = const { RefCell::new(None) };
}

/// Where panics go on threads that have no runtime: the author's own. Empty before the library is unmapped.
static OF_OTHER_THREADS: Mutex<Option<HostObj>> = Mutex::new(None);

fn of_other_threads() -> MutexGuard<'static, Option<HostObj>> {
    OF_OTHER_THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends what panics say to the host's log, and nowhere else.
///
/// The closure captures nothing, so the hook is no allocation that an unload would leak, and std's own hook, whose
/// backtrace printer maps every library for good, never runs.
pub(crate) fn log_panics_to(host: &HostObj) {
    PANIC_LOG.with(|log| log.replace(Some(host.clone())));
    of_other_threads().replace(host.clone());
    std::panic::set_hook(Box::new(|info| {
        let host = PANIC_LOG.try_with(|log| log.try_borrow().ok().and_then(|host| host.clone()));
        // A thread that is ending has none of its own any more.
        let host = host.ok().flatten().or_else(|| of_other_threads().clone());
        if let Some(host) = host {
            host.log(kind::EVERYONE, 1, RStr::from_str(&info.to_string()), RStr::from_str(""));
        }
    }));
}

fn panicked(text: &str) -> String {
    format!("panicked: {text}")
}

/// Runs the author's code; a panic becomes its text.
pub(crate) fn fence<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(text_of)
}

fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    // The payload's own drop may panic as well; then it is leaked, which is the lesser evil.
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    text
}

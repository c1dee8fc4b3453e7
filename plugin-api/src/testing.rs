//! Tests of plugins, without a daemon (feature `testing`).
//!
//! A [`Fleet`] is a master and any number of monitors, each with its own instances of the modules, in the process and on
//! the thread of the test. Messages between them are delivered, what goes elsewhere is written down, and what would ask
//! elsewhere is answered by a [script](Fleet::script). The clock is virtual: nothing happens by itself, and
//! [`Fleet::advance`] lets an hour pass at once.
//!
//! ```toml
//! [dev-dependencies]
//! muster-plugin-api = { path = "…", features = ["testing"] }
//! ```
//!
//! ```
//! # use muster_plugin_api::{*, serde_json::json};
//! # struct Load;
//! # impl Module for Load {
//! #     fn manifest() -> Manifest { Manifest::new("load", "1.0.0").schedule(Schedule::pull(5.0)) }
//! #     fn create(_: Context) -> Result<Load, ModuleError> { Ok(Load) }
//! #     async fn monitor_handler(&self, agent: MonitorAgent, _: Input) -> HandlerResult {
//! #         agent.notify("load", json!("0.5"));
//! #         Ok(Answer::Silence)
//! #     }
//! #     async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
//! #         match input {
//! #             Input::Tick => drop(agent.notify_all("load", ())),
//! #             Input::Message(message) => agent.put(&message.from.id, &message.body),
//! #         }
//! #         Ok(Answer::Silence)
//! #     }
//! #     async fn client_handler(&self, agent: MasterAgent, _: ClientCall) -> HandlerResult {
//! #         Ok(Answer::ok(agent.entries()))
//! #     }
//! # }
//! use std::time::Duration;
//! use muster_plugin_api::testing::Fleet;
//!
//! let mut fleet = Fleet::of::<Load>().monitor("chat-1", "chat").start().unwrap();
//! fleet.advance(Duration::ZERO); // The first tick is due at once, the next after five seconds.
//! assert_eq!(fleet.call("load", ()).body().as_str(), r#"{"chat-1":"0.5"}"#);
//! assert_eq!(
//!     fleet.transcript(),
//!     "\
//! 0.000 master   load: tick
//! 0.000 master   load: notify load of everybody
//! 0.000 chat-1   load: message from master
//! 0.000 chat-1   load: notify load of master \"0.5\"
//! 0.000 master   load: message from chat-1 \"0.5\"
//! 0.000 master   load: put chat-1 \"0.5\"
//! 0.000 master   load: call by client-1
//! 0.000 master   load: answer {\"chat-1\":\"0.5\"}
//! ",
//! );
//! ```
//!
//! # Two levels
//! [`Fleet::of`] runs the module's own code, as any unit test would. [`Fleet::open`] takes the built `.so` and opens it by
//! the loader that daemons use, after the same comparison of interfaces: what is tested then is the file that is shipped,
//! with its exports, its manifest, and panics that must not cross the boundary. Everything else is the same.
//!
//! # What is not as in a daemon
//! The fleet's master has no monitor of itself; add one (`.monitor("master-server-1", "master")`) where that matters.
//! Every monitor is registered at the start and its directory is complete. Modules of other plugins are not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    abi::kind,
    event::{Event, Server},
    loader::{Unchecked, compare},
    manifest::{Manifest, PluginManifest, Role},
    message::{Answer, Body, ModuleError, RequestError},
};

mod calls;
mod daemon;
mod host;
mod record;
mod replace;
mod run;

pub use self::{
    calls::Outcome,
    record::{Deed, Record},
};
use self::{
    calls::{Calls, Script, Waiter},
    daemon::{Daemon, Source},
    host::{Room, World},
    run::{Mail, Timers},
};
pub use crate::runtime::Export;

/// The id of the client that [`Fleet::call`] is, and of its user.
pub const CLIENT: &str = "client-1";

/// How long a request may take whose module does not say: the default of daemons.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The id by which scripts and transcripts know the master.
pub const MASTER: &str = "master";

/// What `create` and `start` get, as in daemons.
const START: Duration = Duration::from_secs(10);

/// What a generation that is replaced gets to end what it has begun, as in daemons.
const DRAIN: Duration = Duration::from_secs(5);

/// A fleet that is not started.
#[must_use = "it does nothing before `start`"]
pub struct Setup {
    source: Source,
    monitors: Vec<(String, String)>,
    options: BTreeMap<String, Value>,
    settings: BTreeMap<String, Value>,
}

/// A master and monitors that run a plugin. Not `Send`: it belongs to the thread of its test.
pub struct Fleet {
    world: host::Shared,
    source: Source,
    daemons: Vec<Daemon>,
    timers: Timers,
    calls: Calls,
    scripts: Vec<Script>,
    options: BTreeMap<String, Value>,
    /// Instances that work on a tick: they are not ticked meanwhile.
    ticking: BTreeSet<(usize, u32)>,
    /// Counts registrations.
    incarnations: u64,
}

// === impl Setup ===

impl Setup {
    fn new(source: Source) -> Setup {
        Setup { source, monitors: Vec::new(), options: BTreeMap::new(), settings: BTreeMap::new() }
    }

    /// With a monitor of this id and server type.
    pub fn monitor(mut self, id: &str, server_type: &str) -> Setup {
        self.monitors.push((id.to_owned(), server_type.to_owned()));
        self
    }

    /// With options for a module, an object: what `--set modules.MODULE.KEY=…` gives it.
    pub fn options(mut self, module: &str, options: Value) -> Setup {
        self.options.insert(module.to_owned(), options);
        self
    }

    /// With a setting of the application, in every daemon.
    pub fn setting(mut self, key: &str, value: Value) -> Setup {
        self.settings.insert(key.to_owned(), value);
        self
    }

    /// Creates and starts the modules in every daemon, and registers the monitors. Schedules begin, but no time passes:
    /// a first tick without a delay comes with the first [`Fleet::advance`].
    ///
    /// # Errors
    /// When a module does not start, with its reason.
    pub fn start(self) -> Result<Fleet, ModuleError> {
        let Setup { source, monitors, options, settings } = self;
        let servers: Vec<Server> = monitors.iter().zip(1..).map(|((id, kind), n)| server(id, kind, n)).collect();
        let mut rooms = vec![Room::new(MASTER, "master", Role::Master)];
        rooms.extend(monitors.iter().map(|(id, kind)| Room::new(id, kind, Role::Monitor)));
        for room in &mut rooms {
            room.settings.clone_from(&settings);
            room.directory = servers.iter().map(|server| (server.id.clone(), server.info.clone())).collect();
        }
        let world = World::shared(rooms);
        let mut fleet = Fleet {
            source,
            daemons: Vec::new(),
            timers: Timers::default(),
            calls: Calls::default(),
            scripts: Vec::new(),
            options,
            ticking: BTreeSet::new(),
            incarnations: servers.len() as u64,
            world,
        };
        for index in 0..=monitors.len() {
            fleet.begin(index)?;
        }
        for (server, index) in servers.into_iter().zip(1..) {
            fleet.registered(index, server);
        }
        fleet.settle();
        Ok(fleet)
    }
}

// === impl Fleet ===

impl Fleet {
    /// A fleet that runs the module `M` from the test's own code.
    pub fn of<M: crate::Module>() -> Setup {
        Fleet::with(const { &[Export::of::<M>()] })
    }

    /// A fleet that runs several modules from the test's own code: `&[Export::of::<A>(), Export::of::<B>()]`.
    pub fn with(modules: &'static [Export]) -> Setup {
        Setup::new(Source::Code(modules))
    }

    /// A fleet that runs the built library at `path`, by the loader of daemons. It stays open until the test ends.
    ///
    /// # Errors
    /// A sentence why no daemon would load it.
    pub fn open(path: impl AsRef<Path>) -> Result<Setup, ModuleError> {
        Ok(Setup::new(open(path.as_ref())?))
    }

    /// What the plugin says of its modules.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.source.manifests().unwrap_or_default()
    }

    /// The virtual time since the start.
    pub fn now(&self) -> Duration {
        self.world().now
    }

    /// A request by a client of level 1, until it has an outcome. The time that passes for it is virtual.
    pub fn call(&mut self, module: &str, body: impl Into<Body>) -> Outcome {
        self.call_as(CLIENT, 1, module, body)
    }

    /// As [`Fleet::call`], by the client `id` (which is also the name of its user) of some level.
    pub fn call_as(&mut self, id: &str, level: u32, module: &str, body: impl Into<Body>) -> Outcome {
        let slot = self.calls.slot();
        let mail = Mail { kind: kind::CLIENT, a: id.to_owned(), b: id.to_owned(), level, ..Mail::of(body.into()) };
        self.send(0, module, mail, Some(Waiter::Test(slot)), None);
        self.outcome(slot)
    }

    /// A notify by a client: there is no answer.
    pub fn notify(&mut self, module: &str, body: impl Into<Body>) {
        let mail = Mail { kind: kind::CLIENT, a: CLIENT.into(), b: CLIENT.into(), level: 1, ..Mail::of(body.into()) };
        self.send(0, module, mail, None, None);
        self.settle();
    }

    /// A request that the master sends to a module of the monitor `id`, as another module in the master may.
    pub fn ask_monitor(&mut self, id: &str, module: &str, body: impl Into<Body>) -> Outcome {
        let (slot, index) = (self.calls.slot(), self.index(id));
        let mail = self.mail_from(0, body.into());
        self.send(index, module, mail, Some(Waiter::Test(slot)), None);
        self.outcome(slot)
    }

    /// A request that the monitor `id` sends to a module of the master.
    pub fn ask_master(&mut self, id: &str, module: &str, body: impl Into<Body>) -> Outcome {
        let slot = self.calls.slot();
        let mail = self.mail_from(self.index(id), body.into());
        self.send(0, module, mail, Some(Waiter::Test(slot)), None);
        self.outcome(slot)
    }

    /// A notify that the monitor `id` sends to a module of the master.
    pub fn notify_master(&mut self, id: &str, module: &str, body: impl Into<Body>) {
        let mail = self.mail_from(self.index(id), body.into());
        self.send(0, module, mail, None, None);
        self.settle();
    }

    /// Lets time pass: schedules tick, sleeps and deadlines end, each at its moment and in order.
    pub fn advance(&mut self, time: Duration) {
        self.pass_until(self.now() + time);
    }

    /// Tells the modules of a daemon of an event.
    pub fn event(&mut self, id: &str, event: &Event) {
        self.tell(self.index(id), event);
        self.settle();
    }

    /// A monitor loses its link: the master is told, and so is the monitor. It does not come back by itself.
    pub fn leave(&mut self, id: &str) {
        let index = self.index(id);
        let left = {
            let mut world = self.world();
            world.rooms[index].linked = false;
            let servers = &mut world.rooms[0].servers;
            servers.iter().position(|server| server.id == id).map(|place| servers.remove(place))
        };
        if let Some(server) = left {
            self.tell(0, &Event::ServerLeft { server });
            self.tell(index, &Event::MasterLost);
        }
        self.settle();
    }

    /// A monitor that has left comes back.
    pub fn come_back(&mut self, id: &str) {
        let index = self.index(id);
        self.incarnations += 1;
        let server = {
            let world = self.world();
            server(id, &world.rooms[index].info.server_type, self.incarnations)
        };
        self.world().rooms[index].linked = true;
        self.world().rooms[0].servers.push(server.clone());
        self.tell(0, &Event::ServerReconnected { server });
        self.tell(index, &Event::MasterConnected { again: true });
        self.settle();
    }

    /// Answers requests to `module` of the server `id` (`"*"` for any monitor, [`MASTER`] for the master) from the test, in the
    /// place of a module. Of several scripts the last that fits counts.
    pub fn script(
        &mut self,
        id: &str,
        module: &str,
        answer: impl FnMut(&Body) -> Result<Answer, RequestError> + 'static,
    ) {
        self.scripts.insert(0, Script { id: id.to_owned(), module: module.to_owned(), answer: Box::new(answer) });
    }

    /// What the monitor's watched process is said to be.
    pub fn set_figures(&mut self, id: &str, figures: crate::Figures) {
        let index = self.index(id);
        self.world().rooms[index].figures = figures;
    }

    /// The values that a module of a daemon has stored, as JSON.
    pub fn values(&self, id: &str, module: &str) -> BTreeMap<String, Body> {
        let index = self.index(id);
        self.world().rooms[index].values.get(module).cloned().unwrap_or_default()
    }

    /// Everything that was done so far, in order.
    pub fn records(&self) -> Vec<Record> {
        self.world().records.clone()
    }

    /// [`Fleet::records`] as text, a line each: to compare with what was expected, or for a snapshot. It depends on
    /// nothing but the plugin and the test.
    pub fn transcript(&self) -> String {
        let world = self.world();
        let width = world.rooms.iter().map(|room| room.info.id.len()).max().unwrap_or_default();
        world.records.iter().map(|record| record.line(width) + "\n").collect()
    }

    /// Forgets what was done so far.
    pub fn clear(&mut self) {
        self.world().records.clear();
    }

    /// Stops all instances, and drops the plugin everywhere.
    ///
    /// # Panics
    /// When a module does not stop.
    #[track_caller]
    pub fn stop(mut self) {
        for index in 0..self.daemons.len() {
            assert!(self.end(index), "a module of {} does not stop", self.world().rooms[index].info.id);
        }
    }

    fn index(&self, id: &str) -> usize {
        let found = self.world().rooms.iter().position(|room| room.info.id == id);
        found.unwrap_or_else(|| panic!("there is no server {id} in this fleet"))
    }

    fn registered(&mut self, index: usize, server: Server) {
        self.world().rooms[index].linked = true;
        self.world().rooms[0].servers.push(server.clone());
        self.tell(0, &Event::ServerRegistered { server });
        self.tell(index, &Event::MasterConnected { again: false });
    }
}

/// The library that `cargo test` or `cargo build` has made of a package, for [`Fleet::open`]; used in an integration test:
/// `library(env!("CARGO_PKG_NAME"))`.
///
/// # Panics
/// When there is none: its `crate-type` has to name `cdylib`, beside `rlib` for tests that use its code.
#[track_caller]
pub fn library(package: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("the test's own file is not known: {error}"));
    let file = format!("lib{}.so", package.replace('-', "_"));
    let places = test.ancestors().skip(1).take(2).map(|directory| directory.join(&file));
    let found: Vec<PathBuf> = places.filter(|path| path.exists()).collect();
    // Beside the test is what was built for it.
    found.into_iter().next().unwrap_or_else(|| panic!("{file} is missing: has it crate-type = [\"cdylib\", \"rlib\"]?"))
}

/// Opens a library as the preflight does: header, interface, and a manifest that can be read.
fn open(path: &Path) -> Result<Source, ModuleError> {
    let opened = Unchecked::open(path)?;
    let header = opened.header().map_err(|error| error.to_string())?;
    match compare(header) {
        Ok(()) => {}
        Err(None) => return Err("it was built without a description of its interface".into()),
        Err(Some(found)) => {
            return Err(format!("its interface differs at {}: {}", found.place, found.difference).into());
        }
    }
    let library = Rc::new(opened.trust(header)?);
    let manifest: PluginManifest = serde_json::from_str(&library.manifest())?;
    if manifest.panic != "unwind" {
        return Err("it is built with panic = \"abort\", which daemons refuse: build it with \"unwind\"".into());
    }
    Ok(Source::Library(library, manifest.modules.into()))
}

fn server(id: &str, server_type: &str, incarnation: u64) -> Server {
    let info = serde_json::json!({
        "id": id, "serverType": server_type, "host": "127.0.0.1", "port": 3000 + incarnation, "pid": 1000 + incarnation,
    });
    Server { id: id.into(), server_type: server_type.into(), info: info.into(), incarnation, slave: false }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("monitors", &self.monitors).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("now", &self.now()).finish_non_exhaustive()
    }
}

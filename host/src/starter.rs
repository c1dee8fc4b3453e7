//! The master starts servers, and starts them again when they are gone without anybody having ordered it.
//!
//! ```text
//! --start, add, restart ─▶ start ─▶ ports free? ─▶ recipe.rs: fields → words ─▶ a Program, here or through ssh
//!                            ▲
//! a server left, or its process ended, unordered; `auto-restart` or `restart-force` ── after a pause, at most so often
//! ```
//!
//! What is started again, and how, the configuration or an administrator said: never what a server says of itself.

mod place;
mod recipe;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use muster_plugin_api::{Event, Server};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::{runtime::Handle, time::sleep};
use tracing::{error, info, warn};

pub(crate) use self::recipe::Recipe;
use self::recipe::{HostName, Unusable, scalar};
use crate::{
    deaths::{Deaths, Next, Patience},
    program::{Care, Program, State},
    store::{Kept, Store},
};

/// All that a server says of itself on its command line.
type Fields = Map<String, Value>;

/// Starts servers.
pub(crate) struct Starter {
    recipe: Recipe,
    care: Care,
    /// Without it nothing is started: what runs could not be found again.
    state_dir: Option<PathBuf>,
    store: Arc<Store>,
    /// The servers that the configuration names.
    configured: BTreeMap<String, Fields>,
    servers: Mutex<BTreeMap<String, Known>>,
    runtime: Handle,
}

/// What is known of a server.
struct Known {
    /// What it is started with, if that is known here.
    fields: Option<Fields>,
    program: Option<Program>,
    /// Its connection, since when.
    registered: Option<(u64, Instant)>,
    /// Somebody has ordered it to leave.
    ordered: bool,
    /// Somebody is at it.
    starting: bool,
    /// Most servers never die on us.
    deaths: Option<Box<Deaths>>,
}

/// A server was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error(
        "starting servers needs a state directory, in which they are found again: start the master with --state-dir"
    )]
    Stateless,
    #[error("a server needs an id")]
    Nameless,
    #[error("{id} runs already, as process {pid}")]
    Runs { id: String, pid: u32 },
    #[error("{0} is being started already")]
    Starting(String),
    /// The original's text.
    #[error("Port occupied already, check your server to add.")]
    Occupied { port: u16 },
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("{command} cannot be started: {source}")]
    Failed { command: String, source: io::Error },
}

/// What to do about a process of the server that still runs.
#[derive(Debug, Clone, Copy)]
enum Before {
    Leave,
    End(Option<Duration>),
}

impl Starter {
    /// Must be called in the runtime.
    pub(crate) fn new(
        recipe: Recipe,
        care: Care,
        state_dir: Option<PathBuf>,
        store: Arc<Store>,
        configured: impl IntoIterator<Item = Fields>,
    ) -> Starter {
        let configured: BTreeMap<String, Fields> =
            configured.into_iter().filter_map(|fields| Some((id_of(&fields)?, fields))).collect();
        let runtime = Handle::current();
        Starter { recipe, care, state_dir, store, configured, servers: Mutex::default(), runtime }
    }

    /// Finds what an earlier master has started and left, and what it knew of servers that nobody configured.
    pub(crate) async fn take_over(self: &Arc<Self>) {
        let Some(dir) = &self.state_dir else { return };
        for id in self.store.names(Kept::AddedServer) {
            let text = self.store.kept(Kept::AddedServer, &id).unwrap_or_default();
            let fields = serde_json::from_str(&text).ok();
            self.with(&id, |known| known.fields = fields);
        }
        for id in self.store.names(Kept::Program) {
            match Program::find(&id, self.care.clone(), self.store.clone(), dir).await {
                Ok(Some(program)) => self.keep(&id, program),
                Ok(None) => {}
                Err(error) => error!(id, %error, "a server that an earlier master has started cannot be watched"),
            }
        }
    }

    /// Starts the servers of the configuration that are meant by `all`, a type or an id, and do not run.
    pub(crate) async fn start_configured(self: &Arc<Self>, which: &str) {
        for (id, fields) in &self.configured {
            let is_meant = which == "all" || which == id || fields.get("serverType").is_some_and(|of| of == which);
            if is_meant {
                match self.start(fields.clone()).await {
                    Ok(_) => {}
                    Err(NotStarted::Runs { pid, .. }) => info!(id, pid, "the server runs already"),
                    Err(error @ NotStarted::Occupied { port }) => error!(id, port, %error, "a server was not started"),
                    Err(error) => error!(id, %error, "a server was not started"),
                }
            }
        }
    }

    /// Starts a server from its fields: the pid. One that was ordered to leave is given its grace first.
    pub(crate) async fn start(self: &Arc<Self>, fields: Fields) -> Result<u32, NotStarted> {
        let id = id_of(&fields).ok_or(NotStarted::Nameless)?;
        let ordered = self.with(&id, |known| known.ordered);
        let before = if ordered { Before::End(Some(self.care.grace)) } else { Before::Leave };
        self.begin(&id)?;
        let started = self.start_one(&id, fields, before).await;
        self.with(&id, |known| known.starting = false);
        started
    }

    /// The server is about to leave because somebody ordered it: it is not brought back.
    pub(crate) fn expect_leave(&self, id: &str) {
        self.with(id, |known| known.ordered = true);
        self.runtime.spawn(self.store.keep(Kept::AddedServer, id, None));
    }

    /// Takes note of servers that come and go.
    pub(crate) fn saw(self: &Arc<Self>, event: &Event) {
        match event {
            Event::ServerRegistered { server } | Event::ServerReconnected { server } if !server.slave => {
                self.with(&server.id, |known| {
                    known.registered = Some((server.incarnation, Instant::now()));
                    known.ordered = false;
                });
            }
            Event::ServerLeft { server } if !server.slave => self.left(server),
            _ => {}
        }
    }

    /// The servers that were started here: id → the status of its process.
    pub(crate) fn status(&self) -> Value {
        let servers = self.servers.lock();
        let programs = servers.iter().filter_map(|(id, known)| Some((id.clone(), known.program.as_ref()?)));
        Value::Object(programs.map(|(id, program)| (id, program.status().borrow().to_json())).collect())
    }

    fn left(self: &Arc<Self>, server: &Server) {
        let lived = self.with(&server.id, |known| match known.registered {
            // A late word of an old connection does not concern the one that came after it.
            Some((incarnation, since)) if incarnation == server.incarnation => {
                known.registered = None;
                Some(since.elapsed())
            }
            _ => None,
        });
        if let Some(lived) = lived {
            self.lost(&server.id, lived);
        }
    }

    /// A server is gone: it is brought back, if that is wanted.
    fn lost(self: &Arc<Self>, id: &str, lived: Duration) {
        let verdict = self.with(id, |known| {
            let fields = known.fields.clone().or_else(|| self.configured.get(id).cloned())?;
            // If its process still runs, its link alone is broken, or its end is about to be seen: that counts once.
            let runs = known.program.as_ref().is_some_and(|program| program.status().borrow().pid().is_some());
            let waits = runs && !is_true(&fields, "restart-force");
            if known.ordered || known.starting || waits || !wants_restart(&fields) {
                return None;
            }
            known.starting = true;
            Some((fields, known.died(self.care.patience, lived)))
        });
        let Some((fields, next)) = verdict else {
            // What is known of a stranger is no use once they are gone.
            let mut servers = self.servers.lock();
            if servers.get(id).is_some_and(Known::is_stranger) {
                servers.remove(id);
            }
            return;
        };
        let (starter, id) = (self.clone(), id.to_owned());
        self.runtime.spawn(async move {
            starter.bring_back(&id, &fields, next).await;
            starter.with(&id, |known| known.starting = false);
        });
    }

    async fn bring_back(self: &Arc<Self>, id: &str, fields: &Fields, mut next: Next) {
        let before = if is_true(fields, "restart-force") { Before::End(None) } else { Before::Leave };
        loop {
            let pause = match next {
                Next::Again(pause) => pause,
                Next::Never { deaths, within } => {
                    error!(id, deaths, ?within, "the server is gone too often and is not started again");
                    return;
                }
            };
            warn!(id, again_in = ?pause, "the server is gone and nobody ordered it");
            sleep(pause).await;
            if self.with(id, |known| known.registered.is_some() || known.ordered) {
                return;
            }
            match self.start_one(id, fields.clone(), before).await {
                Ok(pid) => return info!(id, pid, "the server was started again"),
                // Its link is broken, and not it: when its process ends, that is seen.
                Err(NotStarted::Runs { pid, .. }) => return info!(id, pid, "the server is gone, but runs"),
                Err(error) => error!(id, %error, "the server was not started again"),
            }
            next = self.with(id, |known| known.died(self.care.patience, Duration::ZERO));
        }
    }

    /// Nobody else may be at it: see [`Known::starting`].
    async fn start_one(self: &Arc<Self>, id: &str, fields: Fields, before: Before) -> Result<u32, NotStarted> {
        let dir = self.state_dir.as_ref().ok_or(NotStarted::Stateless)?;
        let host = place::elsewhere(&fields).await?;
        if let Some(program) = self.with(id, |known| known.program.clone())
            && let Some(pid) = { program.status().borrow().pid() }
        {
            match before {
                Before::Leave => return Err(NotStarted::Runs { id: id.to_owned(), pid }),
                Before::End(grace) => program.end(grace).await,
            }
        }
        if let Some(port) = place::occupied(&fields, host.as_ref()).await? {
            return Err(NotStarted::Occupied { port });
        }
        let launch = self.recipe.launch(&fields, &self.args(id), host.as_ref())?;
        let command = launch.command.join(" ");
        info!(id, host = host.as_ref().map_or("here", HostName::as_str), command, "a server is started");
        let program = Program::start(id, launch, self.care.clone(), self.store.clone(), dir).await;
        let program = program.map_err(|source| NotStarted::Failed { command, source })?;
        let pid = program.status().borrow().pid().unwrap_or_default();
        if !self.configured.contains_key(id) {
            let text = Value::Object(fields.clone()).to_string();
            if !self.store.keep(Kept::AddedServer, id, Some(&text)).await {
                warn!(id, "the server is not remembered durably");
            }
        }
        self.with(id, |known| {
            known.fields = Some(fields);
            known.ordered = false;
        });
        self.keep(id, program);
        Ok(pid)
    }

    /// Watches a process that was started or found.
    fn keep(self: &Arc<Self>, id: &str, program: Program) {
        let (starter, id, mut status) = (self.clone(), id.to_owned(), program.status());
        self.with(&id, |known| known.program = Some(program));
        let begun = Instant::now();
        self.runtime.spawn(async move {
            let ended = status.wait_for(|status| matches!(status.state, State::Ended { .. })).await;
            let unordered = ended.is_ok_and(|status| status.state == State::Ended { ordered: false });
            // One that is registered is known to have left when its connection ends.
            if unordered && starter.with(&id, |known| known.registered.is_none()) {
                starter.lost(&id, begun.elapsed());
            }
        });
    }

    fn begin(&self, id: &str) -> Result<(), NotStarted> {
        let others = self.with(id, |known| std::mem::replace(&mut known.starting, true));
        if others { Err(NotStarted::Starting(id.to_owned())) } else { Ok(()) }
    }

    /// Words for the runtime of a server: those of the configuration alone, since they may be any code.
    fn args(&self, id: &str) -> Vec<String> {
        match self.configured.get(id).and_then(|fields| fields.get("args")) {
            Some(Value::String(text)) => vec![text.trim().to_owned()],
            Some(Value::Array(words)) => words.iter().filter_map(scalar).collect(),
            _ => Vec::new(),
        }
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut servers = self.servers.lock();
        let known = servers.entry(id.to_owned()).or_insert_with(|| Known {
            fields: None,
            program: None,
            registered: None,
            ordered: false,
            starting: false,
            deaths: None,
        });
        act(known)
    }
}

impl Known {
    fn died(&mut self, patience: Patience, lived: Duration) -> Next {
        self.deaths.get_or_insert_with(|| Box::new(Deaths::new(patience))).record(Instant::now(), lived)
    }

    fn is_stranger(&self) -> bool {
        self.fields.is_none() && self.program.is_none() && self.registered.is_none() && !self.starting
    }
}

impl std::fmt::Debug for Starter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: BTreeSet<String> = self.servers.lock().keys().cloned().collect();
        f.debug_struct("Starter").field("recipe", &self.recipe).field("servers", &ids).finish_non_exhaustive()
    }
}

fn id_of(fields: &Fields) -> Option<String> {
    fields.get("id").and_then(scalar).filter(|id| !id.is_empty())
}

fn wants_restart(fields: &Fields) -> bool {
    is_true(fields, "auto-restart") || is_true(fields, "restart-force")
}

/// As a text, as in the original's files, or as what it says.
fn is_true(fields: &Fields, name: &str) -> bool {
    fields.get(name).and_then(scalar).is_some_and(|text| text == "true")
}

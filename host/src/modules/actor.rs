//! One generation of a library: a thread of its own, with the plugin on it or a bridge to the worker that has it.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RArc, RSlice, RStr},
};
use bytes::Bytes;
use muster_plugin_api::{
    Role,
    abi::{HostApi_TO, HostObj, Mail, PluginObj},
    loader::{Library, Mapped},
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    call::Source,
    calls::Calls,
    host::{Host, HostSide},
    jobs::Jobs,
    mailbox::{Mailbox, Post},
    metrics::Metrics,
    presence::Presence,
    services::Services,
};
use crate::{
    batch,
    ids::{Generation, ModuleId},
    plugin::unload::{Bystanders, HostThread, STACK},
    worker::{self, bridge},
};

/// Linux cuts names of threads here.
const THREAD_NAME: usize = 15;

/// What a plugin is given at a time. Its answers go out after that, so that those who wait for the first need not wait
/// for the last of all that was queued; but most messages of a peer that come together are answered together.
const TURN: usize = 128;

/// A module in a role, as one generation carries it.
pub(crate) struct Instance {
    /// Its number within the generation, from 1.
    pub(crate) number: u32,
    pub(crate) module: ModuleId,
    pub(crate) role: Role,
    /// How long a request to it may take, if it says so.
    pub(crate) deadline: Option<Duration>,
    pub(crate) services: Arc<dyn Services>,
}

/// A running generation: the handle. Dropping it lets the thread leave; nothing is unmapped then.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) generation: Generation,
    /// The staged file.
    pub(crate) path: PathBuf,
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) presence: Arc<Presence>,
    /// What is known of its worker, if it has one.
    pub(crate) worker: Option<Arc<worker::Figures>>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) metrics: Arc<Metrics>,
    thread: Option<JoinHandle<Left>>,
}

/// Where a plugin runs.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the daemon, on the generation's thread.
    Thread,
    /// In a process of its own; the generation's thread is the bridge to it.
    Process(worker::Plan),
}

/// What the thread leaves behind when it ends.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) library: Option<Mapped>,
    /// The threads that were there before the library was opened: none of them can be inside it.
    pub(crate) bystanders: Bystanders,
}

// === impl Actor ===

impl Actor {
    /// Starts the thread, opens the staged library on it, and creates the plugin, with no instances yet.
    ///
    /// Returns at once; the receiver tells how it went. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn spawn(
        stem: &str,
        generation: Generation,
        path: PathBuf,
        instances: Arc<[Instance]>,
        place: Place,
    ) -> std::io::Result<(Actor, oneshot::Receiver<Result<(), String>>)> {
        let mailbox = Arc::new(Mailbox::new(Arc::new(Calls::new(instances.clone()))));
        let presence = mailbox.presence().clone();
        let (ready, created) = oneshot::channel();
        let (jobs, metrics) = (Arc::<Jobs>::default(), Arc::<Metrics>::default());
        let host = Host {
            generation,
            instances: instances.clone(),
            mailbox: mailbox.clone(),
            runtime: Handle::current(),
            jobs: jobs.clone(),
            runner: OnceLock::new(),
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new().name(thread_name(stem, generation)).stack_size(STACK);
        let (staged, inside) = (path.clone(), presence.clone());
        let (worker, thread) = match place {
            Place::Thread => (None, thread.spawn(move || live(&staged, host, &inside, ready))?),
            Place::Process(plan) => {
                let figures = Arc::new(worker::Figures::new(plan.limits));
                let bridge = bridge::Bridge::new(stem, staged, plan, Arc::new(host), inside, figures.clone());
                (Some(figures), thread.spawn(move || bridge.live(ready))?)
            }
        };
        let thread = Some(thread);
        Ok((Actor { generation, path, instances, mailbox, presence, worker, jobs, metrics, thread }, created))
    }

    /// Takes the thread, in order to join it.
    pub(crate) fn into_thread(mut self) -> Option<JoinHandle<Left>> {
        self.thread.take()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// The whole life of a generation's thread.
fn live(path: &std::path::Path, host: Host, presence: &Presence, ready: oneshot::Sender<Result<(), String>>) -> Left {
    presence.arrive();
    let _mark = HostThread::mark();
    let runtime = host.runtime.clone();
    let _runtime = runtime.enter();
    let bystanders = Bystanders::now();
    let mailbox = host.mailbox.clone();
    let instances = host.instances.clone();
    presence.describe(path, &instances);
    // Constructors of the library run in here, too.
    let opened = presence.enter(|| Library::open(path));
    let library = match opened {
        Ok(library) => library,
        Err(error) => {
            mailbox.close();
            // Whoever started this may have lost patience; so below.
            drop(ready.send(Err(error)));
            return Left { library: None, bystanders };
        }
    };
    let runner = library.run().map(OnceLock::from).unwrap_or_default();
    let host = Host { runner, ..host };
    let host: HostObj = HostApi_TO::from_ptr(RArc::new(HostSide(Arc::new(host))), TD_Opaque);
    match presence.enter(|| library.create(host)) {
        Ok(plugin) => {
            if ready.send(Ok(())).is_ok() {
                take_turns(&plugin, &mailbox, &instances, presence);
            }
            presence.enter(|| drop(plugin));
        }
        Err(error) => {
            mailbox.close();
            drop(ready.send(Err(error)));
        }
    }
    Left { library: Some(library.retire()), bystanders }
}

fn take_turns(plugin: &PluginObj, mailbox: &Mailbox, instances: &[Instance], presence: &Presence) {
    let mut batch = Vec::new();
    let mut space: Vec<Mail<'static>> = Vec::new();
    while mailbox.take(&mut batch) {
        let mut turns = batch.chunks(TURN);
        // Nothing is queued if the plugin asked for a turn.
        let mut posts = turns.next().unwrap_or_default();
        loop {
            let now = Instant::now();
            let mut mail: Vec<Mail<'_>> = space;
            mail.extend(posts.iter().filter_map(|post| mail_of(post, instances, mailbox.calls(), now)));
            {
                let _batch = batch::begin();
                presence.enter(|| plugin.turn(RSlice::from_slice(&mail)));
            }
            mail.clear();
            // The same allocation with another lifetime: it is empty, so nothing is looked at.
            space = mail.into_iter().map_while(|_| None).collect();
            match turns.next() {
                Some(next) => posts = next,
                None => break,
            }
        }
        batch.clear();
    }
}

/// A post as it crosses the boundary; `None` for a call whose caller waits no longer.
pub(crate) fn mail_of<'a>(post: &'a Post, instances: &'a [Instance], calls: &Calls, now: Instant) -> Option<Mail<'a>> {
    let empty = Mail {
        kind: post.kind(),
        instance: 0,
        id: 0,
        status: 0,
        level: 0,
        connection: 0,
        left_ms: 0,
        a: RStr::from_str(""),
        b: RStr::from_str(""),
        error: RSlice::from_slice(&[]),
        body: RSlice::from_slice(&[]),
    };
    Some(match post {
        Post::Call { instance, id, deadline, call, waited_for } => {
            let mut left = deadline.saturating_duration_since(now);
            if *waited_for && left.is_zero() {
                // It waited too long in the queue, or this process was stopped meanwhile: the table knows.
                left = calls.still_waited_for(*id, now)?;
            }
            let mail = Mail {
                instance: *instance,
                id: *id,
                status: u32::from(*waited_for),
                left_ms: milliseconds(left),
                body: RSlice::from_slice(&call.body),
                ..empty
            };
            match &call.source {
                Source::Server(server) => Mail {
                    a: RStr::from_str(server.id.as_str()),
                    b: RStr::from_str(server.server_type.as_str()),
                    connection: server.incarnation.0,
                    ..mail
                },
                Source::Client(client) => Mail {
                    a: RStr::from_str(client.id.as_str()),
                    b: RStr::from_str(&client.user),
                    connection: client.connection.0,
                    level: client.level,
                    ..mail
                },
            }
        }
        Post::Tick { instance, id } => Mail { instance: *instance, id: *id, ..empty },
        Post::Event { instance, json } => Mail { instance: *instance, body: RSlice::from_slice(json), ..empty },
        Post::Complete { instance, id, outcome, error, body } => Mail {
            instance: *instance,
            id: *id,
            status: *outcome,
            error: RSlice::from_slice(error),
            body: RSlice::from_slice(body),
            ..empty
        },
        Post::Start { instance, id, options } => {
            let described = Instance::of(instances, *instance)?;
            Mail {
                instance: *instance,
                id: *id,
                a: RStr::from_str(described.module.as_str()),
                b: RStr::from_str(role_name(described.role)),
                body: RSlice::from_slice(options),
                ..empty
            }
        }
        Post::Stop { instance, id } => Mail { instance: *instance, id: *id, ..empty },
        Post::Export { instance, id, within } => {
            Mail { instance: *instance, id: *id, left_ms: milliseconds(*within), ..empty }
        }
        Post::Import { instance, id, within, schema, state } => Mail {
            instance: *instance,
            id: *id,
            status: *schema,
            left_ms: milliseconds(*within),
            body: RSlice::from_slice(state),
            ..empty
        },
    })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn thread_name(stem: &str, generation: Generation) -> String {
    let tail = format!("-{generation}");
    let room = THREAD_NAME.saturating_sub("m-".len() + tail.len());
    let head: String = stem.chars().filter(char::is_ascii).take(room).collect();
    format!("m-{head}{tail}")
}

/// The role, as the ABI names it.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Monitor => "monitor",
    }
}

// === impl Instance ===

impl Instance {
    /// The one with this number.
    pub(crate) fn of(instances: &[Instance], number: u32) -> Option<&Instance> {
        usize::try_from(number).ok()?.checked_sub(1).and_then(|index| instances.get(index))
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Instance { number, module, role, deadline: _, services: _ } = self;
        write!(f, "Instance({number}: {module} as {})", role_name(*role))
    }
}

/// Options of a module, as they cross the boundary.
pub(crate) fn options_json(options: &serde_json::Value) -> Bytes {
    options.to_string().into()
}

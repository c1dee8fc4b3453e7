//! Putting a daemon together, and taking it apart: the only file that knows every part.
//!
//! ```text
//! configuration → store → registry → role(s) → plugins, all running or refused → listen → ready
//! signal or order → stop accepting → modules finish and stop → sessions flush and close → exit
//! ```

mod monitor;
mod programs;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use minisign_verify::PublicKey;
use muster_plugin_api::{Event, Role};
use serde_json::{Map, Value};
use tokio::{
    net::lookup_host,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    app::{App, Identity, Means},
    auth::Auth,
    beat,
    config::{DaemonConfig, Faults, IsolationConfig, MasterConfig, MonitorConfig, PluginsConfig, SignaturePolicy},
    crons::Crons,
    log,
    master::{HOSTED, Master, MasterServices},
    modules::{Modules, services::Services},
    monitor::{Monitor, MonitorServices},
    net::{self, AddressLimits, Net},
    peers::{Peers, Remembering},
    plugin::{
        self, ContentHash, Supervisor, preflight::Checker, quarantine::Quarantine, recorder::Recorder, trust::Trust,
    },
    program::{Care, Program, Restart},
    rpc,
    session::Limits,
    starter::Starter,
    store::{Kept, Store, StoreError},
    worker::{self, Launcher, cgroup},
};

pub(crate) use self::monitor::RunningMonitor;

/// How often overdue requests to servers are looked for.
const SWEEP: Duration = beat::OFTEN;

/// How long the word that the daemon is ready waits for the master's own monitor. It is on this machine.
const OWN_MONITOR_WITHIN: Duration = Duration::from_secs(5);

/// What modules get of the grace period; the rest is for answers that are on their way out.
const MODULES_SHARE: f64 = 0.8;

/// A daemon could not start, or could not end in order.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration has faults.
    #[error(transparent)]
    Config(#[from] Faults),
    /// Nobody can connect.
    #[error(
        "cannot listen on {address}; is another master running there? --listen takes HOST:PORT, port 0 asks for any"
    )]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// There is no place for state.
    #[error(transparent)]
    State(#[from] UnusableState),
    /// There is no place for private copies of plugins.
    #[error("no place for private copies of plugins below {path}; it has to be writable, and allow execution", path = .path.display())]
    Stage {
        /// Below which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket that the wrapped program may connect to.
    #[error("cannot make the socket of the app channel, {path} ({length} bytes, of which there may be 107); a shorter --state-dir may help", path = .path.display())]
    AppChannel {
        /// Where it should be.
        path: PathBuf,
        /// Of the path.
        length: usize,
        /// Why.
        source: io::Error,
    },
    /// The program that a monitor wraps does not start.
    #[error(
        "cannot start the program {command:?}; what follows -- is a program and its arguments, which no shell reads"
    )]
    Program {
        /// As configured.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused something that a daemon needs.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A second signal came while the first was being obeyed.
    #[error("ended at once by a second signal")]
    Interrupted,
}

/// The state directory is of no use.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UnusableState(StoreError);

/// What the operator may change while the daemon runs.
#[derive(Debug)]
struct Changeable {
    modules: ArcSwap<DaemonConfig>,
}

/// The signals that a daemon obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal says.
enum Order {
    Stop,
    Reread,
}

// === master ===

/// Runs a master until it is told to stop. `ready` is called with the bound address, once connections are accepted.
///
/// # Errors
/// When it cannot start, or was ended by a second signal.
pub async fn run_master(mut config: MasterConfig, ready: impl FnOnce(SocketAddr)) -> Result<(), DaemonError> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let daemon = &config.daemon;
    let _recorder = record(daemon);
    // Bound first, so that a busy port is known at once; but nobody is let in before all plugins are ready.
    let listener = bind(&config.listen.to_string()).await?;
    let store = Arc::new(Store::open(daemon.state_dir.as_deref()).map_err(UnusableState)?);
    let modules = Arc::new(Modules::new(&HOSTED, daemon.requests.deadline).with_slow(daemon.plugins.slow));
    modules.start_disabled(Role::Master, &store.names(Kept::DisabledModule));
    let changeable = Arc::new(Changeable { modules: ArcSwap::from_pointee(daemon.clone()) });

    let address = listener.local_addr().map_err(system("find the address that was bound"))?;
    let identity = own_identity(&config, address);
    let fleet: Vec<Value> = daemon.fleet.servers.iter().cloned().map(Value::Object).collect();
    let app = |role| {
        let means = Means {
            settings: daemon.settings.clone(),
            modules: modules.clone(),
            rpc: rpc(daemon),
            crons: Crons::new(Arc::default(), []),
            stop: stop.clone(),
        };
        Arc::new(App::new(role, identity.clone(), fleet.clone(), means))
    };
    let master_app = app(Role::Master);
    let starter = Arc::new(Starter::new(
        programs::recipe(&config),
        Care { restart: Restart::Never, ..programs::care(daemon) },
        daemon.state_dir.clone(),
        store.clone(),
        daemon.fleet.servers.iter().cloned(),
    ));
    let peers = Peers::new(
        Remembering {
            window: daemon.requests.repush_window,
            per_server: daemon.requests.remembered,
            deadline: daemon.requests.deadline,
        },
        {
            let (modules, rpc, starter) = (modules.clone(), master_app.rpc().clone(), starter.clone());
            Box::new(move |event| {
                rpc.follow(event);
                starter.saw(event);
                modules.broadcast_event(Role::Master, event);
            })
        },
    );
    let master = Arc::new(Master::new(
        peers,
        Auth::new(daemon.fleet.users.clone(), daemon.fleet.tokens.clone(), config.auth.clone()),
        config.roles.clone(),
        store.clone(),
        modules.clone(),
        master_app,
        limits(daemon),
    ));
    master.app.start_by(starter.clone());
    starter.take_over().await;
    let own = Arc::new(Monitor::new(
        app(Role::Monitor),
        modules.clone(),
        None,
        daemon.limits.outbox,
        daemon.requests.deadline,
    ));

    let roles: Vec<(Role, Arc<dyn Services>)> = vec![
        (Role::Master, Arc::new(MasterServices(master.clone()))),
        (Role::Monitor, Arc::new(MonitorServices(own.clone()))),
    ];
    let plugins = supervise(daemon, &changeable, roles, &modules, store)?;
    master.show_plugins(plugins.control());
    plugins.settled().await;

    let net = Arc::new(Net::new(AddressLimits {
        unregistered: daemon.limits.unregistered_per_address,
        connections: daemon.limits.connections_per_address,
    }));
    let listener = net::listen(listener).map_err(|source| listen_error(&config.listen.to_string(), source))?;
    let accepting = CancellationToken::new();
    let accept = tokio::spawn(net.clone().accept(listener, master.clone(), accepting.clone()));
    let sweep = tokio::spawn(sweep(master.clone()));
    let monitoring = CancellationToken::new();
    let mut registered = own.registered();
    let crons = tokio::spawn({
        let app = own.app.clone();
        async move { app.run_crons().await }
    });
    let own_task = tokio::spawn(own.run(loopback(address).to_string(), monitoring.clone()));
    if timeout(OWN_MONITOR_WITHIN, registered.wait_for(|registered| *registered)).await.is_err() {
        warn!("the master's own monitor has not registered yet; it goes on trying");
    }
    info!(%address, pid = std::process::id(), "master is ready");
    ready(address);
    let starting = config.start_which.clone().map(|which| {
        let starter = starter.clone();
        tokio::spawn(async move { starter.start_configured(&which).await })
    });

    loop {
        match signals.next(&stop).await {
            Order::Stop => break,
            Order::Reread => match config.reread() {
                Ok(new) => {
                    let fleet = &new.daemon.fleet;
                    master.auth.replace(fleet.users.clone(), fleet.tokens.clone(), new.auth.clone());
                    master.roles.store(new.roles.clone().into());
                    log::set_level(&new.daemon.log);
                    changeable.modules.store(Arc::new(new.daemon.clone()));
                    config = new;
                    info!("configuration read again");
                    plugins.rescan().await;
                }
                Err(faults) => error!(%faults, "the configuration has faults: the old one stays"),
            },
        }
    }

    let grace = config.daemon.shutdown.grace;
    let end = async {
        // What is started survives: servers find their master again, and it them.
        if let Some(starting) = starting {
            starting.abort();
        }
        crons.abort();
        accepting.cancel();
        join(accept).await;
        modules.broadcast_event(Role::Master, &Event::Stopping);
        modules.broadcast_event(Role::Monitor, &Event::Stopping);
        report(&plugins.shutdown(grace.mul_f64(MODULES_SHARE)).await);
        monitoring.cancel();
        join(own_task).await;
        net.close().await;
        sweep.abort();
    };
    end_within(grace, end, &mut signals, || {
        let [dropped, unasked, overrun] = master.counts();
        info!(sessions_left = net.open(), dropped, unasked, overrun, "master ends");
    })
    .await
}

/// What the master's own monitor says of itself. Its info has no `serverType`: so the others do not take it for a server
/// of the fleet, as in the original.
fn own_identity(config: &MasterConfig, address: SocketAddr) -> Identity {
    let mut info = Map::new();
    info.insert("id".into(), config.id.as_str().into());
    info.insert("host".into(), loopback(address).ip().to_string().into());
    info.insert("port".into(), address.port().into());
    Identity {
        id: config.id.as_str().to_owned(),
        server_type: "master".to_owned(),
        env: config.daemon.env.clone(),
        info,
    }
}

async fn sweep(master: Arc<Master>) {
    let mut beat = beat::every(SWEEP);
    loop {
        beat.tick().await;
        master.expire(Instant::now());
    }
}

async fn bind(address: &str) -> Result<tokio::net::TcpSocket, DaemonError> {
    let found = lookup_host(address).await.map_err(|source| listen_error(address, source))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in found {
        match net::bind(candidate) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(listen_error(address, last))
}

/// Where this machine reaches a listener.
fn loopback(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

// === monitor ===

/// Runs a monitor until it is told to stop. `ready` is called when its plugins are and its program was started; the master
/// may be away.
///
/// # Errors
/// When it cannot start, or was ended by a second signal.
pub async fn run_monitor(config: MonitorConfig, ready: impl FnOnce()) -> Result<(), DaemonError> {
    let mut signals = Signals::listen()?;
    let _recorder = record(&config.daemon);
    let mut monitor = RunningMonitor::start(config, None).await?;
    let passing = monitor.program().cloned().map(pass_signals).transpose()?;
    ready();
    let stop = monitor.stop().clone();
    while let Order::Reread = signals.next(&stop).await {
        monitor.reread().await;
    }
    tokio::select! {
        () = monitor.end_program() => {}
        () = signals.again() => {
            if let Some(program) = monitor.program() {
                program.end(None).await;
            }
            return Err(DaemonError::Interrupted);
        }
    }
    if let Some(passing) = passing {
        passing.abort();
    }
    end_within(monitor.grace(), monitor.end(), &mut signals, || info!("monitor ends")).await
}

/// Signals that mean nothing to a monitor are for the program that it wraps.
fn pass_signals(program: Program) -> Result<tokio::task::JoinHandle<()>, DaemonError> {
    let listen = |kind| signal(kind).map_err(system("listen for signals"));
    let mut first = listen(SignalKind::user_defined1())?;
    let mut second = listen(SignalKind::user_defined2())?;
    let mut quit = listen(SignalKind::quit())?;
    Ok(tokio::spawn(async move {
        loop {
            let passed = tokio::select! {
                _ = first.recv() => rustix::process::Signal::USR1,
                _ = second.recv() => rustix::process::Signal::USR2,
                _ = quit.recv() => rustix::process::Signal::QUIT,
            };
            program.signal(passed).await;
        }
    }))
}

// === both ===

/// Writes down what this process dies of, if it does, for as long as that is kept.
fn record(daemon: &DaemonConfig) -> Option<Recorder> {
    let directory = daemon.state_dir.as_deref()?;
    let recorder = Recorder::start(directory);
    recorder.inspect_err(|error| warn!(%error, "a plugin that ends this daemon will not be known")).ok()
}

fn supervise(
    daemon: &DaemonConfig,
    changeable: &Arc<Changeable>,
    roles: Vec<(Role, Arc<dyn Services>)>,
    modules: &Arc<Modules>,
    store: Arc<Store>,
) -> Result<Supervisor, DaemonError> {
    // Without a state directory the copies go to the temporary one; both have to allow execution.
    let stage = daemon.state_dir.clone().unwrap_or_else(std::env::temp_dir);
    let options = {
        let changeable = changeable.clone();
        move |file: &str, module: &str| changeable.options(file, module)
    };
    let isolation = {
        let changeable = changeable.clone();
        move |file: &str| changeable.isolation(file)
    };
    let settings = &daemon.plugins;
    let needed = settings.isolation.values().any(IsolationConfig::needs_group);
    let config = plugin::Config {
        directory: settings.dir.clone(),
        checker: Checker { timeout: settings.preflight_timeout, ..Checker::default() },
        trust: Arc::new(trust(settings, store.clone())),
        store,
        settle: settings.settle,
        gone: settings.gone_after,
        drain: settings.drain,
        handover: settings.handover,
        state_limit: settings.state_limit,
        probation: settings.probation,
        rollback: plugin::probation::Limits {
            calls: settings.rollback_calls,
            panics: settings.rollback_panics,
            errors: settings.rollback_errors,
            slower: settings.rollback_slower,
        },
        still_mapped_cap: settings.still_mapped_cap,
        still_mapped: settings.still_mapped,
        roles,
        options: Arc::new(options),
        isolation: Arc::new(isolation),
        launcher: Launcher {
            groups: settings.dir.as_ref().and_then(|_| cgroup::for_workers(needed)),
            ..Launcher::default()
        },
        turn: daemon.requests.deadline,
        quarantine: Quarantine::open(daemon.state_dir.as_deref()),
        ..plugin::Config::new(stage.clone())
    };
    Supervisor::start(config, modules.clone()).map_err(|source| DaemonError::Stage { path: stage, source })
}

/// Whose plugins are loaded.
fn trust(settings: &PluginsConfig, store: Arc<Store>) -> Trust {
    let PluginsConfig { strict, signature, public_keys, sha256, allow_downgrade, .. } = settings;
    // What is no key or hash was a fault of the configuration.
    let keys = || public_keys.iter().filter_map(|key| PublicKey::from_base64(key).ok()).collect();
    Trust {
        strict: *strict,
        keys: (*signature == SignaturePolicy::Require).then(keys),
        listed: sha256.as_ref().map(|hashes| hashes.iter().filter_map(|hash| ContentHash::parse(hash)).collect()),
        allow_downgrade: *allow_downgrade,
        store,
    }
}

impl Changeable {
    /// The limits of a plugin's worker, if it is to have one.
    fn isolation(&self, file: &str) -> Option<worker::Limits> {
        match self.modules.load().plugins.isolation.get(file)? {
            IsolationConfig::Thread => None,
            IsolationConfig::Process { memory, cpu_seconds, files, cpu_percent, tasks } => Some(worker::Limits {
                memory: *memory,
                cpu_seconds: *cpu_seconds,
                files: *files,
                cpu_percent: *cpu_percent,
                tasks: *tasks,
            }),
        }
    }

    /// The options of a module: those of its file, overlaid by its own.
    fn options(&self, file: &str, module: &str) -> Value {
        let config = self.modules.load();
        let mut options = config.plugins.options.get(file).cloned().unwrap_or_default();
        options.extend(config.modules.get(module).cloned().unwrap_or_default());
        Value::Object(options)
    }
}

impl Signals {
    fn listen() -> Result<Signals, DaemonError> {
        let listen = |kind| signal(kind).map_err(system("listen for signals"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for another signal to stop.
    async fn again(&mut self) {
        let never = CancellationToken::new();
        while let Order::Reread = self.next(&never).await {}
    }

    async fn next(&mut self, stop: &CancellationToken) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            () = stop.cancelled() => Order::Stop,
            _ = self.hangup.recv() => Order::Reread,
        }
    }
}

/// Runs `end`; after the grace period, or at a second signal, the process ends all the same.
async fn end_within(
    grace: Duration,
    end: impl Future<Output = ()>,
    signals: &mut Signals,
    last: impl FnOnce(),
) -> Result<(), DaemonError> {
    info!(?grace, "stopping");
    tokio::select! {
        ended = timeout(grace, end) => {
            if ended.is_err() {
                warn!("the grace period is over: what is left is cut off");
            }
            last();
            Ok(())
        }
        () = signals.again() => Err(DaemonError::Interrupted),
    }
}

fn report(left: &[String]) {
    for what in left {
        warn!(what, "not ended in time");
    }
}

async fn join(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        error!(%error, "a part of the daemon panicked");
    }
}

fn limits(daemon: &DaemonConfig) -> Limits {
    let limits = &daemon.limits;
    Limits {
        packet_before_login: limits.packet_before_login,
        packet_after_login: limits.packet_after_login,
        connect_within: limits.connect_within,
        register_within: limits.register_within,
        outbox: limits.outbox,
        write_stall: limits.write_stall,
    }
}

fn rpc(daemon: &DaemonConfig) -> rpc::Config {
    rpc::Config {
        timeout: daemon.requests.deadline,
        keepalive: daemon.rpc.keepalive,
        buffer: daemon.rpc.buffer,
        largest: daemon.limits.packet_after_login,
    }
}

fn listen_error(address: &str, source: io::Error) -> DaemonError {
    DaemonError::Listen { address: address.to_owned(), source }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

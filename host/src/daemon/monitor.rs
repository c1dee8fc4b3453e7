//! A monitor that runs: its parts, put together and taken apart. Signals are not its business.

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use muster_plugin_api::{Event, Role};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Changeable, DaemonError, MODULES_SHARE, UnusableState, join, programs, report, supervise};
use crate::{
    app::{App, Identity, Means},
    application::{Application, channel},
    config::MonitorConfig,
    crons::Crons,
    log,
    master::HOSTED,
    modules::{Modules, services::Services},
    monitor::{Monitor, MonitorServices},
    plugin::Supervisor,
    program::{self, Launch, Program},
    store::Store,
};

/// A monitor that runs in this process.
pub(crate) struct RunningMonitor {
    config: MonitorConfig,
    app: Arc<App>,
    modules: Arc<Modules>,
    changeable: Arc<Changeable>,
    plugins: Supervisor,
    crons: JoinHandle<()>,
    link: JoinHandle<()>,
    linking: CancellationToken,
    /// Cancelled when something in here orders it to stop.
    stop: CancellationToken,
}

impl RunningMonitor {
    /// Returns when its plugins are ready and its program was started; the master may be away.
    pub(crate) async fn start(
        config: MonitorConfig,
        application: Option<Arc<dyn Application>>,
    ) -> Result<RunningMonitor, DaemonError> {
        let stop = CancellationToken::new();
        let daemon = &config.daemon;
        let modules = Arc::new(Modules::new(&HOSTED, daemon.requests.deadline).with_slow(daemon.plugins.slow));
        let changeable = Arc::new(Changeable { modules: ArcSwap::from_pointee(daemon.clone()) });
        // Several monitors of a machine may share a state directory.
        let home =
            daemon.state_dir.as_ref().map(|dir| dir.join("monitors").join(program::file_name(config.id.as_str())));
        let store = Arc::new(Store::open(home.as_deref()).map_err(UnusableState)?);
        let identity = Identity {
            id: config.id.as_str().to_owned(),
            server_type: config.server_type.as_str().to_owned(),
            env: daemon.env.clone(),
            info: config.info.clone(),
        };
        let fleet = daemon.fleet.servers.iter().cloned().map(Value::Object).collect();
        let configured = daemon.fleet.crons.of(config.id.as_str(), config.server_type.as_str());
        let crons = Crons::new(store.clone(), configured.cloned().map(Value::Object));
        let means = Means {
            settings: daemon.settings.clone(),
            modules: modules.clone(),
            rpc: super::rpc(daemon),
            crons,
            stop: stop.clone(),
        };
        let app = Arc::new(App::new(Role::Monitor, identity, fleet, means));
        if let Some(application) = application {
            app.take_part(application);
        }
        let token = config.token.as_ref().map(|token| token.expose().to_owned());
        let monitor = Monitor::new(app.clone(), modules.clone(), token, daemon.limits.outbox, daemon.requests.deadline);
        let monitor = Arc::new(monitor);
        let roles: Vec<(Role, Arc<dyn Services>)> = vec![(Role::Monitor, Arc::new(MonitorServices(monitor.clone())))];
        let plugins = supervise(daemon, &changeable, roles, &modules, Arc::default())?;
        plugins.settled().await;
        if let Some(home) = home.as_deref().filter(|_| !config.command.is_empty()) {
            wrap(&config, &app, store, home).await?;
        }
        let crons = tokio::spawn({
            let app = app.clone();
            async move { app.run_crons().await }
        });
        let linking = CancellationToken::new();
        let link = tokio::spawn(monitor.run(config.master.to_string(), linking.clone()));
        info!(id = %config.id, master = %config.master, pid = std::process::id(), "monitor is ready");
        Ok(RunningMonitor { config, app, modules, changeable, plugins, crons, link, linking, stop })
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The program that it wraps.
    pub(crate) fn program(&self) -> Option<&Program> {
        self.app.program()
    }

    /// Cancelled when something in here orders it to stop.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Reads the configuration again. If it has faults, the old one stays.
    pub(crate) async fn reread(&mut self) {
        match self.config.reread() {
            Ok(new) => {
                log::set_level(&new.daemon.log);
                self.changeable.modules.store(Arc::new(new.daemon.clone()));
                self.config = new;
                info!("configuration read again");
                self.plugins.rescan().await;
            }
            Err(faults) => error!(%faults, "the configuration has faults: the old one stays"),
        }
    }

    /// Ends the program that it wraps, which has its own grace; at once if that was ordered.
    pub(crate) async fn end_program(&self) {
        if let Some(program) = self.program() {
            self.app.tell_end();
            program.end((!self.app.is_killed()).then_some(self.config.daemon.program.stop_grace)).await;
        }
    }

    pub(crate) fn grace(&self) -> std::time::Duration {
        self.config.daemon.shutdown.grace
    }

    /// Takes everything else apart.
    pub(crate) async fn end(self) {
        self.crons.abort();
        self.modules.broadcast_event(Role::Monitor, &Event::Stopping);
        let share = self.grace().mul_f64(MODULES_SHARE);
        report(&self.plugins.shutdown(share).await);
        self.linking.cancel();
        join(self.link).await;
    }
}

/// Starts the program, or finds it again, and has the application report of it.
async fn wrap(config: &MonitorConfig, app: &Arc<App>, store: Arc<Store>, home: &Path) -> Result<(), DaemonError> {
    let socket = home.canonicalize().unwrap_or_else(|_| home.to_owned()).join("app.sock");
    let listener = channel::bind(&socket).map_err(|source| DaemonError::AppChannel {
        path: socket.clone(),
        length: socket.as_os_str().len(),
        source,
    })?;
    tokio::spawn(channel::serve(listener, app.clone()));
    let variables = vec![(channel::VARIABLE.to_owned(), socket.display().to_string())];
    let launch = Launch { command: config.command.clone(), variables, ..Launch::default() };
    let care = programs::care(&config.daemon);
    let program = Program::start(config.id.as_str(), launch, care, store, home).await;
    let program = program.map_err(|source| DaemonError::Program { command: config.command.join(" "), source })?;
    app.wrap(program);
    Ok(())
}

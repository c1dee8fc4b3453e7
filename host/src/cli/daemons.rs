//! The commands that are daemons: arguments → configuration → the daemon.

use std::path::PathBuf;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

use super::{CliError, render};
use crate::{
    batch, beat,
    config::{Address, MasterConfig, MonitorConfig, Sources},
    daemon,
    demo::Demo,
    log, memory,
    plugin::preflight::child_main,
    worker::{self, child::worker_main},
};

/// What both daemons take.
#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    /// File with settings (TOML); a flag beats the environment, and that the file
    #[arg(long, value_name = "FILE", env = "MUSTER_CONFIG")]
    config: Option<PathBuf>,
    /// Environment, which chooses the part of the fleet files that counts [default: development]
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Directory of pomelo's adminUser.json, adminServer.json, master.json and servers.json
    #[arg(long, value_name = "DIR")]
    config_dir: Option<String>,
    /// Directory that plugin files are dropped into
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// Directory for durable state; without it, state is in memory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Any setting, such as modules.timeReport.interval=1; repeatable, JSON is taken as such
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
}

/// Arguments of `muster master`.
#[derive(Debug, Args)]
pub(super) struct MasterArgs {
    /// Address to listen on; port 0 for any [default: that of master.json, else 127.0.0.1:3005]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Servers to start: all, those of a type, or one by its id; they are those of servers.json and [fleet]
    #[arg(long, value_name = "all|TYPE|ID")]
    start: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Arguments of `muster monitor`.
#[derive(Debug, Args)]
pub(super) struct MonitorArgs {
    /// Address of the master
    #[arg(long, value_name = "HOST:PORT")]
    master: Option<String>,
    /// Id of this server
    #[arg(long)]
    id: Option<String>,
    /// Type of this server
    #[arg(long = "type", value_name = "TYPE")]
    server_type: Option<String>,
    /// Token to register with [default: that of adminServer.json]
    #[arg(long, allow_hyphen_values = true)]
    token: Option<String>,
    /// Something the server tells of itself; repeatable, integers are numbers, all else is text
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    info: Vec<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The server itself: a program that is started, watched, and stopped with the monitor
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Arguments of `muster demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Address for the master to listen on; port 0 for any
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: Address,
    /// Directory of the plugins
    #[arg(long, value_name = "DIR", default_value = "plugins")]
    plugins: PathBuf,
}

/// Arguments of `muster preflight`.
#[derive(Debug, Args)]
pub(super) struct PreflightArgs {
    /// The file
    file: PathBuf,
}

/// Arguments of `muster worker`.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Bytes of memory
    #[arg(long)]
    memory: Option<u64>,
    /// Seconds of processor time
    #[arg(long)]
    cpu_seconds: Option<u64>,
    /// Open files
    #[arg(long)]
    files: Option<u64>,
    /// Directory of the control group that it enters
    #[arg(long)]
    group: Option<PathBuf>,
    /// The file
    file: PathBuf,
}

impl DaemonArgs {
    pub(super) fn sources(self, variables: impl Fn(&str) -> Option<String>) -> Sources {
        let DaemonArgs { config, env, config_dir, plugins, state_dir, set } = self;
        Sources::new()
            .file(config)
            .variables(variables)
            .set(set)
            .flag("--env", "env", env)
            .flag("--config-dir", "config_dir", config_dir)
            .flag("--plugins", "plugins.dir", plugins)
            .flag("--state-dir", "state_dir", state_dir)
    }
}

impl MasterArgs {
    /// Runs until it is told to end.
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = MasterConfig::load(self.sources(variable))?;
        log::start(&config.daemon.log, &config.daemon.audit, render::colours())?;
        runtime()?.block_on(daemon::run_master(config, |address| {
            render::ready(&format!("muster master listening on {address}"));
        }))?;
        Ok(())
    }

    fn sources(self, variables: impl Fn(&str) -> Option<String>) -> Sources {
        let MasterArgs { listen, start, daemon } = self;
        daemon.sources(variables).flag("--listen", "master.listen", listen).flag("--start", "master.start", start)
    }
}

impl MonitorArgs {
    /// Runs until it is told to end.
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = MonitorConfig::load(self.sources(variable))?;
        log::start(&config.daemon.log, &config.daemon.audit, render::colours())?;
        let line = format!("muster monitor {} of {}", config.id, config.master);
        runtime()?.block_on(daemon::run_monitor(config, || render::ready(&line)))?;
        Ok(())
    }

    fn sources(self, variables: impl Fn(&str) -> Option<String>) -> Sources {
        let MonitorArgs { master, id, server_type, token, info, daemon, command } = self;
        daemon
            .sources(variables)
            .flag("--master", "monitor.master", master)
            .flag("--id", "monitor.id", id)
            .flag("--type", "monitor.type", server_type)
            .flag("--token", "monitor.token", token)
            .info(info)
            .words("monitor.command", command)
    }
}

impl DemoArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let DemoArgs { listen, plugins } = self;
        let executable = std::env::current_exe().map_err(CliError::Runtime)?;
        let demo = Demo { executable, listen: listen.to_string(), plugins };
        runtime()?.block_on(demo.run(&mut render::stdout()))?;
        Ok(())
    }
}

impl PreflightArgs {
    pub(super) fn run(self) -> ! {
        child_main(&self.file)
    }
}

impl WorkerArgs {
    pub(super) fn run(self) -> ! {
        let WorkerArgs { memory, cpu_seconds, files, group, file } = self;
        let limits = worker::Limits { memory, cpu_seconds, files, ..worker::Limits::default() };
        worker_main(&file, &limits, group.as_deref())
    }
}

fn runtime() -> Result<Runtime, CliError> {
    memory::give_back();
    beat::begin();
    Builder::new_multi_thread().enable_all().on_thread_park(batch::before_sleep).build().map_err(CliError::Runtime)
}

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[track_caller]
    fn command(line: &str) -> Command {
        Cli::try_parse_from(line.split_whitespace()).unwrap().command
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let Command::Monitor(args) = command(
            "muster monitor --master h:1 --id i --type t --token x --info frontend=true --info port=-1 --env e \
             --plugins p --state-dir s --set modules.timeReport.interval=1 --set app.settings.k=v",
        ) else {
            panic!("not a monitor")
        };
        let config = MonitorConfig::load(args.sources(|_| None)).unwrap();
        assert_eq!(config.master.to_string(), "h:1");
        assert_eq!((config.id.as_str(), config.server_type.as_str()), ("i", "t"));
        assert_eq!(config.token.unwrap().expose(), "x");
        assert_eq!((&config.info["frontend"], &config.info["port"]), (&"true".into(), &(-1).into()));
        assert_eq!(config.daemon.env, "e");
        assert_eq!(config.daemon.plugins.dir, Some(PathBuf::from("p")));
        assert_eq!(config.daemon.state_dir, Some(PathBuf::from("s")));
        assert_eq!(config.daemon.modules["timeReport"]["interval"], 1);
        assert_eq!(config.daemon.settings["k"], "v");

        let Command::Master(args) = command("muster master --listen [::1]:0") else { panic!("not a master") };
        assert_eq!(MasterConfig::load(args.sources(|_| None)).unwrap().listen, Address::new("::1", 0));
    }

    #[test]
    fn faults_of_flags_are_exit_code_two() {
        let Command::Master(args) = command("muster master --listen 3005 --set nonsense") else {
            panic!("not a master")
        };
        let error = CliError::from(MasterConfig::load(args.sources(|_| None)).unwrap_err());
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string().lines().count(), 3, "{error}");
    }
}

//! The configuration of the daemons: file, environment and flags → [`MasterConfig`] or [`MonitorConfig`], valid by
//! construction, or [`Faults`]: all of them at once.
//!
//! ```text
//! Sources ─▶ one tree, the strongest on top ─▶ sections, read one by one ─▶ config
//!                                               fleet files (pomelo's JSON) ┘
//! ```
//!
//! Keys are those of `muster.sample.toml`. Options of modules and plugins are free: those who know them may not be
//! present. Any other key that nobody asks for is a fault.

pub mod defaults;
mod fault;
mod fleet;
mod password;
mod plugins;
mod program;
mod section;
mod sources;
mod start;
#[cfg(test)]
mod tests;
pub(crate) mod users;
mod value;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};

use self::{
    fault::FaultList,
    plugins::plugins_section,
    program::program_section,
    section::{Section, Which},
};
pub use self::{
    fault::{Fault, Faults, Origin, Place, Problem},
    fleet::{Crons, Fleet, MasterInfo, Servers, Token, Tokens, User, Users},
    password::{Login, Password},
    plugins::{IsolationConfig, PluginsConfig, SignaturePolicy, StillMappedPolicy},
    program::{OrphanPolicy, ProgramConfig, RestartPolicy},
    sources::{Setting, Sources},
    start::StartConfig,
    value::{Address, NotAnAddress, Secret},
};
use crate::ids::{ServerId, ServerType};
pub use crate::roles::{Required, Roles};

/// Free options of a module or plugin.
pub type Options = Map<String, Value>;

/// What a master needs to know.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// Where to listen: as configured, else master.json's address, else [`defaults::listen`].
    pub listen: Address,
    /// The id of the master's own monitor: master.json's, else [`defaults::MASTER_ID`].
    pub id: ServerId,
    /// Who may come in, and how.
    pub auth: AuthConfig,
    /// Who may do what.
    pub roles: Roles,
    /// How it starts servers.
    pub start: StartConfig,
    /// Which it starts by itself: `all`, a type or an id. With one there is a state directory.
    pub start_which: Option<String>,
    /// What it has in common with monitors.
    pub daemon: DaemonConfig,
    sources: Sources,
}

/// What a monitor needs to know.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// Its master.
    pub master: Address,
    /// Its own id.
    pub id: ServerId,
    /// Its own type.
    pub server_type: ServerType,
    /// As configured; else from adminServer.json as a pomelo server takes it: the first of its type, nothing if there
    /// is none, and `ok` without that file.
    pub token: Option<Secret>,
    /// What it tells of itself: its entry of servers.json, overlaid by what is configured; always with `id`,
    /// `serverType` and `host`.
    pub info: Map<String, Value>,
    /// When to try again.
    pub reconnect: ReconnectConfig,
    /// The program that it wraps, with its arguments; empty for none. With one there is a state directory.
    pub command: Vec<String>,
    /// What it has in common with masters.
    pub daemon: DaemonConfig,
    sources: Sources,
}

/// What both daemons need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct DaemonConfig {
    /// The environment, such as `production`: which part of the fleet files counts.
    pub env: String,
    /// Where the fleet files are; without it there are none.
    pub config_dir: Option<PathBuf>,
    /// Where durable state is kept; without it in memory only.
    pub state_dir: Option<PathBuf>,
    /// pomelo's files, read.
    pub fleet: Fleet,
    /// How much is too much.
    pub limits: LimitsConfig,
    /// How long requests live.
    pub requests: RequestsConfig,
    /// Calls of servers' remotes.
    pub rpc: RpcConfig,
    /// Plugin files.
    pub plugins: PluginsConfig,
    /// Options of admin modules, by module id.
    pub modules: BTreeMap<String, Options>,
    /// Settings of the application that modules may read.
    pub settings: Map<String, Value>,
    /// Programs that are run and watched.
    pub program: ProgramConfig,
    /// The log.
    pub log: LogConfig,
    /// The lines of the audit.
    pub audit: AuditConfig,
    /// How long stopping may take.
    pub shutdown: ShutdownConfig,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Who may come back without a token.
    pub reconnect: ReconnectPolicy,
    /// The failed login of an address and user from which on answers are late.
    pub slow_from: usize,
    /// By how much at first.
    pub slow_first: Duration,
    /// By how much at most, doubling.
    pub slow_longest: Duration,
}

/// Who may come back by `reconnect`, which real monitors send without a token. It matters with a token table only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconnectPolicy {
    /// Ids that have registered with a valid token before, or bring one.
    Known,
    /// Everybody: for moving a running Node fleet over.
    Open,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Largest packet of a peer that has not registered, in bytes.
    pub packet_before_login: usize,
    /// Largest packet of others, in bytes.
    pub packet_after_login: usize,
    /// From the open socket to CONNECT.
    pub connect_within: Duration,
    /// From CONNECT to a register that is let in.
    pub register_within: Duration,
    /// Connections per address that have not registered.
    pub unregistered_per_address: usize,
    /// Connections per address; `None` for any number.
    pub connections_per_address: Option<usize>,
    /// Bytes that may wait to be sent to one peer before it is cut.
    pub outbox: usize,
    /// How long a peer may read nothing of what waits before it is cut.
    pub write_stall: Duration,
}

/// `[requests]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestsConfig {
    /// When the one who waits gets a timeout; a module may set its own.
    pub deadline: Duration,
    /// How long an unanswered request waits for a server whose link broke.
    pub repush_window: Duration,
    /// Unanswered requests kept per server.
    pub remembered: usize,
}

/// `[rpc]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcConfig {
    /// Time between two pings of a server that is called.
    pub keepalive: Duration,
    /// For how long calls of one server are collected, to be sent as one message; zero for not at all.
    pub buffer: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// A level, or directives such as `info,muster::session=debug`; valid.
    pub level: String,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// The file that gets every line of the audit as a JSON object, beside the log.
    pub file: Option<PathBuf>,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Human,
    /// One JSON object.
    Json,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long stopping may take before what is left is cut off.
    pub grace: Duration,
}

/// `[monitor]` `reconnect_…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconnectConfig {
    /// The first wait, and the wait after a success.
    pub first: Duration,
    /// The longest wait, doubling; up to a quarter is added at random.
    pub longest: Duration,
}

/// The servers that servers.json describes.
///
/// # Errors
/// All faults of the file at once.
pub fn servers_of(config_dir: &Path, env: &str) -> Result<Servers, Faults> {
    let faults = FaultList::default();
    let fleet = Fleet::read(config_dir, env, &faults);
    faults.into_result(fleet.servers)
}

impl MasterConfig {
    /// Reads and checks everything, the fleet files included.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(sources: Sources) -> Result<MasterConfig, Faults> {
        let faults = FaultList::default();
        let tree = sources.merge(&faults);
        let mut root = Section::root(&tree, &faults);
        let (listen, which) = master_section(root.section("master"));
        let auth = auth_section(root.section("auth"));
        let roles = roles_section(root.section("roles"));
        let start = root.section("start");
        if which.is_some() {
            root.require(
                "state_dir",
                "--state-dir DIR: servers that are started are written down there, to be found again",
            );
        }
        // A file may serve both daemons; what it says of monitors is checked, too.
        monitor_section(root.section("monitor"));
        let daemon = daemon_sections(root, &faults);
        let start = start::start_section(start, daemon.config_dir.as_deref());
        let which = which.map(|which| which.check(&daemon.fleet.servers, &faults));
        let info = daemon.fleet.master.as_ref();
        let listen = listen.or_else(|| info.map(|info| info.address.clone())).unwrap_or_else(defaults::listen);
        let id = info.map_or(ServerId::from(defaults::MASTER_ID), |info| info.id.clone());
        faults.into_result(MasterConfig { listen, id, auth, roles, start, start_which: which, daemon, sources })
    }

    /// Reads everything again. What this configuration says stays as it is.
    ///
    /// # Errors
    /// All faults at once.
    pub fn reread(&self) -> Result<MasterConfig, Faults> {
        MasterConfig::load(self.sources.clone())
    }
}

impl MonitorConfig {
    /// Reads and checks everything, the fleet files included.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(sources: Sources) -> Result<MonitorConfig, Faults> {
        let faults = FaultList::default();
        let tree = sources.merge(&faults);
        let mut root = Section::root(&tree, &faults);
        master_section(root.section("master"));
        auth_section(root.section("auth"));
        roles_section(root.section("roles"));
        start::start_section(root.section("start"), None);
        let section = root.section("monitor");
        section.require("master", "--master HOST:PORT");
        section.require("id", "--id ID");
        section.require("type", "--type TYPE");
        let MonitorSection { master, id, server_type, token, info: told, reconnect, command } =
            monitor_section(section);
        if !command.is_empty() {
            root.require(
                "state_dir",
                "--state-dir DIR: a program that is wrapped is written down there, to be found again",
            );
        }
        let daemon = daemon_sections(root, &faults);
        let (id, server_type) = (id.unwrap_or_default(), server_type.unwrap_or_default());
        let token = match (token, &daemon.fleet.tokens) {
            (Some(token), _) => Some(token),
            (None, Some(tokens)) => tokens.first_of(&server_type).cloned(),
            (None, None) => Some(Secret::from("ok".to_owned())),
        };
        let mut info = daemon.fleet.servers.find(&id).cloned().unwrap_or_default();
        info.extend(told);
        // The original's master compares hosts when a server leaves, and fails without (Q13).
        info.entry("host").or_insert_with(|| "127.0.0.1".into());
        info.insert("id".to_owned(), id.as_str().into());
        info.insert("serverType".to_owned(), server_type.as_str().into());
        faults.into_result(MonitorConfig {
            // Absent only beside a fault.
            master: master.unwrap_or_else(defaults::listen),
            id: ServerId::from(id),
            server_type: ServerType::from(server_type),
            token,
            info,
            reconnect,
            command,
            daemon,
            sources,
        })
    }

    /// Reads everything again. What this configuration says stays as it is.
    ///
    /// # Errors
    /// All faults at once.
    pub fn reread(&self) -> Result<MonitorConfig, Faults> {
        MonitorConfig::load(self.sources.clone())
    }
}

// === sections ===

/// What `[monitor]` says; what is needed may be missing or wrong.
struct MonitorSection {
    master: Option<Address>,
    id: Option<String>,
    server_type: Option<String>,
    token: Option<Secret>,
    info: Map<String, Value>,
    reconnect: ReconnectConfig,
    command: Vec<String>,
}

fn master_section(mut section: Section<'_>) -> (Option<Address>, Option<Which>) {
    let master = (section.address("listen"), section.which("start"));
    section.finish();
    master
}

fn monitor_section(mut section: Section<'_>) -> MonitorSection {
    let monitor = MonitorSection {
        master: section.address("master"),
        id: section.text("id"),
        server_type: section.text("type"),
        token: section.secret("token"),
        info: section.free("info"),
        reconnect: ReconnectConfig {
            first: section.positive_duration("reconnect_first", defaults::RECONNECT_FIRST),
            longest: section.positive_duration("reconnect_longest", defaults::RECONNECT_LONGEST),
        },
        command: section.command("command"),
    };
    section.finish();
    monitor
}

fn auth_section(mut section: Section<'_>) -> AuthConfig {
    let reconnect = section.one_of("reconnect", [("known", ReconnectPolicy::Known), ("open", ReconnectPolicy::Open)]);
    let auth = AuthConfig {
        reconnect,
        slow_from: section.count("slow_from", defaults::SLOW_FROM),
        slow_first: section.duration("slow_first", defaults::SLOW_FIRST),
        slow_longest: section.duration("slow_longest", defaults::SLOW_LONGEST),
    };
    section.finish();
    auth
}

fn roles_section(mut section: Section<'_>) -> Roles {
    let words = "a level such as 1, \"anybody\" or \"nobody\"";
    let default = section.read("default", words, Required::of).unwrap_or(Roles::default().default);
    let of_module = |(id, module): (String, Section<'_>)| (id, module.all_read(words, Required::of));
    let roles = Roles { default, set: section.named_sections().into_iter().map(of_module).collect() };
    section.finish();
    roles
}

/// Everything else; ends the root.
fn daemon_sections(mut root: Section<'_>, faults: &FaultList) -> DaemonConfig {
    let env = root.text("env").unwrap_or_else(|| defaults::ENV.to_owned());
    let config_dir = root.text("config_dir").map(PathBuf::from);
    let mut fleet = config_dir.as_deref().map(|dir| Fleet::read(dir, &env, faults)).unwrap_or_default();
    fleet.servers.extend(root.free("fleet"), faults);
    let daemon = DaemonConfig {
        env,
        config_dir,
        state_dir: root.text("state_dir").map(PathBuf::from),
        fleet,
        limits: limits_section(root.section("limits")),
        requests: requests_section(root.section("requests")),
        rpc: rpc_section(root.section("rpc")),
        plugins: plugins_section(root.section("plugins")),
        modules: root.section("modules").all_named(),
        settings: app_section(root.section("app")),
        program: program_section(root.section("program")),
        log: log_section(root.section("log")),
        audit: audit_section(root.section("audit")),
        shutdown: shutdown_section(root.section("shutdown")),
    };
    root.finish();
    daemon
}

fn limits_section(mut section: Section<'_>) -> LimitsConfig {
    let limits = LimitsConfig {
        packet_before_login: section.packet_size("packet_before_login", defaults::PACKET_BEFORE_LOGIN),
        packet_after_login: section.packet_size("packet_after_login", defaults::PACKET_AFTER_LOGIN),
        connect_within: section.positive_duration("connect_within", defaults::CONNECT_WITHIN),
        register_within: section.positive_duration("register_within", defaults::REGISTER_WITHIN),
        unregistered_per_address: section.count("unregistered_per_address", defaults::UNREGISTERED_PER_ADDRESS),
        connections_per_address: section.count_or_unlimited("connections_per_address"),
        outbox: section.size("outbox", defaults::OUTBOX),
        write_stall: section.positive_duration("write_stall", defaults::WRITE_STALL),
    };
    section.finish();
    limits
}

fn requests_section(mut section: Section<'_>) -> RequestsConfig {
    let requests = RequestsConfig {
        deadline: section.positive_duration("deadline", defaults::REQUEST_DEADLINE),
        repush_window: section.duration("repush_window", defaults::REPUSH_WINDOW),
        remembered: section.count("remembered", defaults::REMEMBERED),
    };
    section.finish();
    requests
}

fn rpc_section(mut section: Section<'_>) -> RpcConfig {
    let rpc = RpcConfig {
        keepalive: section.positive_duration("keepalive", defaults::RPC_KEEPALIVE),
        buffer: section.duration("buffer", defaults::RPC_BUFFER),
    };
    section.finish();
    rpc
}

fn app_section(mut section: Section<'_>) -> Map<String, Value> {
    let settings = section.free("settings");
    section.finish();
    settings
}

fn log_section(mut section: Section<'_>) -> LogConfig {
    let valid =
        |value: &Value| value::text(value).filter(|level| tracing_subscriber::EnvFilter::try_new(level).is_ok());
    let level = section.read("level", "a level such as info, or directives such as info,muster::session=debug", valid);
    let log = LogConfig {
        format: section.one_of("format", [("human", LogFormat::Human), ("json", LogFormat::Json)]),
        level: level.unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
    };
    section.finish();
    log
}

fn audit_section(mut section: Section<'_>) -> AuditConfig {
    let audit = AuditConfig { file: section.text("file").map(PathBuf::from) };
    section.finish();
    audit
}

fn shutdown_section(mut section: Section<'_>) -> ShutdownConfig {
    let shutdown = ShutdownConfig { grace: section.duration("grace", defaults::GRACE) };
    section.finish();
    shutdown
}

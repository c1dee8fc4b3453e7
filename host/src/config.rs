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
mod section;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use self::{fault::FaultList, section::Section};
pub use self::{
    fault::{Fault, Faults, Origin, Problem},
    fleet::{Fleet, MasterInfo, Servers, Token, Tokens, User, Users},
    sources::Sources,
    value::{Address, NotAnAddress, Secret},
};
use crate::{
    ids::{ServerId, ServerType},
    plugin::ContentHash,
};

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
    /// Plugin files.
    pub plugins: PluginsConfig,
    /// Options of admin modules, by module id.
    pub modules: BTreeMap<String, Options>,
    /// Settings of the application that modules may read.
    pub settings: Map<String, Value>,
    /// The log.
    pub log: LogConfig,
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

/// `[plugins]`
#[derive(Debug, Clone, PartialEq)]
pub struct PluginsConfig {
    /// The watched directory; without it there are no plugins.
    pub dir: Option<PathBuf>,
    /// Twice the same content at this distance counts as written.
    pub settle: Duration,
    /// How long vetting a file may take.
    pub preflight_timeout: Duration,
    /// How long a file is gone before its plugin is unloaded.
    pub gone_after: Duration,
    /// How long an old generation may finish what it has.
    pub drain: Duration,
    /// How long each step may take in which state is handed over to a new generation.
    pub handover: Duration,
    /// Bytes that the state of a module may have.
    pub state_limit: usize,
    /// How long an old generation is kept to roll back to; zero for not at all.
    pub probation: Duration,
    /// Whether the directory and the files must belong to root or the daemon's user, and be writable by nobody else.
    pub strict: bool,
    /// Who must have signed a plugin.
    pub signature: SignaturePolicy,
    /// The minisign keys of those who may sign; valid.
    pub public_keys: Vec<String>,
    /// SHA-256 of the only files that are loaded, in hexadecimal; valid.
    pub sha256: Option<Vec<String>>,
    /// Whether a signed plugin may be replaced by an older version of it.
    pub allow_downgrade: bool,
    /// Ended calls that a new generation needs before its errors and times are judged.
    pub rollback_calls: usize,
    /// Panics with which a new generation goes.
    pub rollback_panics: usize,
    /// Percent of calls that may fail beyond the old rate.
    pub rollback_errors: usize,
    /// How many times slower than before calls may be.
    pub rollback_slower: usize,
    /// Generations of one file that may stay mapped before it is not loaded again.
    pub still_mapped_cap: usize,
    /// What becomes of a file that has reached that.
    pub still_mapped: StillMappedPolicy,
    /// A handler that keeps its thread for longer is reported.
    pub slow: Duration,
    /// Options of plugin files, by their name without `.so`.
    pub options: BTreeMap<String, Options>,
    /// Where plugins run, by their name without `.so`; those that are not named on a thread.
    pub isolation: BTreeMap<String, IsolationConfig>,
}

/// `isolation` and `limits` of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationConfig {
    /// In the daemon, on a thread of its own.
    Thread,
    /// In a process of its own, which may use so much; `None` for as much as the daemon.
    Process {
        /// Bytes of memory.
        memory: Option<u64>,
        /// Seconds of processor time, over the whole life of a process.
        cpu_seconds: Option<u64>,
        /// Open files.
        files: Option<u64>,
    },
}

/// Who must have signed a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignaturePolicy {
    /// Nobody: signatures are not looked at.
    Off,
    /// One of the public keys, beside the file, as `NAME.so.minisig`.
    Require,
}

/// What becomes of a file that has as many generations still mapped as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillMappedPolicy {
    /// It is not loaded again.
    Refuse,
    /// It is loaded into a worker process.
    Process,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// A level, or directives such as `info,muster::session=debug`; valid.
    pub level: String,
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

impl MasterConfig {
    /// Reads and checks everything, the fleet files included.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(sources: Sources) -> Result<MasterConfig, Faults> {
        let faults = FaultList::default();
        let tree = sources.merge(&faults);
        let mut root = Section::root(&tree, &faults);
        let (listen, auth) = (master_section(root.section("master")), auth_section(root.section("auth")));
        // A file may serve both daemons; what it says of monitors is checked, too.
        monitor_section(root.section("monitor"));
        let daemon = daemon_sections(root, &faults);
        let info = daemon.fleet.master.as_ref();
        let listen = listen.or_else(|| info.map(|info| info.address.clone())).unwrap_or_else(defaults::listen);
        let id = info.map_or(ServerId::from(defaults::MASTER_ID), |info| info.id.clone());
        faults.into_result(MasterConfig { listen, id, auth, daemon, sources })
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
        let section = root.section("monitor");
        section.require("master", "--master HOST:PORT");
        section.require("id", "--id ID");
        section.require("type", "--type TYPE");
        let MonitorSection { master, id, server_type, token, info: told, reconnect } = monitor_section(section);
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
}

fn master_section(mut section: Section<'_>) -> Option<Address> {
    let listen = section.address("listen");
    section.finish();
    listen
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

/// Everything else; ends the root.
fn daemon_sections(mut root: Section<'_>, faults: &FaultList) -> DaemonConfig {
    let env = root.text("env").unwrap_or_else(|| defaults::ENV.to_owned());
    let config_dir = root.text("config_dir").map(PathBuf::from);
    let fleet = config_dir.as_deref().map(|dir| Fleet::read(dir, &env, faults)).unwrap_or_default();
    let daemon = DaemonConfig {
        env,
        config_dir,
        state_dir: root.text("state_dir").map(PathBuf::from),
        fleet,
        limits: limits_section(root.section("limits")),
        requests: requests_section(root.section("requests")),
        plugins: plugins_section(root.section("plugins")),
        modules: root.section("modules").all_named(),
        settings: app_section(root.section("app")),
        log: log_section(root.section("log")),
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

fn plugins_section(mut section: Section<'_>) -> PluginsConfig {
    // Any table is a plugin's, also of a plugin that is called like a setting.
    let (mut options, mut isolation) = (BTreeMap::new(), BTreeMap::new());
    for (name, mut plugin) in section.named_sections() {
        isolation.insert(name.clone(), isolation_of(&mut plugin));
        options.insert(name, plugin.rest());
    }
    let signature = section.one_of("signature", [("off", SignaturePolicy::Off), ("require", SignaturePolicy::Require)]);
    if signature == SignaturePolicy::Require {
        section.require("public_keys", "public_keys = [\"RW…\"]: without a key nothing could be loaded");
    }
    let is_key = |text: &str| minisign_verify::PublicKey::from_base64(text).is_ok();
    let is_hash = |text: &str| ContentHash::parse(text).is_some();
    let plugins = PluginsConfig {
        dir: section.text("dir").map(PathBuf::from),
        settle: section.positive_duration("settle", defaults::SETTLE),
        preflight_timeout: section.positive_duration("preflight_timeout", defaults::PREFLIGHT_TIMEOUT),
        gone_after: section.duration("gone_after", defaults::GONE_AFTER),
        drain: section.duration("drain", defaults::DRAIN),
        handover: section.positive_duration("handover", defaults::HANDOVER),
        state_limit: section.size("state_limit", defaults::STATE_LIMIT),
        probation: section.duration("probation", defaults::PROBATION),
        strict: section.switch("strict", defaults::STRICT),
        signature,
        public_keys: section
            .list("public_keys", "a list of minisign public keys such as [\"RW…\"]", is_key)
            .unwrap_or_default(),
        sha256: section.list("sha256", "a list of SHA-256 hashes of 64 hexadecimal digits each", is_hash),
        allow_downgrade: section.switch("allow_downgrade", defaults::ALLOW_DOWNGRADE),
        rollback_calls: section.count("rollback_calls", defaults::ROLLBACK_CALLS),
        rollback_panics: section.count("rollback_panics", defaults::ROLLBACK_PANICS),
        rollback_errors: section.count("rollback_errors", defaults::ROLLBACK_ERRORS),
        rollback_slower: section.count("rollback_slower", defaults::ROLLBACK_SLOWER),
        still_mapped_cap: section.count("still_mapped_cap", defaults::STILL_MAPPED_CAP),
        still_mapped: section
            .one_of("still_mapped", [("refuse", StillMappedPolicy::Refuse), ("process", StillMappedPolicy::Process)]),
        slow: section.positive_duration("slow", defaults::SLOW),
        options,
        isolation,
    };
    section.finish();
    plugins
}

/// What one plugin says of where it runs; the rest are its options.
fn isolation_of(plugin: &mut Section<'_>) -> IsolationConfig {
    let process = plugin.one_of("isolation", [("thread", false), ("process", true)]);
    let mut limits = plugin.section("limits");
    let (memory, cpu_seconds, files) =
        (limits.size_limit("memory"), limits.limit("cpu_seconds"), limits.limit("files"));
    limits.finish();
    if process { IsolationConfig::Process { memory, cpu_seconds, files } } else { IsolationConfig::Thread }
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

fn shutdown_section(mut section: Section<'_>) -> ShutdownConfig {
    let shutdown = ShutdownConfig { grace: section.duration("grace", defaults::GRACE) };
    section.finish();
    shutdown
}

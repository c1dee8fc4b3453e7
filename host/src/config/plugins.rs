//! `[plugins]`: which files are loaded, how they are watched over, and where each of them runs.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{Options, defaults, section::Section};
use crate::plugin::ContentHash;

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
        /// Percent of a processor, where workers have control groups.
        cpu_percent: Option<u64>,
        /// Processes and threads, where workers have control groups.
        tasks: Option<u64>,
    },
}

impl IsolationConfig {
    /// Whether it says something that only a control group can do.
    pub(crate) fn needs_group(&self) -> bool {
        matches!(self, IsolationConfig::Process { cpu_percent, tasks, .. } if cpu_percent.is_some() || tasks.is_some())
    }
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

pub(super) fn plugins_section(mut section: Section<'_>) -> PluginsConfig {
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
    let memory = limits.size_limit("memory");
    let [cpu_seconds, files, cpu_percent, tasks] =
        ["cpu_seconds", "files", "cpu_percent", "tasks"].map(|key| limits.limit(key));
    limits.finish();
    if process {
        IsolationConfig::Process { memory, cpu_seconds, files, cpu_percent, tasks }
    } else {
        IsolationConfig::Thread
    }
}

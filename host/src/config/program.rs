//! `[program]`: how programs that a monitor wraps, and servers that a master starts, are looked after.

use std::{path::PathBuf, time::Duration};

use super::{defaults, section::Section};

/// `[program]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramConfig {
    /// When a program that ended is started again. Servers that a master started follow what is said of each instead.
    pub restart: RestartPolicy,
    /// The first pause before it is started again.
    pub restart_first: Duration,
    /// The longest, doubling.
    pub restart_longest: Duration,
    /// When it has ended more often than this within [`restart_within`](Self::restart_within), it is given up.
    pub restart_limit: usize,
    /// See there. A program that ran for longer begins with the first pause again.
    pub restart_within: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
    /// What becomes of a program that a daemon which was killed has left behind.
    pub orphans: OrphanPolicy,
    /// Where output goes; `logs` in the state directory if it is not given.
    pub log_dir: Option<PathBuf>,
    /// Bytes with which a file of output is rotated.
    pub log_size: usize,
    /// Older files of output that are kept.
    pub log_files: usize,
}

/// When a program that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// When it did not end with exit code 0.
    OnFailure,
    /// However it ended.
    Always,
    /// Not by itself.
    Never,
}

/// What becomes of a program that a daemon which was killed has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanPolicy {
    /// It is watched again.
    Adopt,
    /// It is ended, and started anew.
    End,
}

pub(super) fn program_section(mut section: Section<'_>) -> ProgramConfig {
    use RestartPolicy::{Always, Never, OnFailure};
    let program = ProgramConfig {
        restart: section.one_of("restart", [("on-failure", OnFailure), ("always", Always), ("never", Never)]),
        restart_first: section.positive_duration("restart_first", defaults::RESTART_FIRST),
        restart_longest: section.positive_duration("restart_longest", defaults::RESTART_LONGEST),
        restart_limit: section.count("restart_limit", defaults::RESTART_LIMIT),
        restart_within: section.positive_duration("restart_within", defaults::RESTART_WITHIN),
        stop_grace: section.duration("stop_grace", defaults::STOP_GRACE),
        orphans: section.one_of("orphans", [("adopt", OrphanPolicy::Adopt), ("end", OrphanPolicy::End)]),
        log_dir: section.text("log_dir").map(PathBuf::from),
        log_size: section.size("log_size", defaults::LOG_SIZE),
        log_files: section.count("log_files", defaults::LOG_FILES),
    };
    section.finish();
    program
}

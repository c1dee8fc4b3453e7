//! How programs are looked after, from the configuration.

use crate::{
    config::{DaemonConfig, MasterConfig, OrphanPolicy, ProgramConfig, RestartPolicy, StartConfig},
    deaths::Patience,
    program::{Care, Logs, Orphans, Restart},
    starter::Recipe,
};

/// The care for programs of this daemon.
pub(super) fn care(daemon: &DaemonConfig) -> Care {
    let ProgramConfig {
        restart,
        restart_first,
        restart_longest,
        restart_limit,
        restart_within,
        stop_grace,
        orphans,
        log_dir,
        log_size,
        log_files,
    } = &daemon.program;
    let beside_state = || daemon.state_dir.clone().unwrap_or_else(std::env::temp_dir).join("logs");
    Care {
        restart: match restart {
            RestartPolicy::OnFailure => Restart::OnFailure,
            RestartPolicy::Always => Restart::Always,
            RestartPolicy::Never => Restart::Never,
        },
        patience: Patience {
            first: *restart_first,
            longest: *restart_longest,
            long_life: *restart_within,
            deaths: *restart_limit,
            window: *restart_within,
        },
        grace: *stop_grace,
        orphans: match orphans {
            OrphanPolicy::Adopt => Orphans::Adopt,
            OrphanPolicy::End => Orphans::End,
        },
        logs: Logs { dir: log_dir.clone().unwrap_or_else(beside_state), size: *log_size as u64, files: *log_files },
    }
}

/// How this master starts servers.
pub(super) fn recipe(config: &MasterConfig) -> Recipe {
    let StartConfig { command, dir, ssh } = config.start.clone();
    Recipe { command, dir, env: config.daemon.env.clone(), ssh }
}

//! The log of the daemons: on standard error, for whoever keeps it.

use std::io;

use tracing_subscriber::EnvFilter;

use super::render;
use crate::config::{LogConfig, LogFormat};

/// Starts the log of this process, which has one.
pub(super) fn start(config: &LogConfig) {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(EnvFilter::new(&config.level));
    match config.format {
        LogFormat::Human => log.with_ansi(render::colours()).init(),
        LogFormat::Json => log.json().init(),
    }
}

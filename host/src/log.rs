//! The log of the daemons: on standard error, for whoever keeps it.

use std::{io, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// What may be changed while the process runs.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log of this process, which has one; in colours if those who read it see them.
pub(crate) fn start(config: &LogConfig, colours: bool) {
    let (level, handle) = reload::Layer::new(EnvFilter::new(&config.level));
    let log = tracing_subscriber::registry().with(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match config.format {
        LogFormat::Human => log.with(lines.with_ansi(colours)).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    if LEVEL.set(handle).is_err() {
        tracing::error!("the log was started twice");
    }
}

/// Takes another level. The format stays as it was at the start.
pub(crate) fn set_level(config: &LogConfig) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(EnvFilter::new(&config.level))
    {
        tracing::error!(%error, "the level of the log stays as it was");
    }
}

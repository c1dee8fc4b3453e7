//! The log of the daemons: on standard error, for whoever keeps it; and the audit, also in a file of its own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Mutex, OnceLock},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    audit,
    config::{AuditConfig, LogConfig, LogFormat},
};

/// What may be changed while the process runs.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// There is no place for the audit.
#[derive(Debug, thiserror::Error)]
#[error("the audit cannot be written to {path}", path = .path.display())]
pub(crate) struct NoAudit {
    path: PathBuf,
    source: io::Error,
}

/// Starts the log of this process, which has one; in colours if those who read it see them.
///
/// # Errors
/// When the file of the audit cannot be opened: nobody should order what is not recorded.
pub(crate) fn start(config: &LogConfig, audit: &AuditConfig, colours: bool) -> Result<(), NoAudit> {
    let (level, handle) = reload::Layer::new(EnvFilter::new(&config.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Human => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Whatever the level of the log: it has a filter of its own.
    let kept = audit.file.clone().map(open).transpose()?.map(|file| {
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(Mutex::new(file));
        lines.with_filter(Targets::new().with_target(audit::TARGET, tracing::Level::INFO))
    });
    tracing_subscriber::registry().with(lines.with_filter(level)).with(kept).init();
    if LEVEL.set(handle).is_err() {
        tracing::error!("the log was started twice");
    }
    Ok(())
}

/// Takes another level. The format stays as it was at the start.
pub(crate) fn set_level(config: &LogConfig) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(EnvFilter::new(&config.level))
    {
        tracing::error!(%error, "the level of the log stays as it was");
    }
}

fn open(path: PathBuf) -> Result<File, NoAudit> {
    // Who ordered what is not for everybody on this machine.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    file.map_err(|source| NoAudit { path, source })
}

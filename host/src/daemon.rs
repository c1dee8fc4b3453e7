//! placeholder: the lead writes this
use std::path::{Path, PathBuf};

use crate::config::{Address, MasterConfig, MonitorConfig};

/// Why a daemon does not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("not here yet")]
pub struct DaemonError;

pub(crate) fn run_master(_config: MasterConfig) -> Result<(), DaemonError> {
    Err(DaemonError)
}

pub(crate) fn run_monitor(_config: MonitorConfig) -> Result<(), DaemonError> {
    Err(DaemonError)
}

pub(crate) fn run_demo(_listen: Address, _plugins: PathBuf) -> Result<(), DaemonError> {
    Err(DaemonError)
}

pub(crate) fn run_preflight(_file: &Path) -> Result<(), DaemonError> {
    Err(DaemonError)
}

//! A plugin that is not as it should be: what was found, for people and programs.

use std::fmt;

use serde_json::Value;

use crate::cli::CliError;

/// Why a plugin would not be loaded, or does not pass.
#[derive(Debug)]
pub(in crate::cli) struct Unfit {
    /// A sentence.
    pub(super) headline: String,
    /// More of it, on lines of its own.
    pub(super) details: Option<String>,
    /// Everything that was found, for programs.
    pub(in crate::cli) report: Value,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline)?;
        match &self.details {
            Some(details) => write!(f, "\n{details}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unfit {}

impl From<Unfit> for CliError {
    fn from(unfit: Unfit) -> CliError {
        CliError::Unfit(unfit.into())
    }
}

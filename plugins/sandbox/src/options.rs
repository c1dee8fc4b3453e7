//! What the configuration says of scripts: the same words for every module that runs them.

use std::time::Duration;

use muster_plugin_api::ModuleError;
use serde::Deserialize;

use crate::Limits;

/// Above this the caller's request would have timed out, and the module's thread is not free for others.
const LONGEST_S: f64 = 10.0;
/// An engine needs some hundred KiB to come up at all.
const LEAST_MIB: usize = 1;
const MIB: usize = 1 << 20;

/// Options of a module that runs scripts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Seconds that one run may take.
    pub time_limit_s: f64,
    /// MiB of memory that one run may take.
    pub memory_limit_mib: usize,
    /// What reaches further than the server's settings.
    #[serde(flatten)]
    pub capabilities: Capabilities,
}

/// What a script may reach beside the language and the server's settings. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The directory whose files `fs` reads and writes. No `fs` without it.
    pub fs: Option<String>,
    /// Whether there is `process`: figures and the environment of the daemon.
    pub process: bool,
    /// Whether there is `require`, for the modules that are there anyway.
    pub require: bool,
}

impl Default for Options {
    fn default() -> Options {
        // Scripts of administrators look at settings: milliseconds, and a few MiB.
        Options { time_limit_s: 1.0, memory_limit_mib: 32, capabilities: Capabilities::default() }
    }
}

impl Options {
    /// The limits.
    ///
    /// # Errors
    /// When they are out of range; the text says what the range is.
    pub fn limits(&self) -> Result<Limits, ModuleError> {
        if !(self.time_limit_s > 0.0 && self.time_limit_s <= LONGEST_S) {
            return Err(
                format!("option time_limit_s: {} is not above 0 and at most {LONGEST_S}", self.time_limit_s).into()
            );
        }
        if self.memory_limit_mib < LEAST_MIB {
            return Err(format!("option memory_limit_mib: at least {LEAST_MIB}").into());
        }
        let memory = self.memory_limit_mib.saturating_mul(MIB);
        Ok(Limits { time: Duration::from_secs_f64(self.time_limit_s), memory })
    }
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::{Value, from_value, json};

    use super::*;

    fn options(value: Value) -> Options {
        from_value(value).unwrap()
    }

    #[test]
    fn nothing_is_switched_on_by_default() {
        assert_eq!(options(json!({})), Options::default());
        assert_eq!(Options::default().capabilities, Capabilities { fs: None, process: false, require: false });
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        assert!(options(json!({ "time_limit_s": 0.2, "memory_limit_mib": 8 })).limits().is_ok());
        for wrong in [json!({ "time_limit_s": 0 }), json!({ "time_limit_s": 11 }), json!({ "memory_limit_mib": 0 })] {
            assert!(options(wrong.clone()).limits().is_err(), "{wrong}");
        }
    }
}

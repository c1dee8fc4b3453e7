//! The program under test as a command.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::deadline::{PROCESS, within};

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; a command that a signal ended has failed the test already.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Finished {
    /// Stdout, which must be one line of JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.trim_end().lines().count(), 1, "one line of JSON expected: {self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {self:?}"))
    }
}

/// Runs `muster ARGUMENTS…` to its end.
pub async fn muster(arguments: &[&str]) -> Finished {
    muster_within(PROCESS, &[], arguments).await
}

/// As [`muster`], with these variables in its environment, for a command that may take as long as `limit`.
pub async fn muster_within(limit: Duration, variables: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let mut command = Command::new(crate::daemon::binary());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("MUSTER_CONFIG").env("NO_COLOR", "1").envs(variables.iter().copied());
    let output = within(&format!("muster {arguments:?}"), limit, command.output()).await;
    let output = output.expect("the binary can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a command writes UTF-8");
    let code = output.status.code().unwrap_or_else(|| panic!("muster {arguments:?} was ended by {}", output.status));
    Finished { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `muster call MODULE JSON` as a user whose password is the user's name.
pub async fn call(master: SocketAddr, user: &str, module: &str, body: &Value) -> Finished {
    let (master, body) = (master.to_string(), body.to_string());
    muster(&["call", module, &body, "--master", &master, "--user", user, "--password", user, "-o", "json"]).await
}

//! The program under test as a command.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
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
    let mut command = program();
    command.args(arguments).envs(variables.iter().copied());
    finished("", command, limit).await
}

/// Runs `muster ARGUMENTS…` to its end, with something to read on standard input.
pub async fn muster_reading(input: &str, arguments: &[&str]) -> Finished {
    let mut command = program();
    command.args(arguments);
    reading(input, command).await
}

/// Runs a command to its end, with something to read on standard input.
pub async fn reading(input: &str, command: Command) -> Finished {
    finished(input, command, PROCESS).await
}

async fn finished(input: &str, mut command: Command, limit: Duration) -> Finished {
    let what = format!("{:?}", command.as_std());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary can be started");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A command that reads nothing may have ended.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    let output = within(&what, limit, child.wait_with_output()).await;
    let output = output.expect("a child can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a command writes UTF-8");
    let code = output.status.code().unwrap_or_else(|| panic!("{what} was ended by {}", output.status));
    Finished { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The binary, without what the user of this machine has configured.
pub fn program() -> Command {
    let mut command = Command::new(crate::daemon::binary());
    command.kill_on_drop(true).env("NO_COLOR", "1");
    for name in ["MUSTER_CONFIG", "MUSTER_CONFIG_DIR", "MUSTER_ENV", "MUSTER_MASTER", "MUSTER_USER", "MUSTER_PASSWORD"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs `muster call MODULE JSON` as a user whose password is the user's name.
pub async fn call(master: SocketAddr, user: &str, module: &str, body: &Value) -> Finished {
    let (master, body) = (master.to_string(), body.to_string());
    muster(&["call", module, &body, "--master", &master, "--user", user, "--password", user, "-o", "json"]).await
}

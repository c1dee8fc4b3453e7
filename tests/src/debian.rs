//! What tests need of the system's packages. Where they are missing they are installed, where that is possible.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Mutex;

use crate::deadline::within;

/// Over a slow network, behind others that install.
const INSTALLED: Duration = Duration::from_secs(600);

/// Has the package manager install these.
///
/// # Errors
/// The reason, for whoever reads that a test was not tried.
pub async fn install(packages: &[&str]) -> Result<(), String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let install = [&["install", "-y", "--no-install-recommends"], packages].concat();
    for arguments in [vec!["update"], install] {
        let mut command = Command::new("apt-get");
        command.args(["-o", "DPkg::Lock::Timeout=300"]).args(&arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).kill_on_drop(true);
        let output = within(&format!("apt-get {arguments:?}"), INSTALLED, command.output()).await;
        let output = output.map_err(|error| format!("apt-get: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(said.lines().last().unwrap_or("apt-get failed").to_owned());
        }
    }
    Ok(())
}

//! `muster profile`: where the process of a server spends its time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use muster_plugin_api::{CpuProfile, ProfileFormat};
use serde_json::json;

use super::{
    CliError,
    ask::{Login, body_of},
    render,
};

/// The module that is asked.
pub(super) const MODULE: &str = "profiler";

/// What the server and the master need beyond the time of the profile: symbols of a large program are read in seconds.
const LATE: Duration = Duration::from_secs(60);

/// What can be profiled.
#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Where the processor time goes, as a flamegraph or for pprof
    Cpu(CpuArgs),
}

#[derive(Debug, Args)]
pub(super) struct CpuArgs {
    /// Id of the server; that of a master's own monitor for the master
    server: String,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Where to: a flamegraph as FILE.svg, or FILE.pb.gz for pprof [default: SERVER.svg]
    #[arg(short, long, value_name = "FILE", value_parser = target)]
    output: Option<Target>,
    #[command(flatten)]
    login: Login,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    path: PathBuf,
    format: ProfileFormat,
}

fn target(path: &str) -> Result<Target, String> {
    let format = if path.ends_with(".svg") {
        ProfileFormat::Svg
    } else if path.ends_with(".pb.gz") {
        ProfileFormat::Pprof
    } else {
        return Err("the name must end in .svg for a flamegraph, or in .pb.gz for pprof".to_owned());
    };
    Ok(Target { path: path.into(), format })
}

pub(super) async fn run(ProfileCommand::Cpu(args): ProfileCommand) -> Result<String, CliError> {
    let CpuArgs { server, seconds, output, login } = args;
    let Target { path, format } = output.unwrap_or_else(|| named_after(&server));
    let ask = json!({ "action": "cpu", "serverId": server, "seconds": seconds, "format": format });
    let client = login.connect().await?;
    let patience = Duration::from_secs(seconds) + LATE;
    let response = client.with_timeout(patience).request(MODULE, ask).await?;
    client.close().await;
    let body = body_of(MODULE, response)?;
    let odd = |text: String| CliError::Odd { module: MODULE, found: text.chars().take(200).collect() };
    let profile: CpuProfile = serde_json::from_value(body).map_err(|error| odd(error.to_string()))?;
    let data = match format {
        ProfileFormat::Pprof => BASE64_STANDARD.decode(&profile.data).map_err(|error| odd(error.to_string()))?,
        ProfileFormat::Svg | ProfileFormat::Tree => profile.data.into_bytes(),
    };
    fs::write(&path, data).map_err(|source| CliError::File { what: "cannot write", path: path.clone(), source })?;
    Ok(format!(
        "{} samples of process {} in {:.1} s: {}",
        profile.samples,
        profile.pid,
        Duration::from_millis(profile.duration_ms).as_secs_f64(),
        render::printable(&path.display().to_string())
    ))
}

/// A server's id need not be a good name of a file.
fn named_after(server: &str) -> Target {
    let good = server.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let stem = if good && !server.starts_with(['.', '-']) { server } else { MODULE };
    Target { path: Path::new(&format!("{stem}.svg")).to_owned(), format: ProfileFormat::Svg }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_says_the_form() {
        assert_eq!(target("a/b.svg").unwrap().format, ProfileFormat::Svg);
        assert_eq!(target("b.pb.gz").unwrap().format, ProfileFormat::Pprof);
        assert!(target("b.png").unwrap_err().contains(".pb.gz"));
        assert_eq!(named_after("chat-server-1").path, Path::new("chat-server-1.svg"));
        for odd in ["../x", "a/b", "-x", ".x", "a\nb"] {
            assert_eq!(named_after(odd).path, Path::new("profiler.svg"), "{odd:?}");
        }
    }
}

//! Plugin files of a daemon under test: put into its directory, and watched in what it tells of them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::daemon::{Daemon, plugin_file};
use crate::deadline::eventually;
use crate::peer::Peer;

/// What a plugin should have come to by then; a busy machine may need it.
pub const WITHIN: Duration = Duration::from_secs(20);

/// The content of a plugin or fixture.
pub fn content(name: &str) -> Vec<u8> {
    fs::read(plugin_file(name)).expect("the plugin is built")
}

/// The SHA-256 of a file, as the system's own program tells it.
pub fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("coreutils are there");
    let text = String::from_utf8(output.stdout).expect("it writes text");
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Puts a content into the plugin directory, whole, by a rename.
pub fn put(daemon: &Daemon, file: &str, content: &[u8]) {
    let half = daemon.plugin_dir().join(format!(".{file}.part"));
    fs::write(&half, content).expect("a file beside it");
    fs::rename(half, daemon.plugin_dir().join(file)).expect("a rename");
}

/// What the master tells of a plugin; null if it knows none of this name.
pub async fn listed(peer: &mut Peer, name: &str) -> Value {
    let answer = peer.request("__plugins__", json!({ "action": "list" })).await;
    let plugins = answer["body"]["plugins"].as_array().expect("a list");
    plugins.iter().find(|plugin| plugin["name"] == name).cloned().unwrap_or_default()
}

/// Waits until what the master tells of a plugin is as it should be. What it told is in the output of a test that fails.
pub async fn until(peer: &mut Peer, name: &str, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let before = Mutex::new((peer, Value::Null));
    eventually(what, WITHIN, || async {
        let (peer, told) = &mut *before.lock().await;
        let now = listed(peer, name).await;
        let describes =
            |plugin: &Value| (plugin["state"].clone(), plugin["generation"].clone(), plugin["reason"].clone());
        if describes(told) != describes(&now) {
            println!("{name}, until {what}: {} {} {}", now["state"], now["generation"], now["reason"]);
        }
        *told = now;
        Some(told.clone()).filter(|plugin| reached(plugin))
    })
    .await
}

/// Waits until a generation of a plugin serves whose version begins like this.
pub async fn until_version(peer: &mut Peer, name: &str, version: &str) -> Value {
    let what = format!("version {version} of {name} is served");
    until(peer, name, &what, |plugin| plugin["version"].as_str().is_some_and(|v| v.starts_with(version))).await
}

/// What an answer says went wrong, in words; empty if nothing did.
pub fn words(answer: &Value) -> String {
    let error = &answer["error"];
    error["message"].as_str().or(error.as_str()).unwrap_or_default().to_owned()
}

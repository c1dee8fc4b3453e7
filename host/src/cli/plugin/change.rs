//! `muster plugin install|reload|enable|disable|remove`: an order, and what became of it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{MODULE, Order, Ordering};
use crate::{
    cli::{
        CliError,
        ask::body_of,
        render::{self, cell},
        session::Session,
        shown::Shown,
    },
    client::Client,
    plugin::{
        ContentHash,
        control::{copy_into, name_of},
        trust::signature_of,
    },
};

/// An answer about the timeout comes after the timeout.
const LATE: Duration = Duration::from_secs(2);

pub(super) async fn order(action: &'static str, order: Order, session: &Session) -> Result<Shown, CliError> {
    let Order { name, ordering } = order;
    let name = checked(&name)?;
    let body = ordering.ask(session, json!({ "action": action, "name": name })).await?;
    ordering.outcome(action, &name, None, body, session)
}

pub(super) async fn install(
    file: PathBuf,
    name: Option<String>,
    plugins: Option<PathBuf>,
    ordering: &Ordering,
    session: &Session,
) -> Result<Shown, CliError> {
    let of_file = || file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let name = checked(&name.unwrap_or_else(of_file))?;
    let hash = ContentHash::of_file(&file).map_err(at("cannot read", &file))?;
    let Some(directory) = plugins else {
        send(session.client().await?, &name, &file).await?;
        let signature = fs::read_to_string(signature_of(&file)).ok();
        let ask = json!({ "action": "install", "name": name, "sha256": hash.to_string(), "signature": signature });
        let body = ordering.ask(session, ask).await?;
        return ordering.outcome("install", &name, Some(hash), body, session);
    };
    if ordering.no_wait {
        copy_into(&directory, &name, &file).map_err(at("cannot copy it into", &directory))?;
        let body = json!({ "name": name, "settled": false });
        return ordering.outcome("install", &name, Some(hash), body, session);
    }
    // A master that is not there is told before anything is changed.
    session.client().await?;
    copy_into(&directory, &name, &file).map_err(at("cannot copy it into", &directory))?;
    let body = ordering.ask(session, json!({ "action": "look", "name": name })).await?;
    ordering.outcome("install", &name, Some(hash), body, session)
}

/// Sends a file in pieces as large as the master takes.
async fn send(client: &Client, name: &str, file: &Path) -> Result<(), CliError> {
    let mut content = fs::File::open(file).map_err(at("cannot read", file))?;
    let mut offset = 0;
    let mut piece = Vec::new();
    loop {
        // The first one is empty: its answer says how large the next may be.
        let ask = json!({ "action": "upload", "name": name, "offset": offset, "data": BASE64_STANDARD.encode(&piece) });
        let body = body_of(MODULE, client.request(MODULE, ask).await?)?;
        let (Some(size), Some(chunk)) = (body["size"].as_u64(), body["chunk"].as_u64()) else {
            return Err(CliError::Odd { module: MODULE, found: body.to_string() });
        };
        offset = size;
        piece.clear();
        (&mut content).take(chunk).read_to_end(&mut piece).map_err(at("cannot read", file))?;
        if piece.is_empty() {
            return Ok(());
        }
    }
}

impl Ordering {
    async fn ask(&self, session: &Session, mut ask: Value) -> Result<Value, CliError> {
        ask["wait"] = (!self.no_wait).into();
        ask["timeoutMs"] = u64::try_from(session.timeout().as_millis()).unwrap_or(u64::MAX).into();
        let client = session.client().await?.with_timeout(session.timeout() + LATE);
        body_of(MODULE, client.request(MODULE, ask).await?)
    }

    /// What is shown, or why it is not what was ordered.
    fn outcome(
        &self,
        action: &'static str,
        name: &str,
        installed: Option<ContentHash>,
        body: Value,
        session: &Session,
    ) -> Result<Shown, CliError> {
        if body["settled"] == false && !self.no_wait {
            return Err(CliError::NotSettled { name: name.to_owned(), after: session.timeout() });
        }
        verdict(action, self.no_wait, installed, &body)
            .map_err(|reason| CliError::Plugin { name: name.to_owned(), reason })?;
        Ok(Shown::Sentence(sentence(action, self.no_wait, name, &body), body))
    }
}

/// Whether the plugin is as it was ordered to be; if not, why.
fn verdict(action: &str, unwaited: bool, installed: Option<ContentHash>, body: &Value) -> Result<(), String> {
    if unwaited {
        return Ok(());
    }
    let state = body["state"].as_str();
    match (action, state) {
        // Retired: what could not be unmapped is shown by the list.
        ("remove", None | Some("retired")) | ("disable", Some("disabled")) => return Ok(()),
        ("install" | "enable", Some("disabled")) => {
            return Err("it is disabled: `muster plugin enable` loads it".to_owned());
        }
        ("remove", Some(_)) => return Err("its file is still there: somebody else put it back".to_owned()),
        (_, None) => return Err("the master does not see it: is this its plugin directory?".to_owned()),
        _ => {}
    }
    if let Some(reason) = body["reason"].as_str() {
        let serves_on = if state == Some("running") { " (what ran before serves on)" } else { "" };
        return Err(format!("{}{serves_on}", render::printable(reason)));
    }
    if state != Some("running") {
        return Err(format!("it is {}", state.unwrap_or_default()));
    }
    match installed.map(|hash| hash.to_string()).filter(|hash| body["hash"] != **hash) {
        Some(_) => Err("the master serves another file of this name: is this its plugin directory?".to_owned()),
        None => Ok(()),
    }
}

fn sentence(action: &str, unwaited: bool, name: &str, body: &Value) -> String {
    let name = render::printable(name);
    match (action, unwaited) {
        (_, true) => format!("{name}: {action} is ordered"),
        ("remove", _) => format!("{name} is removed"),
        ("disable", _) => format!("{name} is disabled"),
        _ => format!("{name} {} runs as generation {}", cell(&body["version"]), cell(&body["generation"])),
    }
}

fn checked(name: &str) -> Result<String, CliError> {
    let denied = |reason: String| CliError::Plugin { name: name.to_owned(), reason };
    name_of(name).map(str::to_owned).map_err(|error| denied(error.to_string()))
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_done_when_the_plugin_is_as_it_was_ordered() {
        let hash = ContentHash::of(b"library");
        let running = json!({ "state": "running", "hash": hash.to_string(), "reason": null });
        let refused = json!({ "state": "refused", "reason": "it is empty" });
        let beside = json!({ "state": "running", "hash": "old", "reason": "it is empty" });
        let other = json!({ "state": "running", "hash": "other", "reason": null });
        let disabled = json!({ "state": "disabled", "reason": null });
        for (action, body, words) in [
            ("install", &running, ""),
            ("install", &refused, "it is empty"),
            ("install", &beside, "it is empty (what ran before serves on)"),
            ("install", &other, "another file"),
            ("install", &disabled, "it is disabled"),
            ("install", &json!({ "state": null }), "does not see it"),
            ("disable", &disabled, ""),
            ("enable", &disabled, "it is disabled"),
            ("remove", &json!({ "state": null }), ""),
            ("remove", &running, "still there"),
        ] {
            let installed = (action == "install").then_some(hash);
            let verdict = verdict(action, false, installed, body).err().unwrap_or_default();
            assert!(verdict.contains(words) && verdict.is_empty() == words.is_empty(), "{action} {body}: {verdict}");
        }
    }
}

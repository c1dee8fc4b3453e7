//! The host's own module `__plugins__`: anybody who is logged in may list, administrators may change.
//!
//! ```text
//! {"action":"list"}
//! {"action":"upload","name":"echo","offset":0,"data":"<base64>"}   piece by piece; the answer says how large the next may be
//! {"action":"install","name":"echo","sha256":"…","signature":"…"}  puts it into place
//! {"action":"look"|"reload"|"enable"|"disable"|"remove","name":"echo"}
//! {"action":"rollback"|"pin"|"unpin"|"unquarantine","name":"echo"}  done at once; answers `name` and `text`
//! ```
//! `install` and the line after it take `wait` (true unless said otherwise) and `timeoutMs`, and answer what has become of the plugin:
//! its entry of the list, with `settled`.

use std::{io, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    Master,
    commands::{answer, permission},
    uploads::Uploads,
};
use crate::{
    modules::call::ClientIdentity,
    plugin::{
        ContentHash, FileStatus,
        control::{Change, Control, Denied, name_of},
        lifecycle::State,
        orders::Action,
        status::Pinned,
    },
    session::Reply,
    store::{Kept, Store},
    wire,
};

/// How long an order is waited for if nothing else is said: longer than a start may take.
const WAIT: Duration = Duration::from_secs(15);
/// And at most: nobody looks at a terminal for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Pieces are no larger than this, however large packets may be: other clients share the connection's thread.
const LARGEST_PIECE: usize = 512 * 1024;
/// What of a packet is not the piece: names and the nested envelope.
const AROUND_A_PIECE: usize = 700;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ask {
    #[serde(default)]
    action: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    data: String,
    sha256: Option<String>,
    signature: Option<String>,
    #[serde(default = "yes")]
    wait: bool,
    timeout_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

/// What is done beside the session that asked.
struct Errand {
    control: Control,
    store: Arc<Store>,
    uploads: Arc<Uploads>,
    client: Arc<ClientIdentity>,
    largest_piece: usize,
}

impl Master {
    /// Answers the host's own module `__plugins__`.
    pub(super) fn about_plugins(&self, client: &Arc<ClientIdentity>, reply: Reply, body: &str) {
        let fields: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
        let Ok(ask) = serde_json::from_value::<Ask>(Value::Object(fields.clone())) else {
            return reply.refuse("expected an object with an action, such as {\"action\":\"list\"}");
        };
        match ask.action.as_str() {
            "list" => return answer(Some(reply), Ok(self.plugins())),
            "look" | "upload" | "install" | "reload" | "enable" | "disable" | "remove" => {}
            action if Action::of(action).is_some() => {}
            other => {
                return reply.refuse(&format!(
                    "unknown action:{other}; there are list, look, upload, install, reload, enable, disable, remove, \
                     rollback, pin, unpin and unquarantine"
                ));
            }
        }
        let permitted = permission(client, &fields);
        // Of many pieces the first is told of, and what is done with them.
        if ask.action != "upload" || ask.offset == 0 {
            info!(
                target: "audit",
                client = %client.id, user = client.user, action = ask.action, plugin = ask.name, sha256 = ask.sha256,
                refused = permitted.err(), "plugin"
            );
        }
        if let Err(text) = permitted {
            return answer(Some(reply), Err(wire::error_object(text)));
        }
        let Some(control) = self.plugins.get().cloned() else {
            return reply.refuse("the plugins are not ready yet: try again");
        };
        let errand = Errand {
            control,
            store: self.store.clone(),
            uploads: self.uploads.clone(),
            client: client.clone(),
            largest_piece: largest_piece(self.limits.packet_after_login),
        };
        tokio::spawn(async move {
            match errand.run(ask).await {
                Ok(body) => answer(Some(reply), Ok(body)),
                Err(text) => reply.refuse(&text),
            }
        });
    }
}

// === impl Errand ===

impl Errand {
    async fn run(self, ask: Ask) -> Result<Value, String> {
        let name = name_of(&ask.name).map_err(|denied| denied.to_string())?.to_owned();
        if let Some(action) = Action::of(&ask.action) {
            let text = self.control.give(action, name.clone()).await?;
            return Ok(json!({ "name": name, "text": text }));
        }
        let change = match ask.action.as_str() {
            "upload" => return self.upload(name, ask).await,
            "install" => {
                self.is_not_pinned(&name, ask.sha256.as_deref())?;
                self.install(name.clone(), &ask).await?;
                Change::Look
            }
            "look" => Change::Look,
            "reload" => {
                self.is_not_pinned(&name, None)?;
                if self.find(&name)?.state == State::Disabled {
                    return Err(Denied::Disabled(name).to_string());
                }
                Change::Reload
            }
            "enable" => {
                self.find(&name)?;
                self.keep_disabled(&name, false).await;
                Change::Enable
            }
            "disable" => {
                self.find(&name)?;
                self.keep_disabled(&name, true).await;
                Change::Disable
            }
            _ => {
                self.find(&name)?;
                let (control, removed) = (self.control.clone(), name.clone());
                blocking(move || control.remove(&removed).map_err(|denied| denied.to_string())).await?;
                self.keep_disabled(&name, false).await;
                self.keep(Kept::PinnedPlugin, &name, None).await;
                Change::Forget
            }
        };
        let timeout = ask.timeout_ms.map_or(WAIT, Duration::from_millis).min(LONGEST_WAIT);
        // The order stands also if nobody waits for its end.
        let order = tokio::spawn({
            let (control, name) = (self.control.clone(), name.clone());
            async move { control.order(&name, change).await }
        });
        if !ask.wait {
            return Ok(json!({ "name": name, "settled": false }));
        }
        Ok(match tokio::time::timeout(timeout, order).await {
            Ok(Ok(Some(file))) => with(file.to_json(), "settled", true),
            Ok(Ok(None)) => json!({ "name": name, "state": null, "settled": true }),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => match self.control.find(&name) {
                Ok(file) => with(file.to_json(), "settled", false),
                Err(_) => json!({ "name": name, "settled": false }),
            },
        })
    }

    /// Takes a piece. An empty one at byte 0 only asks how large the next may be.
    async fn upload(self, name: String, ask: Ask) -> Result<Value, String> {
        let chunk = self.largest_piece;
        let size = blocking(move || {
            let piece = BASE64_STANDARD.decode(&ask.data).map_err(|error| format!("data is no base64: {error}"))?;
            let client = self.client.connection;
            if ask.offset == 0 {
                let file = self.control.receive().map_err(|denied| denied.to_string())?;
                self.uploads.begin(client, &name, file)?;
            }
            self.uploads.append(client, &name, ask.offset, &piece)
        })
        .await?;
        Ok(json!({ "size": size, "chunk": chunk }))
    }

    async fn install(&self, name: String, ask: &Ask) -> Result<(), String> {
        let expected = ask.sha256.as_deref().and_then(ContentHash::parse);
        let expected = expected.ok_or("install needs sha256: that of the file, in hexadecimal")?;
        let (control, uploads, client) = (self.control.clone(), self.uploads.clone(), self.client.connection);
        let signature = ask.signature.clone();
        blocking(move || {
            let file = uploads.finish(client, &name)?;
            let found = ContentHash::of_file(file.path()).map_err(|error| error.to_string())?;
            if found != expected {
                return Err(format!("what arrived has SHA-256 {found} and not {expected}: send it again"));
            }
            control.install(&name, file, signature.as_deref()).map_err(|denied| denied.to_string())
        })
        .await
    }

    fn find(&self, name: &str) -> Result<FileStatus, String> {
        self.control.find(name).map_err(|denied| denied.to_string())
    }

    /// No other content of what is pinned is loaded, and nothing in the place of what runs.
    fn is_not_pinned(&self, name: &str, installed: Option<&str>) -> Result<(), String> {
        match self.control.find(name) {
            Ok(FileStatus { pinned: Some(Pinned { hash, .. }), serving, .. })
                if serving.is_some() || installed != Some(&hash.to_string()) =>
            {
                Err(Denied::Pinned(name.to_owned()).to_string())
            }
            _ => Ok(()),
        }
    }

    /// What is acknowledged holds after a restart.
    async fn keep_disabled(&self, name: &str, disabled: bool) {
        self.keep(Kept::DisabledPlugin, name, disabled.then_some("")).await;
    }

    async fn keep(&self, kind: Kept, name: &str, value: Option<&str>) {
        if !self.store.keep(kind, name, value).await {
            warn!(plugin = name, "not remembered durably: after a restart it is as it was before");
        }
    }
}

fn largest_piece(packet: usize) -> usize {
    // In base64 three bytes are four.
    (packet.saturating_sub(AROUND_A_PIECE) / 4 * 3).clamp(3, LARGEST_PIECE)
}

fn with(mut json: Value, key: &str, value: bool) -> Value {
    json[key] = value.into();
    json
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::from).map_err(|error| error.to_string())?
}

//! The app channel: a wrapped program connects to a Unix socket and speaks lines of JSON.
//!
//! ```text
//! monitor                                                        program
//!   | {"hello":{"id","serverType","env"}} ------------------------> |
//!   | {"event":{"serversReplaced":{"servers":{id: info}}}} --------> |  and whatever happens from then on
//!   | <------------------ {"settings":{key: value}}                 |  published: laid over those that are known
//!   | <------------------ {"connections":{"totalConnCount": …}}     |  published: null takes it back
//!   | <------------------ {"answers":["get","set"]}                 |  what it wants to be asked; nothing before
//!   | {"ask":"set","id":1,"key":"k","value":2} --------------------> |
//!   | <------------------ {"answer":{"id":1,"value":2}}             |  or {"answer":{"id":1,"error":"why not"}}
//!   | {"refused":"why"} ---------------------------------------------> |  a line that was none of these
//! ```
//!
//! Events are those of [`muster_plugin_api::Event`], as JSON. The last one, `"stopping"`, comes with the SIGTERM that ends the
//! program, which may be faster: a program that has something to do first must not let the signal alone end it. The path of the socket is in [`VARIABLE`]. Only processes of
//! the same user get in, and of several the latest; a program that connects again is greeted again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use muster_plugin_api::Event;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Application, Ask, Said, Saying};
use crate::app::App;

/// The variable that holds the path of the socket.
pub(crate) const VARIABLE: &str = "MUSTER_APP_SOCKET";

/// Bytes of a line: settings are some kB, and a list of thousands of logins fits.
const LINE: u64 = 1 << 20;

/// Lines that a program may send within [`RATE_WINDOW`]: a chatty one sends ten a second.
const RATE: u32 = 1000;
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Lines that may wait for a program that does not read; then it is cut.
const OUTBOX: usize = 256;

/// How long a program may think about a question.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What a program says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Settings(Map<String, Value>),
    Connections(Value),
    Answers(BTreeSet<Verb>),
    Answer(Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Verb {
    Get,
    Set,
    Enable,
    Disable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    id: u64,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    error: Option<String>,
}

/// One connection of a program.
struct Channel {
    lines: mpsc::Sender<String>,
    /// Cancelled when the connection is to end.
    cut: CancellationToken,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    /// What the program wants to be asked.
    verbs: BTreeSet<Verb>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Value, String>>>,
    last: u64,
}

/// Makes the socket, which an earlier monitor may have left.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Lets programs in, one at a time, until it is dropped.
pub(crate) async fn serve(listener: UnixListener, app: Arc<App>) {
    let mut before: Option<CancellationToken> = None;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the app channel takes nobody in for a moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let own = rustix::process::geteuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own => {}
            Ok(peer) => {
                warn!(uid = peer.uid(), "a process of another user is turned away from the app channel");
                continue;
            }
            Err(error) => {
                warn!(%error, "a process that cannot be told is turned away from the app channel");
                continue;
            }
        }
        if let Some(before) = before.take() {
            before.cancel();
        }
        let cut = CancellationToken::new();
        before = Some(cut.clone());
        tokio::spawn(talk(stream, app.clone(), cut));
    }
}

async fn talk(stream: UnixStream, app: Arc<App>, cut: CancellationToken) {
    let (reader, mut writer) = stream.into_split();
    let (lines, mut queue) = mpsc::channel::<String>(OUTBOX);
    let asked = Arc::<Mutex<Asked>>::default();
    let channel = Arc::new(Channel { lines: lines.clone(), cut: cut.clone(), asked: asked.clone() });
    channel.say(&app.hello());
    channel.on_event(&Event::ServersReplaced { servers: app.directory() });
    app.take_part(channel.clone());
    info!("the program takes part through the app channel");
    let writing = async {
        while let Some(line) = queue.recv().await {
            if writer.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let why = tokio::select! {
        () = cut.cancelled() => "it does not read, or another one came",
        () = writing => "it is gone",
        why = listen(reader, &app, &channel) => why,
    };
    let application: Arc<dyn Application> = channel;
    app.part(&application);
    // Whoever waits for an answer hears that there is none.
    asked.lock().waiting.clear();
    info!(why, "the program does not take part any more");
}

/// Takes what the program says; why it ended.
async fn listen(reader: tokio::net::unix::OwnedReadHalf, app: &Arc<App>, channel: &Channel) -> &'static str {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let (mut window, mut count) = (Instant::now(), 0);
    loop {
        line.clear();
        match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return "it is gone",
            Ok(_) if line.last() != Some(&b'\n') => return "a line of it is too long, or has no end",
            Ok(_) => {}
        }
        if window.elapsed() > RATE_WINDOW {
            (window, count) = (Instant::now(), 0);
        }
        count += 1;
        if count > RATE {
            return "it says too much";
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Settings(settings)) => app.publish_settings(settings),
            Ok(Line::Connections(statistics)) => app.publish_connections(statistics),
            Ok(Line::Answers(verbs)) => channel.asked.lock().verbs = verbs,
            Ok(Line::Answer(Answer { id, value, error })) => {
                let waiting = channel.asked.lock().waiting.remove(&id);
                let said = error.map_or(Ok(value), Err);
                // One that nobody waits for (any more) says nothing.
                if let Some(waiting) = waiting {
                    waiting.send(said).unwrap_or(());
                }
            }
            Err(error) => channel.say(&json!({ "refused": error.to_string() })),
        }
    }
}

impl Channel {
    fn say(&self, line: &Value) {
        if self.lines.try_send(format!("{line}\n")).is_err() {
            self.cut.cancel();
        }
    }
}

impl Application for Channel {
    fn ask(&self, ask: Ask) -> Saying {
        let (verb, word, key, value) = match ask {
            Ask::Get { key } => (Verb::Get, "get", key, None),
            Ask::Set { key, value } => (Verb::Set, "set", key, Some(value)),
            Ask::Enable { key } => (Verb::Enable, "enable", key, None),
            Ask::Disable { key } => (Verb::Disable, "disable", key, None),
        };
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut asked = self.asked.lock();
            if !asked.verbs.contains(&verb) {
                return Box::pin(std::future::ready(None));
            }
            asked.last += 1;
            let id = asked.last;
            asked.waiting.insert(id, answer);
            id
        };
        let mut line = json!({ "ask": word, "id": id, "key": key });
        if let (Some(line), Some(value)) = (line.as_object_mut(), value) {
            line.insert("value".into(), value);
        }
        self.say(&line);
        let asked = self.asked.clone();
        Box::pin(async move {
            let said: Said = match timeout(ANSWERS_WITHIN, answered).await {
                Ok(Ok(said)) => Some(said),
                Ok(Err(_)) => Some(Err("the program is gone".to_owned())),
                Err(_) => Some(Err(format!("the program did not answer within {} s", ANSWERS_WITHIN.as_secs()))),
            };
            asked.lock().waiting.remove(&id);
            said
        })
    }

    fn on_event(&self, event: &Event) {
        match serde_json::to_value(event) {
            Ok(event) => self.say(&json!({ "event": event })),
            Err(error) => warn!(%error, "an event cannot be told to the program"),
        }
    }
}

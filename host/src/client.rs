//! Asking a master: what the command line, programs and tests use. Works with Node masters as well.
//!
//! ```no_run
//! # use muster::client::{Client, ClientError, Options};
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::connect(Options::new("127.0.0.1:3005", "admin", "admin")).await?;
//! let answer = client.request("timeReport", ()).await?;
//! if let Some(body) = answer.body {
//!     println!("{body}");
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! A client keeps one connection, used by all its clones at once. When the link breaks, what waited for an answer ends
//! with [`ClientError::Disconnected`] (whether it was carried out is not known, so nothing is sent again), and the
//! client logs in again on a new connection, as often as it takes. What is asked meanwhile waits for that.

mod body;
mod connection;
mod error;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

use self::connection::{Ask, Connection, Message};
pub use self::error::ClientError;
use crate::wire::handshake::{ClientHello, md5_hex};

/// How long a request may take. Longer than a master's own deadline of 15 s, so that the master's word on what went
/// wrong arrives before ours.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests that wait for the connection's task to take them. It takes them at once unless the master does not read.
const ASKS: usize = 64;

/// Notifications that a slow reader may fall behind before it misses the oldest.
const NOTIFICATIONS: usize = 256;

/// Whom to ask, and as whom.
#[derive(Clone)]
pub struct Options {
    /// The master, as `HOST:PORT`.
    pub master: String,
    /// The user to log in as.
    pub user: String,
    /// Their password. Only its MD5 is sent, as pomelo-cli does; that protects nobody on a network that is listened to.
    pub password: String,
    /// Sends the password itself, for users whose password the master keeps as a foreign hash.
    pub plain: bool,
    /// The id of this client, which no other client of the master may have; one is made up if there is none.
    pub id: Option<String>,
    /// How long connecting with login, and how long each request may take.
    pub timeout: Duration,
}

/// A logged-in client. Cheap to clone; the last clone to go ends the connection.
#[derive(Debug, Clone)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    notifications: broadcast::Sender<Notification>,
    identity: Arc<Identity>,
    timeout: Duration,
}

/// Who this client is: put into the bodies of all its messages, because masters ask for it there.
#[derive(Debug)]
struct Identity {
    client_id: String,
    username: String,
}

/// The answer to a request or a command. Modules use both fields freely: an error may come with a body, and some of
/// the original's modules answer their result as the error.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// A string, number or object, often `{"message":…,"stack":…}`; `None` for absent and null.
    pub error: Option<Box<RawValue>>,
    /// Any JSON; `None` for absent and null.
    pub body: Option<Box<RawValue>>,
}

/// A message that the master sent on its own.
#[derive(Debug, Clone)]
pub struct Notification {
    /// The admin module it is from.
    pub module: String,
    /// Any JSON; `None` for absent and null.
    pub body: Option<Box<RawValue>>,
}

impl Options {
    /// The usual: an id made up, and [`DEFAULT_TIMEOUT`].
    pub fn new(master: impl Into<String>, user: impl Into<String>, password: impl Into<String>) -> Options {
        Options {
            master: master.into(),
            user: user.into(),
            password: password.into(),
            plain: false,
            id: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

impl Client {
    /// Connects and logs in. Must be called inside a tokio runtime, which then runs the connection.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::RefusedLogin`], [`ClientError::Disconnected`] when the master hung
    /// up instead of answering, and [`ClientError::Timeout`].
    pub async fn connect(options: Options) -> Result<Client, ClientError> {
        let Options { master, user, password, plain, id, timeout } = options;
        let id = id.unwrap_or_else(made_up_id);
        let identity = Arc::new(Identity { client_id: id.clone(), username: user.clone() });
        let password = if plain { password } else { md5_hex(&password) };
        let hello = ClientHello { id, username: user, password, md5: !plain };
        let (asks, asked) = mpsc::channel(ASKS);
        let (notifications, _) = broadcast::channel(NOTIFICATIONS);
        let connection = Connection::new(master, hello, timeout, asked, notifications.clone());
        let link = connection.login().await?;
        // Ends by itself when the last handle is gone.
        tokio::spawn(connection.run(link));
        Ok(Client { asks, notifications, identity, timeout })
    }

    /// This client with another deadline for its requests. Both use one connection.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The id that this client is logged in with.
    pub fn id(&self) -> &str {
        &self.identity.client_id
    }

    /// Asks an admin module, and waits for its answer; an error of the module is part of the answer.
    ///
    /// `body` is anything that becomes JSON. `clientId` and `username` are put into an object; nothing (`()`, `None`,
    /// null) becomes an object of these two; any other value is sent as it is.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], [`ClientError::Disconnected`], [`ClientError::Body`], and what
    /// [`connect`](Self::connect) reports, when the link was broken before.
    ///
    /// # Cancel safety
    /// When the future is dropped the request may have been sent; its answer is dropped.
    pub async fn request(&self, module: &str, body: impl Serialize) -> Result<Response, ClientError> {
        self.ask(Message::Request { module: module.to_owned() }, body).await
    }

    /// Gives the master a command: `list`, or `enable` and `disable` with a module.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn command(
        &self,
        name: &str,
        module: Option<&str>,
        body: impl Serialize,
    ) -> Result<Response, ClientError> {
        self.ask(Message::Command { name: name.to_owned(), module: module.map(str::to_owned) }, body).await
    }

    /// Tells an admin module something, without an answer. Done when the message is on its way; a master that is not
    /// there any more may miss it.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn notify(&self, module: &str, body: impl Serialize) -> Result<(), ClientError> {
        self.ask(Message::Notify { module: module.to_owned() }, body).await.map(drop)
    }

    /// What the master sends on its own, from now on. A reader that falls behind by 256 misses the oldest.
    pub fn notifications(&self) -> broadcast::Receiver<Notification> {
        self.notifications.subscribe()
    }

    /// Sends what was asked so far, says good-bye and closes the connection, whatever clones there are: theirs end with
    /// [`ClientError::Disconnected`]. Waits for it no longer than the timeout.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        let closing = async {
            if self.asks.send(Ask::Close(done)).await.is_ok() {
                // An error says that the task is gone: closed as well.
                drop(closed.await);
            }
        };
        // A master that does not read does not get a good-bye.
        drop(timeout(self.timeout, closing).await);
    }

    async fn ask(&self, message: Message, body: impl Serialize) -> Result<Response, ClientError> {
        let body = body::with_identity(body, &self.identity)?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let ask = Ask::Send { message, body, answer };
            self.asks.send(ask).await.map_err(|_| ClientError::Disconnected)?;
            answered.await.unwrap_or(Err(ClientError::Disconnected))
        };
        timeout(self.timeout, asked).await.unwrap_or(Err(ClientError::Timeout { after: self.timeout }))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { master, user, password: _, plain, id, timeout } = self;
        f.debug_struct("Options")
            .field("master", master)
            .field("user", user)
            .field("plain", plain)
            .field("id", id)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// Unlike pomelo-cli's, which is the time alone, the id differs between two clients of one millisecond.
fn made_up_id() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("muster_{}_{}", std::process::id(), since_1970.as_nanos())
}

//! What travels between modules, the master and the monitors: bodies, answers and errors.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// A message body: JSON text, or absent.
///
/// The host passes bodies on without parsing them. A module parses what it needs with [`Body::parse`]; an absent body
/// parses like `null`, as the original's peers treat the two alike.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Body(Option<Cow<'static, str>>);

impl Body {
    /// The absent body: the field is left out of the message.
    pub const ABSENT: Body = Body(None);

    /// `null`.
    const NULL: Body = Body(Some(Cow::Borrowed("null")));

    /// Serialises `value`.
    ///
    /// # Errors
    /// When `value` cannot be expressed in JSON (a map whose keys are not strings, say).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Body, ModuleError> {
        Ok(Body(Some(serde_json::to_string(value)?.into())))
    }

    /// The JSON string `text`.
    pub fn text(text: &str) -> Body {
        Value::from(text).into()
    }

    /// Takes JSON text as it is, after checking that it is JSON.
    ///
    /// # Errors
    /// When `json` is not one JSON value.
    pub fn raw(json: String) -> Result<Body, ModuleError> {
        Ok(RawValue::from_string(json)?.into())
    }

    /// Reads the body as a `T`.
    ///
    /// # Errors
    /// When the body has another shape; the text says where.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ModuleError> {
        Ok(serde_json::from_str(self.as_str())?)
    }

    /// The JSON text; `null` for an absent body.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }

    /// Whether the field is absent.
    pub fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the body is absent or `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Text that is known to be JSON, or empty for absent: what crosses the boundary.
    pub(crate) fn from_wire(json: &[u8]) -> Body {
        match json {
            b"" => return Body::ABSENT,
            b"null" => return Body::NULL,
            _ => {}
        }
        // The host has checked that it is JSON, so it is UTF-8.
        std::str::from_utf8(json).map_or(Body::NULL, |json| Body(Some(json.to_owned().into())))
    }

    /// The bytes that cross the boundary: empty for absent.
    pub(crate) fn wire(&self) -> &[u8] {
        self.0.as_deref().unwrap_or("").as_bytes()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("(absent)"))
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Body {
        Body::from(&value)
    }
}

impl From<&Value> for Body {
    fn from(value: &Value) -> Body {
        if value.is_null() { Body::NULL } else { Body(Some(value.to_string().into())) }
    }
}

impl From<&Body> for Body {
    fn from(body: &Body) -> Body {
        body.clone()
    }
}

impl From<()> for Body {
    fn from((): ()) -> Body {
        Body::ABSENT
    }
}

impl From<Box<RawValue>> for Body {
    fn from(raw: Box<RawValue>) -> Body {
        Body(Some(String::from(Box::<str>::from(raw)).into()))
    }
}

impl Serialize for Body {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        Ok(Box::<RawValue>::deserialize(deserializer)?.into())
    }
}

/// A value where a body is expected: `agent.notify("load", Json(&report))`, `Answer::ok(Json(rows))`; and a body as a value:
/// `let Json(ask): Json<Ask> = (&call.body).try_into()?`, which is `call.body.parse()` where a type names what is expected.
///
/// # Panics
/// Becoming a body panics when the value cannot be expressed in JSON (a map whose keys are no strings, say): the type is at
/// fault, and the call ends with an error. [`Body::of`] returns that error instead.
///
/// ```
/// use muster_plugin_api::{Body, Json};
///
/// let body: Body = Json(("chat-1", 7)).into();
/// assert_eq!(body.as_str(), r#"["chat-1",7]"#);
/// let Json((id, n)): Json<(String, u32)> = (&body).try_into()?;
/// assert_eq!((id.as_str(), n), ("chat-1", 7));
/// # Ok::<(), muster_plugin_api::ModuleError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Json<T>(pub T);

impl<T: Serialize> From<Json<T>> for Body {
    fn from(Json(value): Json<T>) -> Body {
        Body::of(&value).unwrap_or_else(|error| panic!("a value cannot be expressed in JSON: {error}"))
    }
}

impl<T: DeserializeOwned> TryFrom<&Body> for Json<T> {
    type Error = ModuleError;

    fn try_from(body: &Body) -> Result<Json<T>, ModuleError> {
        body.parse().map(Json)
    }
}

/// What a handler answers: an error slot and a body, each of which may be absent, or silence.
///
/// The original's modules choose the slot themselves and some put *results* into the error slot; so both are free here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an answer that is not returned is not sent"]
pub enum Answer {
    /// Sent as it is.
    Reply {
        /// The `error` field. Absent, `null`, a string, a number, an object, or `{"message", "stack"}`.
        error: Body,
        /// The `body` field.
        body: Body,
    },
    /// Nothing is sent. A request that is met with silence ends with a timeout error at its deadline.
    Silence,
}

impl Answer {
    /// No error, and `body`.
    pub fn ok(body: impl Into<Body>) -> Answer {
        Answer::Reply { error: Body::NULL, body: body.into() }
    }

    /// No error, and `value` as body.
    ///
    /// # Errors
    /// When `value` cannot be expressed in JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Answer, ModuleError> {
        Ok(Answer::ok(Body::of(value)?))
    }

    /// Neither error nor body: done.
    pub fn done() -> Answer {
        Answer::Reply { error: Body::NULL, body: Body::ABSENT }
    }

    /// A plain text in the error slot.
    pub fn error_text(text: &str) -> Answer {
        Answer::Reply { error: Body::text(text), body: Body::ABSENT }
    }

    /// Any value in the error slot, errors and *results* alike (the original's console answers `list` there).
    pub fn in_error_slot(value: impl Into<Body>) -> Answer {
        Answer::Reply { error: value.into(), body: Body::ABSENT }
    }

    /// Both slots.
    pub fn both(error: impl Into<Body>, body: impl Into<Body>) -> Answer {
        Answer::Reply { error: error.into(), body: body.into() }
    }

    /// The result of a peer's answer wherever it stands: the body if there is one, else the error slot.
    ///
    /// The original's modules put results into the error slot; ours and forks may use the body.
    pub fn result(self) -> Body {
        match self {
            Answer::Reply { error, body } if body.is_null() => error,
            Answer::Reply { body, .. } => body,
            Answer::Silence => Body::ABSENT,
        }
    }
}

/// Why a handler failed. Sent in the error slot as `{"message": …, "stack": …}`, the original's form of an `Error`.
///
/// Texts and the errors of std and serde convert with `?`; any other that displays with `.map_err(ModuleError::of)?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleError {
    message: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    /// The trait's default handler: the host answers with the original's text for a missing method.
    NoSuchHandler,
}

impl ModuleError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> ModuleError {
        ModuleError { message: message.into(), kind: Kind::Failed }
    }

    /// Any error that displays: `.map_err(ModuleError::of)?`.
    pub fn of(error: impl fmt::Display) -> ModuleError {
        ModuleError::new(error.to_string())
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn no_such_handler() -> ModuleError {
        ModuleError { message: "the module has no such handler".into(), kind: Kind::NoSuchHandler }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The answer that carries this error.
    pub fn into_answer(self) -> Answer {
        let stack = format!("Error: {}", self.message);
        Answer::in_error_slot(serde_json::json!({ "message": self.message, "stack": stack }))
    }
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ModuleError {}

/// A blanket conversion would exclude texts, which are the most frequent error.
macro_rules! from_errors {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for ModuleError {
            fn from(error: $error) -> ModuleError {
                ModuleError::of(error)
            }
        })+
    };
}

from_errors! {
    serde_json::Error,
    RequestError,
    std::io::Error,
    std::fmt::Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::net::AddrParseError,
    std::time::SystemTimeError,
    std::env::VarError,
    Box<dyn std::error::Error>,
    Box<dyn std::error::Error + Send + Sync>,
}

impl From<String> for ModuleError {
    fn from(message: String) -> ModuleError {
        ModuleError::new(message)
    }
}

impl From<&str> for ModuleError {
    fn from(message: &str) -> ModuleError {
        ModuleError::new(message)
    }
}

/// Why a request came to no answer. An answer with an error in it is an answer: see [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RequestError {
    /// No server with this id is registered.
    UnknownServer(String),
    /// No answer before the deadline.
    Timeout(String),
    /// The peer left, and did not come back within the re-push window.
    Gone(String),
    /// Too many requests are waiting for this peer already.
    Busy(String),
    /// The host does not offer this service (yet), or refuses it.
    Refused(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::UnknownServer(id) => write!(f, "unknown server id:{id}"),
            RequestError::Timeout(text)
            | RequestError::Gone(text)
            | RequestError::Busy(text)
            | RequestError::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for RequestError {}

/// What handlers return.
pub type HandlerResult = Result<Answer, ModuleError>;

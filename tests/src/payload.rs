//! The text of a message: JSON, or JSON in a JSON string.

use serde_json::Value;

/// A value as the wire carries it: text in a JSON string is decoded once more.
///
/// # Panics
/// If it is not JSON.
pub fn decode(payload: &str) -> Value {
    try_decode(payload).unwrap_or_else(|error| panic!("{payload} is not JSON: {error}"))
}

/// As [`decode`].
///
/// # Errors
/// If it is not JSON, or nested deeper than the parser likes.
pub fn try_decode(payload: &str) -> Result<Value, serde_json::Error> {
    unwrap(payload).map(|(_, value)| value)
}

/// Whether a payload is encoded twice, and its value.
pub(crate) fn unwrap(payload: &str) -> Result<(bool, Value), serde_json::Error> {
    Ok(match serde_json::from_str(payload)? {
        Value::String(inner) => (true, serde_json::from_str(&inner)?),
        plain => (false, plain),
    })
}

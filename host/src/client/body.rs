//! Bodies as real clients send them: with the client's id and user inside.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{ClientError, Identity};

/// The JSON of a body, with the identity in it if it is an object or missing.
pub(super) fn with_identity(body: impl Serialize, identity: &Identity) -> Result<String, ClientError> {
    let fault = |error| ClientError::Body(Arc::new(error));
    let body = serde_json::to_string(&body).map_err(fault)?;
    let Identity { client_id, username } = identity;
    let identity = json!({ "clientId": client_id, "username": username }).to_string();
    if body == "null" {
        return Ok(identity);
    }
    // Spliced as text, so that numbers and the order of fields stay as the caller wrote them.
    let Some(fields) = body.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else { return Ok(body) };
    if fields.trim().is_empty() {
        return Ok(identity);
    }
    if !fields.contains("\"clientId\"") && !fields.contains("\"username\"") && !fields.contains('\\') {
        return Ok(format!("{{{fields},{}", &identity[1..]));
    }
    // Perhaps it names itself: no field may be there twice.
    let mut fields: Map<String, Value> = serde_json::from_str(&body).map_err(fault)?;
    fields.insert("clientId".to_owned(), json!(client_id));
    fields.insert("username".to_owned(), json!(username));
    Ok(Value::Object(fields).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[track_caller]
    fn check(body: impl Serialize, expected: &str) {
        let identity = Identity { client_id: "c-1".to_owned(), username: "ad\"min".to_owned() };
        assert_eq!(with_identity(body, &identity).unwrap(), expected);
    }

    #[test]
    fn the_identity_goes_into_the_object_itself() {
        let identity = r#""clientId":"c-1","username":"ad\"min"}"#;
        check((), &format!("{{{identity}"));
        check(None::<u8>, &format!("{{{identity}"));
        check(json!({}), &format!("{{{identity}"));
        check(json!({"signal": "list"}), &format!(r#"{{"signal":"list",{identity}"#));
        let raw = r#" { "n": 12345678901234567890123, "x": {} } "#;
        let expected = format!(r#"{{ "n": 12345678901234567890123, "x": {{}} ,{identity}"#);
        check(RawValue::from_string(raw.trim().to_owned()).unwrap(), &expected);
    }

    #[test]
    fn an_identity_in_the_body_is_replaced() {
        check(json!({"clientId": "other", "a": 1}), r#"{"clientId":"c-1","a":1,"username":"ad\"min"}"#);
        let escaped = RawValue::from_string(r#"{"client\u0049d":"other"}"#.to_owned()).unwrap();
        check(escaped, r#"{"clientId":"c-1","username":"ad\"min"}"#);
    }

    #[test]
    fn what_is_no_object_is_sent_as_it_is() {
        check("text", r#""text""#);
        check([1, 2], "[1,2]");
        check(false, "false");
    }
}

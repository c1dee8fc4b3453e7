//! The application's settings, as they are shown.

use muster_plugin_api::{
    Body,
    serde_json::{Map, Value},
};

/// What is neither a list nor a map: of a component's configuration, the original shows only that.
pub(crate) fn scalars(config: &Body) -> Map<String, Value> {
    let mut fields: Map<String, Value> = config.parse().unwrap_or_default();
    // JavaScript counts `null` as an object.
    fields.retain(|_, value| !matches!(value, Value::Array(_) | Value::Object(_) | Value::Null));
    fields
}

/// The settings that are shown as such: not what is internal, nor what `config` shows. `env` is one.
pub(crate) fn shown(env: &str, settings: &Body) -> Map<String, Value> {
    let mut shown = Map::from_iter([("env".to_owned(), env.into())]);
    let settings: Map<String, Value> = settings.parse().unwrap_or_default();
    shown.extend(settings.into_iter().filter(|(key, _)| !is_internal(key) && !is_config(key)));
    shown
}

/// A value as `get` answers it: what counts as false in JavaScript is `null`.
pub(crate) fn got(value: Body) -> Body {
    match value.as_str() {
        "false" | "0" | "\"\"" | "null" => Value::Null.into(),
        _ => value,
    }
}

/// A value in a sentence: a text as it is, everything else as JSON.
pub(crate) fn in_words(value: &Body) -> String {
    value.parse().unwrap_or_else(|_| value.as_str().to_owned())
}

/// `/^__\w+__$/`
fn is_internal(key: &str) -> bool {
    key.strip_prefix("__").and_then(|key| key.strip_suffix("__")).is_some_and(|name| !name.is_empty() && is_word(name))
}

/// `/\w+Config$/`
fn is_config(key: &str) -> bool {
    key.strip_suffix("Config")
        .is_some_and(|name| name.chars().next_back().is_some_and(|last| is_word(last.encode_utf8(&mut [0; 4]))))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_is_shown_without_lists_and_maps() {
        let config = json!({ "heartbeat": 3, "name": "x", "on": false, "list": [1], "map": {}, "nothing": null });
        assert_eq!(Value::Object(scalars(&config.into())), json!({ "heartbeat": 3, "name": "x", "on": false }));
        assert_eq!(scalars(&Body::ABSENT), Map::new());
        assert_eq!(scalars(&json!("text").into()), Map::new());
    }

    #[test]
    fn settings_are_shown_without_what_is_internal_or_a_configuration() {
        let settings =
            json!({ "name": "interop", "__modules__": {}, "connectorConfig": {}, "Config": 1, "____": 2, "map": {} });
        let expected = json!({ "env": "development", "name": "interop", "Config": 1, "____": 2, "map": {} });
        assert_eq!(Value::Object(shown("development", &settings.into())), expected);
    }

    #[test]
    fn the_environment_may_be_set_by_the_application() {
        assert_eq!(shown("development", &json!({ "env": "staging" }).into())["env"], "staging");
    }

    #[test]
    fn what_counts_as_false_is_null() {
        for value in [json!(false), json!(0), json!(""), json!(null)] {
            assert!(got(value.into()).is_null());
        }
        assert!(got(Body::ABSENT).is_null() && !got(Body::ABSENT).is_absent());
        assert_eq!(got(json!("0").into()).as_str(), r#""0""#);
    }

    #[test]
    fn a_text_stands_in_a_sentence_as_it_is() {
        assert_eq!(in_words(&json!("v1").into()), "v1");
        assert_eq!(in_words(&json!({ "a": 1 }).into()), r#"{"a":1}"#);
        assert_eq!(in_words(&json!(true).into()), "true");
    }
}

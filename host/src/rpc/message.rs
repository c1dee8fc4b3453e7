//! What is said on the topic `rpc`. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest call. Bodies of the admin protocol are no larger before they reach us, and a server should not have to
/// take more in one piece.
pub(super) const LARGEST: usize = 1 << 20;

/// A call, as modules and clients describe it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    args: Vec<&'a RawValue>,
}

/// What the remote gave its callback: by convention an error or null, then results.
#[derive(Debug, Clone)]
pub(crate) struct Response(Vec<Box<RawValue>>);

/// One entry of a message from a server.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) id: u64,
    #[serde(default)]
    resp: Option<Vec<Box<RawValue>>>,
}

// === impl Message ===

impl<'a> Message<'a> {
    pub(super) fn read(json: &'a [u8]) -> Result<Message<'a>, String> {
        if json.len() > LARGEST {
            return Err(format!("a call of {} bytes is larger than the limit of {LARGEST}", json.len()));
        }
        let message: Message<'_> = serde_json::from_slice(json).map_err(|error| {
            format!("expected {{\"namespace\", \"service\", \"method\", \"args\": [...]}} for a call: {error}")
        })?;
        match [&message.namespace, &message.service, &message.method].iter().any(|name| name.is_empty()) {
            true => Err("namespace, service and method of a call must not be empty".to_owned()),
            false => Ok(message),
        }
    }

    /// The `msg` of an entry, for a server of this type.
    pub(super) fn of_type(&self, server_type: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Msg<'a> {
            namespace: &'a str,
            server_type: &'a str,
            service: &'a str,
            method: &'a str,
            args: &'a [&'a RawValue],
        }
        let Message { namespace, service, method, args } = self;
        let msg = Msg { namespace, server_type, service, method, args };
        // Texts and JSON are always JSON.
        serde_json::to_string(&msg).unwrap_or_default()
    }
}

// === impl Response ===

impl Response {
    /// The first argument: an error, or null.
    pub(crate) fn error(&self) -> &str {
        self.0.first().map_or("null", |error| error.get())
    }

    /// A list of the others.
    pub(crate) fn results(&self) -> String {
        list(self.0.get(1..).unwrap_or_default())
    }

    /// A list of all arguments.
    pub(crate) fn all(&self) -> String {
        list(&self.0)
    }
}

fn list(values: &[Box<RawValue>]) -> String {
    let texts: Vec<&str> = values.iter().map(|value| value.get()).collect();
    format!("[{}]", texts.join(","))
}

// === impl Entry ===

impl Entry {
    /// The answer; `None` if the server sent none that is a list.
    pub(super) fn response(self) -> Option<Response> {
        self.resp.map(Response)
    }
}

/// Reads a message of a server: one entry, or a list of them if the server collects its answers. Of a list, entries that
/// are none are left out and counted.
pub(super) fn read(payload: &[u8]) -> (Vec<Entry>, usize) {
    let entry = |json: &str| {
        serde_json::from_str::<Entry>(json).or_else(|_| {
            // With an id somebody can be told that the answer is none.
            #[derive(Deserialize)]
            struct Known {
                id: u64,
            }
            serde_json::from_str(json).map(|Known { id }| Entry { id, resp: None })
        })
    };
    let Ok(text) = std::str::from_utf8(payload) else { return (Vec::new(), 1) };
    let one_or_many = match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(entries) => entries.into_iter().map(RawValue::get).collect(),
        Err(_) => vec![text],
    };
    let all = one_or_many.len();
    let entries: Vec<Entry> = one_or_many.into_iter().filter_map(|json| entry(json).ok()).collect();
    let odd = all - entries.len();
    (entries, odd)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_has_the_bytes_of_the_original() {
        let json = br#"{"namespace":"user","service":"chatRemote","method":"add","args":[1, {"a":[]}]}"#;
        let msg = Message::read(json).unwrap().of_type("chat");
        let expected =
            r#"{"namespace":"user","serverType":"chat","service":"chatRemote","method":"add","args":[1,{"a":[]}]}"#;
        assert_eq!(msg, expected);
    }

    #[test]
    fn what_is_no_call_is_refused_with_what_was_expected() {
        for odd in [
            "",
            "[]",
            "{}",
            r#"{"namespace":"u","service":"s","method":"m"}"#,
            r#"{"namespace":"u","service":"s","method":"m","args":{}}"#,
            r#"{"namespace":"u","service":"s","method":"m","args":[],"serverType":"x"}"#,
        ] {
            let refused = Message::read(odd.as_bytes()).unwrap_err();
            assert!(refused.contains("\"args\": [...]"), "{odd}: {refused}");
        }
        let empty = br#"{"namespace":"","service":"s","method":"m","args":[]}"#;
        assert!(Message::read(empty).unwrap_err().contains("must not be empty"));
        assert!(Message::read(&vec![b' '; LARGEST + 1]).unwrap_err().contains("larger than the limit"));
    }

    #[test]
    fn answers_are_read_one_by_one_and_in_lists() {
        let (one, odd) = read(br#"{"id":3,"resp":[null,7,"x"]}"#);
        let response = one.into_iter().next().unwrap().response().unwrap();
        assert_eq!((response.error(), response.results().as_str(), odd), ("null", r#"[7,"x"]"#, 0));
        let (many, odd) = read(br#"[{"id":1,"resp":[]},{"id":2,"resp":[{"stack":"Error"}]},{"x":1},7]"#);
        let ids: Vec<u64> = many.iter().map(|entry| entry.id).collect();
        assert_eq!((ids, odd), (vec![1, 2], 2));
        let responses: Vec<_> = many.into_iter().filter_map(Entry::response).collect();
        assert_eq!((responses[0].error(), responses[0].results().as_str()), ("null", "[]"));
        assert_eq!(responses[1].error(), r#"{"stack":"Error"}"#);
    }

    #[test]
    fn an_answer_that_is_no_list_still_ends_its_call() {
        for odd in [r#"{"id":3}"#, r#"{"id":3,"resp":"text"}"#, r#"{"id":3,"resp":null}"#] {
            let (entries, _) = read(odd.as_bytes());
            assert!(entries.into_iter().next().unwrap().response().is_none(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_makes_the_reader_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&payload);
        }

        #[test]
        fn no_nesting_makes_the_reader_panic(depth in 0usize..5000) {
            let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            read(payload.as_bytes());
            read(format!(r#"{{"id":1,"resp":{payload}}}"#).as_bytes());
        }
    }
}

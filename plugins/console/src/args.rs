//! The `args` of an order: `["key=value", …]`, and lists of addresses.

use std::net::IpAddr;

use muster_plugin_api::{Body, ModuleError, serde_json::Value};
use serde::{Deserialize, Serialize, Serializer};

/// What a server needs to be started.
const OF_A_SERVER: [&str; 4] = ["host", "port", "serverType", "id"];

/// More servers than one order should start.
const MOST_OF_A_CLUSTER: u64 = 256;

/// Key–value pairs in the order they were given in: peers get them as an object in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args(Vec<(String, String)>);

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    args: Value,
}

impl Args {
    /// Reads `args` of an order.
    ///
    /// As in the original's `parseArgs`, all values stay text, and what follows a second `=` is lost.
    ///
    /// # Errors
    /// When there is no list, or something in it is no `key=value`.
    pub(crate) fn of(order: &Body) -> Result<Args, ModuleError> {
        let mut args = Args::default();
        for arg in list(order)? {
            let mut parts = arg.as_str().unwrap_or_default().split('=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else { return Err(format_error()) };
            args.set(key, value);
        }
        Ok(args)
    }

    /// The value of `key`; an empty one counts as missing.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Checks that a server could be started from these.
    ///
    /// # Errors
    /// When something is missing. The original means to check this, but starts a useless process instead.
    pub(crate) fn describe_a_server(&self) -> Result<(), ModuleError> {
        // A cluster's ids are made from its type.
        let is_cluster = self.get("clusterCount").is_some();
        let complete = OF_A_SERVER.iter().all(|key| self.get(key).is_some() || (is_cluster && *key == "id"));
        if complete { Ok(()) } else { Err(missing()) }
    }

    /// The servers of a cluster, the first of which has the number `first`: ids are made from the type, and a value that
    /// ends with `++` counts up. As in the original's `loadCluster`.
    ///
    /// # Errors
    /// When the count, or what counts up, is no number.
    pub(crate) fn cluster(&self, count: &str, first: u64) -> Result<Vec<Args>, ModuleError> {
        let count: u64 =
            count.parse().ok().filter(|count| (1..=MOST_OF_A_CLUSTER).contains(count)).ok_or_else(|| {
                ModuleError::new(format!(
                    "clusterCount should be a number from 1 to {MOST_OF_A_CLUSTER}, found {count}"
                ))
            })?;
        let server_type = self.get("serverType").unwrap_or_default();
        let one = |number: u64| {
            let mut server = Args::default();
            for (key, value) in &self.0 {
                match value.strip_suffix("++").filter(|base| !base.is_empty()) {
                    Some(base) => {
                        let base: u64 = base.parse().map_err(|_| format_error())?;
                        server.set(key, &base.checked_add(number).ok_or_else(format_error)?.to_string());
                    }
                    None => server.set(key, value),
                }
            }
            server.set("id", &format!("cluster-server-{server_type}-{}", first + number));
            Ok(server)
        };
        (0..count).map(one).collect()
    }

    fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }
}

impl Serialize for Args {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Reads `args` as addresses, v4 or v6. (The original lets pass whatever contains four numbers and three dots.)
///
/// # Errors
/// When there is no list, or something in it is no address.
pub(crate) fn addresses(order: &Body) -> Result<Vec<String>, ModuleError> {
    list(order)?
        .into_iter()
        .map(|arg| match arg {
            Value::String(text) if text.parse::<IpAddr>().is_ok() => Ok(text),
            Value::String(text) => Err(ModuleError::new(format!("blacklist ip: {text} is error format."))),
            other => Err(ModuleError::new(format!("blacklist ip: {other} is error format."))),
        })
        .collect()
}

/// The original's text for parameters that are not there.
pub(crate) fn missing() -> ModuleError {
    ModuleError::new("Miss necessary server parameters.")
}

fn list(order: &Body) -> Result<Vec<Value>, ModuleError> {
    match order.parse::<Raw>() {
        Ok(Raw { args: Value::Array(args) }) => Ok(args),
        _ => Err(format_error()),
    }
}

fn format_error() -> ModuleError {
    ModuleError::new("Error server parameters format.")
}

#[cfg(test)]
mod tests {
    use muster_plugin_api::serde_json::json;

    use super::*;

    fn order(args: Value) -> Body {
        json!({ "signal": "add", "args": args }).into()
    }

    #[track_caller]
    fn parsed(args: Value) -> Args {
        Args::of(&order(args)).unwrap()
    }

    #[track_caller]
    fn refused(args: Value, text: &str) {
        assert_eq!(Args::of(&order(args)).unwrap_err().message(), text);
    }

    #[test]
    fn args_become_an_object_in_their_order() {
        let cron = parsed(json!(["id=8", "serverId=chat-server-1", "action=chatCron.send", "time=0 30 10 * * *"]));
        assert_eq!(
            Body::of(&cron).unwrap().as_str(),
            r#"{"id":"8","serverId":"chat-server-1","action":"chatCron.send","time":"0 30 10 * * *"}"#
        );
    }

    #[test]
    fn what_follows_a_second_equals_sign_is_lost() {
        assert_eq!(parsed(json!(["a=b=c"])).get("a"), Some("b"));
    }

    #[test]
    fn a_key_given_twice_keeps_its_place_and_takes_the_later_value() {
        assert_eq!(Body::of(&parsed(json!(["a=1", "b=2", "a=3"]))).unwrap().as_str(), r#"{"a":"3","b":"2"}"#);
    }

    #[test]
    fn an_arg_without_equals_sign_is_refused() {
        refused(json!(["id=8", "whatever"]), "Error server parameters format.");
        refused(json!([8]), "Error server parameters format.");
    }

    #[test]
    fn an_order_without_a_list_of_args_is_refused() {
        refused(Value::Null, "Error server parameters format.");
        refused(json!("id=8"), "Error server parameters format.");
        assert_eq!(Args::of(&Body::ABSENT).unwrap_err().message(), "Error server parameters format.");
    }

    #[test]
    fn a_server_needs_host_port_type_and_id() {
        let all = json!(["host=127.0.0.1", "port=6051", "serverType=chat", "id=chat-server-2"]);
        assert_eq!(parsed(all).describe_a_server(), Ok(()));
        for lacking in [
            json!(["host=127.0.0.1", "port=6059"]),
            json!(["host=127.0.0.1", "port=6059", "serverType=chat", "id="]),
            json!([]),
        ] {
            assert_eq!(parsed(lacking).describe_a_server(), Err(missing()));
        }
    }

    #[test]
    fn a_cluster_counts_up_what_ends_with_two_plus_signs() {
        let args = parsed(json!(["host=h", "port=6051++", "serverType=chat", "clusterCount=2"]));
        let servers = args.cluster("2", 3).unwrap();
        let expected =
            r#"[{"host":"h","port":"6051","serverType":"chat","clusterCount":"2","id":"cluster-server-chat-3"},"#
                .to_owned()
                + r#"{"host":"h","port":"6052","serverType":"chat","clusterCount":"2","id":"cluster-server-chat-4"}]"#;
        assert_eq!(Body::of(&servers).unwrap().as_str(), expected);
        for odd in ["0", "x", "-1", "100000"] {
            assert!(args.cluster(odd, 0).unwrap_err().message().contains("clusterCount"), "{odd}");
        }
        assert!(parsed(json!(["port=x++"])).cluster("1", 0).is_err());
    }

    #[test]
    fn a_cluster_needs_no_id() {
        let cluster = json!(["host=127.0.0.1", "port=6051++", "serverType=chat", "clusterCount=2"]);
        assert_eq!(parsed(cluster).describe_a_server(), Ok(()));
    }

    #[test]
    fn addresses_of_both_families_pass() {
        let listed = addresses(&order(json!(["10.1.2.3", "2001:db8::1"])));
        assert_eq!(listed.unwrap(), ["10.1.2.3", "2001:db8::1"]);
    }

    #[test]
    fn what_is_no_address_is_named_in_the_refusal() {
        for (args, name) in
            [(json!(["10.1.2.3", "not-an-ip"]), "not-an-ip"), (json!(["10.1.2.300"]), "10.1.2.300"), (json!([7]), "7")]
        {
            let text = format!("blacklist ip: {name} is error format.");
            assert_eq!(addresses(&order(args)).unwrap_err().message(), text);
        }
    }
}

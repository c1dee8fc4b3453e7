//! What a single setting can be: durations, sizes, addresses, secrets.

use std::{fmt, str::FromStr, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// An address as people write it: `HOST:PORT`, with an IPv6 address in brackets. Names are resolved when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// The text is no `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT such as 127.0.0.1:3005")]
pub struct NotAnAddress;

/// A password or token: never shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Address {
    /// From its parts; an IPv6 address without brackets.
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 to listen on any free one.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Address, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAnAddress)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':')).ok_or(NotAnAddress)?,
            None if host.contains([':', ']', '/', '@']) => return Err(NotAnAddress),
            None => host,
        };
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if host.is_empty() || host.contains(char::is_whitespace) || !digits {
            return Err(NotAnAddress);
        }
        Ok(Address { host: host.to_owned(), port: port.parse().map_err(|_| NotAnAddress)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Secret {
    /// The text, for sending it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on neither text.
    pub fn matches(&self, given: &str) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(given)).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

// === reading ===

/// `5s`, `100ms`, `1m 30s`. A number without a unit is none: seconds here and milliseconds there is how outages begin.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    humantime::parse_duration(value.as_str()?).ok()
}

/// `64KiB`, `16MiB`, `1GiB`, or plain bytes.
pub(super) fn size(value: &Value) -> Option<usize> {
    let text = match value {
        Value::Number(number) => return usize::try_from(number.as_u64()?).ok(),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// A whole number, 1 or more.
pub(super) fn count(value: &Value) -> Option<usize> {
    let number = match value {
        Value::Number(number) => number.as_u64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    usize::try_from(number).ok().filter(|&number| number > 0)
}

/// Text that says something.
pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The value of `--set`: JSON if it is, else a string.
pub(super) fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The value of `--info`, as a pomelo server reads its command line: what looks like an integer is a number, anything
/// else a string (`frontend` is `"true"`).
pub(super) fn integer_or_text(text: &str) -> Value {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<i64>() {
        Ok(number) if plain => number.into(),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration(&json!("100ms")), Some(Duration::from_millis(100)));
        assert_eq!(duration(&json!("2m")), Some(Duration::from_secs(120)));
        assert_eq!(duration(&json!("1m 30s")), Some(Duration::from_secs(90)));
        assert_eq!(duration(&json!("0s")), Some(Duration::ZERO));
        for odd in [json!(5), json!("5"), json!(""), json!("-1s"), json!("fast"), json!(null)] {
            assert_eq!(duration(&odd), None, "{odd}");
        }
    }

    #[test]
    fn sizes_are_binary_or_plain_bytes() {
        assert_eq!(size(&json!("64KiB")), Some(65_536));
        assert_eq!(size(&json!("16 MiB")), Some(16 << 20));
        assert_eq!(size(&json!(1000)), Some(1000));
        assert_eq!(size(&json!("1000")), Some(1000));
        for odd in [json!("64k"), json!("MiB"), json!(-1), json!(1.5), json!("99999999999GiB"), json!([])] {
            assert_eq!(size(&odd), None, "{odd}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["127.0.0.1:3005", "master.local:0", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for odd in ["", "3005", ":3005", "host:", "host:x", "host:65536", "::1:3005", "[host]:1", "a b:1", "http://h:1"]
        {
            assert_eq!(odd.parse::<Address>(), Err(NotAnAddress), "{odd}");
        }
    }

    #[test]
    fn values_of_info_are_integers_or_strings_and_nothing_else() {
        for (text, expected) in [("3150", json!(3150)), ("-1", json!(-1)), ("true", json!("true"))] {
            assert_eq!(integer_or_text(text), expected);
        }
        for text in ["1.5", "+1", "1e3", "", "-", "{\"a\":1}", "99999999999999999999"] {
            assert_eq!(integer_or_text(text), json!(text));
        }
    }

    #[test]
    fn row_29_a_secret_is_compared_as_a_whole_and_not_shown() {
        let secret = Secret::from("token-for-chat".to_owned());
        assert!(secret.matches("token-for-chat"));
        assert!(!secret.matches("token-for-chat2"));
        assert!(!format!("{secret:?}").contains("token"));
    }
}

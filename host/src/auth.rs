//! Who may come in, and as what.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use crate::wire::handshake::{ClientHello, MonitorHello};

/// Failed logins of one user from one address that cost nothing yet.
const FREE_FAILURES: u32 = 4;
/// The first delay of an answer; it doubles with every further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Never a lock-out, or an enemy could lock out the operator.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// After this time without a failure all is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Pairs of address and user that are remembered; beyond it the oldest are forgiven early.
const REMEMBERED_FAILURES: usize = 16 * 1024;

/// What the files `adminUser.json` and `adminServer.json` say.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// Nobody may log in when there are none.
    pub(crate) users: Vec<User>,
    /// `None`: no file, every server is accepted, as in the original.
    pub(crate) tokens: Option<Vec<Token>>,
}

/// Somebody who may log in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) username: String,
    pub(crate) password: String,
    /// 1 may do everything; 0 stands for none.
    pub(crate) level: u32,
}

/// What servers of a type have to present.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) server_type: String,
    pub(crate) token: String,
}

/// When a `reconnect` is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reconnect {
    /// From ids that have registered with a valid token, or that bring one.
    Known,
    /// From everybody: for moving a running Node fleet over.
    Open,
}

/// How sure we are of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// It showed a valid token: worth remembering.
    Token,
    /// It may come in.
    Tolerated,
    /// It may not.
    Refused,
}

/// The door: current credentials and the memory of failures.
pub(crate) struct Auth {
    credentials: ArcSwap<Credentials>,
    reconnect: Mutex<Reconnect>,
    failures: Mutex<HashMap<(IpAddr, String), Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials, reconnect: Reconnect) -> Auth {
        let auth = Auth {
            credentials: ArcSwap::from_pointee(Credentials::default()),
            reconnect: Mutex::new(reconnect),
            failures: Mutex::default(),
        };
        auth.replace(credentials, reconnect);
        auth
    }

    /// Takes new credentials; those who are in stay in.
    pub(crate) fn replace(&self, credentials: Credentials, reconnect: Reconnect) {
        if reconnect == Reconnect::Open && credentials.tokens.is_some() {
            tracing::warn!(
                "auth.reconnect = \"open\": every peer can take the place of any server that is away, without a token. \
                 Set it back to \"known\" when the fleet has moved over."
            );
        }
        self.credentials.store(credentials.into());
        *self.reconnect.lock() = reconnect;
    }

    /// Judges a server that registers.
    pub(crate) fn register(&self, hello: &MonitorHello, from: IpAddr) -> Trust {
        let credentials = self.credentials.load();
        let Some(tokens) = &credentials.tokens else { return Trust::Tolerated };
        // The original trusts everybody who says `master`. It means the master's own monitor, which is on this machine.
        if hello.server_type == "master" && from.is_loopback() {
            return Trust::Tolerated;
        }
        let shown = hello.token.as_deref().unwrap_or_default();
        let valid = tokens
            .iter()
            .filter(|token| token.server_type == hello.server_type)
            .any(|token| same(token.token.as_bytes(), shown.as_bytes()));
        if valid { Trust::Token } else { Trust::Refused }
    }

    /// Judges a server whose link had broken; `known` tells whether its id has ever shown a valid token.
    pub(crate) fn reconnect(&self, hello: &MonitorHello, from: IpAddr, known: impl FnOnce() -> bool) -> Trust {
        match self.register(hello, from) {
            Trust::Refused if *self.reconnect.lock() == Reconnect::Open || known() => Trust::Tolerated,
            trust => trust,
        }
    }

    /// The level of the user, if name and password are right.
    pub(crate) fn log_in(&self, hello: &ClientHello) -> Option<u32> {
        let credentials = self.credentials.load();
        let user = credentials.users.iter().find(|user| user.username == hello.username);
        // An unknown user costs the same comparison.
        let stored = user.map_or("", |user| user.password.as_str());
        let right = if hello.md5 {
            same(md5_hex(stored).as_bytes(), hello.password.as_bytes())
        } else {
            same(stored.as_bytes(), hello.password.as_bytes())
        };
        user.filter(|_| right).map(|user| user.level)
    }

    /// How long the answer to a login has to wait, by earlier failures.
    pub(crate) fn delay(&self, from: IpAddr, user: &str, now: Instant) -> Duration {
        let mut failures = self.failures.lock();
        let key = (from, user.to_owned());
        match failures.get(&key) {
            Some(earlier) if now.duration_since(earlier.last) > FORGIVEN_AFTER => {
                failures.remove(&key);
                Duration::ZERO
            }
            Some(earlier) => penalty(earlier.count),
            None => Duration::ZERO,
        }
    }

    /// Remembers how a login ended.
    pub(crate) fn judged(&self, from: IpAddr, user: &str, right: bool, now: Instant) {
        let mut failures = self.failures.lock();
        let key = (from, user.to_owned());
        if right {
            failures.remove(&key);
            return;
        }
        if failures.len() >= REMEMBERED_FAILURES {
            failures.retain(|_, earlier| now.duration_since(earlier.last) < FIRST_DELAY * 40);
        }
        if failures.len() < REMEMBERED_FAILURES {
            let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let credentials = self.credentials.load();
        let tokens = credentials.tokens.as_ref().map(Vec::len);
        // Numbers only: nobody's secret belongs into a log.
        f.debug_struct("Auth").field("users", &credentials.users.len()).field("tokens", &tokens).finish_non_exhaustive()
    }
}

fn penalty(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES) {
        None | Some(0) => Duration::ZERO,
        Some(beyond) => FIRST_DELAY.saturating_mul(1 << (beyond - 1).min(10)).min(MAX_DELAY),
    }
}

/// The lower-case hex MD5, which the protocol calls for.
pub(crate) fn md5_hex(text: &str) -> String {
    format!("{:x}", Md5::digest(text.as_bytes()))
}

/// Compares digests, so that neither content nor length shows in the time it takes.
fn same(a: &[u8], b: &[u8]) -> bool {
    use sha2::Sha256;
    Sha256::digest(a).ct_eq(&Sha256::digest(b)).into()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::Map;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn auth(reconnect: Reconnect) -> Auth {
        let users = vec![User { username: "admin".into(), password: "admin".into(), level: 1 }];
        let tokens = Some(vec![Token { server_type: "chat".into(), token: "secret".into() }]);
        Auth::new(Credentials { users, tokens }, reconnect)
    }

    fn server(server_type: &str, token: Option<&str>) -> MonitorHello {
        MonitorHello {
            id: "a".into(),
            server_type: server_type.into(),
            info: Map::new(),
            token: token.map(str::to_owned),
        }
    }

    fn client(password: &str, md5: bool) -> ClientHello {
        ClientHello { id: "c".into(), username: "admin".into(), password: password.into(), md5 }
    }

    #[test]
    fn a_password_is_right_plain_or_as_md5() {
        let auth = auth(Reconnect::Known);
        assert_eq!(auth.log_in(&client("admin", false)), Some(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", true)), Some(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", false)), None);
        assert_eq!(auth.log_in(&client("Admin", false)), None);
        let nobody = ClientHello { username: "nobody".into(), ..client("", false) };
        assert_eq!(auth.log_in(&nobody), None, "an unknown user has no empty password");
    }

    #[test]
    fn a_token_opens_for_its_type_only() {
        let auth = auth(Reconnect::Known);
        assert_eq!(auth.register(&server("chat", Some("secret")), THERE), Trust::Token);
        assert_eq!(auth.register(&server("gate", Some("secret")), THERE), Trust::Refused);
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Refused);
    }

    #[test]
    fn only_from_this_machine_does_a_master_need_no_token() {
        let auth = auth(Reconnect::Known);
        assert_eq!(auth.register(&server("master", None), HERE), Trust::Tolerated);
        assert_eq!(auth.register(&server("master", None), THERE), Trust::Refused);
    }

    #[test]
    fn reconnecting_needs_a_token_or_a_past() {
        let auth = auth(Reconnect::Known);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Refused);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || true), Trust::Tolerated);
        assert_eq!(auth.reconnect(&server("chat", Some("secret")), THERE, || false), Trust::Token);
    }

    #[test]
    fn the_open_door_is_a_switch() {
        let auth = auth(Reconnect::Open);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Tolerated);
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Refused);
    }

    #[test]
    fn without_a_token_table_everybody_is_tolerated() {
        let auth = Auth::new(Credentials::default(), Reconnect::Known);
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Tolerated);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Tolerated);
        assert_eq!(auth.log_in(&client("admin", false)), None, "but nobody can log in");
    }

    #[test]
    fn repeated_failures_cost_time_and_success_forgives() {
        let auth = auth(Reconnect::Known);
        let now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..11 {
            delays.push(auth.delay(THERE, "admin", now).as_millis());
            auth.judged(THERE, "admin", false, now);
        }
        assert_eq!(delays, [0, 0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 5000]);
        assert_eq!(auth.delay(HERE, "admin", now), Duration::ZERO, "another address does not pay for it");
        assert_eq!(auth.delay(THERE, "admin", now + FORGIVEN_AFTER * 2), Duration::ZERO);
        auth.judged(THERE, "admin", false, now);
        auth.judged(THERE, "admin", true, now);
        assert_eq!(auth.delay(THERE, "admin", now), Duration::ZERO);
    }
}

//! Who may come in, and as what.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    config::{AuthConfig, ReconnectPolicy, Secret, Tokens, Users},
    wire::handshake::{ClientHello, MonitorHello, md5_hex},
};

/// After this time without a failure all is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// When there are too many of them, after this time.
const FORGIVEN_EARLY: Duration = Duration::from_secs(10);
/// Pairs of address and user that are remembered; beyond it the oldest are forgiven early.
const REMEMBERED_FAILURES: usize = 16 * 1024;

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

/// The door: what may be shown at it, and the memory of failures.
pub(crate) struct Auth {
    rules: ArcSwap<Rules>,
    failures: Mutex<HashMap<(IpAddr, String), Failures>>,
}

/// What the configuration says.
struct Rules {
    users: Users,
    /// `None`: no file, every server is accepted, as in the original.
    tokens: Option<Tokens>,
    config: AuthConfig,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Auth {
    pub(crate) fn new(users: Users, tokens: Option<Tokens>, config: AuthConfig) -> Auth {
        Auth { rules: ArcSwap::from_pointee(Rules::new(users, tokens, config)), failures: Mutex::default() }
    }

    /// Takes new rules; those who are in stay in.
    pub(crate) fn replace(&self, users: Users, tokens: Option<Tokens>, config: AuthConfig) {
        self.rules.store(Rules::new(users, tokens, config).into());
    }

    /// Judges a server that registers.
    pub(crate) fn register(&self, hello: &MonitorHello, from: IpAddr) -> Trust {
        let rules = self.rules.load();
        let Some(tokens) = &rules.tokens else { return Trust::Tolerated };
        // The original trusts everybody who says `master`. It means the master's own monitor, which is on this machine.
        if hello.server_type == "master" && from.is_loopback() {
            return Trust::Tolerated;
        }
        let shown = hello.token.as_deref().unwrap_or_default();
        if tokens.accept(&hello.server_type, shown) { Trust::Token } else { Trust::Refused }
    }

    /// Judges a server whose link had broken; `known` tells whether its id has ever shown a valid token.
    pub(crate) fn reconnect(&self, hello: &MonitorHello, from: IpAddr, known: impl FnOnce() -> bool) -> Trust {
        match self.register(hello, from) {
            Trust::Refused if self.rules.load().config.reconnect == ReconnectPolicy::Open || known() => {
                Trust::Tolerated
            }
            trust => trust,
        }
    }

    /// The level of the user, if name and password are right.
    pub(crate) fn log_in(&self, hello: &ClientHello) -> Option<u32> {
        let rules = self.rules.load();
        let user = rules.users.find(&hello.username);
        // An unknown user costs the same comparison.
        let stored = user.map_or("", |user| user.password.expose());
        let right = if hello.md5 {
            Secret::from(md5_hex(stored)).matches(&hello.password)
        } else {
            Secret::from(stored.to_owned()).matches(&hello.password)
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
            Some(earlier) => self.rules.load().penalty(earlier.count),
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
            failures.retain(|_, earlier| now.duration_since(earlier.last) < FORGIVEN_EARLY);
        }
        if failures.len() < REMEMBERED_FAILURES {
            let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
    }
}

impl Rules {
    fn new(users: Users, tokens: Option<Tokens>, config: AuthConfig) -> Rules {
        if config.reconnect == ReconnectPolicy::Open && tokens.is_some() {
            tracing::warn!(
                "auth.reconnect = \"open\": every peer can take the place of any server that is away, without a token. \
                 Set it back to \"known\" when the fleet has moved over."
            );
        }
        Rules { users, tokens, config }
    }

    /// By how much an answer is late after so many failures. Never a lock-out, or an enemy could lock out the operator.
    fn penalty(&self, failures: u32) -> Duration {
        let AuthConfig { slow_from, slow_first, slow_longest, .. } = &self.config;
        match (failures as usize + 1).checked_sub(*slow_from) {
            None => Duration::ZERO,
            Some(beyond) => slow_first.saturating_mul(1 << beyond.min(20)).min(*slow_longest),
        }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::Map;

    use super::*;
    use crate::config::{Token, User};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn config(reconnect: ReconnectPolicy) -> AuthConfig {
        let (slow_first, slow_longest) = (Duration::from_millis(250), Duration::from_secs(5));
        AuthConfig { reconnect, slow_from: 5, slow_first, slow_longest }
    }

    fn auth(reconnect: ReconnectPolicy) -> Auth {
        let secret = |text: &str| Secret::from(text.to_owned());
        let user = User { id: String::new(), username: "admin".into(), password: secret("admin"), level: 1 };
        let token = Token { server_type: "chat".into(), token: secret("secret") };
        Auth::new(vec![user].into(), Some(vec![token].into()), config(reconnect))
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
        let auth = auth(ReconnectPolicy::Known);
        assert_eq!(auth.log_in(&client("admin", false)), Some(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", true)), Some(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", false)), None);
        assert_eq!(auth.log_in(&client("Admin", false)), None);
        let nobody = ClientHello { username: "nobody".into(), ..client("", false) };
        assert_eq!(auth.log_in(&nobody), None, "an unknown user has no empty password");
    }

    #[test]
    fn a_token_opens_for_its_type_only() {
        let auth = auth(ReconnectPolicy::Known);
        assert_eq!(auth.register(&server("chat", Some("secret")), THERE), Trust::Token);
        assert_eq!(auth.register(&server("gate", Some("secret")), THERE), Trust::Refused);
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Refused);
    }

    #[test]
    fn only_from_this_machine_does_a_master_need_no_token() {
        let auth = auth(ReconnectPolicy::Known);
        assert_eq!(auth.register(&server("master", None), HERE), Trust::Tolerated);
        assert_eq!(auth.register(&server("master", None), THERE), Trust::Refused);
    }

    #[test]
    fn reconnecting_needs_a_token_or_a_past() {
        let auth = auth(ReconnectPolicy::Known);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Refused);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || true), Trust::Tolerated);
        assert_eq!(auth.reconnect(&server("chat", Some("secret")), THERE, || false), Trust::Token);
    }

    #[test]
    fn the_open_door_is_a_switch() {
        let auth = auth(ReconnectPolicy::Open);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Tolerated);
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Refused);
    }

    #[test]
    fn without_a_token_table_everybody_is_tolerated() {
        let auth = Auth::new(Users::default(), None, config(ReconnectPolicy::Known));
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Tolerated);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Tolerated);
        assert_eq!(auth.log_in(&client("admin", false)), None, "but nobody can log in");
    }

    #[test]
    fn repeated_failures_cost_time_and_success_forgives() {
        let auth = auth(ReconnectPolicy::Known);
        let now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..11 {
            delays.push(auth.delay(THERE, "admin", now).as_millis());
            auth.judged(THERE, "admin", false, now);
        }
        assert_eq!(delays, [0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(auth.delay(HERE, "admin", now), Duration::ZERO, "another address does not pay for it");
        assert_eq!(auth.delay(THERE, "admin", now + FORGIVEN_AFTER * 2), Duration::ZERO);
        auth.judged(THERE, "admin", false, now);
        auth.judged(THERE, "admin", true, now);
        assert_eq!(auth.delay(THERE, "admin", now), Duration::ZERO);
    }
}

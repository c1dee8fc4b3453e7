//! Who may come in, and as what.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    config::{AuthConfig, Login, Password, ReconnectPolicy, Tokens, Users},
    wire::handshake::{ClientHello, MonitorHello},
};

/// After this time without a failure all is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// When there are too many of them, after this time.
const FORGIVEN_EARLY: Duration = Duration::from_secs(10);
/// Pairs of address and user that are remembered; beyond it the oldest are forgiven early.
const REMEMBERED_FAILURES: usize = 16 * 1024;

/// Hashes that are computed at a time: each takes a core, and 19 MiB.
const HASHES: usize = 2;

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
    hashing: Arc<Semaphore>,
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Name and password are right; the level of the user.
    In(u32),
    /// They are not.
    Wrong,
    /// The user's hash cannot be compared with what was shown.
    OtherForm,
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
        Auth {
            rules: ArcSwap::from_pointee(Rules::new(users, tokens, config)),
            failures: Mutex::default(),
            hashing: Arc::new(Semaphore::new(HASHES)),
        }
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

    /// Judges name and password.
    ///
    /// Where one user's password is a hash, every login costs one, so that nobody learns from the time who has which.
    pub(crate) async fn log_in(&self, hello: &ClientHello) -> Verdict {
        let rules = self.rules.load_full();
        let user = rules.users.find(&hello.username);
        let judged = |login| match (login, user) {
            (Login::Right, Some(user)) => Verdict::In(user.level),
            (Login::OtherForm, Some(_)) => Verdict::OtherForm,
            (Login::Right | Login::Wrong | Login::OtherForm, _) => Verdict::Wrong,
        };
        let Some(stand_in) =
            rules.users.iter().map(|user| &user.password).find(|kept| matches!(kept, Password::Hashed(_)))
        else {
            // An unknown user costs the same comparison.
            let nobody = Password::Plain(String::new().into());
            return judged(user.map_or(&nobody, |user| &user.password).compare(&hello.password, hello.md5));
        };
        let stand_in = stand_in.clone();
        let kept = user.map(|user| user.password.clone());
        let (shown, md5) = (hello.password.clone(), hello.md5);
        let Ok(turn) = self.hashing.clone().acquire_owned().await else { return Verdict::Wrong };
        let compared = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let login = kept.as_ref().map(|kept| kept.compare(&shown, md5));
            if !matches!((&kept, login), (Some(Password::Hashed(_)), Some(Login::Right | Login::Wrong)))
                && let Password::Hashed(hash) = &stand_in
            {
                std::hint::black_box(hash.matches(&shown));
            }
            login.unwrap_or(Login::Wrong)
        });
        compared.await.map_or(Verdict::Wrong, judged)
    }

    /// How long a login has to wait, by the failures before it. It counts as one until it has [succeeded](Self::succeeded),
    /// so that guesses which are made at the same time wait for each other's sake.
    pub(crate) fn attempt(&self, from: IpAddr, user: &str, now: Instant) -> Duration {
        let mut failures = self.failures.lock();
        if failures.len() >= REMEMBERED_FAILURES {
            failures.retain(|_, earlier| now.duration_since(earlier.last) < FORGIVEN_EARLY);
        }
        if failures.len() >= REMEMBERED_FAILURES {
            return self.rules.load().config.slow_longest;
        }
        let entry = failures.entry((from, user.to_owned())).or_insert(Failures { count: 0, last: now });
        if now.duration_since(entry.last) > FORGIVEN_AFTER {
            entry.count = 0;
        }
        let delay = self.rules.load().penalty(entry.count);
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        delay
    }

    /// Forgives all failures of somebody who knew the password in the end.
    pub(crate) fn succeeded(&self, from: IpAddr, user: &str) {
        self.failures.lock().remove(&(from, user.to_owned()));
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
        let plain = users.iter().filter(|user| matches!(user.password, Password::Plain(_))).count();
        if plain > 0 {
            tracing::warn!(
                users = plain,
                "adminUser.json keeps passwords in plain text; `muster user passwd NAME` puts a hash in place of one, with \
                 which pomelo-cli can log in as well"
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
    use crate::config::{Secret, Token, User};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn config(reconnect: ReconnectPolicy) -> AuthConfig {
        let (slow_first, slow_longest) = (Duration::from_millis(250), Duration::from_secs(5));
        AuthConfig { reconnect, slow_from: 5, slow_first, slow_longest }
    }

    fn auth(reconnect: ReconnectPolicy) -> Auth {
        let secret = |text: &str| Secret::from(text.to_owned());
        let password = Password::Plain(secret("admin"));
        let user = User { id: String::new(), username: "admin".into(), password, level: 1 };
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

    #[tokio::test]
    async fn a_password_is_right_plain_or_as_md5() {
        let auth = auth(ReconnectPolicy::Known);
        assert_eq!(auth.log_in(&client("admin", false)).await, Verdict::In(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", true)).await, Verdict::In(1));
        assert_eq!(auth.log_in(&client("21232f297a57a5a743894a0e4a801fc3", false)).await, Verdict::Wrong);
        assert_eq!(auth.log_in(&client("Admin", false)).await, Verdict::Wrong);
        let nobody = ClientHello { username: "nobody".into(), ..client("", false) };
        assert_eq!(auth.log_in(&nobody).await, Verdict::Wrong, "an unknown user has no empty password");
    }

    #[tokio::test]
    async fn row_29_beside_a_hash_plain_passwords_and_unknown_users_are_judged_as_before() {
        let user = |username: &str, text: &str, level| {
            let password = Password::of(text).unwrap();
            User { id: String::new(), username: username.into(), password, level }
        };
        let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";
        let users = vec![user("admin", "admin", 1), user("hashed", hash, 2)];
        let auth = Auth::new(users.into(), None, config(ReconnectPolicy::Known));
        let as_user = |username: &str, hello: ClientHello| ClientHello { username: username.into(), ..hello };
        assert_eq!(auth.log_in(&client("admin", false)).await, Verdict::In(1));
        assert_eq!(auth.log_in(&client("secret", false)).await, Verdict::Wrong, "that of somebody else");
        assert_eq!(auth.log_in(&as_user("hashed", client("secret", false))).await, Verdict::In(2));
        assert_eq!(auth.log_in(&as_user("hashed", client("admin", true))).await, Verdict::OtherForm);
        assert_eq!(auth.log_in(&as_user("nobody", client("secret", false))).await, Verdict::Wrong);
        assert_eq!(auth.log_in(&as_user("nobody", client("secret", true))).await, Verdict::Wrong);
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

    #[tokio::test]
    async fn without_a_token_table_everybody_is_tolerated() {
        let auth = Auth::new(Users::default(), None, config(ReconnectPolicy::Known));
        assert_eq!(auth.register(&server("chat", None), THERE), Trust::Tolerated);
        assert_eq!(auth.reconnect(&server("chat", None), THERE, || false), Trust::Tolerated);
        assert_eq!(auth.log_in(&client("admin", false)).await, Verdict::Wrong, "but nobody can log in");
    }

    #[test]
    fn row_29_repeated_failures_cost_time_and_success_forgives() {
        let auth = auth(ReconnectPolicy::Known);
        let now = Instant::now();
        let delays: Vec<_> = (0..11).map(|_| auth.attempt(THERE, "admin", now).as_millis()).collect();
        assert_eq!(delays, [0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(auth.attempt(HERE, "admin", now), Duration::ZERO, "another address does not pay for it");
        assert_eq!(auth.attempt(THERE, "other", now), Duration::ZERO, "nor does another user");
        assert_eq!(auth.attempt(THERE, "admin", now + FORGIVEN_AFTER * 2), Duration::ZERO);
        auth.attempt(THERE, "admin", now);
        auth.succeeded(THERE, "admin");
        assert_eq!(auth.attempt(THERE, "admin", now), Duration::ZERO);
    }
}

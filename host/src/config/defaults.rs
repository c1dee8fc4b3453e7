//! The defaults, each with its reason. `muster.sample.toml` shows them all.

use std::time::Duration;

use super::Address;

/// pomelo's own default.
pub const ENV: &str = "development";

/// pomelo's port, on this machine only: whoever opens it to a network should mean it.
pub fn listen() -> Address {
    Address::new("127.0.0.1", 3005)
}

/// The id of the master's own monitor when master.json does not tell: pomelo's templates have it.
pub const MASTER_ID: &str = "master-server-1";

/// A hello with a large `info` is some kB. Nobody may make the master hold more before it knows them.
pub const PACKET_BEFORE_LOGIN: usize = 64 << 10;
/// Settings and heap snapshots of some hundred kB are in use, with an order of magnitude to spare.
pub const PACKET_AFTER_LOGIN: usize = 16 << 20;
/// Real peers send CONNECT in the same moment; a slow link needs a second.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Real peers register right after CONNACK; a starting process may be busy for some seconds.
pub const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// A thousand servers behind one address may come back at once; more than that is an attack.
pub const UNREGISTERED_PER_ADDRESS: usize = 1024;
/// Two of the largest packets: a peer that has not read these will not read more.
pub const OUTBOX: usize = 32 << 20;
/// A peer that reads nothing at all for this long is stuck; a busy Node process pauses for a second or two.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// More than any module of pomelo needs (the console's list takes up to 10 s), and shorter than people wait.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// A link that breaks is back within this time or the caller has given up anyhow.
pub const REPUSH_WINDOW: Duration = Duration::from_secs(10);
/// Unanswered requests kept per server: ten times what a console does in the window.
pub const REMEMBERED: usize = 1024;

/// pomelo-rpc's own: a server that does not answer is found within half a minute.
pub const RPC_KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls are sent at once, as by pomelo's default: collecting them is for thousands a second.
pub const RPC_BUFFER: Duration = Duration::ZERO;

/// The first four failed logins of an address and user cost nothing: people mistype.
pub const SLOW_FROM: usize = 5;
/// From then on answers are late, first by this: hardly felt by people, felt by programs that guess.
pub const SLOW_FIRST: Duration = Duration::from_millis(250);
/// Doubling up to this: never a lock-out, which would let anybody lock an administrator out.
pub const SLOW_LONGEST: Duration = Duration::from_secs(5);

/// The original's first wait.
pub const RECONNECT_FIRST: Duration = crate::link::backoff::FIRST;
/// The original's longest wait.
pub const RECONNECT_LONGEST: Duration = crate::link::backoff::LONGEST;

/// Twice the same content at this distance: nobody is writing any more.
pub const SETTLE: Duration = Duration::from_millis(100);
/// Vetting takes tens of ms; a constructor that loops must not hold the start for long.
pub const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(2);
/// Deployments delete and create again; within this time it is a replacement.
pub const GONE_AFTER: Duration = Duration::from_secs(2);
/// How long calls of an old generation may take to end: most take ms, and the new one serves already.
pub const DRAIN: Duration = Duration::from_secs(5);
/// What each step of a hand-over may take: what the old one has begun, its export, the import of the new one.
pub const HANDOVER: Duration = crate::plugin::HANDOVER;
/// How large the state of a module may be.
pub const STATE_LIMIT: usize = crate::plugin::STATE_LIMIT;
/// How long the old generation is kept warm beside the new one: faults of a new version show in its first calls.
pub const PROBATION: Duration = crate::plugin::PROBATION;
/// Whoever may write a plugin may do all that the daemon may.
pub const STRICT: bool = true;
/// An old version has the faults that the new one was made for: to go back is a decision.
pub const ALLOW_DOWNGRADE: bool = false;
/// How many calls of a new generation have to have ended before its errors and times are judged.
pub const ROLLBACK_CALLS: usize = crate::plugin::probation::CALLS;
/// One panic may be a caller's fault, so many are not.
pub const ROLLBACK_PANICS: usize = crate::plugin::probation::PANICS;
/// How many percent of calls more than before may fail.
pub const ROLLBACK_ERRORS: usize = crate::plugin::probation::ERRORS;
/// How many times slower than before calls may be.
pub const ROLLBACK_SLOWER: usize = crate::plugin::probation::SLOWER;
/// So many generations of one file that could not be unmapped are no accident.
pub const STILL_MAPPED_CAP: usize = crate::plugin::STILL_MAPPED_CAP;
/// A handler that keeps its thread for longer makes others of its library wait so that people notice.
pub const SLOW: Duration = crate::modules::presence::SLOW;

/// What operators want to read; modules may be quiet or loud by `muster=info,echo=debug`.
pub const LOG_LEVEL: &str = "info";

/// Shorter than what service managers wait before they kill.
pub const GRACE: Duration = Duration::from_secs(5);

/// A program that fails once is back before people notice.
pub const RESTART_FIRST: Duration = Duration::from_secs(1);
/// One that waits for something, such as a database, finds it within a minute.
pub const RESTART_LONGEST: Duration = Duration::from_secs(60);
/// With pauses of 1, 2, 4, 8 and 16 s: what fails for the sixth time in [`RESTART_WITHIN`] does not heal by itself.
pub const RESTART_LIMIT: usize = 5;
/// See [`RESTART_LIMIT`].
pub const RESTART_WITHIN: Duration = Duration::from_secs(120);
/// What service managers and container runtimes give to a server.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// An editor still opens it.
pub const LOG_SIZE: usize = 16 << 20;
/// With the current one, some 100 MiB per stream.
pub const LOG_FILES: usize = 5;

/// As pomelo starts its servers.
pub const START_COMMAND: [&str; 5] = ["node", "{args}", "app.js", "env={env}", "{fields}"];
/// Nobody is there to type a password.
pub const START_SSH: [&str; 3] = ["ssh", "-o", "BatchMode=yes"];

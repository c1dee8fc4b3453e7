//! The life of one file in the plugin directory: pure policy, no tasks, no clock, no files.
//!
//! ```text
//!          look       vetted        created      started        gone for 2 s      unloaded
//!   (new) ─────→ Seen ─────→ Checked ─────→ Loaded ─────→ Running ─────→ Draining ─────→ Retired
//!                  │            │             │             │  ↑
//!                  └────────────┴─────────────┴→ Refused    └──┘ replaced: the same steps beside it
//! ```
//! A file that runs stays *Running* while its replacement is vetted and started, and when that is refused; the reason is
//! kept until the file is good again. What is judged is content: a file that only looks different is not tried again.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::{preflight::Refused, stage::ContentHash, watch::Fingerprint};

/// Where a file is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It is there; waiting until it rests, or being vetted.
    Seen,
    /// It may be loaded.
    Checked,
    /// Its library is open and the plugin created.
    Loaded,
    /// Its modules are served.
    Running,
    /// It is gone, and ends what it has begun.
    Draining,
    /// It was unloaded, but something of it is still mapped.
    Retired,
    /// It must not be loaded.
    Refused,
}

/// What is to be done about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Wait until it rests, and vet it.
    Vet,
    /// Unload what runs.
    Unload,
    /// There is nothing left of it.
    Forget,
}

/// How vetting ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It is not there any more.
    Gone,
    /// Its content is what runs.
    Unchanged(Fingerprint),
    /// Its content is what was refused before.
    StillRefused(Fingerprint),
    /// It may be loaded.
    Passed(Fingerprint),
    /// It must not be loaded. Content that was never read as a whole has no hash.
    Refused(Fingerprint, Option<ContentHash>, Refused),
}

/// The life of one file.
#[derive(Debug)]
pub(crate) struct Life {
    state: State,
    since: SystemTime,
    /// What it looked like when its content was judged.
    judged: Option<Fingerprint>,
    gone_since: Option<Instant>,
    attempt: Option<Attempt>,
    serving: Option<ContentHash>,
    unloading: bool,
    refused: Option<(Option<ContentHash>, Refused)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Vetting,
    Starting { created: bool },
}

// === impl Life ===

impl Life {
    /// A file that nobody has looked at.
    pub(crate) fn new(now: SystemTime) -> Life {
        Life {
            state: State::Seen,
            since: now,
            judged: None,
            gone_since: None,
            attempt: None,
            serving: None,
            unloading: false,
            refused: None,
        }
    }

    /// Where it is, and since when.
    pub(crate) fn state(&self) -> (State, SystemTime) {
        (self.state, self.since)
    }

    /// Why its content is not served. Kept beside a generation that goes on.
    pub(crate) fn refusal(&self) -> Option<&Refused> {
        self.refused.as_ref().map(|(_, refused)| refused)
    }

    /// The content that is served.
    pub(crate) fn serving(&self) -> Option<ContentHash> {
        self.serving
    }

    /// The content that was refused.
    pub(crate) fn refused_content(&self) -> Option<ContentHash> {
        self.refused.as_ref().and_then(|(hash, _)| *hash)
    }

    /// Whether nothing is under way, so that it will stay as it is.
    pub(crate) fn is_settled(&self) -> bool {
        self.attempt.is_none() && !self.unloading && (self.judged.is_some() || self.gone_since.is_some())
    }

    /// Somebody looked at the file. `None`: it is not there.
    pub(crate) fn look(&mut self, look: Option<Fingerprint>, now: Instant, gone_after: Duration) -> Option<Order> {
        let Some(fingerprint) = look else { return self.miss(now, gone_after) };
        self.gone_since = None;
        if self.attempt.is_some() || self.unloading || self.judged == Some(fingerprint) {
            return None;
        }
        self.attempt = Some(Attempt::Vetting);
        Some(Order::Vet)
    }

    fn miss(&mut self, now: Instant, gone_after: Duration) -> Option<Order> {
        let since = *self.gone_since.get_or_insert(now);
        if self.attempt.is_some() || self.unloading || now.saturating_duration_since(since) < gone_after {
            return None;
        }
        if self.serving.is_none() {
            self.refused = None;
            return Some(Order::Forget);
        }
        self.unloading = true;
        Some(Order::Unload)
    }

    /// When somebody should look again, if the file stays away.
    pub(crate) fn gone_at(&self, gone_after: Duration) -> Option<Instant> {
        self.gone_since
            .filter(|_| !self.unloading && self.attempt.is_none() && self.state != State::Retired)
            .map(|since| since + gone_after)
    }

    /// The next look judges anew, whatever was judged before.
    pub(crate) fn reconsider(&mut self) {
        self.judged = None;
        if let Some((hash, _)) = &mut self.refused {
            *hash = None;
        }
    }

    /// Vetting has ended.
    pub(crate) fn vetted(&mut self, verdict: Verdict) {
        self.attempt = None;
        match verdict {
            Verdict::Gone => {}
            Verdict::Unchanged(fingerprint) => {
                self.judged = Some(fingerprint);
                // Whatever was refused meanwhile has been taken back.
                self.refused = None;
            }
            Verdict::StillRefused(fingerprint) => self.judged = Some(fingerprint),
            Verdict::Passed(fingerprint) => {
                self.judged = Some(fingerprint);
                self.attempt = Some(Attempt::Starting { created: false });
            }
            Verdict::Refused(fingerprint, hash, refused) => {
                self.judged = Some(fingerprint);
                self.refused = Some((hash, refused));
            }
        }
    }

    /// The plugin of the new generation exists.
    pub(crate) fn created(&mut self) {
        if let Some(Attempt::Starting { created }) = &mut self.attempt {
            *created = true;
        }
    }

    /// The new generation is served.
    pub(crate) fn started(&mut self, hash: ContentHash) {
        self.attempt = None;
        self.serving = Some(hash);
        self.refused = None;
    }

    /// The new generation did not come to be served; what ran before goes on.
    pub(crate) fn failed(&mut self, hash: ContentHash, refused: Refused) {
        self.attempt = None;
        self.refused = Some((Some(hash), refused));
    }

    /// What ran has to go, for a reason that is not the file's disappearance.
    pub(crate) fn displaced(&mut self, refused: Refused) {
        self.refused = Some((self.serving, refused));
        self.unloading = true;
    }

    /// What ran is gone.
    pub(crate) fn retired(&mut self) {
        self.unloading = false;
        self.serving = None;
        if self.gone_since.is_some() {
            // If it comes back, it is a new file.
            self.judged = None;
            self.refused = None;
        }
    }

    /// Brings the published state up to date.
    pub(crate) fn refresh(&mut self, now: SystemTime) {
        let state = match (self.attempt, self.serving) {
            _ if self.unloading => State::Draining,
            (_, Some(_)) => State::Running,
            (Some(Attempt::Starting { created: true }), None) => State::Loaded,
            (Some(Attempt::Starting { created: false }), None) => State::Checked,
            // Until the verdict, what was said of it before stands.
            (Some(Attempt::Vetting), None) if self.refused.is_some() => State::Refused,
            (Some(Attempt::Vetting), None) => State::Seen,
            (None, None) if self.refused.is_some() => State::Refused,
            (None, None) if self.gone_since.is_some() => State::Retired,
            (None, None) => State::Seen,
        };
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
    }
}

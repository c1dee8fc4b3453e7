//! The life of one file in the plugin directory: pure policy, no tasks, no clock, no files.
//!
//! ```text
//!          look       vetted        created      started        gone for 2 s      unloaded
//!   (new) ─────→ Seen ─────→ Checked ─────→ Loaded ─────→ Running ─────→ Draining ─────→ Retired
//!                  │            │             │             │  ↑
//!                  └────────────┴─────────────┴→ Refused    └──┘ replaced: the same steps beside it
//! ```
//! What was refused because the daemon died of it is *Quarantined*; a file whose new content did worse than its old one is
//! *rolled back*: the old one runs. A file that runs stays *Running* while its replacement is vetted and started, and when that is refused; the reason is
//! kept until the file is good again. What is judged is content: a file that only looks different is not tried again.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::{preflight::Refused, refusal::Refusal, settle::ContentHash, watch::Fingerprint};

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
    /// Its modules would be served, but a handler does not return.
    Hung,
    /// It is gone, and ends what it has begun.
    Draining,
    /// It was unloaded, but something of it is still mapped.
    Retired,
    /// It must not be loaded.
    Refused,
    /// It is not loaded, because an administrator said so.
    Disabled,
    /// It must not be loaded again: the daemon died of it, or its workers did, too often.
    Quarantined,
    /// An older content of it is served, because this one did worse.
    #[serde(rename = "rolled back")]
    RolledBack,
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
    unloading: Option<Unloading>,
    refused: Option<(Option<ContentHash>, Refused)>,
    /// It is not to be loaded until it is enabled.
    disabled: bool,
    /// It is to be loaded again, also if it is the same.
    reload: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unloading {
    /// Its file is gone: what comes back is a new one.
    Gone,
    /// An administrator said so: when it is enabled it is a new one.
    Disabled,
    /// It had to give way: its content has been judged.
    Displaced,
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
            unloading: None,
            refused: None,
            disabled: false,
            reload: false,
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
    #[cfg(test)]
    pub(crate) fn serving(&self) -> Option<ContentHash> {
        self.serving
    }

    /// The content that was refused.
    pub(crate) fn refused_content(&self) -> Option<ContentHash> {
        self.refused.as_ref().and_then(|(hash, _)| *hash)
    }

    /// Whether nothing is under way, so that it will stay as it is. With a `directory_missing`, nothing more will be known
    /// of a file.
    pub(crate) fn is_settled(&self, directory_missing: bool) -> bool {
        let waits = self.judged.is_none() || self.reload;
        let is_left_alone = self.gone_since.is_some() || self.disabled || directory_missing;
        self.attempt.is_none() && self.unloading.is_none() && (!waits || is_left_alone)
    }

    /// Somebody looked at the file. `None`: it is not there.
    pub(crate) fn look(&mut self, look: Option<Fingerprint>, now: Instant, gone_after: Duration) -> Option<Order> {
        let Some(fingerprint) = look else { return self.miss(now, gone_after) };
        self.gone_since = None;
        let is_known = self.judged == Some(fingerprint) && !self.reload;
        if self.attempt.is_some() || self.unloading.is_some() || self.disabled || is_known {
            return None;
        }
        self.attempt = Some(Attempt::Vetting);
        Some(Order::Vet)
    }

    fn miss(&mut self, now: Instant, gone_after: Duration) -> Option<Order> {
        let since = *self.gone_since.get_or_insert(now);
        if self.attempt.is_some() || self.unloading.is_some() || now.saturating_duration_since(since) < gone_after {
            return None;
        }
        if self.serving.is_none() {
            self.refused = None;
            return Some(Order::Forget);
        }
        self.unloading = Some(Unloading::Gone);
        Some(Order::Unload)
    }

    /// When somebody should look again, if the file stays away.
    pub(crate) fn gone_at(&self, gone_after: Duration) -> Option<Instant> {
        self.gone_since
            .filter(|_| self.unloading.is_none() && self.attempt.is_none() && self.state != State::Retired)
            .map(|since| since + gone_after)
    }

    /// Whether the file looks as it did when it was judged, for one that is not to be judged. It is there.
    pub(crate) fn look_only(&mut self, fingerprint: Fingerprint) -> bool {
        self.gone_since = None;
        self.judged == Some(fingerprint)
    }

    /// The next look judges anew, whatever was judged before; but what was rolled back has to change first.
    pub(crate) fn reconsider(&mut self) {
        self.judged = None;
        if let Some((hash, refused)) = &mut self.refused
            && !matches!(refused.refusal, Refusal::RolledBack { .. })
        {
            *hash = None;
        }
    }

    /// The next look leads to a new generation, also of the same content.
    pub(crate) fn reload(&mut self) {
        self.reconsider();
        self.reload = true;
    }

    /// Whether a new generation is being started.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.attempt, Some(Attempt::Starting { .. }))
    }

    /// What vetting need not be done for, because it is served.
    pub(crate) fn take_known(&mut self) -> Option<ContentHash> {
        let reload = std::mem::take(&mut self.reload);
        self.serving.filter(|_| !reload)
    }

    /// It is not loaded any more; what is under way leads to nothing.
    pub(crate) fn disable(&mut self) -> Option<Order> {
        self.disabled = true;
        (self.judged, self.refused, self.reload) = (None, None, false);
        if self.serving.is_none() || self.unloading.is_some() {
            return None;
        }
        self.unloading = Some(Unloading::Disabled);
        Some(Order::Unload)
    }

    /// It is loaded again.
    pub(crate) fn enable(&mut self) {
        self.disabled = false;
    }

    /// Whether it is not to be loaded.
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// What was under way has come to nothing.
    pub(crate) fn abandoned(&mut self) {
        (self.attempt, self.judged) = (None, None);
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

    /// What was served before is served again: the new content did worse.
    pub(crate) fn rolled_back(&mut self, to: ContentHash, from: ContentHash, refused: Refused) {
        self.serving = Some(to);
        self.refused = Some((Some(from), refused));
    }

    /// What ran has to go, for a reason that is not the file's disappearance.
    pub(crate) fn displaced(&mut self, refused: Refused) {
        self.refused = Some((self.serving, refused));
        self.unloading = Some(Unloading::Displaced);
    }

    /// What ran is gone.
    pub(crate) fn retired(&mut self) {
        self.serving = None;
        if matches!(self.unloading.take(), Some(Unloading::Gone | Unloading::Disabled)) {
            self.judged = None;
            self.refused = None;
        }
    }

    /// Brings the published state up to date.
    pub(crate) fn refresh(&mut self, now: SystemTime) {
        let refused = |expected: fn(&Refusal) -> bool| self.refusal().is_some_and(|refused| expected(&refused.refusal));
        let rolled_back = refused(|refusal| matches!(refusal, Refusal::RolledBack { .. }));
        let quarantined = refused(|refusal| matches!(refusal, Refusal::Quarantined(_)));
        let state = match (self.attempt, self.serving) {
            _ if self.unloading.is_some() => State::Draining,
            (_, Some(_)) if rolled_back => State::RolledBack,
            (_, Some(_)) => State::Running,
            (Some(Attempt::Starting { created: true }), None) => State::Loaded,
            (Some(Attempt::Starting { created: false }), None) => State::Checked,
            _ if self.disabled => State::Disabled,
            (Some(Attempt::Vetting) | None, None) if quarantined => State::Quarantined,
            // Until the verdict, what was said of it before stands.
            (Some(Attempt::Vetting), None) if self.refused.is_some() => self.kind_of_refusal(),
            (Some(Attempt::Vetting), None) => State::Seen,
            (None, None) if self.refused.is_some() => self.kind_of_refusal(),
            (None, None) if self.gone_since.is_some() => State::Retired,
            (None, None) => State::Seen,
        };
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
    }

    fn kind_of_refusal(&self) -> State {
        match self.refusal() {
            Some(Refused { refusal: Refusal::Quarantined(_), .. }) => State::Quarantined,
            _ => State::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Duration = Duration::from_secs(2);

    /// A file in the hands of a supervisor that does as it is told.
    struct Case {
        life: Life,
        begin: Instant,
        wall: SystemTime,
    }

    impl Case {
        fn new() -> Case {
            let wall = SystemTime::UNIX_EPOCH;
            Case { life: Life::new(wall), begin: Instant::now(), wall }
        }

        fn look(&mut self, look: Option<Fingerprint>, at: u64) -> Option<Order> {
            self.life.look(look, self.begin + Duration::from_millis(at), GONE)
        }

        #[track_caller]
        fn is(&mut self, state: State) {
            self.wall += Duration::from_secs(1);
            self.life.refresh(self.wall);
            assert_eq!(self.life.state().0, state);
        }

        /// Through all steps, to a generation that runs.
        fn run(&mut self, look: u8) {
            assert_eq!(self.look(Some(fingerprint(look)), 0), Some(Order::Vet));
            self.life.vetted(Verdict::Passed(fingerprint(look)));
            self.life.created();
            self.life.started(hash(look));
            self.is(State::Running);
        }
    }

    fn fingerprint(size: u8) -> Fingerprint {
        Fingerprint::of_size(size.into())
    }

    fn hash(content: u8) -> ContentHash {
        ContentHash::of(&[content])
    }

    fn refused() -> Refused {
        Refusal::NoModuleSymbol.into()
    }

    #[test]
    fn a_good_file_goes_through_all_states() {
        let mut case = Case::new();
        assert_eq!(case.look(Some(fingerprint(1)), 0), Some(Order::Vet));
        case.is(State::Seen);
        case.life.vetted(Verdict::Passed(fingerprint(1)));
        case.is(State::Checked);
        case.life.created();
        case.is(State::Loaded);
        case.life.started(hash(1));
        case.is(State::Running);
        assert_eq!(case.look(None, 0), None);
        case.is(State::Running);
        assert_eq!(case.look(None, 2_000), Some(Order::Unload));
        case.is(State::Draining);
        case.life.retired();
        case.is(State::Retired);
        assert_eq!(case.look(None, 2_001), Some(Order::Forget));
    }

    #[test]
    fn one_attempt_is_made_at_a_time_and_the_newest_look_gets_the_next() {
        let mut case = Case::new();
        assert_eq!(case.look(Some(fingerprint(1)), 0), Some(Order::Vet));
        assert_eq!(case.look(Some(fingerprint(2)), 1), None, "one is under way");
        case.life.vetted(Verdict::Passed(fingerprint(1)));
        assert_eq!(case.look(Some(fingerprint(2)), 2), None, "and still is");
        case.life.started(hash(1));
        assert_eq!(case.look(Some(fingerprint(2)), 3), Some(Order::Vet));
    }

    #[test]
    fn a_refused_replacement_changes_nothing_but_the_reason() {
        let mut case = Case::new();
        case.run(1);
        let since = case.life.state().1;
        case.look(Some(fingerprint(2)), 1);
        case.life.vetted(Verdict::Refused(fingerprint(2), Some(hash(2)), refused()));
        case.is(State::Running);
        assert_eq!(case.life.state().1, since, "it has run all the time");
        assert_eq!(case.life.refusal(), Some(&refused()));
        assert_eq!(case.look(Some(fingerprint(2)), 2), None, "it was judged");
        case.look(Some(fingerprint(3)), 3);
        case.life.vetted(Verdict::Unchanged(fingerprint(3)));
        assert_eq!(case.life.refusal(), None, "what runs is what is there again");
    }

    #[test]
    fn what_fails_to_start_is_refused_and_what_ran_goes_on() {
        let mut case = Case::new();
        case.run(1);
        case.look(Some(fingerprint(2)), 1);
        case.life.vetted(Verdict::Passed(fingerprint(2)));
        case.life.failed(hash(2), refused());
        case.is(State::Running);
        assert_eq!((case.life.serving(), case.life.refused_content()), (Some(hash(1)), Some(hash(2))));
    }

    #[test]
    fn a_file_that_comes_back_in_time_was_never_away() {
        let mut case = Case::new();
        case.run(1);
        assert_eq!(case.look(None, 0), None);
        assert_eq!(case.look(None, 1_999), None);
        assert_eq!(case.look(Some(fingerprint(1)), 1_999), None, "not even looked into");
        assert_eq!(case.look(None, 2_500), None, "the time counts from the last disappearance");
        assert_eq!(case.life.gone_at(GONE), Some(case.begin + Duration::from_millis(4_500)));
    }

    #[test]
    fn a_file_that_comes_back_while_it_drains_is_a_new_one() {
        let mut case = Case::new();
        case.run(1);
        case.look(None, 0);
        assert_eq!(case.look(None, 2_000), Some(Order::Unload));
        assert_eq!(case.look(Some(fingerprint(1)), 2_001), None, "not before the old one is gone");
        case.life.retired();
        assert_eq!(case.look(Some(fingerprint(1)), 2_002), Some(Order::Vet));
    }

    #[test]
    fn an_order_to_rescan_judges_anew_what_was_refused() {
        let mut case = Case::new();
        case.look(Some(fingerprint(1)), 0);
        case.life.vetted(Verdict::Refused(fingerprint(1), Some(hash(1)), refused()));
        case.is(State::Refused);
        assert_eq!(case.look(Some(fingerprint(1)), 1), None);
        case.life.reconsider();
        assert_eq!(case.life.refused_content(), None);
        assert_eq!(case.look(Some(fingerprint(1)), 2), Some(Order::Vet));
        case.is(State::Refused);
    }

    #[test]
    fn a_disabled_file_is_unloaded_and_left_alone_until_it_is_enabled() {
        let mut case = Case::new();
        case.run(1);
        assert_eq!(case.life.disable(), Some(Order::Unload));
        case.is(State::Draining);
        case.life.retired();
        case.is(State::Disabled);
        assert!(case.life.is_settled(false));
        assert_eq!(case.look(Some(fingerprint(2)), 1), None, "not even looked into");
        case.life.enable();
        assert_eq!(case.look(Some(fingerprint(2)), 2), Some(Order::Vet));
        assert_eq!(case.life.disable(), None, "nothing is served yet");
        case.life.vetted(Verdict::Passed(fingerprint(2)));
        case.life.abandoned();
        case.is(State::Disabled);
    }

    #[test]
    fn an_order_to_reload_holds_until_a_look_follows_it() {
        let mut case = Case::new();
        case.run(1);
        case.look(Some(fingerprint(2)), 1);
        case.life.reload();
        case.life.vetted(Verdict::Unchanged(fingerprint(2)));
        assert!(!case.life.is_settled(false), "that was not the reload");
        assert_eq!(case.look(Some(fingerprint(2)), 2), Some(Order::Vet));
        assert_eq!(case.life.take_known(), None, "what is served is loaded again");
        assert_eq!(case.life.take_known(), Some(hash(1)));
    }

    #[test]
    fn what_was_rolled_back_is_not_tried_again_until_the_file_changes() {
        let mut case = Case::new();
        case.run(1);
        case.look(Some(fingerprint(2)), 1);
        case.life.vetted(Verdict::Passed(fingerprint(2)));
        case.life.started(hash(2));
        let why = Refusal::RolledBack { generation: 2, version: "2.0.0".to_owned(), why: "it was slow".to_owned() };
        case.life.rolled_back(hash(1), hash(2), why.into());
        case.is(State::RolledBack);
        assert_eq!((case.life.serving(), case.life.refused_content()), (Some(hash(1)), Some(hash(2))));
        assert_eq!(case.look(Some(fingerprint(2)), 2), None);
        case.life.reconsider();
        assert_eq!(case.life.refused_content(), Some(hash(2)), "an order to rescan does not change the file");
        assert_eq!(case.look(Some(fingerprint(3)), 3), Some(Order::Vet));
        case.life.vetted(Verdict::Passed(fingerprint(3)));
        case.life.started(hash(3));
        case.is(State::Running);
    }

    #[test]
    fn a_file_that_had_to_give_way_is_refused_once_it_is_unloaded() {
        let mut case = Case::new();
        case.run(1);
        case.life.displaced(refused());
        case.is(State::Draining);
        assert!(!case.life.is_settled(false));
        case.life.retired();
        case.is(State::Refused);
        assert!(case.life.is_settled(false));
    }
}

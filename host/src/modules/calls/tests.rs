//! The table by itself: each call ends once, whatever happens to it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    ids::ConnId,
    modules::call::{ClientIdentity, OwnedOutcome},
};

type End = oneshot::Receiver<OwnedOutcome>;

fn call() -> Call {
    let client = ClientIdentity {
        connection: ConnId(1),
        address: ([127, 0, 0, 1], 1).into(),
        id: "c-1".into(),
        user: "admin".to_owned(),
        level: 1,
    };
    let source = Source::Client(Arc::new(client));
    Call { source, body: bytes::Bytes::new(), arrived: Instant::now(), patience_ms: None, responder: None }
}

fn request(calls: &Calls, within: Duration) -> (u64, End) {
    let (responder, end) = oneshot::channel();
    let call = call();
    (calls.begin(1, &call, call.arrived + within, Some(Responder::Channel(responder))), end)
}

fn calls() -> Calls {
    Calls::new(Arc::new([]))
}

const LATER: Duration = Duration::from_secs(15);
const NOTHING: &[u8] = b"";

fn answer(body: &'static [u8]) -> OwnedOutcome {
    OwnedOutcome::Answer { error: bytes::Bytes::new(), body: bytes::Bytes::from_static(body) }
}

#[test]
fn the_first_reply_ends_a_call_and_the_second_is_counted() {
    let calls = calls();
    let (id, mut end) = request(&calls, LATER);
    calls.end(id, status::ANSWER, NOTHING, b"1");
    calls.end(id, status::PANIC, NOTHING, b"2");
    assert_eq!(end.try_recv(), Ok(answer(b"1")));
    let figures = calls.figures();
    let [unclaimed, handled, panics] =
        [&figures.unclaimed, &figures.handled, &figures.panics].map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!((unclaimed, handled, panics, calls.open()), (1, 1, 0, 0), "one handler has ended");
}

#[test]
fn errors_are_handlers_that_failed_and_not_what_stands_in_the_error_slot() {
    let calls = calls();
    for (status, errors) in [(status::ANSWER, 0), (status::ERROR, 1), (status::PANIC, 2), (status::SILENCE, 2)] {
        let (id, _end) = request(&calls, LATER);
        calls.end(id, status, b"{}", NOTHING);
        assert_eq!(calls.figures().errors.load(Ordering::Relaxed), errors, "after status {status}");
    }
    let figures = calls.figures();
    assert_eq!((figures.handled.load(Ordering::Relaxed), figures.first_panic.load(Ordering::Relaxed)), (4, 3));
    assert!(figures.latency.quantile(0.5).is_some());
}

#[test]
fn silence_ends_the_handler_but_not_the_wait() {
    let calls = calls();
    let (id, mut end) = request(&calls, LATER);
    calls.end(id, status::SILENCE, NOTHING, NOTHING);
    assert_eq!(calls.open(), 0, "nothing to drain");
    assert!(end.try_recv().is_err(), "nobody was told anything");
    calls.expire(Instant::now() + LATER);
    assert_eq!(end.try_recv(), Ok(OwnedOutcome::Failed("module ? failed: timed out after 15 s".to_owned())));
}

#[test]
fn a_deadline_ends_the_wait_but_not_the_handler() {
    let calls = calls();
    let (id, mut end) = request(&calls, Duration::ZERO);
    calls.expire(Instant::now());
    assert!(matches!(end.try_recv(), Ok(OwnedOutcome::Failed(_))));
    assert_eq!(calls.open(), 1, "it is still being worked on");
    calls.end(id, status::ANSWER, NOTHING, b"1");
    assert_eq!((calls.open(), calls.figures().unclaimed.load(Ordering::Relaxed)), (0, 1));
}

#[test]
fn a_call_that_is_delivered_late_is_over_when_the_sweep_says_so_and_not_if_the_process_was_stopped() {
    let calls = calls();
    let now = Instant::now();
    let [(late, mut told), (stopped, mut waits)] = [request(&calls, Duration::ZERO), request(&calls, Duration::ZERO)];
    assert!(calls.still_waited_for(stopped, now).is_some(), "nobody has decided yet");
    calls.expire(now + LATER);
    assert!(told.try_recv().is_ok() && waits.try_recv().is_ok());
    assert_eq!((calls.still_waited_for(late, now), calls.open()), (None, 1));
    let (stopped, mut waits) = request(&calls, Duration::ZERO);
    calls.forgive(LATER);
    assert!(calls.still_waited_for(stopped, now).is_some_and(|left| left > Duration::ZERO));
    assert!(waits.try_recv().is_err());
    calls.end(stopped, status::ANSWER, NOTHING, b"1");
    assert_eq!(waits.try_recv(), Ok(answer(b"1")));
}

#[test]
fn deadlines_are_found_whatever_their_order() {
    let calls = calls();
    let now = Instant::now();
    let ends: Vec<End> = [3, 1, 2].map(|s| request(&calls, Duration::from_secs(s)).1).into();
    let mut open: Vec<End> = ends;
    for (seconds, left) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
        calls.expire(now + Duration::from_secs(seconds) + Duration::from_millis(500));
        open.retain_mut(|end| end.try_recv().is_err());
        assert_eq!(open.len(), left, "after {seconds} s");
    }
}

#[test]
fn ending_all_ends_each_that_waits_with_the_reason() {
    let calls = calls();
    let (_, mut first) = request(&calls, LATER);
    let (silent, mut second) = request(&calls, LATER);
    calls.end(silent, status::SILENCE, NOTHING, NOTHING);
    let (ended, mut life) = oneshot::channel();
    calls.begin_life(1, ended, None);
    calls.end_all("gone");
    let gone = OwnedOutcome::Failed("module ? failed: gone".to_owned());
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(gone.clone()), Ok(gone)));
    assert_eq!(life.try_recv(), Ok(Err("gone".to_owned())));
    assert_eq!(calls.open(), 0);
}

#[test]
fn a_call_that_is_lost_ends_with_the_reason_and_is_not_waited_for() {
    let calls = calls();
    let (id, mut end) = request(&calls, LATER);
    let notify = calls.begin(1, &call(), Instant::now() + LATER, None);
    calls.lose(id, "was restarted: it died");
    calls.lose(notify, "was restarted: it died");
    assert_eq!(end.try_recv(), Ok(OwnedOutcome::Failed("module ? was restarted: it died".to_owned())));
    assert_eq!(calls.open(), 0);
    calls.end(id, status::ANSWER, NOTHING, b"1");
    assert_eq!(calls.figures().unclaimed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_tick_lets_the_next_one_come_when_it_ends_or_is_overdue() {
    let calls = calls();
    let under_way = Arc::default();
    let tick = Tick::begin(&under_way).unwrap();
    let id = calls.begin_tick(1, Instant::now() + LATER, tick);
    assert!(Tick::begin(&under_way).is_none());
    calls.end(id, status::SILENCE, NOTHING, NOTHING);
    let tick = Tick::begin(&under_way).expect("the one before has ended");
    calls.begin_tick(1, Instant::now(), tick);
    calls.expire(Instant::now());
    assert!(Tick::begin(&under_way).is_some(), "one that never ends stops the clock for its deadline only");
}

#[tokio::test]
async fn idle_is_reached_when_the_last_handler_ends() {
    let calls = Arc::new(calls());
    let (id, _end) = request(&calls, LATER);
    let notify = calls.begin(1, &call(), Instant::now() + LATER, None);
    let idle = tokio::spawn({
        let calls = calls.clone();
        async move { calls.idle().await }
    });
    tokio::task::yield_now().await;
    calls.end(id, status::ANSWER, NOTHING, NOTHING);
    tokio::task::yield_now().await;
    assert!(!idle.is_finished(), "notifies count");
    calls.end(notify, status::SILENCE, NOTHING, NOTHING);
    idle.await.unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    End(usize, u32),
    Expire,
    EndAll,
    Withdraw,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Begin),
        4 => (0..8_usize, 0..6_u32).prop_map(|(call, status)| Step::End(call, status)),
        1 => Just(Step::Expire),
        1 => Just(Step::EndAll),
        1 => Just(Step::Withdraw),
    ]
}

proptest! {
    /// Whatever a plugin replies, twice, late or never: each call ends once, or is still waited for, or came back.
    #[test]
    fn each_call_ends_exactly_once(steps in proptest::collection::vec(step(), 0..40)) {
        let calls = calls();
        let mut begun: Vec<(u64, End)> = Vec::new();
        let mut returned = Vec::new();
        for step in steps {
            match step {
                Step::Begin => begun.push(request(&calls, Duration::ZERO)),
                Step::End(call, status) => {
                    if let Some((id, _)) = begun.get(call) {
                        calls.end(*id, status, NOTHING, NOTHING);
                    }
                }
                Step::Expire => calls.expire(Instant::now()),
                Step::EndAll => calls.end_all("gone"),
                // Only ever done for a call that was begun just now.
                Step::Withdraw => {
                    let (id, end) = request(&calls, LATER);
                    returned.push((calls.withdraw(id).expect("it has not ended"), end));
                }
            }
        }
        calls.expire(Instant::now());
        for (_, mut end) in begun {
            // A sender that was dropped unused would be a call that was lost.
            prop_assert!(end.try_recv().is_ok());
        }
        calls.end_all("gone");
        prop_assert_eq!(calls.open(), 0);
    }
}

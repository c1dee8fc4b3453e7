//! The queue by itself: what gets in, what is taken out, and who is told.

use std::thread;

use super::*;
use crate::{
    ids::ConnId,
    modules::call::{ClientIdentity, OwnedOutcome, Responder},
};

fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::new(Arc::new(Calls::new(Arc::new([])))))
}

fn notify() -> Call {
    let client = ClientIdentity {
        connection: ConnId(1),
        address: ([127, 0, 0, 1], 1).into(),
        id: "c-1".into(),
        user: "admin".to_owned(),
        level: 1,
    };
    let source = Source::Client(Arc::new(client));
    Call { source, body: Bytes::from_static(b"1"), arrived: Instant::now(), patience_ms: None, responder: None }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(15)
}

fn post(mailbox: &Arc<Mailbox>, call: Call) -> Result<(), Refused> {
    mailbox.post(1, later(), call)
}

fn fill(mailbox: &Arc<Mailbox>) {
    for _ in 0..CAPACITY {
        post(mailbox, notify()).unwrap();
    }
}

#[test]
fn a_full_mailbox_gives_the_call_back_with_the_one_who_waits() {
    let mailbox = mailbox();
    fill(&mailbox);
    let (responder, mut end) = oneshot::channel();
    let call = Call { responder: Some(Responder::Channel(responder)), ..notify() };
    let Err(Refused::Full(back)) = post(&mailbox, call) else { panic!("it is full") };
    assert_eq!(mailbox.calls().open(), CAPACITY, "the one that came back is not counted");
    back.responder.unwrap().end(crate::modules::call::Outcome::Failed("busy"));
    assert_eq!(end.try_recv(), Ok(OwnedOutcome::Failed("busy".to_owned())));
}

#[test]
fn what_handlers_wait_for_gets_into_a_full_mailbox_and_into_one_that_drains() {
    let mailbox = mailbox();
    fill(&mailbox);
    mailbox.complete(1, 7, Ok((b"", b"1")));
    mailbox.drain();
    mailbox.complete(1, 8, Err(RequestError::Timeout("late".to_owned())));
    let mut batch = Vec::new();
    assert!(mailbox.take(&mut batch));
    let ids: Vec<u64> =
        batch.iter().filter_map(|post| if let Post::Complete { id, .. } = post { Some(*id) } else { None }).collect();
    assert_eq!(ids, [7, 8]);
    assert!(matches!(post(&mailbox, notify()), Err(Refused::Closed(_))), "but no calls");
}

#[test]
fn a_closed_mailbox_sends_its_thread_away_and_tells_those_who_ordered_a_stop() {
    let mailbox = mailbox();
    let mut before = mailbox.stop(1);
    mailbox.close();
    let mut after = mailbox.stop(1);
    assert!(!mailbox.take(&mut Vec::new()));
    assert!(before.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    assert!(after.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
}

#[test]
fn a_wake_is_a_turn_without_mail() {
    let mailbox = mailbox();
    let sleeper = thread::spawn({
        let mailbox = mailbox.clone();
        move || {
            let mut batch = Vec::new();
            (mailbox.take(&mut batch), batch.len())
        }
    });
    mailbox.wake();
    assert_eq!(sleeper.join().unwrap(), (true, 0));
}

#[tokio::test]
async fn who_waits_for_space_is_told_when_a_batch_is_taken() {
    let mailbox = mailbox();
    fill(&mailbox);
    let waiter = tokio::spawn({
        let mailbox = mailbox.clone();
        async move { mailbox.space().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    assert!(mailbox.take(&mut Vec::new()));
    waiter.await.unwrap();
    post(&mailbox, notify()).unwrap();
}

#[test]
fn many_senders_lose_nothing_and_wake_the_sleeper() {
    const EACH: usize = 2_000;
    let mailbox = mailbox();
    let taker = thread::spawn({
        let mailbox = mailbox.clone();
        move || {
            let (mut batch, mut taken) = (Vec::new(), 0);
            while taken < 4 * EACH && mailbox.take(&mut batch) {
                taken += batch.drain(..).count();
            }
            taken
        }
    });
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                for _ in 0..EACH {
                    while post(&mailbox, notify()).is_err() {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(taker.join().unwrap(), 4 * EACH);
}

/// What is taken for a turn, by kind.
fn taken(mailbox: &Arc<Mailbox>) -> Vec<u32> {
    mailbox.wake();
    let mut batch = Vec::new();
    assert!(mailbox.take(&mut batch), "it is not closed");
    batch.iter().map(Post::kind).collect()
}

#[test]
fn what_is_held_waits_and_what_an_instance_needs_does_not() {
    let mailbox = mailbox();
    mailbox.hold();
    post(&mailbox, notify()).unwrap();
    mailbox.event(1, Bytes::from_static(b"{}"));
    mailbox.complete(1, 7, Ok((b"", b"1")));
    let asked = mailbox.import(1, Duration::from_secs(1), 3, Bytes::from_static(b"5"));
    assert_eq!(taken(&mailbox), [kind::COMPLETE, kind::IMPORT]);
    assert!(taken(&mailbox).is_empty());
    mailbox.release();
    assert_eq!(taken(&mailbox), [kind::CLIENT, kind::EVENT], "in their order");
    drop(asked);
}

#[test]
fn what_was_held_for_one_generation_comes_first_in_another_with_the_one_who_waits() {
    let [new, old] = [mailbox(), mailbox()];
    let (responder, mut end) = oneshot::channel();
    new.hold();
    new.post(1, later(), Call { responder: Some(Responder::Channel(responder)), ..notify() }).unwrap();
    new.post(2, later(), notify()).unwrap();
    new.post(3, later(), notify()).unwrap();
    old.drain();
    old.hold();
    old.reopen();
    old.post(9, later(), notify()).unwrap();
    new.drain();
    // The other has no instance for 2.
    let back = new.take_back(|number| (number != 2).then_some(number + 10));
    assert_eq!(new.calls().open(), 1, "what stays ends with the new one");
    old.resume(back);
    let mut batch = Vec::new();
    assert!(old.take(&mut batch));
    let calls = batch.iter().map(|post| match post {
        Post::Call { instance, id, .. } => (*instance, *id),
        other => panic!("only calls: {other:?}"),
    });
    let calls: Vec<(u32, u64)> = calls.collect();
    assert_eq!(calls.iter().map(|(instance, _)| *instance).collect::<Vec<_>>(), [11, 13, 9]);
    old.calls().end(calls[0].1, muster_plugin_api::abi::status::ANSWER, b"null", b"1");
    let answer = OwnedOutcome::Answer { error: Bytes::from_static(b"null"), body: Bytes::from_static(b"1") };
    assert_eq!(end.try_recv(), Ok(answer));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_too_large_or_too_late_is_none_and_says_why() {
    let mailbox = mailbox();
    let id_of = |batch: Vec<Post>| batch.iter().find_map(Post::life).expect("a step in a life");
    for (answer, expected) in [
        (Some(&b"12345678"[..]), Ok(Some(Bytes::from_static(b"12345678")))),
        (Some(&b"123456789"[..]), Err("it has 9 bytes, and at most 8 are taken (plugins.state_limit)".to_owned())),
        (None, Err("it had not answered after 1 s (plugins.handover)".to_owned())),
    ] {
        let asked = mailbox.export(1, Duration::from_secs(1), 8);
        let mut batch = Vec::new();
        assert!(mailbox.take(&mut batch));
        let id = id_of(batch);
        if let Some(state) = answer {
            mailbox.calls().end(id, muster_plugin_api::abi::status::ANSWER, b"null", state);
        }
        assert_eq!(asked.answer().await, expected);
        assert_eq!(mailbox.calls().open(), 0, "nobody waits for it any more");
    }
}

#[test]
fn who_waits_for_a_busy_thread_goes_on_when_it_has_nothing_left_to_do() {
    const LONG: Duration = Duration::from_secs(60);
    let (mailbox, begun) = (mailbox(), Instant::now());
    for _ in 1..MANY {
        post(&mailbox, notify()).unwrap();
    }
    mailbox.wait_if_busy(LONG);
    post(&mailbox, notify()).unwrap();
    let waiting = thread::spawn({
        let mailbox = mailbox.clone();
        move || mailbox.wait_if_busy(LONG)
    });
    while mailbox.queue().awaited_by.is_none() {
        thread::yield_now();
    }
    let working = thread::spawn({
        let mailbox = mailbox.clone();
        move || {
            let mut batch = Vec::new();
            assert!(mailbox.take(&mut batch));
            let taken = batch.len();
            batch.clear();
            assert!(!mailbox.take(&mut batch), "it was closed");
            taken
        }
    });
    waiting.join().unwrap();
    assert!(begun.elapsed() < LONG, "it was told");
    mailbox.close();
    assert_eq!(working.join().unwrap(), MANY);
}

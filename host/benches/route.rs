//! What a message costs between the wire and a module, and a broadcast between a module and the wire.
//! `cargo bench -p muster --bench route`.

#![allow(missing_docs, reason = "a bench's name says what it measures")]

use std::{hint::black_box, sync::Arc, thread};

use divan::Bencher;
use muster::hot::{Asked, Fleet};

const BODY: &str = r#"{"pad":"abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01","clientId":"load-client-7","username":"admin"}"#;

fn main() {
    divan::main();
}

/// Route, note, queue, take, answer, encode: all on one thread.
#[divan::bench(args = [1, 16, 800])]
fn requests_pass_through_a_mailbox(bencher: Bencher<'_, '_>, at_once: u64) {
    let asked = Asked::new();
    bencher.counter(at_once).bench_local(|| {
        for id in 1..=at_once {
            assert!(asked.ask(id, black_box(BODY)));
        }
        asked.serve();
        asked.answers()
    });
}

/// The same with the module on a thread of its own: two wakes more.
#[divan::bench(args = [1, 16, 800])]
fn requests_are_answered_by_another_thread(bencher: Bencher<'_, '_>, at_once: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let asked = Arc::new(Asked::new());
    let actor = thread::spawn({
        let asked = asked.clone();
        move || while asked.serve() {}
    });
    assert!(asked.ask(1, BODY));
    runtime.block_on(asked.answered());
    let one = asked.answers() as u64;
    bencher.counter(at_once).bench_local(|| {
        for _ in 0..at_once {
            assert!(asked.ask(1, black_box(BODY)));
        }
        let mut left = at_once * one;
        while left > 0 {
            runtime.block_on(asked.answered());
            left -= asked.answers() as u64;
        }
    });
    asked.close();
    actor.join().expect("it does not panic");
}

/// Encoded once; a copy or a reference for each.
#[divan::bench(args = [1000, 5000])]
fn a_fleet_is_notified(bencher: Bencher<'_, '_>, servers: usize) {
    let fleet = Fleet::new(servers);
    fleet.taken();
    bencher.counter(servers).bench_local(|| {
        assert_eq!(fleet.notify("fanout", black_box(r#"{"n":12345}"#)), servers);
        fleet.taken()
    });
}

#[divan::bench(args = [1000, 10000], sample_count = 20)]
fn a_fleet_registers(bencher: Bencher<'_, '_>, servers: usize) {
    bencher.counter(servers).bench_local(|| Fleet::new(black_box(servers)));
}

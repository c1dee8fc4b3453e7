//! The same messages as in `wire` and `route`, counted in instructions: the same number twice, however busy the machine is.
//! `make instructions`, which runs them in valgrind and says what has changed since the last time.

#![allow(missing_docs, reason = "a bench's name says what it measures")]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use muster::hot::{self, Asked, Fleet};

const BODY: &str = r#"{"pad":"abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01","clientId":"load-client-7","username":"admin"}"#;

/// Requests that are in the mailbox together; counts are of all of them.
const AT_ONCE: u64 = 100;

/// Servers of a fleet; counts are of all of them.
const SERVERS: usize = 1000;

fn request() -> (bytes::Bytes, String) {
    // The scratch has room already, as that of a thread that has read others.
    (hot::request(12345, "echo", BODY), String::with_capacity(1024))
}

#[library_benchmark(setup = request)]
fn a_request_is_read((frame, mut scratch): (bytes::Bytes, String)) -> usize {
    hot::read(black_box(hot::payload(&frame)), &mut scratch)
}

#[library_benchmark(setup = Vec::with_capacity)]
#[bench::short(1024)]
fn an_answer_is_written(mut out: Vec<u8>) -> Vec<u8> {
    hot::answer(&mut out, 12345, black_box(BODY));
    out
}

fn asked() -> Asked {
    let asked = Asked::new();
    pass(&asked);
    asked
}

fn pass(asked: &Asked) -> usize {
    for id in 1..=AT_ONCE {
        assert!(asked.ask(id, black_box(BODY)));
    }
    asked.serve();
    asked.answers()
}

#[library_benchmark(setup = asked)]
fn a_hundred_requests_pass_through_a_mailbox(asked: Asked) -> (Asked, usize) {
    let bytes = pass(&asked);
    (asked, bytes)
}

fn fleet() -> Fleet {
    let fleet = Fleet::new(SERVERS);
    fleet.taken();
    fleet
}

#[library_benchmark(setup = fleet)]
fn a_thousand_servers_are_notified(fleet: Fleet) -> Fleet {
    assert_eq!(fleet.notify("fanout", black_box(r#"{"n":12345}"#)), SERVERS);
    fleet
}

#[library_benchmark]
fn a_thousand_servers_register() -> Fleet {
    Fleet::new(black_box(SERVERS))
}

library_benchmark_group!(
    name = messages;
    benchmarks = a_request_is_read, an_answer_is_written, a_hundred_requests_pass_through_a_mailbox,
        a_thousand_servers_are_notified, a_thousand_servers_register
);

main!(library_benchmark_groups = messages);

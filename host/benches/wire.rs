//! What a message costs on the wire's side: packets, envelopes, JSON inside JSON. `cargo bench -p muster --bench wire`.

#![allow(missing_docs, reason = "a bench's name says what it measures")]

use std::hint::black_box;

use divan::{Bencher, counter::BytesCount};
use muster::hot;

/// What a client asks: 64 bytes and who it is, as pomelo's clients send it.
const BODY: &str = r#"{"pad":"abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01","clientId":"load-client-7","username":"admin"}"#;

/// What a monitor reports.
const REPORT: &str =
    r#"{"serverId":"connector-server-17","time":"Sat Nov 22 2025 00:45:06 GMT+0000 (Coordinated Universal Time)"}"#;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 256])]
fn packets_are_found(bencher: Bencher<'_, '_>, packets: usize) {
    let bytes = hot::request(12345, "echo", BODY).repeat(packets);
    bencher.counter(BytesCount::new(bytes.len())).bench(|| hot::packets(black_box(&bytes)));
}

#[divan::bench]
fn a_request_is_read(bencher: Bencher<'_, '_>) {
    let frame = hot::request(12345, "echo", BODY);
    let mut scratch = String::new();
    bencher.bench_local(|| hot::read(black_box(hot::payload(&frame)), &mut scratch));
}

#[divan::bench]
fn a_notify_is_read(bencher: Bencher<'_, '_>) {
    let frame = hot::notify("timeReport", REPORT);
    let mut scratch = String::new();
    bencher.bench_local(|| hot::read(black_box(hot::payload(&frame)), &mut scratch));
}

#[divan::bench(args = [1, 1000])]
fn an_answer_is_written(bencher: Bencher<'_, '_>, bodies: usize) {
    let body = format!("[{}]", vec![BODY; bodies].join(","));
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(body.len())).bench_local(|| {
        out.clear();
        hot::answer(&mut out, 12345, black_box(&body));
        out.len()
    });
}

#[divan::bench]
fn a_request_is_written() -> usize {
    hot::request(black_box(12345), "relay", BODY).len()
}

//! What loading, replacing and calling a plugin costs: `make fixtures`, then `cargo bench -p muster`.

#![allow(missing_docs, reason = "a bench's name says what it measures")]

use std::path::{Path, PathBuf};

use divan::Bencher;
use muster::bench::{Isolation, Preflight, Rig};

/// A small question, and the answer is the same.
const BODY: &str = r#"{"do":"echo","n":1}"#;

fn main() {
    divan::main();
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_muster"))
}

fn library() -> PathBuf {
    let library = program().ancestors().nth(2).unwrap_or(Path::new(".")).join("fixtures/echo.so");
    assert!(library.exists(), "{} is missing: run `make fixtures` first", library.display());
    library
}

fn rig(isolation: Isolation) -> Rig {
    Rig::start(program(), &library(), isolation).expect("the fixture starts")
}

#[divan::bench(args = [1, 512], sample_count = 2000)]
fn call_through_a_thread(bencher: Bencher<'_, '_>, in_flight: usize) {
    let rig = rig(Isolation::Thread);
    bencher.counter(in_flight).bench_local(|| rig.call(BODY, in_flight));
}

#[divan::bench(args = [1, 512], sample_count = 2000)]
fn call_through_a_worker(bencher: Bencher<'_, '_>, in_flight: usize) {
    let rig = rig(Isolation::Process);
    bencher.counter(in_flight).bench_local(|| rig.call(BODY, in_flight));
}

/// From the store of the route to the first answer of the other generation.
#[divan::bench(sample_count = 2000)]
fn swap(bencher: Bencher<'_, '_>) {
    let mut rig = rig(Isolation::Thread);
    bencher.bench_local(|| rig.swap(BODY));
}

#[divan::bench(sample_count = 200)]
fn preflight(bencher: Bencher<'_, '_>) {
    let preflight = Preflight::of(program(), &library()).expect("a runtime");
    bencher.bench_local(|| preflight.check());
}

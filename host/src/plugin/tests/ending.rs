//! How calls and generations end when handlers misbehave.

use std::time::Duration;

use muster_plugin_api::Role;
use serde_json::json;

use super::kit::{self, Kit, served};
use crate::{modules::call::OwnedOutcome, plugin::lifecycle::State};

fn failed(text: &str) -> OwnedOutcome {
    OwnedOutcome::Failed(text.to_owned())
}

#[tokio::test]
async fn a_panic_is_an_error_for_its_caller_and_nothing_else() {
    let kit = Kit::start(&[("f.so", "faulty")]).await;
    let panic = kit.ask("faulty", json!({ "do": "panic" })).await;
    assert_eq!(panic, failed("module faulty failed: panicked: faulty was told to panic"));
    assert_eq!(kit.ask("faulty", json!({ "do": "ok" })).await, served(json!({ "ok": true })));
    kit.until_running("f.so").await;
    let status = kit.status();
    let figures = &kit::file(&status, "f.so").unwrap().serving.as_ref().unwrap().figures;
    assert_eq!(figures.panics.load(std::sync::atomic::Ordering::Relaxed), 1);
    kit.end().await;
}

#[tokio::test]
async fn a_module_without_the_handler_says_so_in_the_words_of_the_original() {
    let kit = Kit::start(&[("n.so", "no_handlers")]).await;
    let module = kit.modules.list(Role::Master).remove(0);
    let OwnedOutcome::NoSuchHandler(text) = kit.ask(&module, json!({})).await else { panic!("it has no handlers") };
    assert!(text.contains(&module) && text.contains("clientHandler"), "{text}");
    kit.end().await;
}

#[tokio::test]
async fn who_is_never_answered_is_told_at_the_deadline_and_a_late_answer_goes_nowhere() {
    let kit = Kit::start(&[("f.so", "faulty")]).await;
    let never = kit.send("faulty", json!({ "do": "never" }), Duration::from_millis(500)).unwrap();
    let late = kit.send("faulty", json!({ "do": "late" }), Duration::from_millis(500)).unwrap();
    let timeout = failed("module faulty failed: timed out after 0.5 s");
    assert_eq!(never.await.unwrap(), timeout);
    assert_eq!(late.await.unwrap(), timeout);
    let status = kit.status();
    let figures = kit::file(&status, "f.so").unwrap().serving.as_ref().unwrap().figures.clone();
    let unclaimed = || figures.unclaimed.load(std::sync::atomic::Ordering::Relaxed);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while unclaimed() == 0 && std::time::Instant::now() < until {
        kit.pass(Duration::from_millis(20)).await;
    }
    assert_eq!(unclaimed(), 1, "the late answer is counted and dropped");
    kit.end().await;
}

#[tokio::test]
async fn callers_of_a_module_that_hangs_are_told_in_time_and_others_are_served() {
    let kit = Kit::start(&[("f.so", "faulty"), ("v.so", "versioned_v1")]).await;
    let block = kit.send("faulty", json!({ "do": "block" }), Duration::from_millis(500)).unwrap();
    let behind = kit.send("faulty", json!({ "do": "ok" }), Duration::from_millis(500)).unwrap();
    let timeout = failed("module faulty failed: timed out after 0.5 s");
    assert_eq!(block.await.unwrap(), timeout);
    assert_eq!(behind.await.unwrap(), timeout, "one that waits in the mailbox as well");
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
    let status = kit.status();
    let presence = &kit::file(&status, "f.so").unwrap().serving.as_ref().unwrap().presence;
    assert!(presence.inside_for().is_some_and(|inside| inside >= Duration::from_millis(400)), "{presence:?}");

    // A new generation takes its place; what hangs is given up, and told of.
    kit.put("f.so", "versioned_v2");
    kit.until_refused("f.so", "belongs to v.so").await;
    kit.put("f.so", "echo");
    let files =
        kit.until("the old one is given up", |files| !kit::file(files, "f.so").unwrap().still_mapped.is_empty()).await;
    let file = kit::file(&files, "f.so").unwrap();
    assert_eq!(file.state, State::Running);
    assert!(file.still_mapped[0].reason.contains("its thread is inside a handler since"), "{file:?}");
    assert!(file.still_mapped[0].bytes > 0);
    let left = kit.supervisor.shutdown(Duration::from_secs(10)).await;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_hangs_is_flagged_and_refuses_further_calls_until_its_file_is_replaced() {
    let kit = Kit::with_deadline(&[("f.so", "faulty")], Duration::from_millis(500)).await;
    let block = kit.send("faulty", json!({ "do": "block" }), Duration::from_millis(500)).unwrap();
    let files = kit.until("it is hung", |files| kit::file(files, "f.so").unwrap().state == State::Hung).await;
    assert_eq!(block.await.unwrap(), failed("module faulty failed: timed out after 0.5 s"));
    let reason = kit::file(&files, "f.so").unwrap().reason().unwrap();
    assert!(reason.starts_with("clientHandler of module faulty has not returned for "), "{reason}");
    assert!(reason.contains("its thread is blocked"), "{reason}");
    assert_eq!(kit.try_ask("faulty", json!({ "do": "ok" })).await, Err("unfit"));
    kit.put("f.so", "echo");
    kit.until_running("f.so").await;
    assert_eq!(kit.try_ask("faulty", json!({ "do": "ok" })).await, Err("unknown"));
    kit.until("the old one is given up", |files| !kit::file(files, "f.so").unwrap().still_mapped.is_empty()).await;
    drop(kit.supervisor.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_whose_handler_returns_after_all_is_served_again() {
    let kit = Kit::with_deadline(&[("f.so", "faulty")], Duration::from_millis(400)).await;
    let block = kit.send("faulty", json!({ "do": "stall" }), Duration::from_millis(400)).unwrap();
    kit.until("it is hung", |files| kit::file(files, "f.so").unwrap().state == State::Hung).await;
    assert_eq!(block.await.unwrap(), failed("module faulty failed: timed out after 0.4 s"));
    kit.until_running("f.so").await;
    assert_eq!(kit.ask("faulty", json!({ "do": "ok" })).await, served(json!({ "ok": true })));
    kit.end().await;
}

#[tokio::test]
async fn a_module_that_panics_again_and_again_is_out_of_service_for_a_while() {
    let kit = Kit::start(&[("f.so", "faulty")]).await;
    let mut panics = 0;
    while kit.try_ask("faulty", json!({ "do": "panic" })).await != Err("unfit") {
        panics += 1;
        assert!(panics <= 10, "the breaker trips");
    }
    assert_eq!(panics, 10);
    kit.pass(Duration::from_secs(5)).await;
    assert_eq!(kit.ask("faulty", json!({ "do": "ok" })).await, served(json!({ "ok": true })));
    kit.end().await;
}

#[tokio::test]
async fn a_thread_that_a_plugin_leaves_behind_keeps_its_library_mapped_and_is_named() {
    let kit = Kit::start(&[("f.so", "faulty")]).await;
    assert_eq!(kit.ask("faulty", json!({ "do": "thread" })).await, served(json!({ "ok": true })));
    let staged = kit.staged("f");
    kit.remove("f.so");
    let files = kit.until("it is retired", |files| files.iter().any(|file| file.state == State::Retired)).await;
    let still = &kit::file(&files, "f.so").unwrap().still_mapped;
    assert!(still[0].reason.starts_with("other threads are inside: "), "{still:?}");
    assert!(kit::is_mapped(&staged), "never unmapped under code that runs");
    let left = kit.supervisor.shutdown(Duration::from_secs(10)).await;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn shutting_down_lets_calls_finish_and_unloads_everything() {
    let kit = Kit::start(&[("v.so", "versioned_v1"), ("e.so", "echo")]).await;
    let staged = kit.all_staged();
    let slow = kit.send("versioned", json!({ "delay_ms": 500 }), Duration::from_secs(15)).unwrap();
    let modules = kit.modules.clone();
    kit.end().await;
    assert_eq!(slow.await.unwrap(), served(json!({ "version": 1 })));
    assert_eq!(modules.list(Role::Master), Vec::<String>::new());
    assert!(staged.iter().all(|path| !kit::is_mapped(path)));
}

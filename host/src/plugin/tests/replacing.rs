//! Every way in which a file is replaced is one reload, and no call is lost at any of them.

use std::{fs, io::Write, os::unix::fs::symlink, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::kit::{self, Kit, fixture, served};
use crate::{ids::Generation, modules::call::OwnedOutcome, plugin::FileStatus};

fn generation(files: &[FileStatus], name: &str) -> Generation {
    kit::file(files, name).unwrap().serving.as_ref().unwrap().generation
}

#[tokio::test]
async fn a_rename_over_the_file_replaces_it_and_the_old_library_is_unmapped() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let old = kit.staged("a");
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 2 })));
    assert!(!kit::is_mapped(&old));
    assert!(!old.exists());
    assert!(kit::is_mapped(&kit.staged("a")));
    kit.end().await;
}

#[tokio::test]
async fn an_overwrite_in_place_replaces_it_without_touching_what_runs() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let bytes = fs::read(fixture("versioned_v2")).unwrap();
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(kit.path("a.so")).unwrap();
    for chunk in bytes.chunks(bytes.len() / 8) {
        file.write_all(chunk).unwrap();
        assert_eq!(
            kit.ask("versioned", json!({})).await,
            served(json!({ "version": 1 })),
            "half a file disturbs nobody"
        );
    }
    drop(file);
    let status = kit.until_version("a.so", "2.").await;
    assert!(kit::file(&status, "a.so").unwrap().refused.is_none());
    kit.end().await;
}

#[tokio::test]
async fn a_link_that_is_turned_replaces_the_file() {
    let kit = Kit::start(&[]).await;
    let turn = |to: &str| {
        let aside = kit.directory().join(".link");
        symlink(fixture(to), &aside).unwrap();
        fs::rename(aside, kit.path("a.so")).unwrap();
    };
    turn("versioned_v1");
    kit.until_version("a.so", "1.").await;
    turn("versioned_v2");
    kit.until_version("a.so", "2.").await;
    kit.end().await;
}

#[tokio::test]
async fn new_bytes_of_the_same_size_and_time_replace_it() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let path = kit.path("a.so");
    let before = fs::metadata(&path).unwrap();
    let first = generation(&kit.status(), "a.so");
    // The same library with another letter in a place that nobody reads: the path of a source file of std.
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.windows(7).position(|word| word == b"/rustc/").unwrap();
    bytes[place + 1] = b'R';
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    (&file).write_all(&bytes).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
    kit.until("another generation", |files| generation(files, "a.so") > first).await;
    kit.end().await;
}

#[tokio::test]
async fn a_touch_alone_does_nothing() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let first = generation(&kit.status(), "a.so");
    let file = fs::OpenOptions::new().write(true).open(kit.path("a.so")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    drop(file);
    // A file that arrives later is running, so this one has been looked at.
    kit.put("b.so", "echo");
    kit.until_running("b.so").await;
    kit.pass(kit.config.settle * 3).await;
    assert_eq!(generation(&kit.status(), "a.so"), first);
    kit.end().await;
}

#[tokio::test]
async fn deleted_and_created_again_soon_is_a_replacement_that_no_call_notices() {
    let kit = Kit::start(&[("a.so", "versioned_v1"), ("b.so", "echo")]).await;
    kit.remove("a.so");
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 1 })));
    kit.put("a.so", "versioned_v2");
    kit.until_version("a.so", "2.").await;
    let order = kit.modules.list(muster_plugin_api::Role::Master);
    assert_eq!(order, ["versioned", "echo"], "it keeps its place");
    kit.end().await;
}

#[tokio::test]
async fn a_slow_copy_over_the_live_name_is_loaded_once_it_is_whole() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let first = generation(&kit.status(), "a.so");
    let bytes = fs::read(fixture("versioned_v2")).unwrap();
    let path = kit.path("a.so");
    let copy = tokio::task::spawn_blocking(move || {
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
        // Pauses longer than a file needs to settle.
        for chunk in bytes.chunks(bytes.len() / 6) {
            file.write_all(chunk).unwrap();
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    let mut status = kit.supervisor.status();
    let mut refusals = Vec::new();
    while generation(&status.borrow_and_update(), "a.so") == first {
        refusals.extend(kit::file(&status.borrow(), "a.so").unwrap().refused.clone());
        tokio::time::timeout(Duration::from_secs(20), status.changed())
            .await
            .expect("it is loaded in the end")
            .unwrap();
    }
    copy.await.unwrap();
    assert_eq!(refusals, [], "a copy under way is not called truncated");
    assert_eq!(kit.ask("versioned", json!({})).await, served(json!({ "version": 2 })));
    kit.end().await;
}

#[tokio::test]
async fn a_call_in_flight_ends_in_the_generation_it_began_in() {
    let kit = Kit::start(&[("a.so", "versioned_v1")]).await;
    let slow = kit.send("versioned", json!({ "n": 1, "delay_ms": 1000 }), Duration::from_secs(15)).unwrap();
    kit.put("a.so", "versioned_v2");
    kit.until("version 2 is served, version 1 drains", |files| {
        let file = kit::file(files, "a.so").unwrap();
        file.draining.len() == 1 && file.serving.as_ref().unwrap().manifest.version.starts_with("2.")
    })
    .await;
    assert_eq!(kit.ask("versioned", json!({ "n": 2 })).await, served(json!({ "version": 2, "n": 2 })));
    assert_eq!(slow.await.unwrap(), served(json!({ "version": 1, "n": 1 })));
    kit.until_version("a.so", "2.").await;
    kit.end().await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_is_told_that_its_module_is_gone() {
    let kit = Kit::with(&[("a.so", "versioned_v1")], |config| config.drain = Duration::from_millis(300)).await;
    let slow = kit.send("versioned", json!({ "n": 1, "delay_ms": 60_000 }), Duration::from_secs(15)).unwrap();
    kit.put("a.so", "versioned_v2");
    let text = "module versioned failed: it was replaced before it answered";
    assert_eq!(slow.await.unwrap(), OwnedOutcome::Failed(text.to_owned()));
    kit.until_version("a.so", "2.").await;
    kit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_or_answered_twice_while_a_file_is_replaced_fifty_times() {
    let kit =
        Arc::new(Kit::with(&[("a.so", "versioned_v1")], |config| config.settle = Duration::from_millis(20)).await);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let caller = tokio::spawn({
        let kit = kit.clone();
        async move {
            let mut beat = tokio::time::interval(Duration::from_millis(5));
            let mut sent = Vec::new();
            while !*stopped.borrow() {
                beat.tick().await;
                let n = sent.len();
                // Some of them are under way at any switch.
                let body = json!({ "n": n, "delay_ms": if n % 3 == 0 { 40 } else { 0 } });
                sent.push(kit.send("versioned", body, Duration::from_secs(15)).expect("the module is always there"));
            }
            sent
        }
    });
    for round in 0..50 {
        let (content, version) = if round % 2 == 0 { ("versioned_v2", "2.") } else { ("versioned_v1", "1.") };
        match round % 3 {
            0 => kit.put("a.so", content),
            1 => drop(fs::copy(fixture(content), kit.path("a.so")).unwrap()),
            _ => {
                let aside = kit.directory().join(".link");
                symlink(fixture(content), &aside).unwrap();
                fs::rename(aside, kit.path("a.so")).unwrap();
            }
        }
        // A copy in place must not go through the link, into the fixture.
        let status = kit.until_version("a.so", version).await;
        if round % 3 == 2 {
            kit.put("a.so", content);
            kit.pass(kit.config.settle).await;
        }
        assert_eq!(kit::file(&status, "a.so").unwrap().still_mapped, []);
        assert_eq!(
            kit.ask("versioned", json!({})).await,
            served(json!({ "version": version[..1].parse::<u64>().unwrap() }))
        );
    }
    stop.send_replace(true);
    let sent = caller.await.unwrap();
    let count = sent.len();
    let mut by_version = [0_u64; 2];
    for (n, end) in sent.into_iter().enumerate() {
        // A channel for one answer: a second one cannot come unnoticed, since the first has used it up.
        let outcome = tokio::time::timeout(Duration::from_secs(20), end).await.expect("ends").expect("is not lost");
        let OwnedOutcome::Answer { body, .. } = outcome else { panic!("call {n}: {outcome:?}") };
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["n"], json!(n));
        by_version[usize::from(answer["version"] == json!(2))] += 1;
    }
    assert!(by_version.iter().all(|answers| *answers > 0), "both versions answered: {by_version:?} of {count}");
    let unclaimed = kit::file(&kit.status(), "a.so").unwrap().serving.as_ref().unwrap().figures.clone();
    assert_eq!(unclaimed.unclaimed.load(std::sync::atomic::Ordering::Relaxed), 0, "none was answered twice");
    Arc::into_inner(kit).unwrap().end().await;
}

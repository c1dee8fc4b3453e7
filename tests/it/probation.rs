//! Versions that do worse than the one before, and the way back to it: by themselves, and by hand.

use std::{collections::BTreeSet, fs};

use muster_tests::{
    cli::muster,
    daemon::Daemon,
    deadline::within,
    peer::Peer,
    plugins::{WITHIN, content, put, until, until_version, words},
};
use serde_json::{Value, json};

use super::plugin_life::master;

/// A master with version 1 that has answered so many calls, and version 2 in its place, which goes wrong.
async fn replaced_by_fickle(isolation: &str, fault: &str, from: &str, more: &[(&str, &str)]) -> (Daemon, Peer, u64) {
    let mut settings = vec![
        ("plugins.versioned.isolation", isolation),
        ("plugins.versioned.fault", fault),
        ("plugins.versioned.from", from),
    ];
    settings.extend(more);
    let (master, address) = master(&["echo"], &settings).await;
    let mut peer = Peer::admin(address, "observer").await;
    put(&master, "versioned.so", &content("versioned_v1"));
    let old = until_version(&mut peer, "versioned", "1.").await;
    for n in 0..30 {
        let answer = peer.request("versioned", json!({ "n": n, "delay_ms": 2 })).await;
        assert_eq!(answer["body"]["version"], 1);
    }
    put(&master, "versioned.so", &content("fickle"));
    let new = until_version(&mut peer, "versioned", "2.").await;
    assert_eq!(new["probation"]["keptGeneration"], old["generation"]);
    (master, peer, old["generation"].as_u64().expect("a generation"))
}

/// Asks until version 1 answers again; returns how many calls version 2 answered well, and how many it did not.
async fn ask_until_rolled_back(peer: &mut Peer) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    let asking = async {
        loop {
            let answer = peer.request("versioned", json!({ "n": 1 })).await;
            match answer["body"]["version"].as_u64() {
                Some(1) => return,
                Some(2) => good += 1,
                _ => bad += 1,
            }
        }
    };
    within("version 1 is back", WITHIN, asking).await;
    (good, bad)
}

async fn is_rolled_back(peer: &mut Peer, to: u64, why: &str) {
    let plugin = until(peer, "versioned", "rolled back", |plugin| plugin["state"] == "rolled back").await;
    assert_eq!(plugin["generation"], to);
    assert!(plugin["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{plugin}");
    let last = plugin["history"].as_array().and_then(|history| history.last()).expect("a history");
    assert_eq!((&last["by"], &last["to"]), (&json!("probation"), &json!(to)), "{last}");
    assert_eq!(plugin["probation"], Value::Null);
}

async fn fails_from_its_fiftieth_call_on(isolation: &str) {
    let (master, mut peer, old) = replaced_by_fickle(isolation, "error", "50", &[]).await;
    let (good, bad) = ask_until_rolled_back(&mut peer).await;
    assert!(good == 50 && bad > 0, "{good} good, {bad} bad");
    is_rolled_back(&mut peer, old, "of its calls fail").await;
    // The same content again is not tried again; another is.
    put(&master, "versioned.so", &content("fickle"));
    put(&master, "other.so", &content("faulty"));
    until(&mut peer, "other", "a later file runs", |plugin| plugin["state"] == "running").await;
    is_rolled_back(&mut peer, old, "of its calls fail").await;
    put(&master, "versioned.so", &content("versioned_v2"));
    until_version(&mut peer, "versioned", "2.").await;
    until(&mut peer, "versioned", "it runs", |plugin| plugin["state"] == "running").await;
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 2);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_that_fails_from_its_fiftieth_call_on_is_rolled_back() {
    fails_from_its_fiftieth_call_on("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_in_a_worker_that_fails_from_its_fiftieth_call_on_is_rolled_back() {
    fails_from_its_fiftieth_call_on("process").await;
}

async fn is_much_slower(isolation: &str) {
    let (master, mut peer, old) = replaced_by_fickle(isolation, "slow", "0", &[]).await;
    let (good, bad) = ask_until_rolled_back(&mut peer).await;
    assert!(good >= 19 && bad <= 1, "{good} slow, {bad} cut off");
    is_rolled_back(&mut peer, old, "its calls take").await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_that_is_much_slower_is_rolled_back() {
    is_much_slower("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_in_a_worker_that_is_much_slower_is_rolled_back() {
    is_much_slower("process").await;
}

/// One call is enough: its caller is told of it, and it is the reason for going back.
async fn goes_wrong_in_its_first_call(isolation: &str, fault: &str, told: &str, why: &str) {
    let (master, mut peer, old) = replaced_by_fickle(isolation, fault, "0", &[("requests.deadline", "1s")]).await;
    let answer = peer.request("versioned", json!({})).await;
    assert!(words(&answer).contains(told), "{answer}");
    is_rolled_back(&mut peer, old, why).await;
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1);
    match (isolation, fault) {
        // The hung thread is never joined.
        ("thread", "hang") => drop(master.kill().await),
        _ => drop(master.shutdown().await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_that_panics_in_its_first_call_is_rolled_back() {
    goes_wrong_in_its_first_call("thread", "panic", "panicked: fickle was told to", "it panicked in its call 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_in_a_worker_that_panics_in_its_first_call_is_rolled_back() {
    goes_wrong_in_its_first_call("process", "panic", "panicked: fickle was told to", "it panicked in its call 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_that_hangs_is_rolled_back_and_its_callers_are_told() {
    let why = "clientHandler of module versioned has not returned";
    goes_wrong_in_its_first_call("thread", "hang", "module versioned failed: ", why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_in_a_worker_that_hangs_is_rolled_back_and_its_callers_are_told() {
    let why = "its worker was killed: a handler had not returned";
    goes_wrong_in_its_first_call("process", "hang", "module versioned failed: timed out", why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_whose_worker_dies_is_rolled_back() {
    let (told, why) = ("was restarted: its worker died of SIGABRT", "its worker died of SIGABRT");
    goes_wrong_in_its_first_call("process", "crash", told, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_calls_that_waited_behind_one_that_hangs_are_answered_by_the_version_before() {
    let (master, mut peer, old) = replaced_by_fickle("thread", "hang", "0", &[("requests.deadline", "3s")]).await;
    let mut observer = Peer::admin(master.address(), "other").await;
    let hangs = peer.send_request("versioned", json!({})).await;
    let stuck = |plugin: &Value| plugin["insideHandlerMs"].as_u64() > Some(1_500);
    until(&mut observer, "versioned", "it has been inside for a while", stuck).await;
    let mut waiting = Vec::new();
    for n in 0..5 {
        waiting.push((n, peer.send_request("versioned", json!({ "n": n })).await));
    }
    assert!(peer.settle().await, "they have arrived");
    assert!(words(&peer.response(hangs).await).starts_with("module versioned failed: "));
    for (n, id) in waiting {
        assert_eq!(peer.response(id).await["body"], json!({ "version": 1, "n": n }));
    }
    is_rolled_back(&mut observer, old, "clientHandler of module versioned has not returned").await;
    drop(master.kill().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_file_ends_the_probation_of_the_one_before_so_that_one_generation_is_kept() {
    let (master, mut peer, first) = replaced_by_fickle("thread", "none", "0", &[("plugins.probation", "1h")]).await;
    put(&master, "versioned.so", &content("versioned_v2"));
    let next = |plugin: &Value| plugin["generation"].as_u64() > Some(first + 1) && plugin["draining"] == json!([]);
    let third = until(&mut peer, "versioned", "the first one is unloaded", next).await;
    let kept = third["probation"]["keptGeneration"].as_u64();
    assert!(kept > Some(first) && kept < third["generation"].as_u64(), "the second one: {third}");
    let maps = fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the master runs");
    let mapped: BTreeSet<&str> = maps.lines().filter_map(|line| line.split("/versioned-").nth(1)).collect();
    assert_eq!(mapped.len(), 2, "what serves and what is kept: {mapped:?}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_probation_nothing_is_kept_and_nobody_is_judged() {
    let (master, address) = master(&[], &[("plugins.probation", "0s"), ("plugins.versioned.fault", "error")]).await;
    let mut peer = Peer::admin(address, "observer").await;
    put(&master, "versioned.so", &content("versioned_v1"));
    until_version(&mut peer, "versioned", "1.").await;
    put(&master, "versioned.so", &content("fickle"));
    let told = until_version(&mut peer, "versioned", "2.").await;
    assert_eq!(told["probation"], Value::Null);
    for _ in 0..50 {
        assert_eq!(words(&peer.request("versioned", json!({})).await), "fickle was told to fail");
    }
    let told =
        until(&mut peer, "versioned", "the first one is unloaded", |plugin| plugin["draining"] == json!([])).await;
    assert_eq!((&told["state"], &told["errors"]), (&json!("running"), &json!(50)), "{told}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_passes_its_probation_stays_and_the_old_one_is_unloaded() {
    let (master, mut peer, old) = replaced_by_fickle("thread", "none", "0", &[("plugins.probation", "1s")]).await;
    let told = until(&mut peer, "versioned", "the old one is gone", |plugin| {
        plugin["probation"] == Value::Null && plugin["draining"] == json!([])
    })
    .await;
    assert!(told["generation"].as_u64() > Some(old) && told["stillMapped"] == json!([]), "{told}");
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 2);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_rolled_back_and_pinned_by_hand_by_those_who_may() {
    let (master, mut peer, _) = replaced_by_fickle("thread", "none", "0", &[]).await;
    let address = master.address().to_string();
    let order = async |order: &str| muster(&["plugin", order, "versioned", "--master", &address]).await;
    let mut monitor = Peer::client(master.address(), "observer-2", "monitor").await;
    let denied = monitor
        .request("__plugins__", json!({ "action": "rollback", "name": "versioned", "clientId": "observer-2" }))
        .await;
    assert_eq!(denied["error"]["message"], "Command permission denied");
    assert_eq!(order("rollback").await.code, 0);
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1);
    let shown = order("show").await;
    assert!(shown.stdout.contains("rolled back: by hand"), "{shown:?}");
    let nothing = order("rollback").await;
    assert!(nothing.code == 1 && nothing.stderr.contains("no older generation to go back to"), "{nothing:?}");

    assert_eq!(order("pin").await.code, 0);
    put(&master, "versioned.so", &content("versioned_v2"));
    let ignored = |plugin: &Value| plugin["reason"].as_str().is_some_and(|reason| reason.contains("pinned"));
    until(&mut peer, "versioned", "it says that it is pinned", ignored).await;
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 1);
    assert_eq!(order("unpin").await.code, 0);
    until_version(&mut peer, "versioned", "2.").await;
    master.shutdown().await;
}

//! What a plugin does to others when it goes wrong: the rows of the table of faults, each a test named after it.

use std::{fs, net::SocketAddr};

use muster_tests::{
    cli::muster,
    daemon::{Daemon, Setup},
    deadline::eventually,
    neighbour::Neighbour,
    peer::Peer,
    plugins::{WITHIN, content, listed, put, until, until_version, words},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub(super) async fn master(plugins: &[&str], settings: &[(&str, &str)]) -> (Daemon, SocketAddr) {
    let setup = Setup::master().plugins(plugins).set("plugins.settle", "5ms");
    let master = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, value)).start().await;
    let address = master.address();
    (master, address)
}

/// Panics end calls and nothing else, in whatever handler, and wherever the plugin is; too many of them take it out of
/// service for a while. Another module is asked all the time.
async fn panics_again_and_again(isolation: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("start-panics");
    let settings =
        [("plugins.faulty.isolation", isolation), ("plugins.faulty.panics_if", file.to_str().expect("it is text"))];
    let (master, address) = master(&["echo", "faulty"], &settings).await;
    let pid = master.pid();
    let neighbour = Neighbour::move_in(address).await;
    let mut peer = Peer::admin(address, "client").await;
    let quiet = neighbour.p99_since(0).await;
    let begun = neighbour.answers();

    let in_a_thread = peer.request("faulty", json!({ "do": "thread_panic" })).await;
    assert_eq!(
        in_a_thread["body"],
        json!({ "ok": true }),
        "a panic in a thread of its own is no handler's: {in_a_thread}"
    );
    master.wait_log("faulty was told to panic").await;
    let served = listed(&mut peer, "faulty").await["generation"].clone();
    fs::write(&file, "").expect("a file");
    let reload = muster(&["plugin", "reload", "faulty", "--master", &address.to_string()]).await;
    let why = "module faulty did not start as master: panicked: faulty was told to panic";
    assert!(reload.code == 1 && reload.stderr.contains(why), "{reload:?}");
    assert_eq!(listed(&mut peer, "faulty").await["generation"], served, "the one before goes on");
    fs::remove_file(&file).expect("it is there");

    let mut server = Peer::monitor(address, "chat-server-1", "chat").await;
    let own_monitor = json!({
        "do": "requestModule", "target": "master-server-1", "module": "faulty", "payload": { "do": "panic" },
    });
    for n in 0..10 {
        let answer = match n % 3 {
            0 => peer.request("echo", own_monitor.clone()).await,
            1 => server.request("faulty", json!({ "do": "panic" })).await,
            _ => peer.request("faulty", json!({ "do": "panic" })).await,
        };
        assert_eq!(words(&answer), "module faulty failed: panicked: faulty was told to panic", "panic {n}");
    }
    for refused in [
        peer.request("faulty", json!({ "do": "ok" })).await,
        peer.request("echo", own_monitor.clone()).await,
        server.request("faulty", json!({ "do": "ok" })).await,
    ] {
        let text = words(&refused);
        assert!(text.starts_with("module faulty panicked 10 times within 10 s: calls are refused"), "{text}");
    }
    let plugin = listed(&mut peer, "faulty").await;
    assert_eq!((&plugin["panics"], &plugin["errors"]), (&json!(10), &json!(10)));
    assert!(isolation == "thread" || plugin["worker"]["deaths"] == 0, "{plugin}");
    assert_eq!(master.pid(), pid);
    while !neighbour.has_enough_since(begun) {
        // It is called all the same, as it would be.
        let answer = peer.request("faulty", json!({ "do": "panic" })).await;
        assert!(words(&answer).contains("panicked"), "{answer}");
    }
    let under = neighbour.p99_since(begun).await;
    println!(
        "p99 of another module: {quiet:?}; beside panics in a {isolation}: {under:?}, {:.2} times",
        under.div_duration_f64(quiet)
    );
    let peer = Mutex::new(peer);
    eventually("it is back in service", WITHIN, || async {
        let answer = peer.lock().await.request("faulty", json!({ "do": "ok" })).await;
        (answer["body"] == json!({ "ok": true })).then_some(())
    })
    .await;
    neighbour.move_out().await;
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_module_that_panics_again_and_again_is_out_of_service_and_nobody_else_notices() {
    panics_again_and_again("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_module_in_a_worker_that_panics_again_and_again_is_out_of_service_and_its_worker_lives() {
    panics_again_and_again("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_a_hundred_calls_of_a_handler_that_hangs_time_out_and_further_ones_are_refused_at_once() {
    let (master, address) = master(&["echo", "faulty"], &[("requests.deadline", "1s")]).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut other = Peer::admin(address, "other").await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(peer.send_request("faulty", json!({ "do": "block" })).await);
    }
    for id in ids {
        let text = words(&peer.response(id).await);
        assert!(text.contains("timed out after 1 s") || text.contains("is hung"), "{text}");
    }
    let told = until(&mut other, "faulty", "it is flagged", |plugin| plugin["state"] == "hung").await;
    let reason = told["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("clientHandler of module faulty has not returned for"), "{reason}");
    assert!(reason.contains("its thread is blocked"), "{reason}");
    let refused = peer.request("faulty", json!({ "do": "ok" })).await;
    assert!(words(&refused).starts_with("module faulty is hung: "), "{refused}");
    assert_eq!(other.request("echo", json!({ "do": "echo" })).await["error"], Value::Null);

    // Another content takes its place.
    put(&master, "faulty.so", &content("versioned_v1"));
    until(&mut other, "faulty", "it is replaced", |plugin| plugin["state"] == "running").await;
    assert_eq!(other.request("versioned", json!({})).await["body"]["version"], 1);
    drop(master.kill().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_one_call_of_a_handler_that_hangs_times_out_and_the_module_is_flagged() {
    let (master, address) = master(&["faulty"], &[("requests.deadline", "1s")]).await;
    let mut peer = Peer::admin(address, "client").await;
    let answer = peer.request("faulty", json!({ "do": "spin" })).await;
    assert_eq!(words(&answer), "module faulty failed: timed out after 1 s");
    let told = until(&mut peer, "faulty", "it is flagged", |plugin| plugin["state"] == "hung").await;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("its thread is running")), "{told}");
    drop(master.kill().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_a_hundred_calls_of_a_handler_that_hangs_in_a_worker_all_end_and_another_worker_takes_over() {
    let settings = [("requests.deadline", "1s"), ("plugins.faulty.isolation", "process")];
    let (master, address) = master(&["echo", "faulty"], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut other = Peer::admin(address, "other").await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(peer.send_request("faulty", json!({ "do": "block" })).await);
    }
    for id in ids {
        let text = words(&peer.response(id).await);
        assert!(text.contains("timed out after 1 s") || text.contains("was restarted: "), "{text}");
    }
    assert_eq!(other.request("echo", json!({ "do": "echo" })).await["error"], Value::Null);
    let peer = Mutex::new(peer);
    eventually("another worker answers", WITHIN, || async {
        let answer = peer.lock().await.request("faulty", json!({ "do": "ok" })).await;
        (answer["body"] == json!({ "ok": true })).then_some(())
    })
    .await;
    assert!(peer.lock().await.inbox().is_empty(), "each call ends once");
    master.shutdown().await;
}

async fn tells_handlers_their_time(isolation: &str) {
    let settings = [("requests.deadline", "20s"), ("plugins.faulty.isolation", isolation)];
    let (master, address) = master(&["echo", "faulty"], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut server = Peer::monitor(address, "chat-server-1", "chat").await;
    // Of a message that the master has passed on to its own monitor, too.
    let own_monitor = json!({
        "do": "requestModule", "target": "master-server-1", "module": "faulty", "payload": { "do": "left" },
    });
    for answer in [
        peer.request("faulty", json!({ "do": "left" })).await,
        server.request("faulty", json!({ "do": "left" })).await,
        peer.request("echo", own_monitor).await,
    ] {
        assert!((1..=20_000).contains(&answer["body"]["left_ms"].as_u64().unwrap_or_default()), "{answer}");
    }
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_can_read_how_much_time_its_call_has() {
    tells_handlers_their_time("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_in_a_worker_can_read_how_much_time_its_call_has() {
    tells_handlers_their_time("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_slow_is_reported_by_its_name_and_takes_calls_all_the_same() {
    let (master, address) = master(&["faulty"], &[("plugins.slow", "50ms")]).await;
    let mut peer = Peer::admin(address, "client").await;
    for what in ["ok", "stall", "ok"] {
        assert_eq!(peer.request("faulty", json!({ "do": what })).await["body"], json!({ "ok": true }));
    }
    master.wait_log(r#"slow handler handler="clientHandler of module faulty""#).await;
    master.shutdown().await;
}

async fn replies_never_or_late(isolation: &str) {
    let settings = [
        ("requests.deadline", "1s"),
        ("plugins.faulty.isolation", isolation),
        ("plugins.gone_after", "100ms"),
        ("plugins.drain", "200ms"),
    ];
    let (master, address) = master(&["faulty"], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let never = peer.send_request("faulty", json!({ "do": "never" })).await;
    assert_eq!(peer.request("faulty", json!({ "do": "ok" })).await["body"], json!({ "ok": true }));
    assert_eq!(words(&peer.response(never).await), "module faulty failed: timed out after 1 s");
    let late = peer.send_request("faulty", json!({ "do": "late" })).await;
    assert_eq!(words(&peer.response(late).await), "module faulty failed: timed out after 1 s");
    // The late reply comes and is counted; it is not sent.
    until(&mut peer, "faulty", "the late reply is counted", |plugin| plugin["unclaimedReplies"] == 1).await;
    // One that would come when the plugin is unloaded never does; its caller is told before.
    let orphan = peer.send_request("faulty", json!({ "do": "late" })).await;
    assert!(peer.settle().await, "it has arrived");
    fs::remove_file(master.plugin_dir().join("faulty.so")).expect("it is there");
    let text = words(&peer.response(orphan).await);
    assert!(text.contains("its file is gone") || text.contains("timed out after 1 s"), "{text}");
    until(&mut peer, "faulty", "it is unloaded", Value::is_null).await;
    assert!(peer.settle().await && peer.inbox().is_empty(), "{:?}", peer.inbox());
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_a_handler_that_replies_never_late_or_after_its_end_is_a_fault_of_no_other() {
    replies_never_or_late("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_a_handler_in_a_worker_that_replies_never_late_or_after_its_end_is_a_fault_of_no_other() {
    replies_never_or_late("process").await;
}

/// A handler has one result. What replies again is a library that uses the interface in its own way: at once, or by a
/// thread that is there when its plugin is not.
async fn replies_again(isolation: &str) {
    let settings = [("plugins.faulty.isolation", isolation), ("plugins.gone_after", "100ms")];
    let (master, address) = master(&["faulty"], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    for n in 1..=3 {
        assert_eq!(peer.request("faulty", json!({ "do": "again" })).await["body"], json!({ "ok": true }));
        let told = until(&mut peer, "faulty", "it is counted", |plugin| plugin["unclaimedReplies"] == n).await;
        assert_eq!((&told["handled"], &told["errors"]), (&json!(n), &json!(0)), "each was handled once: {told}");
    }
    let shown = muster(&["plugin", "show", "faulty", "--master", &address.to_string()]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with("unclaimed replies"));
    assert!(line.is_some_and(|line| line.ends_with(" 3")), "{shown:?}");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("now");
    let again = json!({ "do": "again", "file": file });
    assert_eq!(peer.request("faulty", again).await["body"], json!({ "ok": true }));
    fs::remove_file(master.plugin_dir().join("faulty.so")).expect("it is there");
    let is_out = |plugin: &Value| plugin.is_null() || plugin["state"] == "retired";
    let told = until(&mut peer, "faulty", "it is unloaded", is_out).await;
    assert_eq!(told.is_null(), isolation == "process", "its thread went with its process, or keeps it mapped: {told}");
    fs::write(&file, "").expect("a file");
    if isolation == "thread" {
        until(&mut peer, "faulty", "it is counted", |plugin| plugin["last"]["unclaimedReplies"] == 4).await;
    }
    assert!(peer.settle().await && peer.inbox().is_empty(), "{:?}", peer.inbox());
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_what_replies_twice_is_heard_once_and_counted_also_when_it_is_unloaded() {
    replies_again("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_what_replies_twice_in_a_worker_is_heard_once_and_counted_also_when_it_is_unloaded() {
    replies_again("process").await;
}

/// Loads `nodelete` again and again, until two generations of it that are gone are still mapped; returns the last one.
async fn fill_up_to_the_cap(policy: &str) -> (Daemon, Peer, Value) {
    let settings = [("plugins.still_mapped_cap", "2"), ("plugins.still_mapped", policy), ("plugins.probation", "0s")];
    let (master, address) = master(&[], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut told = Value::Null;
    for n in 0..3_u8 {
        put(&master, "nodelete.so", &variant_of_nodelete(n));
        let before = told["generation"].as_u64().unwrap_or_default();
        told = until(&mut peer, "nodelete", "the next one runs, the old one is told of", |plugin| {
            plugin["generation"].as_u64() > Some(before)
                && plugin["stillMapped"].as_array().is_some_and(|mapped| mapped.len() == usize::from(n))
        })
        .await;
        for mapped in told["stillMapped"].as_array().expect("a list") {
            assert_eq!(mapped["reason"], "it is linked with NODELETE");
            assert!(mapped["bytes"].as_u64() > Some(0));
        }
    }
    (master, peer, told)
}

/// The same library with another letter in a place that nobody reads: the path of a source file of std.
fn variant_of_nodelete(n: u8) -> Vec<u8> {
    let mut bytes = content("nodelete");
    let place = bytes.windows(7).position(|word| word == b"/rustc/").expect("std was built there");
    bytes[place + 1] = b'A' + n;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_a_library_that_cannot_be_unmapped_is_shown_and_from_the_cap_on_not_loaded_again() {
    let (master, mut peer, last) = fill_up_to_the_cap("refuse").await;
    put(&master, "nodelete.so", &variant_of_nodelete(3));
    let refused = until(&mut peer, "nodelete", "it is refused", |plugin| plugin["reason"] != Value::Null).await;
    assert_eq!((&refused["generation"], &refused["state"]), (&last["generation"], &json!("running")));
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("2 older generations of it are still mapped") && reason.contains("at most 2"), "{reason}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_a_library_that_cannot_be_unmapped_moves_to_a_worker_from_the_cap_on_if_so_configured() {
    let (master, mut peer, last) = fill_up_to_the_cap("process").await;
    assert_eq!(last["isolation"], "thread");
    let mut mapped = 0;
    for n in 3..6_u8 {
        put(&master, "nodelete.so", &variant_of_nodelete(n));
        let moved = until(&mut peer, "nodelete", "the next one runs", |plugin| {
            plugin["generation"].as_u64() > last["generation"].as_u64()
                && plugin["history"].as_array().is_some_and(|history| history.len() == usize::from(n) + 1)
                && plugin["draining"] == json!([])
        })
        .await;
        assert_eq!((&moved["isolation"], &moved["state"]), (&json!("process"), &json!("running")), "{moved}");
        let done = &moved["history"][usize::from(n)]["outcome"];
        assert_eq!(done, "running, in a worker process: too many older generations are still mapped");
        mapped = moved["stillMapped"].as_array().expect("a list").len();
        assert_eq!(peer.request("nodelete", json!({})).await["error"], Value::Null);
    }
    assert_eq!(mapped, 3, "the last one of the daemon, and none of a worker");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_what_a_library_leaves_for_its_end_is_done_and_it_is_unmapped() {
    let (master, address) = master(&[], &[("plugins.gone_after", "200ms")]).await;
    let mut peer = Peer::admin(address, "client").await;
    for what in ["thread_local", "atexit", "thread_thread_local"] {
        put(&master, "faulty.so", &content("faulty"));
        until(&mut peer, "faulty", "it runs", |plugin| plugin["state"] == "running").await;
        assert_eq!(peer.request("faulty", json!({ "do": what })).await["body"], json!({ "ok": true }), "{what}");
        fs::remove_file(master.plugin_dir().join("faulty.so")).expect("it is there");
        until(&mut peer, "faulty", &format!("it is gone after {what}"), Value::is_null).await;
        let maps = fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the master runs");
        assert!(!maps.contains("/faulty-"), "after {what}");
    }
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_a_library_with_a_thread_inside_stays_mapped_and_is_unmapped_when_the_thread_has_ended() {
    let (master, address) = master(&[], &[("plugins.gone_after", "200ms")]).await;
    let mut peer = Peer::admin(address, "client").await;
    put(&master, "faulty.so", &content("faulty"));
    until(&mut peer, "faulty", "it runs", |plugin| plugin["state"] == "running").await;
    assert_eq!(peer.request("faulty", json!({ "do": "brief_thread" })).await["body"], json!({ "ok": true }));
    fs::remove_file(master.plugin_dir().join("faulty.so")).expect("it is there");
    let told = until(&mut peer, "faulty", "it is told of", |plugin| plugin["stillMapped"][0] != Value::Null).await;
    let mapped = told["stillMapped"].as_array().expect("a list");
    assert_eq!((mapped.len(), &told["state"]), (1, &json!("retired")), "{told}");
    let reason = mapped[0]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("other threads are inside: "), "{reason}");
    assert!(mapped[0]["bytes"].as_u64() > Some(0), "{told}");
    until(&mut peer, "faulty", "it is gone by itself", Value::is_null).await;
    let maps = fs::read_to_string(format!("/proc/{}/maps", master.pid())).expect("the master runs");
    assert!(!maps.contains("/faulty-"));
    master.shutdown().await;
}

async fn is_replaced_with_calls_in_flight(isolation: &str) {
    let settings = [("plugins.drain", "2s"), ("plugins.versioned.isolation", isolation)];
    let (master, address) = master(&[], &settings).await;
    let mut peer = Peer::admin(address, "client").await;
    let mut observer = Peer::admin(address, "observer").await;
    put(&master, "versioned.so", &content("versioned_v1"));
    until_version(&mut observer, "versioned", "1.").await;
    let endless = peer.send_request("versioned", json!({ "n": 0, "delay_ms": 60_000 })).await;
    let mut ids = Vec::new();
    for n in 1..100 {
        ids.push(peer.send_request("versioned", json!({ "n": n, "delay_ms": 1_000 })).await);
    }
    assert!(peer.settle().await, "all have arrived");
    put(&master, "versioned.so", &content("versioned_v2"));
    until_version(&mut observer, "versioned", "2.").await;
    for id in ids {
        assert_eq!(peer.response(id).await["body"]["version"], 1);
    }
    assert_eq!(words(&peer.response(endless).await), "module versioned failed: it was replaced before it answered");
    assert_eq!(peer.request("versioned", json!({})).await["body"]["version"], 2);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_calls_in_flight_end_in_the_old_generation_and_one_that_takes_too_long_is_cut_off() {
    is_replaced_with_calls_in_flight("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_calls_in_flight_end_in_the_old_worker_and_one_that_takes_too_long_is_cut_off() {
    is_replaced_with_calls_in_flight("process").await;
}

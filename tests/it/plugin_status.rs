//! What `muster plugin list` and `show` tell: each state and each field is what it says.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use muster_tests::{
    cli::muster,
    daemon::{Daemon, Setup, plugin_file},
    deadline::eventually,
    peer::Peer,
    plugins::{WITHIN, content, listed, put, sha256, until, until_version},
};
use serde_json::{Value, json};

/// How long each instance of the keeper is told to take for its start, of which there are four: long enough to be seen.
const SLOW_START: &str = "500";

async fn master(plugins: &[&str], settings: &[(&str, &str)]) -> (Daemon, Peer) {
    // However busy the machine is: what vets a file is a process of its own.
    let setup = Setup::master().plugins(plugins).set("plugins.settle", "5ms").set("plugins.preflight_timeout", "20s");
    let master = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, value)).start().await;
    let peer = Peer::admin(master.address(), "observer").await;
    (master, peer)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

fn number(plugin: &Value, field: &str) -> u64 {
    plugin[field].as_u64().unwrap_or_else(|| panic!("{field} is no number: {plugin}"))
}

/// `muster plugin ORDER NAME`, which has to succeed.
async fn order(master: &Daemon, order: &str, name: &str) {
    let done = muster(&["plugin", order, name, "--master", &master.address().to_string()]).await;
    assert_eq!(done.code, 0, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_content_is_what_is_in_the_file() {
    let before = now();
    let (master, mut peer) = master(&["keeper_v1"], &[]).await;
    let told = listed(&mut peer, "keeper_v1").await;
    assert_eq!((&told["file"], &told["state"]), (&json!("keeper_v1.so"), &json!("running")));
    assert!((before..=now()).contains(&number(&told, "since")), "{told}");
    let file = plugin_file("keeper_v1");
    assert_eq!(told["hash"], sha256(&file));
    assert_eq!(number(&told, "size"), fs::metadata(&file).expect("it is there").len());
    assert_eq!((&told["version"], &told["isolation"]), (&json!("1.0.0"), &json!("thread")));
    let api = include_str!("../../plugin-api/Cargo.toml");
    let api = api.lines().find_map(|line| line.strip_prefix("version = ")).expect("it has a version");
    assert_eq!(told["api"].to_string(), api);
    let compiler = Command::new("rustc").arg("--version").output().expect("the compiler is there").stdout;
    assert_eq!(told["compiler"], String::from_utf8(compiler).expect("it writes text").trim());
    let module = |id: &str| json!({ "id": id, "aliases": [], "version": "1.0.0", "roles": ["master", "monitor"], "needs": [], "stateSchema": 1 });
    assert_eq!(told["modules"], json!([module("keeper"), module("keeper2")]));
    assert_eq!((&told["draining"], &told["stillMapped"]), (&json!([]), &json!([])));
    assert_eq!((&told["candidate"], &told["last"], &told["reason"]), (&Value::Null, &Value::Null, &Value::Null));
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_count_what_was_called_and_times_are_those_of_the_calls() {
    let (master, mut peer) = master(&["keeper_v1", "faulty"], &[]).await;
    for _ in 0..30 {
        peer.request("keeper", json!({ "delay_ms": 40 })).await;
    }
    peer.request("keeper", json!({ "delay_ms": 400 })).await;
    for _ in 0..3 {
        peer.request("keeper", json!("no question")).await;
    }
    let told = listed(&mut peer, "keeper_v1").await;
    let figures = ["calls", "handled", "errors", "panics", "timeouts", "unclaimedReplies"];
    assert_eq!(figures.map(|field| number(&told, field)), [34, 34, 3, 0, 0, 0]);
    let [p50, p99] = ["p50Ms", "p99Ms"].map(|field| told[field].as_f64().expect("a time"));
    assert!(p50 >= 40.0 && p99 >= 400.0 && p50 < p99, "{told}");
    for _ in 0..2 {
        peer.request("faulty", json!({ "do": "panic" })).await;
    }
    let told = listed(&mut peer, "faulty").await;
    assert_eq!(["calls", "errors", "panics"].map(|field| number(&told, field)), [2, 2, 2]);
    assert_eq!(number(&listed(&mut peer, "keeper_v1").await, "calls"), 34, "each plugin has its own");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_is_that_of_the_plugin_in_a_thread_and_in_a_worker() {
    for isolation in ["thread", "process"] {
        let (master, mut peer) = master(&["keeper_v1", "echo"], &[("plugins.keeper_v1.isolation", isolation)]).await;
        let before = listed(&mut peer, "keeper_v1").await;
        assert_eq!(before["isolation"], isolation);
        let other = number(&listed(&mut peer, "echo").await, "cpuMs");
        let mut burnt = 0;
        // On a busy machine not all of the time is its own.
        while burnt < 200 {
            let answer = peer.request("keeper", json!({ "burn_ms": 100 })).await;
            assert_eq!(answer["error"], Value::Null, "{answer}");
            burnt = number(&listed(&mut peer, "keeper_v1").await, "cpuMs") - number(&before, "cpuMs");
        }
        let other = number(&listed(&mut peer, "echo").await, "cpuMs") - other;
        assert!(other < burnt, "the other one did nothing: {other} ms, in a {isolation}");
        master.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_be_served_is_told_of_before_it_is() {
    let (master, mut peer) = master(&[], &[("plugins.keeper.start_ms", SLOW_START)]).await;
    put(&master, "keeper.so", &content("keeper_v1"));
    let loaded = until(&mut peer, "keeper", "it is loaded", |plugin| plugin["state"] == "loaded").await;
    assert_eq!((&loaded["generation"], &loaded["candidate"]["step"]), (&Value::Null, &json!("starting")));
    assert_eq!((&loaded["candidate"]["version"], &loaded["calls"]), (&json!("1.0.0"), &Value::Null));
    let first = until_version(&mut peer, "keeper", "1.").await;
    for field in ["generation", "hash", "size", "version", "api", "compiler", "modules"] {
        assert_eq!(first[field], loaded["candidate"][field], "{field}");
    }
    assert!(number(&first, "since") > number(&loaded, "since"), "{loaded} {first}");
    put(&master, "keeper.so", &content("keeper_v2"));
    let beside = until(&mut peer, "keeper", "another starts", |plugin| plugin["candidate"]["step"] == "starting").await;
    assert_eq!((&beside["state"], &beside["version"]), (&json!("running"), &json!("1.0.0")));
    assert_eq!(beside["since"], first["since"], "it runs all the time");
    assert_eq!(beside["candidate"]["version"], "2.0.0");
    let second = until_version(&mut peer, "keeper", "2.").await;
    assert_eq!((&second["candidate"], &second["generation"]), (&Value::Null, &beside["candidate"]["generation"]));
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_and_what_is_still_mapped_is_told_of_until_nothing_is_left() {
    let (master, mut peer) = master(&["keeper_v1", "nodelete"], &[]).await;
    let running = listed(&mut peer, "keeper_v1").await;
    let under_way = peer.send_request("keeper", json!({ "add": 5, "delay_ms": 1000 })).await;
    assert!(peer.settle().await, "it is under way");
    let mut other = Peer::admin(master.address(), "other").await;
    let ask =
        json!({ "action": "disable", "name": "keeper_v1", "wait": false, "clientId": "other", "username": "admin" });
    assert_eq!(other.request("__plugins__", ask).await["body"]["settled"], false);
    let draining = until(&mut other, "keeper_v1", "it drains", |plugin| plugin["state"] == "draining").await;
    assert_eq!(draining["draining"], json!([running["generation"]]));
    assert_eq!((&draining["generation"], &draining["last"]["hash"]), (&Value::Null, &running["hash"]));
    assert_eq!(peer.response(under_way).await["body"]["count"], 5);
    let disabled = until(&mut other, "keeper_v1", "it is disabled", |plugin| plugin["state"] == "disabled").await;
    assert_eq!((&disabled["draining"], &disabled["last"]), (&json!([]), &Value::Null));

    let running = listed(&mut other, "nodelete").await;
    order(&master, "remove", "nodelete").await;
    let retired = until(&mut other, "nodelete", "it is retired", |plugin| plugin["state"] == "retired").await;
    assert_eq!(retired["last"]["generation"], running["generation"]);
    assert_eq!(retired["stillMapped"][0]["generation"], running["generation"]);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_content_is_told_of_with_its_hash_beside_what_runs() {
    let (master, mut peer) = master(&["keeper_v1"], &[]).await;
    let running = listed(&mut peer, "keeper_v1").await;
    put(&master, "keeper_v1.so", &content("bad_no_module"));
    let refused = until(&mut peer, "keeper_v1", "it is refused", |plugin| !plugin["reason"].is_null()).await;
    assert_eq!(refused["refusedHash"], sha256(&plugin_file("bad_no_module")));
    assert_eq!((&refused["hash"], &refused["generation"]), (&running["hash"], &running["generation"]));
    // What could be looked into is told of.
    put(&master, "other.so", &content("keeper_v2"));
    let refused = until(&mut peer, "other", "it is refused", |plugin| plugin["state"] == "refused").await;
    assert_eq!((&refused["candidate"]["step"], &refused["candidate"]["version"]), (&json!("refused"), &json!("2.0.0")));
    assert_eq!(refused["generation"], Value::Null, "it serves nothing");
    let shown = muster(&["plugin", "list", "--master", &master.address().to_string()]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with("other ")).expect("a line");
    assert!(
        line.contains("2.0.0") && line.contains("keeper,keeper2") && line.contains("belongs to keeper_v1.so"),
        "{line}"
    );
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_has_the_last_twenty_changes_with_who_made_them() {
    let (master, mut peer) = master(&[], &[("plugins.probation", "1h")]).await;
    let before = now();
    put(&master, "keeper.so", &content("keeper_v1"));
    let first = until_version(&mut peer, "keeper", "1.").await;
    put(&master, "keeper.so", &content("keeper_v2"));
    let second = until_version(&mut peer, "keeper", "2.").await;
    order(&master, "rollback", "keeper").await;
    let told = until(&mut peer, "keeper", "it is back", |plugin| plugin["generation"] == first["generation"]).await;
    let changes = told["history"].as_array().expect("a history");
    let [v1, v2] = [&first["generation"], &second["generation"]];
    let expected = [
        ("file", &Value::Null, v1, "running"),
        ("file", v1, v2, "running, with the state of generation"),
        ("order", v2, v1, "rolled back: by hand"),
    ];
    assert_eq!(changes.len(), expected.len(), "{told}");
    for (change, (by, from, to, outcome)) in changes.iter().zip(expected) {
        assert_eq!((&change["by"], &change["from"], &change["to"]), (&json!(by), from, to), "{change}");
        assert!(change["outcome"].as_str().is_some_and(|text| text.starts_with(outcome)), "{change}");
        assert!((before..=now()).contains(&number(change, "at")), "{change}");
    }
    // What was rolled back is not loaded again; what runs may be.
    put(&master, "keeper.so", &content("keeper_v1"));
    until(&mut peer, "keeper", "it is the file's", |plugin| plugin["reason"].is_null()).await;
    for _ in 0..20 {
        order(&master, "reload", "keeper").await;
    }
    let told = listed(&mut peer, "keeper").await;
    let changes = told["history"].as_array().expect("a history");
    assert_eq!((changes.len(), &changes[19]["to"]), (20, &told["generation"]));
    let distinct: BTreeSet<u64> = changes.iter().map(|change| number(change, "to")).collect();
    assert_eq!(distinct.len(), 20, "one for each reload: {told}");
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn since_when_is_the_time_of_the_last_change_of_state() {
    let (master, mut peer) = master(&["keeper_v1"], &[]).await;
    let running = listed(&mut peer, "keeper_v1").await;
    // Seconds are told.
    eventually("a second has passed", WITHIN, async || (now() > number(&running, "since")).then_some(())).await;
    let before = now();
    order(&master, "disable", "keeper_v1").await;
    let disabled = listed(&mut peer, "keeper_v1").await;
    assert!((before..=now()).contains(&number(&disabled, "since")), "{disabled}");
    eventually("a second has passed", WITHIN, async || (now() > number(&disabled, "since")).then_some(())).await;
    assert_eq!(listed(&mut peer, "keeper_v1").await["since"], disabled["since"], "it does not go on by itself");
    let before = now();
    order(&master, "enable", "keeper_v1").await;
    let told = listed(&mut peer, "keeper_v1").await;
    assert!((before..=now()).contains(&number(&told, "loadedAt")), "{told}");
    assert!(Duration::from_secs(now() - number(&told, "since")) < WITHIN);
    master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_waits_for_is_told_and_a_circle_with_its_path() {
    let (master, mut peer) = master(&["dependent"], &[]).await;
    let waits = listed(&mut peer, "dependent").await;
    assert_eq!(waits["state"], "refused", "{waits}");
    let reason = "it needs module versioned, which nobody serves: it is started when that is there";
    assert_eq!((&waits["reason"], &waits["candidate"]["modules"][0]["needs"]), (&json!(reason), &json!(["versioned"])));
    put(&master, "dependent_back.so", &content("dependent_back"));
    for (name, path) in
        [("dependent", "dependent → versioned → dependent"), ("dependent_back", "versioned → dependent → versioned")]
    {
        let circle = until(&mut peer, name, "the circle is told", |plugin| {
            plugin["reason"].as_str().is_some_and(|reason| reason.contains("circle"))
        })
        .await;
        assert!(circle["reason"].as_str().is_some_and(|reason| reason.contains(path)), "{circle}");
    }
    // One does without.
    put(&master, "dependent_back.so", &content("versioned_v1"));
    for name in ["dependent", "dependent_back"] {
        until(&mut peer, name, "it runs", |plugin| plugin["state"] == "running" && plugin["reason"].is_null()).await;
    }
    assert_eq!(peer.request("dependent", json!("x")).await["body"], "x");
    master.shutdown().await;
}

//! What a module holds goes to the next generation, in threads and in worker processes: nothing of it is lost under
//! traffic, and when it cannot be handed over the old one goes on, or it is told what was lost.

use std::{fs, net::SocketAddr, path::PathBuf};

use muster_tests::{
    cli::muster,
    config::ConfigDir,
    daemon::{Daemon, Setup},
    deadline::{eventually, within},
    peer::Peer,
    plugins::{WITHIN, content, listed, put, until, until_version, words},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

const ISOLATIONS: [&str; 2] = ["thread", "process"];

/// The master's own monitor.
const OWN_MONITOR: &str = "master-server-1";

/// A master with version 1 of the keeper, whose counters have these values, in the order of [`counters`].
struct Kept {
    master: Daemon,
    peer: Peer,
    file: PathBuf,
}

const COUNTERS: [u64; 4] = [7, 11, 13, 17];

impl Kept {
    /// However busy the machine is.
    async fn start(isolation: &str, options: &str) -> Kept {
        Kept::within(isolation, options, "10s").await
    }

    /// With steps of a hand-over that take 2 s at most: for those that do not end.
    async fn impatient(isolation: &str, options: &str) -> Kept {
        Kept::within(isolation, options, "2s").await
    }

    async fn within(isolation: &str, options: &str, handover: &str) -> Kept {
        let config = ConfigDir::recorded();
        let file = config.path().join("muster.toml");
        fs::write(&file, of_keeper(isolation, options)).expect("a configuration");
        let master = Setup::master()
            .plugins(&[])
            .config(config)
            .argument("--config", &file.display().to_string())
            .set("plugins.settle", "5ms")
            .set("plugins.preflight_timeout", "20s")
            .set("plugins.state_limit", "64KiB")
            .set("plugins.handover", handover)
            .start()
            .await;
        let mut peer = Peer::admin(master.address(), "observer").await;
        put(&master, "keeper.so", &content("keeper_v1"));
        until_version(&mut peer, "keeper", "1.").await;
        let mut kept = Kept { master, peer, file };
        assert_eq!(counters(&mut kept.peer, COUNTERS).await, COUNTERS);
        kept
    }

    /// Other options for the generations that start from now on.
    async fn reconfigure(&self, isolation: &str, options: &str) {
        fs::write(&self.file, of_keeper(isolation, options)).expect("a configuration");
        let read = |log: String| log.matches("configuration read again").count();
        let before = read(self.master.log());
        self.master.signal(Signal::HUP);
        eventually("it is read", WITHIN, async || (read(self.master.log()) > before).then_some(())).await;
    }

    async fn replace(&mut self, fixture: &str, version: &str) -> Value {
        put(&self.master, "keeper.so", &content(fixture));
        until_version(&mut self.peer, "keeper", version).await
    }

    /// Replaces version 1 by 2, which is refused; returns what is told of the plugin.
    async fn is_refused(&mut self, why: &str) -> Value {
        put(&self.master, "keeper.so", &content("keeper_v2"));
        let told = until(&mut self.peer, "keeper", "it is refused", |plugin| plugin["reason"] != Value::Null).await;
        let reason = told["reason"].as_str().expect("a reason");
        assert!(reason.contains("did not take over the state of generation") && reason.contains(why), "{reason}");
        let last = told["history"].as_array().and_then(|history| history.last()).expect("a history");
        assert!(last["outcome"].as_str().is_some_and(|outcome| outcome.contains(why)), "{last}");
        assert!(told["version"].as_str().is_some_and(|version| version.starts_with("1.")), "{told}");
        told
    }
}

fn of_keeper(isolation: &str, options: &str) -> String {
    format!("[plugins.keeper]\nisolation = \"{isolation}\"\n{options}\n")
}

async fn ask(peer: &mut Peer, module: &str, question: Value) -> u64 {
    let answer = peer.request(module, question).await;
    answer["body"]["count"].as_u64().unwrap_or_else(|| panic!("no count: {answer}"))
}

/// Adds to the four counters, of two modules in two roles, and reads them.
async fn counters(peer: &mut Peer, add: [u64; 4]) -> [u64; 4] {
    let mut counts = [0; 4];
    for (n, add) in add.into_iter().enumerate() {
        let module = ["keeper", "keeper2"][n % 2];
        let question = if n < 2 { json!({ "add": add }) } else { json!({ "add": add, "at": OWN_MONITOR }) };
        counts[n] = ask(peer, module, question).await;
    }
    counts
}

fn handover(plugin: &Value) -> &str {
    plugin["handover"].as_str().unwrap_or_default()
}

/// Adds one after the other until told to stop; returns what the counter was after each.
fn add(address: SocketAddr, client: usize, stop: watch::Receiver<bool>) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut peer = Peer::admin(address, &format!("adder-{client}")).await;
        let mut counts = Vec::new();
        while !*stop.borrow() {
            // Some are under way at any switch.
            let delay = counts.len() % 3 * 10;
            counts.push(ask(&mut peer, "keeper", json!({ "add": 1, "delay_ms": delay })).await);
        }
        counts
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_goes_on_over_many_generations_under_traffic_and_no_addition_is_lost_or_doubled() {
    for isolation in ISOLATIONS {
        let Kept { master, mut peer, .. } = Kept::start(isolation, "").await;
        let (stop, stopped) = watch::channel(false);
        let adders: Vec<_> = (0..4).map(|client| add(master.address(), client, stopped.clone())).collect();
        let mut generation = listed(&mut peer, "keeper").await["generation"].clone();
        for round in 0..10 {
            // A version, or the same once more.
            if round == 0 {
                put(&master, "keeper.so", &content("keeper_v2"));
            } else {
                let reload = muster(&["plugin", "reload", "keeper", "--master", &master.address().to_string()]).await;
                assert_eq!(reload.code, 0, "{reload:?}");
            }
            let told =
                until(&mut peer, "keeper", "the next one serves", |plugin| plugin["generation"] != generation).await;
            let whose = format!("with the state of generation {generation} (");
            assert!(handover(&told).starts_with(&whose) && handover(&told).ends_with("for 4 instances)"), "{told}");
            generation = told["generation"].clone();
        }
        stop.send_replace(true);
        let mut counts = Vec::new();
        for adder in adders {
            counts.extend(adder.await.expect("an adder"));
        }
        counts.sort_unstable();
        let expected: Vec<u64> = (COUNTERS[0] + 1..).take(counts.len()).collect();
        assert_eq!(counts, expected, "each addition once, in a {isolation}");
        let [_, others @ ..] = counters(&mut peer, [0; 4]).await;
        assert_eq!(others, COUNTERS[1..], "each instance has its own");
        master.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_goes_from_a_thread_to_a_worker_and_back() {
    let mut kept = Kept::start("thread", "").await;
    for (isolation, fixture, version) in [("process", "keeper_v2", "2."), ("thread", "keeper_v2", "2.")] {
        kept.reconfigure(isolation, "").await;
        if listed(&mut kept.peer, "keeper").await["version"] == "2.0.0" {
            let address = kept.master.address().to_string();
            assert_eq!(muster(&["plugin", "reload", "keeper", "--master", &address]).await.code, 0);
        } else {
            kept.replace(fixture, version).await;
        }
        assert_eq!(listed(&mut kept.peer, "keeper").await["isolation"], isolation);
        assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS, "in a {isolation}");
    }
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_version_whose_state_import_fails_does_not_serve_and_the_old_one_goes_on_as_before() {
    for isolation in ISOLATIONS {
        for (import, why) in [
            ("fail", "the keeper was told to fail"),
            ("panic", "panicked: the keeper was told to panic"),
            ("never", "it had not answered after 2 s"),
        ] {
            // One of two modules is enough.
            let options = format!("import = \"{import}\"\nonly = \"keeper2\"");
            let mut kept = Kept::impatient(isolation, &options).await;
            let (stop, stopped) = watch::channel(false);
            let adders: Vec<_> = (0..3).map(|client| add(kept.master.address(), client, stopped.clone())).collect();
            kept.is_refused(why).await;
            stop.send_replace(true);
            let mut counts = Vec::new();
            for adder in adders {
                counts.extend(adder.await.expect("an adder"));
            }
            counts.sort_unstable();
            let expected: Vec<u64> = (COUNTERS[0] + 1..).take(counts.len()).collect();
            assert_eq!(counts, expected, "what waited was given back, {import} in a {isolation}");
            let [_, others @ ..] = counters(&mut kept.peer, [0; 4]).await;
            assert_eq!(others, COUNTERS[1..], "{import} in a {isolation}");
            assert!(kept.master.log().contains(why), "it is logged");
            kept.master.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_worker_that_dies_of_a_state_does_not_serve() {
    let mut kept = Kept::start("process", "import = \"abort\"").await;
    kept.is_refused("was restarted: its worker died of SIGABRT").await;
    assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS);
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_an_import_that_hangs_keeps_nobody_from_being_served() {
    let mut kept = Kept::impatient("thread", "import = \"hang\"").await;
    kept.is_refused("it had not answered after 2 s").await;
    assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS);
    drop(kept.master.kill().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_imported_and_a_newer_one_is_refused_with_the_reason() {
    let mut kept = Kept::start("thread", "").await;
    kept.replace("keeper_v2", "2.").await;
    assert_eq!(counters(&mut kept.peer, [1; 4]).await, COUNTERS.map(|count| count + 1), "version 2 knows schema 1");
    put(&kept.master, "keeper.so", &content("keeper_v1"));
    let told = until(&mut kept.peer, "keeper", "it is refused", |plugin| plugin["reason"] != Value::Null).await;
    let reason = told["reason"].as_str().expect("a reason");
    assert!(reason.contains("(schema 2): schema 2 is newer than this version"), "{reason}");
    assert_eq!(told["version"], "2.0.0");
    // Whoever orders it is told as well.
    let address = kept.master.address().to_string();
    let reload = muster(&["plugin", "reload", "keeper", "--master", &address]).await;
    assert!(reload.code == 1 && reload.stderr.contains("schema 2 is newer than this version"), "{reload:?}");
    assert!(reload.stderr.contains("what ran before serves on"), "{reload:?}");
    assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS.map(|count| count + 1));
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_may_say_that_it_starts_empty_and_that_is_shown() {
    for (fixture, version, options, words) in [
        ("keeper_v2", "2.", "import = \"empty\"", "keeper as master starts without it"),
        ("keeper_v3", "3.", "", "keeper as master takes none in the new version"),
    ] {
        let mut kept = Kept::start("thread", options).await;
        let told = kept.replace(fixture, version).await;
        assert!(handover(&told).starts_with("without the state of generation "), "{told}");
        assert!(handover(&told).contains(words), "{told}");
        assert_eq!(counters(&mut kept.peer, [0; 4]).await, [0; 4]);
        kept.master.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_no_state_is_replaced_by_what_does_and_nobody_is_asked() {
    let mut kept = Kept::start("thread", "export = \"nothing\"").await;
    let told = kept.replace("keeper_v2", "2.").await;
    assert!(handover(&told).ends_with("had no state to hand over"), "{told}");
    assert_eq!(counters(&mut kept.peer, COUNTERS).await, COUNTERS);
    kept.replace("keeper_v3", "3.").await;
    let told = kept.replace("keeper_v2", "2.").await;
    assert_eq!(told["handover"], Value::Null, "version 3 has none by its manifest");
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_fails_does_not_stop_the_replacement_and_to_roll_back_is_to_have_the_state_back() {
    for isolation in ISOLATIONS {
        for (export, why) in [
            ("fail", "the keeper was told to fail"),
            ("panic", "panicked: the keeper was told to panic"),
            ("large", "at most 65536 are taken (plugins.state_limit)"),
            ("never", "it had not answered after 2 s (plugins.handover)"),
        ] {
            let options = format!("export = \"{export}\"\nonly = \"keeper\"");
            let mut kept = Kept::impatient(isolation, &options).await;
            let waiting = kept.peer.send_request("keeper", json!({ "add": 0, "delay_ms": 200 })).await;
            let told = kept.replace("keeper_v2", "2.").await;
            assert_eq!(kept.peer.response(waiting).await["body"]["count"], COUNTERS[0], "it was under way");
            let lost = format!("keeper as master could not export it: {why}");
            let lost = if export == "large" { "keeper as master could not export it: it has" } else { &lost };
            assert!(handover(&told).contains(lost) && handover(&told).contains(why), "{export}: {told}");
            assert!(kept.master.log().contains("state was not handed over"), "{export}: it is logged");
            let [first, second, third, fourth] = counters(&mut kept.peer, [1; 4]).await;
            assert_eq!((first, third), (1, 1), "{export}: empty");
            assert_eq!((second, fourth), (COUNTERS[1] + 1, COUNTERS[3] + 1), "{export}: handed over all the same");
            let address = kept.master.address().to_string();
            let back = muster(&["plugin", "rollback", "keeper", "--master", &address]).await;
            assert_eq!(back.code, 0, "{back:?}");
            assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS, "{export}: as it was at the switch");
            kept.master.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_hangs_loses_no_call() {
    for isolation in ISOLATIONS {
        let mut kept = Kept::impatient(isolation, "export = \"hang\"").await;
        let (stop, stopped) = watch::channel(false);
        let adder = add(kept.master.address(), 0, stopped);
        let told = kept.replace("keeper_v2", "2.").await;
        assert!(handover(&told).contains("could not export it"), "{told}");
        // The thread of the old one is of no use any more; a worker has been replaced.
        assert_eq!(told["probation"].is_null(), isolation == "thread", "{told}");
        let mut other = Peer::admin(kept.master.address(), "other").await;
        within("the new one answers", WITHIN, ask(&mut other, "keeper2", json!({ "add": 1 }))).await;
        stop.send_replace(true);
        let counts = adder.await.expect("an adder: each of its calls was answered");
        assert!(!counts.is_empty());
        drop(kept.master.kill().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlasts_the_hand_over_is_told_of_since_what_it_changes_is_not_in_the_state() {
    let mut kept = Kept::impatient("thread", "").await;
    let long = kept.peer.send_request("keeper", json!({ "add": 100, "delay_ms": 4000 })).await;
    assert!(kept.peer.settle().await, "it is under way");
    let mut observer = Peer::admin(kept.master.address(), "second").await;
    put(&kept.master, "keeper.so", &content("keeper_v2"));
    let told = until_version(&mut observer, "keeper", "2.").await;
    assert!(
        handover(&told).contains("a call goes on in the old generation, and what it changes is not in it"),
        "{told}"
    );
    assert_eq!(kept.peer.response(long).await["body"], json!({ "version": "1", "count": COUNTERS[0] + 100 }));
    assert_eq!(counters(&mut kept.peer, [0; 4]).await, COUNTERS);
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_starts_without_state_and_hands_over_what_it_has_since() {
    let mut kept = Kept::start("process", "").await;
    let worker = listed(&mut kept.peer, "keeper").await["worker"].clone();
    let pid = worker["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a worker has a number");
    let pid = rustix::process::Pid::from_raw(pid).expect("which is not 0");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    until(&mut kept.peer, "keeper", "it is back", |plugin| plugin["worker"]["restarts"] == 1).await;
    assert_eq!(counters(&mut kept.peer, [1, 2, 3, 4]).await, [1, 2, 3, 4], "what it held is gone");
    kept.replace("keeper_v2", "2.").await;
    assert_eq!(counters(&mut kept.peer, [0; 4]).await, [1, 2, 3, 4]);
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_holds_survives_whatever_becomes_of_the_state() {
    for isolation in ISOLATIONS {
        let mut kept = Kept::start(isolation, "import = \"empty\"").await;
        let address = kept.master.address().to_string();
        let value = json!({ "since": "version 1" });
        kept.peer.request("keeper", json!({ "put": value })).await;
        kept.replace("keeper_v2", "2.").await;
        assert_eq!(kept.peer.request("keeper", json!({})).await["body"]["kept"], value, "started empty");
        kept.reconfigure(isolation, "import = \"fail\"").await;
        put(&kept.master, "keeper.so", &content("keeper_v1"));
        until(&mut kept.peer, "keeper", "it is refused", |plugin| plugin["reason"] != Value::Null).await;
        assert_eq!(kept.peer.request("keeper", json!({})).await["body"]["kept"], value, "not replaced");
        for order in ["rollback", "disable", "enable"] {
            let done = muster(&["plugin", order, "keeper", "--master", &address]).await;
            assert_eq!(done.code, 0, "{order}: {done:?}");
        }
        assert_eq!(
            kept.peer.request("keeper", json!({})).await["body"],
            json!({ "version": "1", "count": 0, "kept": value })
        );
        kept.master.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_disabled_while_its_state_is_handed_over_ends_and_whoever_waits_is_told() {
    let mut kept = Kept::start("thread", "import = \"never\"").await;
    let address = kept.master.address();
    put(&kept.master, "keeper.so", &content("keeper_v2"));
    let mut other = Peer::admin(address, "other").await;
    until(&mut other, "keeper", "its state is handed over", |plugin| plugin["candidate"]["step"] == "handing-over")
        .await;
    let held = kept.peer.send_request("keeper", json!({})).await;
    assert!(kept.peer.settle().await, "it has arrived");
    let ask = json!({ "action": "disable", "name": "keeper", "clientId": "other", "username": "admin" });
    let disabled = other.request("__plugins__", ask).await;
    assert_eq!(disabled["body"]["state"], "disabled", "{disabled}");
    assert_eq!(words(&kept.peer.response(held).await), "module keeper failed: it was disabled");
    assert_eq!(other.request("keeper", json!({})).await["error"], "unknown moduleId:keeper");
    kept.peer.expect_silence().await;
    kept.master.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_while_a_state_is_handed_over_ends_in_order() {
    for isolation in ISOLATIONS {
        let mut kept = Kept::start(isolation, "import = \"never\"").await;
        put(&kept.master, "keeper.so", &content("keeper_v2"));
        let handing = |plugin: &Value| plugin["candidate"]["step"] == "handing-over";
        until(&mut kept.peer, "keeper", "its state is handed over", handing).await;
        kept.master.shutdown().await;
    }
}

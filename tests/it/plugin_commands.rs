//! `muster plugin install|reload|enable|disable|remove`, and the same as messages: who may, what becomes of it, and
//! what of it outlives the master.

use std::{fs, net::SocketAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use muster_tests::{
    cli::{Finished, muster},
    daemon::{Daemon, Setup, plugin_file},
    deadline::{PROCESS, eventually},
    peer::Peer,
    plugins::sha256,
};
use serde_json::{Value, json};

/// Runs `muster plugin ARGUMENTS…` as the administrator.
async fn plugin(master: SocketAddr, arguments: &[&str]) -> Finished {
    let master = master.to_string();
    let mut all = vec!["plugin"];
    all.extend(arguments);
    all.extend(["--master", &master]);
    muster(&all).await
}

/// What the list says of a plugin; null without it.
async fn listed(master: SocketAddr, name: &str) -> Value {
    let list = plugin(master, &["list", "-o", "json"]).await.json();
    let plugins = list["plugins"].as_array().expect("a list").clone();
    plugins.into_iter().find(|plugin| plugin["name"] == name).unwrap_or_default()
}

async fn version(peer: &mut Peer) -> Value {
    peer.request("versioned", json!({})).await["body"]["version"].clone()
}

fn fixture(name: &str) -> String {
    plugin_file(name).to_str().expect("paths of tests are text").to_owned()
}

async fn start(plugins: &[&str]) -> (Daemon, SocketAddr, Peer) {
    let master = Setup::master().plugins(plugins).start().await;
    let address = master.address();
    let peer = Peer::admin(address, "observer").await;
    (master, address, peer)
}

#[tokio::test]
async fn a_file_that_is_sent_is_served_when_the_command_ends() {
    let (master, address, mut peer) = start(&[]).await;
    for (fixture_name, expected) in [("versioned_v1", 1), ("versioned_v2", 2)] {
        let done = plugin(address, &["install", &fixture(fixture_name), "--name", "versioned"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.contains("versioned ") && done.stdout.contains(" runs as generation "), "{done:?}");
        assert_eq!(version(&mut peer).await, expected);
    }
    let names =
        fs::read_dir(master.plugin_dir()).expect("the directory").map(|entry| entry.expect("a name").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["versioned.so"], "nothing else is left in the directory");
    master.shutdown().await;
}

#[tokio::test]
async fn small_packets_make_small_pieces() {
    let master = Setup::master().plugins(&[]).set("limits.packet_after_login", "64KiB").start().await;
    let done = plugin(master.address(), &["install", &fixture("versioned_v1"), "--name", "versioned"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let mut peer = Peer::admin(master.address(), "observer").await;
    assert_eq!(version(&mut peer).await, 1);
    master.shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_copied_to_a_master_on_this_machine_is_waited_for_as_well() {
    let (master, address, mut peer) = start(&[]).await;
    let directory = master.plugin_dir().to_str().expect("paths of tests are text").to_owned();
    let v1 = fixture("versioned_v1");
    let done = plugin(address, &["install", &v1, "--name", "versioned", "--plugins", &directory, "-o", "json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.json()["state"], "running");
    assert_eq!(version(&mut peer).await, 1);
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let elsewhere = elsewhere.path().to_str().expect("paths of tests are text");
    let done = plugin(address, &["install", &v1, "--name", "other", "--plugins", elsewhere]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("the master does not see it"), "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn a_refused_file_is_exit_code_one_with_its_reason_and_the_old_one_serves_on() {
    let (master, address, mut peer) = start(&["versioned_v1"]).await;
    let done = plugin(address, &["install", &fixture("bad_no_module"), "--name", "versioned_v1"]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("no module symbol") && done.stderr.contains("serves on"), "{done:?}");
    assert_eq!(version(&mut peer).await, 1);
    for name in ["../versioned", ".hidden", "a/b"] {
        let done = plugin(address, &["install", &fixture("versioned_v1"), "--name", name]).await;
        assert!(done.code == 1 && done.stderr.contains("is no name of a plugin"), "{name}: {done:?}");
        let ask = json!({ "action": "remove", "name": name, "clientId": "observer", "username": "admin" });
        let answer = peer.request("__plugins__", ask).await;
        assert!(answer["error"].as_str().is_some_and(|error| error.contains("is no name of a plugin")), "{answer}");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn a_reload_makes_a_new_generation_of_the_same_file() {
    let (master, address, mut peer) = start(&["versioned_v1"]).await;
    let before = listed(address, "versioned_v1").await["generation"].as_u64().expect("a generation");
    let done = plugin(address, &["reload", "versioned_v1", "-o", "json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.json()["generation"].as_u64() > Some(before), "{done:?}");
    assert_eq!(version(&mut peer).await, 1);
    let done = plugin(address, &["reload", "nothing"]).await;
    assert!(done.code == 1 && done.stderr.contains("there is no plugin nothing"), "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn every_order_takes_wait_and_timeout_here_and_from_elsewhere() {
    let (master, address, mut peer) = start(&[]).await;
    let directory = master.plugin_dir().to_str().expect("paths of tests are text").to_owned();
    let file = fixture("versioned_v1");
    let orders: [(&[&str], &str, Value); 6] = [
        (&["install", &file, "--name", "versioned"], "running", json!(1)),
        (&["reload", "versioned"], "running", json!(1)),
        (&["disable", "versioned"], "disabled", Value::Null),
        (&["enable", "versioned"], "running", json!(1)),
        (&["remove", "versioned"], "", Value::Null),
        (&["install", &file, "--name", "versioned", "--plugins", &directory], "running", json!(1)),
    ];
    for (order, state, answered) in orders {
        let all = [order, &["--wait", "--timeout", "60s", "-o", "json"]].concat();
        let done = plugin(address, &all).await;
        assert_eq!(done.code, 0, "{order:?}: {done:?}");
        let told = done.json();
        assert_eq!(told["state"].as_str().unwrap_or_default(), state, "{order:?}: {told}");
        assert_eq!(told["settled"], true, "{order:?}: {told}");
        assert_eq!(version(&mut peer).await, answered, "{order:?}: it is over when the command ends");
    }
    for order in [&["reload", "versioned"][..], &["install", &file, "--name", "versioned"]] {
        let done = plugin(address, &[order, &["--no-wait", "--timeout", "60s"]].concat()).await;
        assert!(done.code == 0 && done.stdout.contains(" is ordered"), "{order:?}: {done:?}");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn an_order_whose_outcome_takes_longer_than_the_timeout_is_exit_code_six_and_stands() {
    let setup = Setup::master().plugins(&[]).set("plugins.keeper_v1.start_ms", "750");
    let master = setup.start().await;
    let address = master.address();
    let done = plugin(address, &["install", &fixture("keeper_v1"), "--wait", "--timeout", "500ms"]).await;
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stderr.contains("keeper_v1"), "{done:?}");
    eventually("it runs all the same", PROCESS, async || {
        (listed(address, "keeper_v1").await["state"] == "running").then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn level_one_gives_the_same_orders_as_messages() {
    let (master, address, mut peer) = start(&["versioned_v1"]).await;
    let order = async |peer: &mut Peer, action: &str| {
        let ask = json!({
            "action": action, "name": "versioned_v1", "timeoutMs": 60_000, "clientId": "observer", "username": "admin",
        });
        let answer = peer.request("__plugins__", ask).await;
        assert_eq!(answer["error"], Value::Null, "{action}: {answer}");
        answer["body"].clone()
    };
    let first = listed(address, "versioned_v1").await["generation"].as_u64();
    let told = order(&mut peer, "reload").await;
    assert!(told["state"] == "running" && told["generation"].as_u64() > first && told["settled"] == true, "{told}");
    assert_eq!(order(&mut peer, "disable").await["state"], "disabled");
    assert_eq!(version(&mut peer).await, Value::Null);
    assert_eq!(order(&mut peer, "enable").await["state"], "running");
    assert_eq!(version(&mut peer).await, 1);
    assert!(order(&mut peer, "pin").await["text"].as_str().is_some_and(|text| text.contains("is pinned")));
    assert!(order(&mut peer, "unpin").await["text"].as_str().is_some_and(|text| text.contains("is not pinned")));
    // A new file: asked how large a piece may be, sent in pieces, and put into place.
    let library = fs::read(plugin_file("versioned_v2")).expect("the fixture is built");
    let mut offset = 0;
    let mut piece: &[u8] = &[];
    let hash = sha256(&plugin_file("versioned_v2"));
    loop {
        let ask = json!({
            "action": "upload", "name": "versioned_v1", "offset": offset, "data": BASE64_STANDARD.encode(piece),
            "clientId": "observer", "username": "admin",
        });
        let answer = peer.request("__plugins__", ask).await["body"].clone();
        offset = answer["size"].as_u64().and_then(|size| usize::try_from(size).ok()).expect("a size");
        let chunk = answer["chunk"].as_u64().and_then(|chunk| usize::try_from(chunk).ok()).expect("a size");
        piece = &library[offset..library.len().min(offset + chunk)];
        if piece.is_empty() {
            break;
        }
    }
    let ask = json!({
        "action": "install", "name": "versioned_v1", "sha256": hash, "clientId": "observer", "username": "admin",
    });
    let told = peer.request("__plugins__", ask).await["body"].clone();
    assert_eq!((&told["state"], &told["hash"]), (&json!("running"), &json!(hash)), "{told}");
    assert_eq!(version(&mut peer).await, 2);
    assert!(order(&mut peer, "rollback").await["text"].as_str().is_some_and(|text| text.contains("is rolled back")));
    assert_eq!(version(&mut peer).await, 1);
    assert_eq!(order(&mut peer, "remove").await, json!({ "name": "versioned_v1", "state": null, "settled": true }));
    assert_eq!(version(&mut peer).await, Value::Null);
    master.shutdown().await;
}

#[tokio::test]
async fn what_is_disabled_stays_so_over_restarts_until_it_is_enabled() {
    let (master, address, mut peer) = start(&["versioned_v1"]).await;
    let done = plugin(address, &["disable", "versioned_v1"]).await;
    assert_eq!((done.code, done.stdout.trim()), (0, "versioned_v1 is disabled"), "{done:?}");
    assert_eq!(peer.request("versioned", json!({})).await["error"], "unknown moduleId:versioned");
    let done = plugin(address, &["reload", "versioned_v1"]).await;
    assert!(done.code == 1 && done.stderr.contains("is disabled"), "{done:?}");

    let state = master.kill().await;
    let master = Setup::master().plugins(&["versioned_v1"]).state(state).start().await;
    let address = master.address();
    assert_eq!(listed(address, "versioned_v1").await["state"], "disabled");
    let done = plugin(address, &["enable", "versioned_v1"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let mut peer = Peer::admin(address, "observer").await;
    assert_eq!(version(&mut peer).await, 1);
    master.shutdown().await;
}

#[tokio::test]
async fn a_module_that_was_disabled_by_command_is_disabled_after_a_restart() {
    let (master, _, mut peer) = start(&["versioned_v1"]).await;
    let identity = json!({ "clientId": "observer", "username": "admin" });
    assert_eq!(peer.command("disable", "versioned", identity.clone()).await["body"], 1);
    let state = master.kill().await;
    let master = Setup::master().plugins(&["versioned_v1"]).state(state).start().await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    assert_eq!(peer.request("versioned", json!({})).await["error"], "module versioned is disable");
    assert_eq!(peer.command("enable", "versioned", identity).await["body"], 1);
    let state = master.kill().await;
    let master = Setup::master().plugins(&["versioned_v1"]).state(state).start().await;
    let mut peer = Peer::admin(master.address(), "observer").await;
    assert_eq!(version(&mut peer).await, 1);
    master.shutdown().await;
}

#[tokio::test]
async fn a_removed_plugin_is_gone_with_its_file_at_once() {
    let (master, address, mut peer) = start(&["versioned_v1"]).await;
    let done = plugin(address, &["remove", "versioned_v1"]).await;
    assert_eq!((done.code, done.stdout.trim()), (0, "versioned_v1 is removed"), "{done:?}");
    assert_eq!(peer.request("versioned", json!({})).await["error"], "unknown moduleId:versioned");
    assert!(!master.plugin_dir().join("versioned_v1.so").exists());
    assert_eq!(listed(address, "versioned_v1").await, Value::Null);
    master.shutdown().await;
}

#[tokio::test]
async fn what_is_pinned_is_not_replaced_and_what_is_disabled_keeps_no_generation_to_go_back_to() {
    let (master, address, mut peer) = start(&[]).await;
    for fixture_name in ["versioned_v1", "versioned_v2"] {
        let done = plugin(address, &["install", &fixture(fixture_name), "--name", "versioned"]).await;
        assert_eq!(done.code, 0, "{done:?}");
    }
    assert!(listed(address, "versioned").await["probation"].is_object());
    assert_eq!(plugin(address, &["pin", "versioned"]).await.code, 0);
    for order in [&["reload", "versioned"][..], &["install", &fixture("versioned_v1"), "--name", "versioned"]] {
        let done = plugin(address, order).await;
        assert!(done.code == 1 && done.stderr.contains("versioned is pinned"), "{done:?}");
    }
    assert_eq!(version(&mut peer).await, 2);
    assert_eq!(plugin(address, &["disable", "versioned"]).await.code, 0, "also what is pinned");
    let plugin_now = listed(address, "versioned").await;
    assert!(plugin_now["probation"].is_null() && plugin_now["draining"] == json!([]), "{plugin_now}");
    let nothing = plugin(address, &["rollback", "versioned"]).await;
    assert!(nothing.code == 1 && nothing.stderr.contains("no older generation"), "{nothing:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn what_is_pinned_stays_so_over_restarts_and_no_other_content_takes_its_place() {
    let (master, address, _) = start(&["versioned_v1"]).await;
    assert_eq!(plugin(address, &["pin", "versioned_v1"]).await.code, 0);
    let pinned = listed(address, "versioned_v1").await;
    assert_eq!((&pinned["pinned"], &pinned["pinnedHash"]), (&json!(true), &pinned["hash"]));

    // The same content is there after a restart, and still pinned.
    let state = master.kill().await;
    let master = Setup::master().plugins(&["versioned_v1"]).state(state).start().await;
    let now = listed(master.address(), "versioned_v1").await;
    assert_eq!((&now["state"], &now["pinned"]), (&json!("running"), &json!(true)), "{now}");
    let done = plugin(master.address(), &["reload", "versioned_v1"]).await;
    assert!(done.code == 1 && done.stderr.contains("is pinned"), "{done:?}");

    // Another is not loaded in its place, nor installed; the one that is pinned is.
    let state = master.kill().await;
    let setup = Setup::master().plugins(&[]).state(state).start();
    let master = setup.await;
    let address = master.address();
    let file = master.plugin_dir().join("versioned_v1.so");
    fs::copy(fixture("versioned_v2"), &file).expect("a copy");
    let refused = eventually("it is refused", PROCESS, async || {
        let now = listed(address, "versioned_v1").await;
        (now["state"] == "refused").then_some(now)
    })
    .await;
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.starts_with(&format!("SHA-256 {} of it is pinned", pinned["hash"].as_str().unwrap())), "{reason}");
    let done = plugin(address, &["install", &fixture("versioned_v2"), "--name", "versioned_v1"]).await;
    assert!(done.code == 1 && done.stderr.contains("versioned_v1 is pinned"), "{done:?}");
    assert_eq!(plugin(address, &["install", &fixture("versioned_v1")]).await.code, 0, "the pinned one");

    // Not pinned is not pinned after a restart, either.
    assert_eq!(plugin(address, &["unpin", "versioned_v1"]).await.code, 0);
    let state = master.kill().await;
    let master = Setup::master().plugins(&[]).state(state).start().await;
    let done = plugin(master.address(), &["install", &fixture("versioned_v2"), "--name", "versioned_v1"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(listed(master.address(), "versioned_v1").await["pinned"], false);

    // What is removed is not pinned when it comes again.
    for order in ["pin", "remove"] {
        assert_eq!(plugin(master.address(), &[order, "versioned_v1"]).await.code, 0, "{order}");
    }
    let done = plugin(master.address(), &["install", &fixture("versioned_v1")]).await;
    assert_eq!(done.code, 0, "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn a_pin_follows_a_roll_back() {
    let (master, address, mut peer) = start(&[]).await;
    for fixture_name in ["versioned_v1", "versioned_v2"] {
        let done = plugin(address, &["install", &fixture(fixture_name), "--name", "versioned"]).await;
        assert_eq!(done.code, 0, "{done:?}");
    }
    for order in ["pin", "rollback"] {
        assert_eq!(plugin(address, &[order, "versioned"]).await.code, 0, "{order}");
    }
    assert_eq!(version(&mut peer).await, 1);
    let now = listed(address, "versioned").await;
    assert_eq!(now["pinnedHash"], now["hash"], "{now}");
    let state = master.kill().await;
    let master = Setup::master().plugins(&[]).state(state).start().await;
    let done = plugin(master.address(), &["install", &fixture("versioned_v1"), "--name", "versioned"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn an_order_that_is_not_waited_for_stands() {
    let (master, address, _peer) = start(&["versioned_v1"]).await;
    let done = plugin(address, &["disable", "versioned_v1", "--no-wait"]).await;
    assert_eq!((done.code, done.stdout.trim()), (0, "versioned_v1: disable is ordered"), "{done:?}");
    eventually("it is disabled", PROCESS, async || {
        (listed(address, "versioned_v1").await["state"] == "disabled").then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn only_level_one_under_its_own_name_may_change_anything_and_every_try_is_audited() {
    let (master, address, mut admin) = start(&["versioned_v1"]).await;
    let mut other = Peer::client(address, "looker", "monitor").await;
    let ask = |identity: Value| {
        let mut ask = json!({ "action": "disable", "name": "versioned_v1" });
        for (key, value) in identity.as_object().expect("an object") {
            ask[key] = value.clone();
        }
        ask
    };
    let own = json!({ "clientId": "looker", "username": "monitor" });
    for (by_other, identity, text) in [
        (true, own, "Command permission denied"),
        (true, json!({ "clientId": "observer", "username": "admin" }), "Client info error"),
        (false, json!({ "clientId": "looker" }), "Client info error"),
        (false, json!({}), "Unknow clientId"),
    ] {
        let peer = if by_other { &mut other } else { &mut admin };
        let answer = peer.request("__plugins__", ask(identity)).await;
        assert_eq!(answer["error"]["message"], text, "{answer}");
    }
    assert!(other.request("__plugins__", json!({ "action": "list" })).await["body"]["plugins"].is_array());
    let done = plugin(address, &["disable", "versioned_v1", "--user", "monitor", "--password", "monitor"]).await;
    assert!(done.code == 1 && done.stderr.contains("Command permission denied"), "{done:?}");
    assert_eq!(version(&mut admin).await, 1);
    let log = master.log();
    let audited = log.lines().filter(|line| line.contains("audit") && line.contains("versioned_v1")).count();
    assert_eq!(audited, 5, "{log}");
    master.shutdown().await;
}

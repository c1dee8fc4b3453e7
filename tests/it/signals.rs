//! What a daemon does when it is told to stop, to stop at once, or to read its configuration again.

use std::path::{Path, PathBuf};

use muster_tests::bystanders::Bystanders;
use muster_tests::config::ConfigDir;
use muster_tests::daemon::Setup;
use muster_tests::deadline::{ANSWER, PROCESS};
use muster_tests::operator::Operator;
use muster_tests::packet::Packet;
use muster_tests::peer::{Peer, md5_hex};
use rustix::process::Signal;
use serde_json::{Value, json};

const CHAT: &str = "chat-server-1";
const PLUGINS: [&str; 2] = ["echo", "faulty"];

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file can be written to a temporary directory");
}

/// Adds the user `late`, whose password is the user's name.
fn add_user(dir: &Path) {
    let user = |name: &str, level: u32| json!({"id": name, "username": name, "password": name, "level": level});
    write(&dir.join("adminUser.json"), &json!([user("admin", 1), user("late", 2)]).to_string());
}

/// The answer to a login of the user `late`.
async fn log_in(master: std::net::SocketAddr) -> Value {
    let mut peer = Peer::connect("late", master).await;
    let login = json!({"type": "client", "id": "late", "username": "late", "password": md5_hex("late"), "md5": true});
    peer.publish("register", &login.to_string()).await;
    peer.expect_json("register").await["code"].clone()
}

fn with_config(text: &str) -> (Setup, PathBuf) {
    let config = ConfigDir::recorded();
    let dir = config.path();
    write(&dir.join("muster.toml"), text);
    let file = dir.join("muster.toml");
    let setup = Setup::master().plugins(&PLUGINS).config(config).argument("--config", &file.display().to_string());
    (setup, dir)
}

#[tokio::test]
async fn a_broken_configuration_is_refused_as_a_whole_and_the_old_one_stays() {
    let (setup, dir) = with_config("[modules.echo]\n");
    let mut master = setup.start().await;
    let address = master.address();
    let mut bystanders = Bystanders::join(address).await;

    // Two faults, and a user that must not come in with them.
    add_user(&dir);
    write(&dir.join("muster.toml"), "[requests]\ndeadline = 'soon'\nno_such_key = 1\n");
    master.signal(Signal::HUP);
    master.wait_log("the old one stays").await;
    for named in ["muster.toml", "requests.deadline", "requests.no_such_key"] {
        assert!(master.log().contains(named), "{named} is not named:\n{}", master.log());
    }
    assert_eq!(log_in(address).await, -1, "the users are the old ones, too");
    bystanders.check().await;

    // Not even TOML.
    write(&dir.join("muster.toml"), "[requests\n");
    master.signal(Signal::HUP);
    bystanders.check().await;
    assert!(master.is_running());

    write(&dir.join("muster.toml"), "[requests]\ndeadline = '14s'\n");
    master.signal(Signal::HUP);
    master.wait_log("configuration read again").await;
    assert_eq!(log_in(address).await, 1, "the fleet's files are read again, too");
    bystanders.check().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_hangup_changes_the_level_of_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("muster.toml");
    write(&file, "[log]\nlevel = 'error'\n");
    let setup = Setup::master().plugins(&PLUGINS).argument("--config", &file.display().to_string());
    let master = setup.start().await;
    write(&file, "[log]\nlevel = 'info'\n");
    master.signal(Signal::HUP);
    // Itself at level info.
    master.wait_log("configuration read again").await;
    assert!(!master.log().contains("master is ready"), "that was before:\n{}", master.log());
    master.shutdown().await;
}

#[tokio::test]
async fn a_master_that_is_told_to_stop_answers_what_it_was_asked_and_ends_with_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut master = Setup::master().plugins(&PLUGINS).start().await;
        let mut server = Peer::monitor(master.address(), CHAT, "chat").await;
        let mut client = Peer::admin(master.address(), "client-1").await;
        // The second answer shows that the first request is with its handler, which takes three seconds.
        let late = client.send_request("faulty", json!({"do": "late"})).await;
        assert_eq!(client.request("faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
        master.signal(signal);
        assert_eq!(client.response(late).await["body"], json!({"ok": true}));
        for peer in [&mut client, &mut server] {
            // With or without a good-bye: the originals come back either way.
            let last = peer.expect_closed().await;
            assert!(last.iter().all(|packet| *packet == Packet::Disconnect), "{last:?}");
        }
        assert_eq!(master.wait(PROCESS).await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_monitor_that_is_told_to_stop_answers_what_it_was_asked_and_ends_with_zero() {
    let master = Setup::master().plugins(&PLUGINS).start().await;
    let mut chat = Setup::monitor(master.address(), CHAT, "chat").plugins(&PLUGINS).start().await;
    chat.wait_registered().await;
    let mut operator = Operator::log_in(master.address()).await;
    let late = operator.begin(CHAT, "faulty", json!({"do": "late"})).await;
    assert_eq!(operator.ask(CHAT, "faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
    chat.signal(Signal::TERM);
    assert_eq!(operator.client().response(late).await["body"], json!({"ok": true}));
    assert_eq!(chat.wait(PROCESS).await.code(), Some(0));
    operator.wait_until_gone(CHAT).await;
    master.shutdown().await;
}

#[tokio::test]
async fn modules_are_told_once_that_the_daemon_stops() {
    let mut master = Setup::master().plugins(&["directory"]).start().await;
    let mut chat = Setup::monitor(master.address(), CHAT, "chat").plugins(&["directory"]).start().await;
    chat.wait_registered().await;
    // The master's module has an instance in each role.
    for (daemon, instances) in [(&mut chat, 1), (&mut master, 2)] {
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(PROCESS).await.code(), Some(0));
        let log = daemon.whole_log().await;
        assert_eq!(log.matches("told: stopping").count(), instances, "{log}");
    }
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_after_the_grace_period_and_that_is_still_in_order() {
    let mut master = Setup::master().plugins(&PLUGINS).set("shutdown.grace", "1s").start().await;
    let mut client = Peer::admin(master.address(), "client-1").await;
    client.send_request("faulty", json!({"do": "never"})).await;
    assert_eq!(client.request("faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
    master.signal(Signal::TERM);
    // Ended with an error or not at all, but never twice, and the connection with it.
    let left = client.expect_closed().await;
    assert!(left.len() <= 2, "{left:?}");
    assert_eq!(master.wait(PROCESS).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let setup = || Setup::master().plugins(&PLUGINS).set("shutdown.grace", "10m").set("plugins.drain", "10m");
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::TERM, Signal::INT)] {
        let mut master = setup().start().await;
        let mut client = Peer::admin(master.address(), "client-1").await;
        client.send_request("faulty", json!({"do": "never"})).await;
        assert_eq!(client.request("faulty", json!({"do": "ok"})).await["body"], json!({"ok": true}));
        master.signal(first);
        master.wait_log("stopping").await;
        master.signal(second);
        assert_ne!(master.wait(ANSWER).await.code(), Some(0), "what was cut off is told by the exit code");
    }
}

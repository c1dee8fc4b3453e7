//! Crons on a monitor: ordered through the console, of `crons.json`, and after a restart.

use std::time::Instant;

use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, eventually};
use muster_tests::debian;
use muster_tests::operator::Operator;
use serde_json::{Value, json};

const CHAT: &str = "chat-server-1";
const PLUGINS: [&str; 3] = ["console", "directory", "echo"];

async fn order(operator: &mut Operator, signal: &str, args: Value) {
    let answer = operator.order(json!({"signal": signal, "args": args})).await;
    assert_eq!(answer["body"], json!({"status": "ok"}), "{answer}");
}

/// What is known of crons on [`CHAT`]: how often each has fired there so far.
fn fired(chat: &Daemon, id: &str) -> usize {
    chat.log().matches(&format!("told: cron {{\"id\":{id},")).count()
}

#[tokio::test]
async fn a_cron_that_was_ordered_calls_its_module_and_outlives_its_monitor() {
    let master = Setup::master().plugins(&PLUGINS).start().await;
    let chat = Setup::monitor(master.address(), CHAT, "chat").plugins(&PLUGINS).start().await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    let cron = json!(["id=8", "serverId=chat-server-1", "action=directory.tick", "time=* * * * * *"]);
    order(&mut operator, "addCron", cron).await;
    // Everybody is told, and the module that it names is asked.
    chat.wait_log("told: cron").await;
    chat.wait_log(r#"asked: {"method":"tick","cron":{"id":"8""#).await;
    let state = chat.shutdown().await;

    let chat = Setup::monitor(master.address(), CHAT, "chat").plugins(&PLUGINS).state(state).start().await;
    chat.wait_log("told: cron").await;
    operator.wait_until_seen(CHAT).await;
    order(&mut operator, "removeCron", json!(["id=8", "serverId=chat-server-1"])).await;
    let state = chat.shutdown().await;
    let chat = Setup::monitor(master.address(), CHAT, "chat").plugins(&PLUGINS).state(state).start().await;
    chat.wait_registered().await;
    assert_eq!(fired(&chat, "\"8\""), 0);
    chat.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn crons_of_the_file_are_those_of_the_server_and_of_its_type() {
    let every_second = |id: u32| json!({"id": id, "time": "* * * * * *", "action": "chatCron.tick"});
    let crons = json!({"chat": [every_second(1)], CHAT: [every_second(2)], "gate": [every_second(3)]});
    let config = || ConfigDir::recorded().with("crons.json", &json!({"development": crons}));
    let master = Setup::master().plugins(&PLUGINS).start().await;
    let chat = Setup::monitor(master.address(), CHAT, "chat").config(config()).plugins(&PLUGINS).start().await;
    chat.wait_log(r#"told: cron {"id":1,"#).await;
    chat.wait_log(r#"told: cron {"id":2,"#).await;
    assert_eq!(fired(&chat, "3"), 0);
    chat.shutdown().await;
    master.shutdown().await;
}

/// Where distributions put the library that shows a process another time (Debian: `libfaketime`).
fn faketime() -> Option<String> {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu", "."];
    let mut libraries = places.map(|place| format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1")).into_iter();
    libraries.find(|library| std::path::Path::new(library).exists())
}

#[tokio::test]
async fn row_21_a_monitor_whose_clock_is_set_by_a_day_fires_on_and_its_timers_do_not_notice() {
    let missing = if faketime().is_none() { debian::install(&["libfaketime"]).await.err() } else { None };
    let Some(library) = faketime() else {
        // The tests beside the crons have a clock of their own.
        return println!("not tried: libfaketime is not here and cannot be installed ({missing:?})");
    };
    let master = Setup::master().plugins(&PLUGINS).set("requests.deadline", "2s").start().await;
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let clock = place.path().join("clock");
    // By renaming: half a text would be another time.
    let set = |offset: &str| {
        let new = place.path().join("new");
        std::fs::write(&new, offset).and_then(|()| std::fs::rename(&new, &clock)).expect("the clock can be set");
    };
    set("+0");
    let every_second = json!({"development": {CHAT: [{"id": 1, "time": "* * * * * *", "action": "directory.tick"}]}});
    let chat = Setup::monitor(master.address(), CHAT, "chat")
        .config(ConfigDir::recorded().with("crons.json", &every_second))
        .plugins(&PLUGINS)
        .variable("LD_PRELOAD", &library)
        .variable("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_RESET", "1")
        .start()
        .await;
    let mut operator = Operator::log_in(master.address()).await;
    operator.wait_until_seen(CHAT).await;
    for step in ["+0", "-1d", "+1d", "+0"] {
        set(step);
        let before = fired(&chat, "1");
        let set_at = Instant::now();
        eventually(&format!("it fires after the clock was set to {step}"), PROCESS, async || {
            (fired(&chat, "1") > before + 1).then_some(())
        })
        .await;
        let times = fired(&chat, "1") - before;
        let most = usize::try_from(set_at.elapsed().as_secs()).expect("seconds are few") + 2;
        assert!(times <= most, "{times} times after {step}, at most {most} are due");
        // The deadline of this one is two seconds from now, whatever the clock says.
        assert_eq!(operator.ask(CHAT, "echo", json!({"op": "ok", "v": 1})).await["body"], json!({"echo": 1}));
    }
    assert!(!chat.log().contains("no link to the master"));
    chat.shutdown().await;
    master.shutdown().await;
}

//! Crons on a monitor: ordered through the console, of `crons.json`, and after a restart.

use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup};
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

//! Who may order what (FAULTS.md, row 28, in the original's words): everything that changes something needs level 1, and the identity is the connection's. The
//! original leaves half of this open (PROTOCOL 6.3); the table below is what ours closes.

use muster_tests::bystanders::Bystanders;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::PROCESS;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

/// Of level 1 and 2.
const ADMIN: &str = "client-admin";
const WATCHER: &str = "client-watcher";

/// What is ordered.
#[derive(Debug)]
enum Order {
    Console(Value),
    Command(&'static str),
}

/// Everything that needs level 1, with the answer that shows that it was let through. None changes anything: what is
/// named does not exist, or lacks something. `kill` is tested apart.
fn orders() -> Vec<(Order, Value)> {
    let failed = |message: &str| json!({"error": message, "body": null});
    let console = |order: Value, error: &str| (Order::Console(order), failed(error));
    let cron = ["id=8", "serverId=nobody-1", "action=a.b", "time=0 30 10 * * *"];
    let server = ["id=chat-server-9", "host=127.0.0.1", "serverType=chat"];
    let ok = json!({"error": null, "body": {"status": "ok"}});
    vec![
        console(json!({"signal": "stop", "ids": ["nobody-1"]}), "Cannot find the server to stop."),
        console(json!({"signal": "add", "args": server}), "Miss necessary server parameters."),
        console(json!({"signal": "restart", "ids": ["nobody-1"]}), "all servers start failed."),
        (Order::Console(json!({"signal": "addCron", "args": cron})), ok.clone()),
        (Order::Console(json!({"signal": "removeCron", "args": cron})), ok),
        console(json!({"signal": "blacklist", "args": ["nowhere"]}), "blacklist ip: nowhere is error format."),
        (Order::Command("list"), json!({"error": null, "body": {"modules": ["echo"]}})),
        (Order::Command("disable"), json!({"error": null, "body": -1})),
        (Order::Command("enable"), json!({"error": null, "body": -1})),
    ]
}

/// Who asks, what the body claims, and how that is refused.
fn refused() -> Vec<(&'static str, &'static str, Option<Value>, &'static str)> {
    vec![
        ("level 2", WATCHER, Some(json!(WATCHER)), "Command permission denied"),
        ("level 2 without a clientId", WATCHER, None, "Unknow clientId"),
        ("level 2 in the name of level 1", WATCHER, Some(json!(ADMIN)), "Client info error"),
        ("level 1 without a clientId", ADMIN, None, "Unknow clientId"),
        ("level 1 with an empty clientId", ADMIN, Some(json!("")), "Unknow clientId"),
        ("level 1 with null for a clientId", ADMIN, Some(Value::Null), "Unknow clientId"),
        ("level 1 in the name of level 2", ADMIN, Some(json!(WATCHER)), "Client info error"),
        ("level 1 in the name of nobody", ADMIN, Some(json!("client-nobody")), "Client info error"),
        ("level 1 with a number for a clientId", ADMIN, Some(json!(1)), "Client info error"),
    ]
}

struct Clients {
    admin: Peer,
    watcher: Peer,
}

impl Clients {
    async fn log_in(master: &Daemon) -> Self {
        let admin = Peer::admin(master.address(), ADMIN).await;
        Self { admin, watcher: Peer::client(master.address(), WATCHER, "monitor").await }
    }

    /// The answer as `{"error", "body"}`, an Error object as its message.
    async fn order(&mut self, id: &str, order: &Order, claimed: Option<Value>) -> Value {
        let client = if id == ADMIN { &mut self.admin } else { &mut self.watcher };
        let mut body = json!({"username": "admin"});
        if let Some(claimed) = claimed {
            body["clientId"] = claimed;
        }
        let response = match order {
            Order::Console(order) => {
                body.as_object_mut().expect("made above").extend(order.as_object().cloned().unwrap_or_default());
                client.request("__console__", body).await
            }
            Order::Command(command) => client.command(command, "nobody", body).await,
        };
        let error = response["error"].get("message").unwrap_or(&response["error"]);
        json!({"error": error, "body": response["body"]})
    }
}

/// Texts that are longer than the expected one are fine: they go on with advice.
#[track_caller]
fn matches(got: &Value, expected: &Value, what: &str) {
    match (got["error"].as_str(), expected["error"].as_str()) {
        (Some(text), Some(start)) if text.starts_with(start) => assert_eq!(got["body"], expected["body"], "{what}"),
        _ => assert_eq!(got, expected, "{what}"),
    }
}

#[tokio::test]
async fn every_order_that_changes_something_needs_level_one_and_ones_own_name() {
    let master = Setup::master().plugins(&["echo", "console"]).start().await;
    let mut bystanders = Bystanders::join(master.address()).await;
    let mut server = Peer::monitor(master.address(), "chat-server-1", "chat").await;
    let mut clients = Clients::log_in(&master).await;
    for (order, expected) in orders() {
        for (who, id, claimed, error) in refused() {
            let got = clients.order(id, &order, claimed).await;
            matches(&got, &json!({"error": error, "body": null}), &format!("{order:?} by {who}"));
        }
        // Whatever was refused went nowhere, neither did what names nobody.
        server.expect_silence().await;
        let got = clients.order(ADMIN, &order, Some(json!(ADMIN))).await;
        matches(&got, &expected, &format!("{order:?} by level 1"));
        bystanders.check().await;
    }
    server.expect_silence().await;
    master.shutdown().await;
}

#[tokio::test]
async fn to_look_needs_no_level_and_a_foreign_name_is_refused_all_the_same() {
    let master = Setup::master().plugins(&["echo", "console"]).start().await;
    let mut clients = Clients::log_in(&master).await;
    let list = Order::Console(json!({"signal": "list"}));
    for claimed in [Some(json!(WATCHER)), None] {
        let listed = clients.order(WATCHER, &list, claimed).await;
        assert_eq!(listed["body"]["msg"]["master-server-1"]["serverType"], "master", "{listed}");
    }
    let forged = clients.order(WATCHER, &list, Some(json!(ADMIN))).await;
    assert_eq!(forged, json!({"error": "Client info error", "body": null}));
    master.shutdown().await;
}

#[tokio::test]
async fn unknown_commands_are_told_to_everybody_before_their_level_is_asked() {
    let master = Setup::master().plugins(&["echo"]).start().await;
    let mut clients = Clients::log_in(&master).await;
    for (who, id, claimed, _) in refused() {
        let got = clients.order(id, &Order::Command("explode"), claimed).await;
        assert_eq!(got, json!({"error": "unknown command:explode", "body": null}), "{who}");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn only_level_one_may_end_it_all() {
    for order in [json!({"signal": "kill"}), json!({"signal": "stop", "ids": []})] {
        let mut master = Setup::master().plugins(&["echo", "console"]).start().await;
        let mut server = Peer::monitor(master.address(), "chat-server-1", "chat").await;
        let mut clients = Clients::log_in(&master).await;
        let signal = order["signal"].clone();
        let order = Order::Console(order);
        for (who, id, claimed, error) in refused() {
            let got = clients.order(id, &order, claimed).await;
            matches(&got, &json!({"error": error, "body": null}), &format!("{order:?} by {who}"));
        }
        server.expect_silence().await;
        let obey = async {
            let told = server.expect_message().await;
            assert_eq!(told["body"], json!({"signal": signal}));
            if let Some(id) = told.get("reqId") {
                let answer = json!({"respId": id, "error": "chat-server-1"});
                server.publish("monitor", &json!(answer.to_string()).to_string()).await;
            }
        };
        let (got, ()) = tokio::join!(clients.order(ADMIN, &order, Some(json!(ADMIN))), obey);
        let done = if signal == "kill" { json!({"code": "ok"}) } else { json!({"status": "all"}) };
        assert_eq!(got, json!({"error": null, "body": done}));
        assert_eq!(master.wait(PROCESS).await.code(), Some(0));
    }
}

//! The original programs and ours, together, in every combination.

use std::net::{Ipv4Addr, SocketAddr};

use muster_tests::cli::{call, muster};
use muster_tests::config::ConfigDir;
use muster_tests::daemon::Setup;
use muster_tests::deadline::{ANSWER, PROCESS, eventually};
use muster_tests::node::Node;
use muster_tests::ports::free_port;
use serde_json::{Value, json};

/// An answer of the module `echo` for each `op`, as `{"error","body"}`; an Error object without its stack.
fn answers() -> Vec<(&'static str, Value)> {
    vec![
        ("ok", json!({"error": null, "body": {"echo": "hé ✓"}})),
        ("null", json!({"error": null, "body": null})),
        ("none", json!({"error": null, "body": null})),
        ("string", json!({"error": "plain error text", "body": null})),
        ("error", json!({"error": {"message": "boom"}, "body": null})),
        ("errobj", json!({"error": {"code": 500}, "body": null})),
        ("both", json!({"error": "plain error text", "body": {"partial": true}})),
        ("swap", json!({"error": {"serverId": "in-error-position"}, "body": null})),
    ]
}

/// The answer with the stack of an Error taken out, which must be a text.
fn without_stack(mut answer: Value) -> Value {
    if let Some(error) = answer["error"].as_object_mut()
        && let Some(stack) = error.remove("stack")
    {
        assert!(stack.as_str().is_some_and(|text| !text.is_empty()), "stack: {stack}");
    }
    answer
}

async fn registered(master: SocketAddr, id: &str, server_type: &str) -> Node {
    let monitor = Node::monitor(master, json!({"id": id, "type": server_type})).await;
    monitor.event("registered").await;
    monitor
}

// === Original monitors and clients on our master ===

#[tokio::test]
async fn an_original_client_gets_every_answer_of_an_original_monitor_through_our_master() {
    let master = Setup::master().start().await;
    let _monitor = registered(master.address(), "chat-server-1", "chat").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    for (op, expected) in answers() {
        let payload = json!({"op": op, "v": "hé ✓"});
        let through = json!({"do": "request", "target": "chat-server-1", "payload": payload.clone()});
        assert_eq!(without_stack(client.request("echo", through).await), expected, "{op} through the master");
        let direct = json!({"do": "answer", "payload": payload});
        assert_eq!(without_stack(client.request("echo", direct).await), expected, "{op} from the master");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn an_original_monitor_gets_every_answer_of_our_master() {
    let master = Setup::master().start().await;
    let monitor = registered(master.address(), "chat-server-1", "chat").await;
    for (op, expected) in answers() {
        let answer = monitor.request("echo", json!({"op": op, "v": "hé ✓"})).await;
        assert_eq!(without_stack(answer), expected, "{op}");
    }
    let answer = monitor.request("nope", json!({})).await;
    assert_eq!(answer, json!({"error": "unknown moduleId:nope", "body": null}));
    master.shutdown().await;
}

#[tokio::test]
async fn original_monitors_report_their_time_to_our_master() {
    let master = Setup::master().set("modules.timeReport.interval", "1").start().await;
    let _chat = registered(master.address(), "chat-server-1", "chat").await;
    let _gate = registered(master.address(), "gate-server-1", "gate").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    eventually("the time of both", PROCESS, async || {
        let answer = client.request("timeReport", Value::Null).await;
        let told = |id: &str| answer["body"][id].as_str().is_some_and(|time| time.contains("GMT"));
        (told("chat-server-1") && told("gate-server-1")).then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn original_monitors_push_to_our_master() {
    let master = Setup::master().start().await;
    let options = json!({"id": "chat-server-1", "type": "chat", "intervals": {"pushReport": 1}});
    let _monitor = Node::monitor(master.address(), options).await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    eventually("a pushed report", PROCESS, async || {
        let answer = client.request("pushReport", Value::Null).await;
        (answer["body"]["chat-server-1"]["seq"].as_u64()? > 0).then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn our_master_notifies_original_monitors_and_clients() {
    let master = Setup::master().start().await;
    let _chat = registered(master.address(), "chat-server-1", "chat").await;
    let _gate = registered(master.address(), "gate-server-1", "gate").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    assert_eq!(client.call(json!({"do": "listen", "module": "echo"})).await, json!(true));
    for (order, target) in [("notifyById", "chat-server-1"), ("notifyByType", "gate"), ("notifyAll", "")] {
        let body = json!({"do": order, "target": target, "payload": {"op": "mark", "v": order}});
        assert_eq!(client.request("echo", body).await, json!({"error": null, "body": true}), "{order}");
    }
    let hello = json!({"do": "notifyClient", "target": "client-1", "payload": {"hello": "client"}});
    client.request("echo", hello).await;
    assert_eq!(client.event("notify").await["msg"]["body"], json!({"hello": "client"}));
    eventually("the marks of both monitors", ANSWER, async || {
        let answer = client.request("echo", json!({"do": "marks"})).await;
        let marked = |id: &str, mark: &str| {
            let wanted = json!({"serverId": id, "mark": mark});
            answer["body"].as_array().is_some_and(|marks| marks.contains(&wanted))
        };
        let all = marked("chat-server-1", "notifyAll") && marked("gate-server-1", "notifyAll");
        (all && marked("chat-server-1", "notifyById") && marked("gate-server-1", "notifyByType")).then_some(())
    })
    .await;
    master.shutdown().await;
}

#[tokio::test]
async fn original_monitors_come_back_when_their_link_breaks() {
    let master = Setup::master().start().await;
    let monitor = registered(master.address(), "chat-server-1", "chat").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    assert_eq!(monitor.call(json!({"do": "break"})).await, json!(true));
    assert_eq!(monitor.event("reconnected").await["code"], 1);
    let body = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": 1}});
    assert_eq!(client.request("echo", body).await, json!({"error": null, "body": {"echo": 1}}));
    master.shutdown().await;
}

#[tokio::test]
async fn original_monitors_come_back_to_a_master_that_was_killed() {
    let master = Setup::master().on_a_reserved_port().start().await;
    let address = master.address();
    let monitor = registered(address, "chat-server-1", "chat").await;
    let state = master.kill().await;
    let master = Setup::master().listen(address).state(state).start().await;
    assert_eq!(monitor.event("reconnected").await["code"], 1);
    let client = Node::logged_in(address, "client-1", "admin").await;
    let body = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": 1}});
    assert_eq!(client.request("echo", body).await, json!({"error": null, "body": {"echo": 1}}));
    master.shutdown().await;
}

/// Q18: a command forwarded with a clientId makes an original monitor deaf for ever.
#[tokio::test]
async fn original_monitors_still_answer_after_enable_and_disable() {
    let master = Setup::master().start().await;
    let monitor = registered(master.address(), "chat-server-1", "chat").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    for command in ["disable", "enable"] {
        let order = json!({"do": "command", "command": command, "module": "timeReport"});
        assert_eq!(client.call(order).await, json!({"error": null, "body": 1}), "{command}");
        let body = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": command}});
        assert_eq!(client.request("echo", body).await["body"], json!({"echo": command}));
    }
    assert_eq!(monitor.count("exception"), 0, "nothing is thrown inside the monitor");
    master.shutdown().await;
}

#[tokio::test]
async fn original_logins_are_refused_in_the_original_words() {
    let master = Setup::master().start().await;
    let client = Node::client(master.address()).await;
    let login = json!({"do": "connect", "id": "client-1", "username": "admin", "password": "wrong", "md5": true});
    let refusal = json!({"error": "client auth failed with username or password error"});
    assert_eq!(client.call(login).await, refusal);
    let options = json!({"id": "chat-server-1", "type": "chat", "token": "wrong"});
    let monitor = Node::monitor(master.address(), options).await;
    assert_eq!(monitor.event("answered").await["msg"], "server auth failed");
    master.shutdown().await;
}

// === Ours on an original master ===

#[tokio::test]
async fn our_monitor_serves_an_original_master_and_client() {
    let (node, address) = Node::master(ConfigDir::recorded(), json!({})).await;
    let monitor = Setup::monitor(address, "chat-server-1", "chat").start().await;
    node.event("register").await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    for (op, expected) in answers() {
        let payload = json!({"op": op, "v": "hé ✓"});
        let body = json!({"do": "request", "target": "chat-server-1", "payload": payload});
        assert_eq!(without_stack(client.request("echo", body).await), expected, "{op}");
    }
    let ask = json!({"op": "askMaster", "ask": {"op": "ok", "v": 1}});
    let body = json!({"do": "request", "target": "chat-server-1", "payload": ask});
    let told = json!({"error": null, "body": {"err": null, "res": {"echo": 1}}});
    assert_eq!(client.request("echo", body).await, told);
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_reports_to_an_original_master_and_leaves_it_politely() {
    let options = json!({"intervals": {"timeReport": 1}});
    let (node, address) = Node::master(ConfigDir::recorded(), options).await;
    let monitor = Setup::monitor(address, "chat-server-1", "chat").set("modules.pushReport.interval", "1");
    let monitor = monitor.start().await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    eventually("both reports", PROCESS, async || {
        let time = client.request("timeReport", Value::Null).await;
        let push = client.request("pushReport", Value::Null).await;
        let told = time["body"]["chat-server-1"].is_string();
        (told && push["body"]["chat-server-1"]["seq"].is_u64()).then_some(())
    })
    .await;
    monitor.shutdown().await;
    assert_eq!(node.event("disconnect").await["id"], "chat-server-1");
}

#[tokio::test]
async fn our_monitor_comes_back_to_an_original_master_that_was_killed() {
    let (first, address) = Node::master(ConfigDir::recorded(), json!({"port": free_port()})).await;
    let monitor = Setup::monitor(address, "chat-server-1", "chat").start().await;
    // Ready is a monitor whose modules are; the master may come later.
    first.event("register").await;
    monitor.wait_registered().await;
    first.kill().await;
    let options = json!({"port": address.port()});
    let (second, _) = Node::master(ConfigDir::recorded(), options).await;
    assert_eq!(second.event("reconnect").await["id"], "chat-server-1");
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_waits_for_an_original_master_that_is_late() {
    let port = free_port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let late = async {
        let (node, _) = Node::master(ConfigDir::recorded(), json!({"port": port})).await;
        assert_eq!(node.event("register").await["id"], "chat-server-1");
        node
    };
    let (monitor, _node) = tokio::join!(Setup::monitor(address, "chat-server-1", "chat").start(), late);
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_starts_completely_on_an_original_pomelo_master() {
    let (_node, address) = Node::pomelo_master().await;
    let setup = Setup::monitor(address, "chat-server-1", "chat").info("host", "127.0.0.1").info("port", "6050");
    let monitor = setup.start().await;
    monitor.wait_registered().await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    let answer = client.request("__console__", json!({"signal": "list"})).await;
    assert_eq!(answer["body"]["msg"]["chat-server-1"]["serverType"], "chat");
    assert_eq!(answer["body"]["msg"]["chat-server-1"]["pid"], monitor.pid());
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_commands_work_against_an_original_master() {
    let (_node, address) = Node::master(ConfigDir::recorded(), json!({})).await;
    let _monitor = registered(address, "chat-server-1", "chat").await;
    let body = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": 7}});
    let finished = call(address, "admin", "echo", &body).await;
    assert_eq!((finished.code, finished.json()), (0, json!({"error": null, "body": {"echo": 7}})));
    let refused = call(address, "nobody", "echo", &body).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    let login =
        ["--master", &address.to_string(), "--user", "admin", "--password", "admin", "-o", "json"].map(str::to_owned);
    let arguments: Vec<&str> = ["module", "list"].into_iter().chain(login.iter().map(String::as_str)).collect();
    let listed = muster(&arguments).await;
    assert_eq!(listed.code, 0, "{listed:?}");
    assert!(listed.stdout.contains("timeReport") && listed.stdout.contains("echo"), "{listed:?}");
}

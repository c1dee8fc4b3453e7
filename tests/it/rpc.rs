//! Remotes of an original pomelo server, called by people through the master and by modules in both roles.

use std::net::SocketAddr;

use muster_tests::{
    cli::{Finished, call, muster},
    daemon::{Daemon, Setup},
    deadline::{ANSWER, PROCESS, eventually},
    node::Node,
    peer::Peer,
    ports::free_port,
};
use serde_json::{Value, json};

/// A server of the pomelo application that takes calls. It has been registered, and listens.
async fn chat_server(master: SocketAddr, id: &str) -> Node {
    let arguments = [
        format!("id={id}"),
        "host=127.0.0.1".to_owned(),
        "serverType=chat".to_owned(),
        format!("port={}", free_port()),
    ];
    let server = Node::pomelo(master, &arguments).await;
    server.event("started").await;
    server
}

async fn rpc(master: SocketAddr, arguments: &[&str]) -> Finished {
    let master = master.to_string();
    let mut all = vec!["rpc"];
    all.extend(arguments);
    all.extend(["--master", &master]);
    muster(&all).await
}

/// What the fixture `caller` answers.
async fn called(client: &mut Peer, order: Value) -> Value {
    client.request("caller", order).await
}

async fn one_server() -> (Daemon, Node) {
    let master = Setup::master().start().await;
    let chat = chat_server(master.address(), "chat-server-1").await;
    (master, chat)
}

#[tokio::test]
async fn a_remote_of_an_original_server_is_called_by_its_id_and_by_its_type() {
    let (master, _chat) = one_server().await;
    let done = rpc(master.address(), &["chat-server-1", "user.chatRemote.add", "40", "2"]).await;
    assert_eq!((done.code, done.stdout.trim_end()), (0, "42"), "{done:?}");
    let done = rpc(master.address(), &["chat", "user.chatRemote.whoami", "--route", "uid-7", "-o", "json"]).await;
    assert_eq!((done.code, done.json()), (0, json!([null, "chat-server-1", "chat"])));
    let odd = r#"{"text":"\u2028 \"quoted\"","list":[1.5,null,true],"large":123456789012}"#;
    let done = rpc(master.address(), &["chat", "user.chatRemote.echo", odd, "-o", "json"]).await;
    assert_eq!(done.json()[1], serde_json::from_str::<Value>(odd).expect("JSON"), "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn errors_of_a_remote_are_told_apart_from_calls_without_an_answer() {
    let (master, chat) = one_server().await;
    let done = rpc(master.address(), &["chat", "user.chatRemote.fail"]).await;
    assert_eq!((done.code, done.stderr.contains("chat answers: chat is full")), (1, true), "{done:?}");
    let done = rpc(master.address(), &["chat", "user.chatRemote.nothing"]).await;
    assert_eq!((done.code, done.stderr.contains("no such method:nothing")), (1, true), "{done:?}");
    let done = rpc(master.address(), &["nobody", "user.chatRemote.add"]).await;
    assert_eq!((done.code, done.stderr.contains("unknown server id:nobody")), (1, true), "{done:?}");
    let done = rpc(master.address(), &["chat", "user.chatRemote.silence", "--timeout", "1s"]).await;
    assert_eq!((done.code, done.stderr.contains("no answer within 1s")), (6, true), "{done:?}");

    let address = master.address();
    let lost =
        tokio::spawn(async move { rpc(address, &["chat", "user.chatRemote.silence", "--timeout", "30s"]).await });
    // Its line of the audit comes before the call, which the link carries then.
    eventually("the call is on its way", ANSWER, async || {
        let log = master.log();
        (log.lines().filter(|line| line.contains("__rpc__") && line.contains("silence")).count() == 2).then_some(())
    })
    .await;
    chat.kill().await;
    let done = lost.await.expect("the command ends");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("chat-server-1"), "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn who_cannot_be_called_is_listed_with_the_reason() {
    let (master, _chat) = one_server().await;
    let arguments = ["id=gate-server-1", "host=127.0.0.1", "serverType=gate", "frontend=true"].map(str::to_owned);
    let client_port = format!("clientPort={}", free_port());
    let gate = Node::pomelo(master.address(), &[arguments.as_slice(), &[client_port]].concat()).await;
    gate.event("started").await;
    let done = rpc(master.address(), &["list", "-o", "json"]).await;
    let listed = done.json()["servers"].as_array().expect("a list").clone();
    let find = |id: &str| listed.iter().find(|server| server["id"] == id).unwrap_or_else(|| panic!("{id}: {done:?}"));
    assert_eq!(find("chat-server-1")["callable"], true);
    assert!(find("gate-server-1")["reason"].as_str().expect("a reason").contains("no port"), "{done:?}");
    assert!(find("master-server-1")["reason"].as_str().expect("a reason").contains("master"), "{done:?}");
    let table = rpc(master.address(), &["list"]).await;
    assert!(table.stdout.contains("CALLABLE") && table.stdout.contains("no port"), "{table:?}");
    let done = rpc(master.address(), &["gate-server-1", "user.x.y"]).await;
    assert_eq!((done.code, done.stderr.contains("gate-server-1 cannot be called")), (1, true), "{done:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn only_administrators_call_and_every_call_is_in_the_audit_without_its_arguments() {
    let (master, _chat) = one_server().await;
    let call = ["chat", "user.chatRemote.echo", "s3cret", "--user", "monitor", "--password", "monitor"];
    let done = rpc(master.address(), &call).await;
    assert_eq!((done.code, done.stderr.contains("Command permission denied")), (1, true), "{done:?}");
    let done = rpc(master.address(), &call[..3]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let log = master.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("__rpc__") && line.contains("chatRemote")).collect();
    assert_eq!(audit.len(), 2, "{log}");
    assert!(audit[0].contains("Command permission denied") && audit[0].contains("audit"), "{audit:?}");
    assert!(!log.contains("s3cret"), "{log}");
    master.shutdown().await;
}

#[tokio::test]
async fn modules_call_remotes_from_the_master_and_from_a_monitor() {
    let master = Setup::master().plugins(&["console", "watchdog", "caller"]).start().await;
    let monitor = Setup::monitor(master.address(), "gate-1", "gate").plugins(&["watchdog", "caller"]).start().await;
    monitor.wait_registered().await;
    let _chat = chat_server(master.address(), "chat-server-1").await;
    let mut client = Peer::admin(master.address(), "observer").await;
    let sum = json!({"error": null, "body": [3]});
    let add = json!({"target": "chat", "key": "uid-7", "method": "add", "args": [1, 2]});
    let fields = |answer: Value| json!({"error": answer["error"], "body": answer["body"]});
    assert_eq!(fields(called(&mut client, add.clone()).await), sum);
    let mut through = add;
    through["via"] = "gate-1".into();
    eventually("the monitor knows of it", ANSWER, async || {
        let listed = call(master.address(), "admin", "caller", &json!({"via": "gate-1", "list": true})).await;
        listed.stdout.contains("chat-server-1").then_some(())
    })
    .await;
    assert_eq!(fields(called(&mut client, through.clone()).await), sum);
    through["method"] = "fail".into();
    through["args"] = json!([]);
    let failed = called(&mut client, through).await;
    assert!(failed["error"]["stack"].as_str().expect("a stack").starts_with("Error: chat is full"), "{failed}");
    monitor.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_key_means_one_of_several_servers_and_a_server_that_is_back_is_called_again() {
    let (master, _first) = one_server().await;
    let second = chat_server(master.address(), "chat-server-2").await;
    // The id of the server that answers, unless none does.
    let whoami = async |key: &str| {
        let done = rpc(master.address(), &["chat", "user.chatRemote.whoami", "--route", key]).await;
        done.stdout.lines().next().map(str::to_owned)
    };
    // Their places are 0 and 1, as the original computes them.
    assert_eq!(whoami("").await.as_deref(), Some("chat-server-1"));
    assert_eq!(whoami("a").await.as_deref(), Some("chat-server-2"));
    second.kill().await;
    eventually("the other one answers", PROCESS, async || {
        (whoami("a").await.as_deref() == Some("chat-server-1")).then_some(())
    })
    .await;
    let _back = chat_server(master.address(), "chat-server-2").await;
    assert_eq!(whoami("a").await.as_deref(), Some("chat-server-2"));
    master.shutdown().await;
}

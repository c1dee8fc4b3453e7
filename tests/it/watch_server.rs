//! watchServer: the recordings on both sides.

use std::net::SocketAddr;

use muster_tests::{
    compare::ANY_TEXT,
    config::token_for,
    daemon::{Daemon, Setup},
    deadline::{ANSWER, eventually},
    packet::Packet,
    peer::Peer,
    player::Player,
    stage::Stage,
    transcript::{Direction, Event, Transcript},
};
use serde_json::{Value, json};

const PASSED_ON: &str = "Q22: the original swallows a monitor's error, ours passes it on";
const ANSWERED: &str = "Q26: the original leaves an unknown comd unanswered";

/// A hand-made server with the info that the recordings have.
pub(crate) async fn server(master: SocketAddr, id: &str, server_type: &str, more: Value) -> Peer {
    let mut peer = Peer::connect(id, master).await;
    let mut info = json!({"id": id, "serverType": server_type, "host": "127.0.0.1"});
    for (key, value) in more.as_object().expect("info is an object") {
        info[key] = value.clone();
    }
    let token = token_for(server_type);
    let register =
        json!({"id": id, "type": "monitor", "serverType": server_type, "pid": 1, "info": info, "token": token});
    peer.publish("register", &register.to_string()).await;
    assert_eq!(peer.expect_json("register").await, json!({"code": 1, "msg": "ok"}), "{id}: registering");
    peer
}

/// The three servers and the client of the recordings, with their numbers there, on a master whose own monitor is there.
pub(crate) async fn recorded_peers(master: &Daemon) -> Player {
    let address = master.address();
    let mut admin = Peer::admin(address, "admin-client").await;
    own_monitor_registered(&mut admin).await;
    let mut player = Player::new(address);
    player.adopt(5, server(address, "chat-server-1", "chat", json!({"port": 6050})).await);
    let connector = json!({"port": 4050, "frontend": "true"});
    player.adopt(6, server(address, "connector-server-1", "connector", connector).await);
    player.adopt(7, server(address, "gate-server-1", "gate", json!({"frontend": "true"})).await);
    player.adopt(8, admin);
    player
}

async fn own_monitor_registered(admin: &mut Peer) {
    let admin = tokio::sync::Mutex::new(admin);
    eventually("the master's own monitor is there", ANSWER, async || {
        let listed = admin.lock().await.request("__console__", json!({"signal": "list"})).await;
        listed["body"]["msg"].get("master-server-1").cloned()
    })
    .await;
}

fn refused(message: &mut Value, error: Value) {
    message["error"] = error;
    message.as_object_mut().expect("a response is an object").remove("body");
}

#[tokio::test]
async fn every_comd_of_the_recording_is_answered_as_recorded() {
    let master = Setup::master().plugins(&["watch_server", "console"]).set("modules.watchServer.run", "true");
    let master = master.start().await;
    let port = master.address().port();
    let unknown = json!({"message": "unknown server id:nobody-1", "stack": ANY_TEXT});
    let bogus = json!({"respId": 48, "error": "unknown comd:bogus"});
    let bogus = Packet::publish("client", Value::from(bogus.to_string()).to_string());
    let transcript = Transcript::load("watch-server");
    let bogus_asked =
        transcript.lines().iter().find(|line| line.message()["reqId"] == 48).expect("it was asked").number;
    let transcript = transcript
        .then(bogus_asked, Event::Packet(bogus), ANSWERED)
        .without_all("the modules of another application", |line| {
            line.conn == 8 && (line.message()["reqId"] == 22 || line.message()["respId"] == 22)
        })
        .adjusted(Direction::ToPeer, PASSED_ON, |message| match message["respId"].as_u64() {
            Some(28) => refused(message, json!("no handler loaded")),
            Some(49 | 50) => refused(message, unknown.clone()),
            _ => {}
        })
        .adjusted(Direction::ToPeer, "the master's port is another in each run", |message| {
            for place in ["/body/msg/master-server-1/port", "/body/masterInfo/port"] {
                if let Some(value) = message.pointer_mut(place) {
                    *value = json!(port);
                }
            }
        });
    let mut player = recorded_peers(&master).await;
    player.play(&transcript).await;

    let modules = player.peer(8).request("watchServer", json!({"comd": "modules", "context": "all"})).await;
    let mut modules: Vec<String> = serde_json::from_value(modules["body"]["msg"].clone()).expect("a list of ids");
    modules.sort();
    assert_eq!(modules, ["__console__", "watchServer"]);
    player.finish().await;
    master.shutdown().await;
}

/// Plays the master to our monitor, from its registration on.
async fn registered(setup: Setup, stage: &mut Stage, conn: u32) -> Daemon {
    let hello = async {
        stage.accept(conn).await;
        let peer = stage.peer(conn);
        assert!(matches!(peer.next().await, Some(Packet::Connect(_))), "CONNECT comes first");
        peer.send(&Packet::Connack).await;
        peer.expect_json("register").await;
        peer.publish("register", r#"{"code":1,"msg":"ok"}"#).await;
    };
    let (monitor, ()) = tokio::join!(setup.start(), hello);
    monitor
}

#[tokio::test]
async fn our_monitor_answers_watch_server_as_the_original() {
    let mut stage = Stage::listen().await;
    let setup = Setup::monitor(stage.address(), "chat-server-1", "chat").plugins(&["watch_server"]);
    let setup = setup.info("host", "127.0.0.1").info("port", "6050").set("modules.watchServer.run", "true");
    let monitor = registered(setup.set("app.settings.name", "interop"), &mut stage, 5).await;
    let other = "the components, handlers and settings of another application";
    let transcript = Transcript::load("watch-server").only(&[5]);
    let transcript = transcript.adjusted(Direction::ToMaster, other, |message| match message["respId"].as_u64() {
        // By mistake the original's usr is the pid.
        Some(62) => message["body"]["body"]["usr"] = json!("0.01"),
        Some(64 | 66) => message["body"] = json!({}),
        Some(65) => {
            message["error"] = Value::Null;
            message["body"] = json!({});
        }
        Some(67) => message["body"] = json!({"env": "development", "name": "interop"}),
        Some(71) => message["body"] = Value::Null,
        Some(79) => message["body"] = json!(ANY_TEXT),
        _ => {}
    });
    stage.play(&transcript).await;
    // No application publishes its connections, and this is no frontend server.
    for (id, comd) in [(900, "connections"), (901, "bogus")] {
        let ask = json!({"reqId": id, "moduleId": "watchServer", "body": {"comd": comd, "context": "chat-server-1"}});
        stage.peer(5).publish("monitor", &json!(ask.to_string()).to_string()).await;
    }
    let none = json!({"respId": 900, "error": {"serverId": "chat-server-1", "body": "error"}});
    assert_eq!(stage.peer(5).expect_monitor_message().await, none);
    assert_eq!(stage.peer(5).expect_monitor_message().await, json!({"respId": 901, "error": "unknown comd:bogus"}));
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_frontend_monitor_tells_that_nobody_is_connected() {
    let mut stage = Stage::listen().await;
    let setup = Setup::monitor(stage.address(), "connector-server-1", "connector").plugins(&["watch_server"]);
    let setup = setup.info("host", "127.0.0.1").info("port", "4050").info("frontend", "true");
    let setup = setup.set("app.settings.connectorConfig", r#"{"heartbeat":3}"#);
    let monitor = registered(setup, &mut stage, 6).await;
    stage.play(&Transcript::load("watch-server").only(&[6])).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn what_changes_a_server_needs_level_one_and_reading_the_own_identity() {
    let master = Setup::master().plugins(&["watch_server"]).start().await;
    let mut chat = server(master.address(), "chat-server-1", "chat", json!({"port": 1})).await;
    let mut monitor = Peer::client(master.address(), "client-2", "monitor").await;
    let with = |comd: &str, client: &str| {
        let param = json!({"key": "k", "value": "v"});
        json!({"comd": comd, "context": "chat-server-1", "param": param, "clientId": client, "username": "monitor"})
    };
    for comd in ["set", "enable", "disable", "run", "cpu", "memory"] {
        let answer = monitor.request("watchServer", with(comd, "client-2")).await;
        assert_eq!(answer["error"]["message"], "Command permission denied", "{comd}");
    }
    for comd in ["servers", "connections", "modules", "status", "config", "proxy", "settings", "get", "set"] {
        let answer = monitor.request("watchServer", with(comd, "somebody-else")).await;
        assert_eq!(answer["error"]["message"], "Client info error", "{comd}");
    }
    chat.expect_silence().await;
    let id = monitor.send_request("watchServer", with("get", "client-2")).await;
    let asked = chat.expect_monitor_message().await;
    assert_eq!(asked["body"]["comd"], "get", "reading is open to level 2");
    let response = json!({"respId": asked["reqId"], "body": "x"});
    chat.publish("monitor", &json!(response.to_string()).to_string()).await;
    assert_eq!(monitor.response(id).await["body"], "x");
    master.shutdown().await;
}

#[tokio::test]
async fn row_31_what_is_run_needs_level_one_is_in_the_audit_and_is_ended_if_it_does_not_end() {
    let with = |setup: Setup| {
        let setup = setup.plugins(&["watch_server"]).set("modules.watchServer.run", "true");
        setup.set("modules.watchServer.time_limit_s", "0.2")
    };
    let master = with(Setup::master()).start().await;
    let chat = with(Setup::monitor(master.address(), "chat-server-1", "chat")).start().await;
    let careful = Setup::monitor(master.address(), "gate-server-1", "gate").plugins(&["watch_server"]).start().await;
    chat.wait_registered().await;
    careful.wait_registered().await;
    let run = |client: &str, server: &str, expression: &str| json!({"comd": "run", "context": server, "param": expression, "clientId": client});
    let mut visitor = Peer::client(master.address(), "client-2", "monitor").await;
    let denied = visitor.request("watchServer", run("client-2", "chat-server-1", "40 + 2")).await;
    assert_eq!(denied["error"]["message"], "Command permission denied");
    assert!(!chat.log().contains("run an expression"), "it got nowhere");

    let mut admin = Peer::admin(master.address(), "client-1").await;
    let mut run =
        async |server: &str, expression: &str| admin.request("watchServer", run("client-1", server, expression)).await;
    assert_eq!(run("chat-server-1", "40 + 2").await["body"], "42", "in words, as in the original");
    let endless = run("chat-server-1", "(() => { while (true) {} })()").await;
    assert!(endless["error"].to_string().contains("it took more than 200ms and was ended"), "{endless}");
    let greedy = run("chat-server-1", "(() => { let a = []; for (;;) a.push('x'.repeat(1e6) + a.length) })()").await;
    assert!(greedy.to_string().contains("out of memory") || greedy.to_string().contains("was ended"), "{greedy}");
    for reach in ["require('fs')", "fs", "process", "std"] {
        let answer = run("chat-server-1", reach).await;
        assert!(answer["body"].as_str().is_some_and(|text| text.contains("Error: ")), "{reach}: {answer}");
    }
    let off = run("gate-server-1", "1").await;
    assert!(
        off["error"].as_str().is_some_and(|text| text.starts_with("run is switched off on gate-server-1")),
        "{off}"
    );

    let log = master.log();
    let line = log.lines().find(|line| line.contains("audit") && line.contains("40 + 2") && line.contains("permitted"));
    let line = line.unwrap_or_else(|| panic!("what is run is in the audit: {log}"));
    for part in ["admin", "client-1", "127.0.0.1", "chat-server-1"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert!(chat.log().lines().any(|line| line.contains("audit") && line.contains("40 + 2")), "there, too");
    for daemon in [chat, careful, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn row_31_run_is_off_by_default_and_no_servers_are_an_empty_map() {
    let master = Setup::master().plugins(&["watch_server"]).start().await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let mut ask = async |comd: &str, context: &str| {
        let body = json!({"comd": comd, "context": context, "param": "1", "clientId": "client-1", "username": "admin"});
        admin.request("watchServer", body).await
    };
    assert_eq!(ask("connections", "all").await["body"], json!({"msg": {}}));
    assert_eq!(ask("connections", "nobody").await["error"], "the server nobody not exist");
    let off = "run is switched off on this master; modules.watchServer.run = true switches it on";
    assert_eq!(ask("run", "master-server-1").await["error"], off);
    master.shutdown().await;
}

//! Is the kit right? The recordings are played against the very programs they were made with.

use muster_tests::config::ConfigDir;
use muster_tests::deadline::ANSWER;
use muster_tests::deadline::eventually;
use muster_tests::node::Node;
use muster_tests::packet::Packet;
use muster_tests::peer::Peer;
use muster_tests::player::Player;
use muster_tests::stage::Stage;
use muster_tests::transcript::Transcript;
use serde_json::{Value, json};

/// The modules that most recordings had.
fn three_modules() -> Value {
    json!({"modules": ["timeReport", "pushReport", "echo"]})
}

async fn replays_as_recorded(name: &str) {
    replays_with(&Transcript::load(name), three_modules()).await;
}

async fn replays_with(transcript: &Transcript, options: Value) {
    let (_master, address) = Node::master(ConfigDir::recorded(), options).await;
    Player::replay(address, transcript).await;
}

macro_rules! replays {
    ($($test:ident: $name:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            replays_as_recorded($name).await;
        }
    )*};
}

replays! {
    the_player_replays_a_registration: "monitor-register-ok";
    the_player_replays_a_refused_token: "monitor-register-bad-token";
    the_player_replays_a_monitor_of_type_master: "monitor-register-master-type";
    the_player_replays_a_refused_reconnect: "monitor-reconnect-refused";
    the_player_replays_pings: "keepalive";
    the_player_replays_logins: "client-login-ok";
    the_player_replays_a_wrong_password: "client-bad-password";
    the_player_replays_a_login_without_username: "client-no-username";
    the_player_replays_a_login_without_id: "client-no-id";
    the_player_replays_a_duplicate_client: "client-duplicate-id";
    the_player_replays_an_unknown_type: "register-unknown-type";
    the_player_replays_messages_of_strangers: "unregistered-peer";
    the_player_replays_an_answer_without_body: "time-report-empty";
    the_player_replays_every_answer_of_a_monitor: "echo-client-to-monitor";
    the_player_replays_every_answer_of_the_master: "echo-monitor-to-master";
    the_player_replays_notifies: "notify-directions";
    the_player_replays_denied_commands: "commands-denied";
    the_player_replays_answers_out_of_order: "answers-out-of-order";
    the_player_replays_a_late_answer: "qos-repush-answered";
    the_player_replays_requests_from_before_a_registration: "qos-request-before-register";
    the_player_replays_slaves: "slave-same-id";
}

#[tokio::test]
async fn the_player_replays_broken_links() {
    let transcript = Transcript::load("monitor-reconnect").cut_at(6, &[1]).cut_at(12, &[2]);
    replays_with(&transcript, three_modules()).await;
    replays_with(&Transcript::load("qos-repush").cut_at(14, &[1]), three_modules()).await;
}

#[tokio::test]
async fn the_player_replays_timers() {
    let options = |module: &str| json!({"modules": ["timeReport", "pushReport", "echo"], "intervals": {module: 1}});
    let (_master, address) = Node::master(ConfigDir::recorded(), options("timeReport")).await;
    let mut player = Player::new(address).with_timer("timeReport");
    player.play(&Transcript::load("time-report-pull")).await;
    player.finish().await;
    replays_with(&Transcript::load("push-report"), options("pushReport")).await;
}

#[tokio::test]
async fn the_player_replays_commands() {
    let options = json!({"modules": ["timeReport", "pushReport", "echo"], "intervals": {"timeReport": 3600}});
    replays_with(&Transcript::load("commands-level-1"), options).await;
}

#[tokio::test]
async fn the_player_replays_errors_of_modules() {
    let options = json!({"intervals": {"timeReport": 3600}});
    let (master, address) = Node::master(ConfigDir::recorded(), options).await;
    let transcript = Transcript::load("module-errors");
    let mut player = Player::new(address);
    player.play(&transcript.part(1, 30)).await;
    assert_eq!(master.call(json!({"do": "disable", "module": "timeReport"})).await, json!(true));
    player.play(&transcript.part(31, 37)).await;
    assert_eq!(master.call(json!({"do": "enable", "module": "timeReport"})).await, json!(true));
    player.play(&transcript.part(38, 40)).await;
    player.finish().await;
}

/// The recordings of the pomelo application continue each other.
#[tokio::test]
async fn the_player_replays_the_life_of_a_pomelo_application() {
    let (_master, address) = Node::pomelo_master().await;
    let mut player = Player::new(address);
    for name in ["pomelo-app-start", "pomelo-server-leaves", "pomelo-server-joins-late"] {
        player.play(&Transcript::load(name)).await;
        player.expect_silence().await;
    }
    // All links break, the gate's first, and the master notices one after the other.
    let removal = |id: &str| {
        let id = id.to_owned();
        move |message: &Value| message["body"] == json!({"action": "removeServer", "id": id})
    };
    player.cut(1);
    assert!(removal("gate-server-1")(&player.peer(2).expect_monitor_message().await));
    player.cut(4);
    assert!(removal("chat-server-1")(&player.peer(2).expect_monitor_message().await));
    player.cut(2);
    let no_figures = |transcript: Transcript| {
        transcript.without_all("systemInfo and nodeInfo are not loaded here", |line| {
            ["systemInfo", "nodeInfo"].iter().any(|module| line.message()["moduleId"] == **module)
        })
    };
    player.play(&no_figures(Transcript::load("pomelo-links-break-reconnect"))).await;
    player.play(&Transcript::load("console-basic")).await;
    player.play(&Transcript::load("console-level-2")).await;
    player.finish().await;
}

#[tokio::test]
#[should_panic(expected = "client-bad-password, line 5")]
async fn the_player_notices_a_master_that_says_something_else() {
    let refusal = json!({"code": -1, "msg": "another text"});
    let transcript = Transcript::load("client-bad-password").instead(5, &refusal, "to see that it is noticed");
    replays_with(&transcript, three_modules()).await;
}

#[tokio::test]
#[should_panic(expected = "nothing more was recorded")]
async fn the_player_notices_a_master_that_says_more() {
    let transcript = Transcript::load("client-login-ok").part(1, 4);
    replays_with(&transcript, three_modules()).await;
}

#[tokio::test]
async fn the_stage_recognises_an_original_monitor() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("echo-client-to-monitor").only(&[1]);
    let options = json!({"id": "test-server-1", "type": "test", "modules": ["echo"],
        "info": {"id": "test-server-1", "serverType": "test", "host": "127.0.0.1", "port": 4013}});
    let _monitor = Node::monitor(stage.address(), options).await;
    stage.play(&transcript).await;
}

#[tokio::test]
async fn the_stage_recognises_an_original_monitor_that_comes_back() {
    let mut stage = Stage::listen().await;
    let options = json!({"id": "connector-server-1", "type": "connector",
        "info": {"id": "connector-server-1", "serverType": "connector", "host": "127.0.0.1", "port": 4018}});
    let monitor = Node::monitor(stage.address(), options).await;
    stage.play(&Transcript::load("monitor-reconnect").cut_at(6, &[1]).cut_at(12, &[2])).await;
    monitor.events("reconnected", 2).await;
}

#[tokio::test]
async fn the_stage_recognises_the_pings_of_an_original_monitor() {
    let mut stage = Stage::listen().await;
    let options = json!({"id": "connector-server-1", "type": "connector", "keepalive": 100,
        "info": {"id": "connector-server-1", "serverType": "connector", "host": "127.0.0.1", "port": 4018}});
    let _monitor = Node::monitor(stage.address(), options).await;
    stage.play(&Transcript::load("keepalive")).await;
}

#[tokio::test]
async fn the_stage_recognises_the_requests_of_an_original_monitor() {
    let mut stage = Stage::listen().await;
    let options = json!({"id": "test-server-1", "type": "test",
        "info": {"id": "test-server-1", "serverType": "test", "host": "127.0.0.1", "port": 4013}});
    let monitor = Node::monitor(stage.address(), options).await;
    let transcript = Transcript::load("echo-monitor-to-master");
    stage.play(&transcript.part(1, 5)).await;
    monitor.event("registered").await;
    for (request, responses) in transcript.exchanges(1) {
        let order = json!({"do": "request", "module": request["moduleId"], "body": request["body"]});
        let number = request["reqId"].as_u64().and_then(|id| usize::try_from(id).ok()).expect("requests are numbered");
        let at = 6 + 2 * (number - 1);
        let (result, ()) = tokio::join!(monitor.call(order), stage.play_part(&transcript, at, at + 1));
        let expected = json!({"error": responses[0]["error"], "body": responses[0]["body"]});
        assert_eq!(result, expected, "what the caller of request {number} gets");
    }
}

#[tokio::test]
#[should_panic(expected = "serverType")]
async fn the_stage_notices_a_monitor_that_says_something_else() {
    let mut stage = Stage::listen().await;
    let options = json!({"id": "connector-server-1", "type": "chat",
        "info": {"id": "connector-server-1", "serverType": "connector", "host": "127.0.0.1", "port": 4018}});
    let _monitor = Node::monitor(stage.address(), options).await;
    stage.play(&Transcript::load("monitor-register-ok").part(1, 5)).await;
}

#[tokio::test]
async fn an_original_client_reaches_an_original_monitor_through_an_original_master() {
    let (master, address) = Node::master(ConfigDir::recorded(), json!({})).await;
    let monitor = Node::monitor(address, json!({"id": "chat-server-1", "type": "chat"})).await;
    monitor.event("registered").await;
    master.event("register").await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    let body = json!({"do": "request", "target": "chat-server-1", "payload": {"op": "ok", "v": "hé"}});
    assert_eq!(client.request("echo", body).await, json!({"error": null, "body": {"echo": "hé"}}));
}

#[tokio::test]
async fn hand_made_peers_are_taken_for_real_ones() {
    let (_master, address) = Node::master(ConfigDir::recorded(), json!({})).await;
    let mut bystanders = muster_tests::bystanders::Bystanders::join(address).await;
    let mut peer = Peer::monitor(address, "chat-server-1", "chat").await;
    peer.notify("echo", json!({"serverId": "chat-server-1", "mark": 1})).await;
    peer.expect_silence().await;
    let mut client = Peer::admin(address, "client-1").await;
    let marks = client.request("echo", json!({"do": "marks"})).await;
    assert_eq!(marks, json!({"respId": 1, "error": null, "body": [{"serverId": "chat-server-1", "mark": 1}]}));
    let listed = client.command("list", "", json!({"clientId": "client-1", "username": "admin"})).await;
    assert_eq!(listed["body"]["modules"][2], "echo");
    client.send(&Packet::Disconnect).await;
    bystanders.check().await;
}

#[tokio::test]
async fn pomelo_cli_can_be_typed_on() {
    let (master, address) = Node::pomelo_master().await;
    let mut cli = muster_tests::pty::PomeloCli::start(address, "admin", "all").await;
    cli.run("help", None, "admin@pomelo : all>").await;
    cli.run("use master-server-1", None, "switch to server: master-server-1").await;
    cli.run("enable module nope", None, "command enable module nope bad").await;
    cli.run("blacklist 10.1.2.3", Some("blacklist"), "admin@pomelo : master-server-1>").await;
    drop(cli);
    let mut cli = muster_tests::pty::PomeloCli::start(address, "admin", "chat-server-1").await;
    cli.run("enable module nope", None, "command enable module nope bad").await;
    assert!(master.is_running().await);
}

#[tokio::test]
async fn a_pomelo_server_starts_on_its_own_master() {
    let (_master, address) = Node::pomelo_master().await;
    let port = muster_tests::ports::free_port();
    let arguments = ["id=chat-server-1", "host=127.0.0.1", "serverType=chat"].map(str::to_owned);
    let arguments = [&arguments[..], &[format!("port={port}")]].concat();
    let server = Node::pomelo(address, &arguments).await;
    server.event("started").await;
    let known = eventually("the server knows itself", ANSWER, async || {
        let servers = server.call(json!({"do": "servers"})).await;
        servers.get("chat-server-1").cloned()
    })
    .await;
    assert_eq!(known["port"], json!(port));
}

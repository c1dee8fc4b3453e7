//! The recordings, played against our master. Each test is named by the rule it pins; where ours differs on
//! purpose, the transcript says so with the quirk (Q…) it avoids or the hole it closes.

use muster_tests::compare::ANY_TEXT;
use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, FIXTURE_PLUGINS, Setup};
use muster_tests::deadline::PROCESS;
use muster_tests::operator::Operator;
use muster_tests::packet::Packet;
use muster_tests::peer::Peer;
use muster_tests::player::Player;
use muster_tests::transcript::{Direction, Event, Transcript};
use serde_json::{Value, json};

const OWN_MONITOR: &str = "DESIGN, Roles: the master runs a monitor of itself, which reports, too";

/// A recording as our master is expected to replay it, if it has no reason to differ.
fn ours(name: &str) -> Transcript {
    Transcript::load(name).closing_after_disconnect()
}

/// A master with the modules that the recorded one had, and nobody who watches who comes and goes.
fn recorded() -> Setup {
    Setup::master().plugins(&FIXTURE_PLUGINS)
}

async fn replays(transcript: Transcript) {
    let master = recorded().start().await;
    Player::replay(master.address(), &transcript).await;
    master.shutdown().await;
}

macro_rules! pinned {
    ($($rule:ident: $name:literal;)*) => {$(
        #[tokio::test]
        async fn $rule() {
            replays(ours($name)).await;
        }
    )*};
}

pinned! {
    a_monitor_registers_with_its_token: "monitor-register-ok";
    a_monitor_of_type_master_needs_no_token: "monitor-register-master-type";
    a_live_id_cannot_be_taken_over_by_reconnect: "monitor-reconnect-refused";
    a_pingreq_is_answered_at_once: "keepalive";
    a_client_logs_in_with_plain_and_with_md5_password: "client-login-ok";
    a_wrong_password_is_answered_and_disconnected: "client-bad-password";
    a_login_without_username_is_answered_and_disconnected: "client-no-username";
    a_login_without_id_is_disconnected: "client-no-id";
    a_second_client_with_an_id_is_refused_and_the_first_stays: "client-duplicate-id";
    an_unknown_type_is_refused_and_half_a_registration_ignored: "register-unknown-type";
    a_message_before_registering_is_disconnected: "unregistered-peer";
    nothing_collected_is_an_answer_without_body: "time-report-empty";
    every_answer_of_a_monitor_reaches_the_client_unchanged: "echo-client-to-monitor";
    every_answer_of_a_master_handler_reaches_the_monitor: "echo-monitor-to-master";
    notifies_reach_whom_they_are_for_and_say_whether_somebody_was_there: "notify-directions";
    commands_need_level_one_and_the_callers_own_client_id: "commands-denied";
    answers_come_in_any_order_and_unknown_ones_are_ignored: "answers-out-of-order";
    an_answer_to_a_request_sent_again_reaches_the_client: "qos-repush-answered";
}

// === Registering ===

#[tokio::test]
async fn a_refused_token_is_answered_and_disconnected() {
    replays(ours("monitor-register-bad-token").part(1, 6)).await;
}

#[tokio::test]
async fn a_monitor_whose_token_was_refused_is_not_let_in_by_reconnect() {
    let refusal = json!({"code": -1, "msg": ANY_TEXT});
    let transcript = ours("monitor-register-bad-token").instead(12, &refusal, "Q6, auth.reconnect = known");
    let master = recorded().start().await;
    let mut player = Player::new(master.address());
    player.play(&transcript).await;
    drop(player);
    master.shutdown().await;
}

#[tokio::test]
async fn an_open_master_lets_a_refused_monitor_in_by_reconnect_as_the_original_does() {
    let master = recorded().set("auth.reconnect", "open").start().await;
    Player::replay(master.address(), &ours("monitor-register-bad-token")).await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_monitor_comes_back_by_reconnect_without_a_token() {
    replays(ours("monitor-reconnect").cut_at(6, &[1]).cut_at(12, &[2])).await;
}

#[tokio::test]
async fn a_peer_that_says_disconnect_is_let_go_and_its_connection_closed() {
    let master = recorded().start().await;
    let mut monitor = Peer::monitor(master.address(), "chat-server-1", "chat").await;
    monitor.send(&Packet::Disconnect).await;
    assert_eq!(monitor.expect_closed().await, []);
    let mut client = Peer::admin(master.address(), "client-1").await;
    client.send(&Packet::Disconnect).await;
    assert_eq!(client.expect_closed().await, []);
    // Both ids are free again.
    Peer::admin(master.address(), "client-1").await;
    let mut back = Peer::connect("chat-server-1", master.address()).await;
    assert_eq!(back.reconnect_monitor("chat-server-1", "chat").await, json!({"code": 1, "msg": "ok"}));
    master.shutdown().await;
}

// === Schedules ===

#[tokio::test]
async fn a_pull_module_asks_every_monitor_on_schedule() {
    let master = recorded().set("modules.timeReport.interval", "1").start().await;
    let transcript = ours("time-report-pull").adjusted(Direction::ToPeer, OWN_MONITOR, |message| {
        if message["respId"] == 1 {
            message["body"]["master-server-1"] = json!("the time");
        }
    });
    let mut player = Player::new(master.address()).with_timer("timeReport");
    player.play(&transcript).await;
    player.finish().await;
    master.shutdown().await;
}

#[tokio::test]
async fn what_monitors_push_is_kept_for_clients() {
    replays(ours("push-report")).await;
}

#[tokio::test]
async fn enabling_a_pull_module_runs_its_first_round_at_once() {
    let master = recorded().set("modules.timeReport.interval", "3600").start().await;
    let mut client = Peer::admin(master.address(), "client-1").await;
    let body = json!({"clientId": "client-1", "username": "admin"});
    assert_eq!(client.command("disable", "timeReport", body.clone()).await["body"], 1);
    let mut monitor = Peer::monitor(master.address(), "test-server-1", "test").await;
    assert_eq!(client.command("enable", "timeReport", body).await["body"], 1);
    let enabled = monitor.expect_message().await;
    assert_eq!(enabled["command"], "enable");
    assert_eq!(monitor.expect_message().await, json!({"moduleId": "timeReport", "body": "testMsg"}));
    master.shutdown().await;
}

// === Commands and modules ===

#[tokio::test]
async fn commands_answer_as_the_original_and_are_forwarded_without_client_id() {
    let q18 = "Q18: a real monitor never reads again after a forwarded command with a clientId";
    let forwarded = |name: &str| json!({"command": name, "moduleId": "timeReport", "body": {"username": "admin"}});
    let bare = |name: &str| json!({"command": name, "moduleId": "timeReport"});
    let transcript = ours("commands-level-1")
        .instead(17, &forwarded("disable"), q18)
        .or_instead(17, &bare("disable"))
        .instead(26, &forwarded("enable"), q18)
        .or_instead(26, &bare("enable"))
        .without(35, "no schedule here, so that the master's own monitor reports nothing");
    let master = recorded().without_plugins(&["no_handlers"]).start().await;
    Player::replay(master.address(), &transcript).await;
    master.shutdown().await;
}

#[tokio::test]
async fn unknown_disabled_and_handlerless_modules_are_told_apart() {
    let master = recorded().start().await;
    let transcript = ours("module-errors").without(38, "no schedule here");
    let mut player = Player::new(master.address());
    player.play(&transcript.part(1, 30)).await;
    // The recording's program did this to one side only; a command reaches both.
    let mut operator = Peer::admin(master.address(), "operator").await;
    let body = json!({"clientId": "operator", "username": "admin"});
    assert_eq!(operator.command("disable", "timeReport", body.clone()).await["body"], 1);
    assert_eq!(player.peer(1).expect_monitor_message().await["command"], "disable");
    player.play(&transcript.part(31, 35)).await;
    assert_eq!(operator.command("enable", "timeReport", body).await["body"], 1);
    assert_eq!(player.peer(1).expect_monitor_message().await["command"], "enable");
    player.play(&transcript.part(36, 40)).await;
    player.finish().await;
    master.shutdown().await;
}

// === Requests that outlive a link ===

#[tokio::test]
async fn an_unanswered_request_is_sent_again_with_a_string_id() {
    replays(ours("qos-repush").cut_at(14, &[1])).await;
}

#[tokio::test]
async fn a_request_to_an_unknown_id_is_not_remembered() {
    let transcript = ours("qos-request-before-register")
        .without_all("Q10: a request that failed must not run later", |line| (14..=16).contains(&line.number))
        .without(26, "Q12: nothing is sent to a monitor that was refused");
    replays(transcript).await;
}

// === Slaves ===

#[tokio::test]
async fn a_second_monitor_with_an_id_is_a_slave_and_follows_the_first() {
    let master = recorded().start().await;
    let transcript = ours("slave-same-id").without(36, "Q14: the oldest slave is promoted");
    let mut player = Player::new(master.address());
    player.play(&transcript).await;
    let request = player.peer(2).expect_monitor_message().await;
    assert_eq!((&request["moduleId"], &request["body"]), (&json!("echo"), &json!({"op": "ok"})));
    player.finish().await;
    master.shutdown().await;
}

// === A pomelo application ===

/// As the recorded application had it: three servers, so that the fourth `record` (the master's own monitor is one)
/// starts them over.
fn application() -> ConfigDir {
    let gate = json!([{"id": "gate-server-1", "host": "127.0.0.1", "clientPort": 3014, "frontend": true}]);
    let connector = json!([{"id": "connector-server-1", "host": "127.0.0.1", "port": 4050,
        "clientHost": "127.0.0.1", "clientPort": 3050, "frontend": true}]);
    let chat = json!([{"id": "chat-server-1", "host": "127.0.0.1", "port": 6050}]);
    let servers = json!({"gate": gate, "connector": connector, "chat": chat});
    let place = json!({"id": "master-server-1", "host": "127.0.0.1", "port": 3005});
    ConfigDir::recorded()
        .with("servers.json", &json!({"development": servers}))
        .with("master.json", &json!({"development": place}))
}

async fn application_master() -> (Daemon, Player) {
    let master = Setup::master().config(application()).start().await;
    let player = Player::new(master.address());
    (master, player)
}

#[tokio::test]
async fn servers_subscribe_are_told_of_each_other_and_start_over_once() {
    let (master, mut player) = application_master().await;
    player.play(&ours("pomelo-app-start")).await;
    player.finish().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_server_that_leaves_and_joins_again_is_announced() {
    let (master, mut player) = application_master().await;
    for name in ["pomelo-app-start", "pomelo-server-leaves", "pomelo-server-joins-late"] {
        player.play(&ours(name)).await;
        player.expect_silence().await;
    }
    player.finish().await;
    master.shutdown().await;
}

/// Until all three servers have lost their links and come back: connections 5, 6 and 7.
async fn come_back(master: &Daemon, player: &mut Player) {
    let mut operator = Operator::log_in(master.address()).await;
    for name in ["pomelo-app-start", "pomelo-server-leaves", "pomelo-server-joins-late"] {
        player.play(&ours(name)).await;
    }
    let removed = |id: &str| json!({"action": "removeServer", "id": id});
    player.cut(1);
    assert_eq!(player.peer(2).expect_monitor_message().await["body"], removed("gate-server-1"));
    player.cut(4);
    assert_eq!(player.peer(2).expect_monitor_message().await["body"], removed("chat-server-1"));
    player.cut(2);
    // Nobody is left to be told; the master must have noticed before the first of them comes back.
    operator.wait_until_gone("connector-server-1").await;
    let transcript = ours("pomelo-links-break-reconnect")
        .without_all("systemInfo and nodeInfo come with a later issue", |line| {
            ["systemInfo", "nodeInfo"].iter().any(|module| line.message()["moduleId"] == **module)
        })
        .without_all("Q11: what replaceServer has made obsolete is not sent again", |line| {
            let message = line.message();
            message["reqId"].is_string() || message["respId"].is_string()
        })
        .adjusted(Direction::ToPeer, "Q4: info.pid is set on reconnect, too", with_pids)
        .with_fresher_maps("PROTOCOL 11.3: the map is that of the moment in which it is sent; who came back is in it");
    player.play(&transcript).await;
}

/// Gives every info of the recorded servers the pid it had when it registered.
fn with_pids(message: &mut Value) {
    match message {
        Value::Object(fields) => {
            let pid = match fields.get("id").and_then(Value::as_str) {
                Some("gate-server-1") => Some(18866),
                Some("connector-server-1") => Some(18873),
                Some("chat-server-1") => Some(18887),
                _ => None,
            };
            if let Some(pid) = pid.filter(|_| fields.contains_key("serverType")) {
                fields.insert("pid".to_owned(), json!(pid));
            }
            fields.values_mut().for_each(with_pids);
        }
        Value::Array(items) => items.iter_mut().for_each(with_pids),
        _ => {}
    }
}

#[tokio::test]
async fn servers_that_come_back_get_the_whole_map_and_are_announced() {
    let (master, mut player) = application_master().await;
    come_back(&master, &mut player).await;
    player.finish().await;
    master.shutdown().await;
}

#[tokio::test]
async fn the_console_lists_stops_and_passes_crons_and_blacklists_on() {
    let (master, mut player) = application_master().await;
    come_back(&master, &mut player).await;
    player.play(&ours("console-basic").without(24, "Q20: a request has one response")).await;
    player.finish().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_level_two_user_may_look_and_not_touch() {
    let (master, mut player) = application_master().await;
    come_back(&master, &mut player).await;
    let denied =
        json!({"respId": 5, "error": {"message": "Command permission denied", "stack": ANY_TEXT}, "body": null});
    let hole = "PROTOCOL 6.3: the original leaves blacklist and addCron open to everybody";
    let transcript =
        ours("console-level-2").without_all(hole, |line| (26..=28).contains(&line.number)).instead(29, &denied, hole);
    player.play(&transcript).await;
    player.finish().await;
    master.shutdown().await;
}

#[tokio::test]
async fn kill_is_answered_by_every_monitor_and_ends_the_master() {
    let (mut master, mut player) = application_master().await;
    come_back(&master, &mut player).await;
    player.play(&ours("console-basic").part(1, 5)).await;
    player.cut(5);
    for conn in [6, 7] {
        let request = player.peer(conn).as_monitor().answer_next(json!(1), Value::Null).await;
        assert_eq!(request["body"], json!({"action": "removeServer", "id": "chat-server-1"}));
    }
    player.play(&ours("console-kill").part(1, 7)).await;
    assert_eq!(player.peer(8).expect_closed().await, []);
    assert_eq!(master.wait(PROCESS).await.code(), Some(0));
}

/// The kit's own guard: a recording that nobody plays pins nothing.
#[test]
fn every_recording_has_packets_of_both_sides() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    for entry in std::fs::read_dir(dir).expect("the recordings are part of the source tree") {
        let path = entry.expect("a directory can be read").path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("names are ASCII");
            let transcript = Transcript::load(name);
            for direction in [Direction::ToMaster, Direction::ToPeer] {
                let spoken = transcript.lines().iter().filter(|line| line.direction == direction);
                assert!(spoken.clone().any(|line| line.event != Event::Open), "{name}: {direction:?}");
            }
        }
    }
}

//! The recordings, with the master's part played to our monitor.

use muster_tests::daemon::{Daemon, FIXTURE_PLUGINS, Setup};
use muster_tests::packet::Packet;
use muster_tests::stage::Stage;
use muster_tests::transcript::{Direction, Transcript};
use serde_json::{Value, json};

const TOKEN_ON_RECONNECT: &str = "Q6: our monitor sends its token with reconnect, too";

/// Ours shows its token also when it comes back, so that a careful master can let it in.
fn with_token_on_reconnect(transcript: Transcript, server_type: &str) -> Transcript {
    let token = muster_tests::config::token_for(server_type);
    transcript.adjusted(Direction::ToMaster, TOKEN_ON_RECONNECT, |message| {
        if message["type"] == "monitor" && message.get("token").is_none() {
            message["token"] = json!(token);
        }
    })
}

/// Our monitor with the info and the modules that the recordings have, so without the watcher, which would subscribe;
/// ready to be started beside the stage.
fn recorded_monitor(stage: &Stage, id: &str, server_type: &str, port: u16) -> Setup {
    let setup = Setup::monitor(stage.address(), id, server_type).plugins(&FIXTURE_PLUGINS);
    setup.info("host", "127.0.0.1").info("port", &port.to_string())
}

/// Starts the monitor while the stage plays the lines `first` to `last` (the handshake) to it.
async fn start(setup: Setup, stage: &mut Stage, transcript: &Transcript, last: usize) -> Daemon {
    let (monitor, ()) = tokio::join!(setup.start(), stage.play_part(transcript, 1, last));
    monitor
}

#[tokio::test]
async fn our_monitor_registers_as_the_original_and_says_disconnect_when_it_stops() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("monitor-register-ok");
    let setup = recorded_monitor(&stage, "connector-server-1", "connector", 4018);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    let (_, ()) = tokio::join!(monitor.shutdown(), stage.play_part(&transcript, 6, 7));
}

#[tokio::test]
async fn our_monitor_comes_back_by_reconnect() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("monitor-reconnect").cut_at(6, &[1]).cut_at(12, &[2]);
    let transcript = with_token_on_reconnect(transcript, "connector");
    let setup = recorded_monitor(&stage, "connector-server-1", "connector", 4018);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play_part(&transcript, 6, 17).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_does_not_give_up_when_its_token_is_refused() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("monitor-register-bad-token");
    let setup = recorded_monitor(&stage, "connector-server-1", "connector", 4018);
    let again = async {
        stage.play_part(&transcript, 1, 6).await;
        stage.accept(2).await;
        let peer = stage.peer(2);
        assert!(matches!(peer.next().await, Some(Packet::Connect(_))));
        peer.send(&Packet::Connack).await;
        match peer.next().await {
            Some(Packet::Publish { topic, payload }) => {
                assert!(["register", "reconnect"].contains(&topic.as_str()), "{topic} {payload}");
                let ok = r#"{"code":1,"msg":"ok"}"#;
                let answer = if topic == "register" { "register" } else { "reconnect_ok" };
                peer.publish(answer, ok).await;
            }
            other => panic!("a second attempt expected, got {other:?}"),
        }
    };
    let setup = setup.token("wrong-token");
    let (monitor, ()) = tokio::join!(setup.start(), again);
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_gives_every_kind_of_answer_as_the_original() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("echo-client-to-monitor").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play(&transcript.after(5)).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_tells_unknown_disabled_and_handlerless_modules_apart() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("module-errors").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013).without_plugins(&["push_report"]);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play_part(&transcript, 6, 26).await;
    // The recording's program disabled it by itself; ours is told to.
    let command = json!({"command": "disable", "moduleId": "timeReport", "body": {"username": "admin"}});
    stage.peer(1).publish("monitor", &json!(command.to_string()).to_string()).await;
    stage.play_part(&transcript, 37, 37).await;
    stage.play_part(&transcript, 39, 39).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_applies_forwarded_commands_whatever_their_body() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("commands-level-1").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    // The recorded one was dead from the first command on (Q18), so its answers are not recorded.
    stage.play_part(&transcript, 17, 23).await;
    let answer = stage.peer(1).expect_monitor_message().await;
    assert_eq!(answer, json!({"respId": 1, "error": "module timeReport is disable"}));
    stage.play_part(&transcript, 26, 35).await;
    let report = stage.peer(1).expect_monitor_message().await;
    assert_eq!(report["moduleId"], "timeReport");
    assert_eq!(report["body"]["serverId"], "test-server-1");
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_reports_its_time_when_asked() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("time-report-pull").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play(&transcript.after(5)).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_pushes_on_schedule() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("push-report").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let setup = setup.set("modules.pushReport.interval", "1");
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play(&transcript.after(5)).await;
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_answers_a_request_that_is_sent_again_with_the_id_as_it_came() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("qos-repush").cut_at(14, &[1]).only(&[1, 3]);
    let transcript = with_token_on_reconnect(transcript, "test");
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    stage.play(&transcript.after(5)).await;
    let again = json!({"reqId": "2", "moduleId": "echo", "body": {"op": "ok", "v": 1}});
    stage.peer(3).publish("monitor", &json!(again.to_string()).to_string()).await;
    let answer = stage.peer(3).expect_monitor_message().await;
    assert_eq!(answer, json!({"respId": "2", "error": null, "body": {"echo": 1}}));
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_ignores_messages_before_it_is_registered() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("echo-client-to-monitor").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let early = async {
        stage.play_part(&transcript, 1, 4).await;
        let request = json!({"reqId": 77, "moduleId": "echo", "body": {"op": "ok"}});
        stage.peer(1).publish("monitor", &json!(request.to_string()).to_string()).await;
        // Straight on to the first recorded request: an answer to the early one would stand before its answer.
        stage.play(&transcript.after(4)).await;
    };
    let (monitor, ()) = tokio::join!(setup.start(), early);
    monitor.shutdown().await;
}

/// Our monitor as a server of the recorded application.
fn application_server(stage: &Stage, id: &str, server_type: &str, info: &[(&str, &str)]) -> Setup {
    let setup = Setup::monitor(stage.address(), id, server_type);
    let setup = setup.info("main", "/srv/app/app.js").info("env", "development").info("host", "127.0.0.1");
    info.iter().fold(setup, |setup, (key, value)| setup.info(key, value))
}

#[tokio::test]
async fn our_monitor_subscribes_records_and_confirms_what_the_watcher_says() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("pomelo-app-start").only(&[1]);
    let info = [("clientPort", "3014"), ("frontend", "true")];
    let setup = application_server(&stage, "gate-server-1", "gate", &info);
    let (monitor, ()) = tokio::join!(setup.start(), stage.play(&transcript));
    monitor.shutdown().await;
}

/// The original subscribes once, and counts on `replaceServer` after that. A master that lost its watcher with its life,
/// or got it later, would not send one; to subscribe again changes nothing for those that do.
#[tokio::test]
async fn our_monitor_subscribes_again_on_a_new_link_and_records_itself_once() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("pomelo-app-start").only(&[1]);
    let info = [("clientPort", "3014"), ("frontend", "true")];
    let setup = application_server(&stage, "gate-server-1", "gate", &info);
    let (monitor, ()) = tokio::join!(setup.start(), stage.play(&transcript));
    stage.cut(1);
    stage.accept(2).await;
    let peer = stage.peer(2);
    assert!(matches!(peer.next().await, Some(Packet::Connect(_))));
    peer.send(&Packet::Connack).await;
    assert_eq!(peer.expect_json("reconnect").await["id"], "gate-server-1");
    peer.publish("reconnect_ok", r#"{"code":1,"msg":"ok"}"#).await;
    let subscription = json!({"action": "subscribe", "id": "gate-server-1"});
    // While the master has no watcher, it is asked again.
    for answer in [json!({"error": "unknown moduleId:__masterwatcher__"}), json!({"error": null, "body": {}})] {
        let request = peer.expect_monitor_message().await;
        assert_eq!((&request["moduleId"], &request["body"]), (&json!("__masterwatcher__"), &subscription));
        let mut answer = answer;
        answer["respId"] = request["reqId"].clone();
        peer.publish("monitor", &json!(answer.to_string()).to_string()).await;
    }
    // `replaceServer` comes as well from a master that has one, and is confirmed; no second `record` stands before that.
    let map = json!({"reqId": 7, "moduleId": "__monitorwatcher__", "body": {"action": "replaceServer", "servers": {}}});
    peer.publish("monitor", &json!(map.to_string()).to_string()).await;
    assert_eq!(peer.expect_monitor_message().await, json!({"respId": 7, "error": 1}));
    monitor.shutdown().await;
}

#[tokio::test]
async fn our_monitor_answers_the_console_in_the_error_position() {
    let mut stage = Stage::listen().await;
    let start = Transcript::load("pomelo-app-start").only(&[3]);
    let setup = application_server(&stage, "chat-server-1", "chat", &[("port", "6050")]);
    let (mut monitor, ()) = tokio::join!(setup.start(), stage.play(&start));
    // The same server, whose number in that recording was another.
    stage.rename(3, 5);
    let console = Transcript::load("console-basic").only(&[5]);
    stage.play(&console).await;
    let kill = json!({"reqId": 900, "moduleId": "__console__", "body": {"signal": "kill"}});
    stage.peer(5).publish("monitor", &json!(kill.to_string()).to_string()).await;
    assert_eq!(stage.peer(5).expect_monitor_message().await, json!({"respId": 900, "error": "chat-server-1"}));
    monitor.wait(muster_tests::deadline::PROCESS).await;
}

#[tokio::test]
async fn our_monitor_stops_when_the_console_says_so() {
    let mut stage = Stage::listen().await;
    let start = Transcript::load("pomelo-app-start").only(&[3]);
    let setup = application_server(&stage, "chat-server-1", "chat", &[("port", "6050")]);
    let (mut monitor, ()) = tokio::join!(setup.start(), stage.play(&start));
    stage.peer(3).publish("monitor", r#"{"moduleId":"__console__","body":{"signal":"stop"}}"#).await;
    assert_eq!(stage.peer(3).expect_closed().await, [Packet::Disconnect]);
    assert_eq!(monitor.wait(muster_tests::deadline::PROCESS).await.code(), Some(0));
}

#[tokio::test]
async fn what_is_not_for_monitors_does_not_disturb_ours() {
    let mut stage = Stage::listen().await;
    let transcript = Transcript::load("echo-client-to-monitor").only(&[1]);
    let setup = recorded_monitor(&stage, "test-server-1", "test", 4013);
    let monitor = start(setup, &mut stage, &transcript, 5).await;
    for topic in ["close", "error", "disconnect", "__proto__", "client"] {
        stage.peer(1).publish(topic, "{}").await;
    }
    for payload in ["not JSON", "NaN", "null", "[]", "\"{\"", r#"{"respId":4711,"body":1}"#] {
        stage.peer(1).publish("monitor", payload).await;
    }
    stage.peer(1).publish("monitor", &Value::from("{}").to_string()).await;
    stage.play(&transcript.after(5)).await;
    monitor.shutdown().await;
}

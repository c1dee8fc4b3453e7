//! Our client, as `muster call`, against what masters answered in the recordings.

use std::net::SocketAddr;

use muster_tests::cli::{Finished, call, muster};
use muster_tests::packet::Packet;
use muster_tests::payload::decode;
use muster_tests::peer::{Peer, md5_hex};
use muster_tests::stage::Stage;
use muster_tests::transcript::Transcript;
use serde_json::{Value, json};

/// Recordings, the connection of the client in each, and its user.
const CLIENTS: [(&str, u32, &str); 8] = [
    ("echo-client-to-monitor", 2, "admin"),
    ("notify-directions", 4, "admin"),
    ("module-errors", 2, "admin"),
    ("commands-level-1", 2, "admin"),
    ("commands-denied", 2, "monitor"),
    ("push-report", 2, "admin"),
    ("time-report-empty", 1, "admin"),
    ("console-basic", 8, "admin"),
];

/// Plays a login to the next connection, and returns the id that the client gave itself.
async fn log_in(stage: &mut Stage, user: &str, answer: &str) -> String {
    stage.accept(1).await;
    let peer = stage.peer(1);
    assert!(matches!(peer.next().await, Some(Packet::Connect(_))), "CONNECT comes first");
    peer.send(&Packet::Connack).await;
    let login = peer.expect_json("register").await;
    let id = login["id"].as_str().expect("a client has an id").to_owned();
    let as_md5 = json!({"type": "client", "id": id, "username": user, "password": md5_hex(user), "md5": true});
    let plain = json!({"type": "client", "id": id, "username": user, "password": user, "md5": false});
    assert!([as_md5, plain].contains(&login), "{login} is no login of {user}");
    peer.publish("register", answer).await;
    id
}

/// Runs `muster call` for a recorded request, while a stage answers it as recorded.
async fn ask(user: &str, request: &Value, response: &Value) -> Finished {
    let mut stage = Stage::listen().await;
    let mut body = request["body"].clone();
    for attached in ["clientId", "username"] {
        body.as_object_mut().expect("a client's bodies are objects").remove(attached);
    }
    let module = match (request["command"].as_str(), request["moduleId"].as_str()) {
        (Some(command), Some(module)) => format!("command:{command}:{module}"),
        (Some(command), None) => format!("command:{command}"),
        (None, module) => module.expect("a request names a module").to_owned(),
    };
    let master: SocketAddr = stage.address();
    let answer = async {
        let id = log_in(&mut stage, user, r#"{"code":1,"msg":"ok"}"#).await;
        let peer: &mut Peer = stage.peer(1);
        let sent = match peer.next().await {
            Some(Packet::Publish { topic, payload }) if topic == "client" => {
                assert!(payload.starts_with('"'), "requests are JSON in a JSON string: {payload}");
                decode(&payload)
            }
            other => panic!("a request expected, got {other:?}"),
        };
        let mut expected = request.clone();
        expected["reqId"] = sent["reqId"].clone();
        expected["body"]["clientId"] = json!(id);
        expected["body"]["username"] = json!(user);
        assert_eq!(sent, expected, "what the client sends");
        assert!(sent["reqId"].as_u64().is_some_and(|number| number > 0), "ids are numbers from 1");
        let mut response = response.clone();
        response["respId"] = sent["reqId"].clone();
        peer.publish("client", &json!(response.to_string()).to_string()).await;
        // The command ends by itself, and the connection with it.
        peer.expect_closed().await;
    };
    let (finished, ()) = tokio::join!(call(master, user, &module, &body), answer);
    finished
}

#[tokio::test]
async fn every_recorded_answer_is_printed_as_it_came() {
    for (name, conn, user) in CLIENTS {
        for (request, responses) in Transcript::load(name).exchanges(conn) {
            let Some(response) = responses.first() else {
                continue;
            };
            let finished = ask(user, &request, response).await;
            assert_eq!(finished.code, 0, "{name}: {request}: {finished:?}");
            let expected = json!({"error": response["error"], "body": response["body"]});
            assert_eq!(finished.json(), expected, "{name}: {request}");
        }
    }
}

#[tokio::test]
async fn a_refused_login_is_told_with_the_masters_words_and_exit_code_four() {
    let mut stage = Stage::listen().await;
    let (master, body) = (stage.address(), json!({}));
    let refuse = async {
        let refusal = r#"{"code":-1,"msg":"client auth failed with username or password error"}"#;
        log_in(&mut stage, "admin", refusal).await;
        stage.peer(1).send(&Packet::Disconnect).await;
        stage.peer(1).expect_closed().await;
    };
    let (finished, ()) = tokio::join!(call(master, "admin", "echo", &body), refuse);
    assert_eq!(finished.code, 4, "{finished:?}");
    assert_eq!(finished.json(), json!({"login": "client auth failed with username or password error"}));
}

#[tokio::test]
async fn a_second_response_and_notifies_do_not_disturb_a_call() {
    let mut stage = Stage::listen().await;
    let (master, body) = (stage.address(), json!({}));
    let answer = async {
        log_in(&mut stage, "admin", r#"{"code":1,"msg":"ok"}"#).await;
        let peer = stage.peer(1);
        let request = peer.expect_message().await;
        peer.publish("client", r#"{"moduleId":"echo","body":{"hello":"client"}}"#).await;
        for body in [json!("unknown"), json!("ours"), json!("second")] {
            let id = if body == "unknown" { json!(999) } else { request["reqId"].clone() };
            peer.publish("client", &json!(json!({"respId": id, "body": body}).to_string()).to_string()).await;
        }
        peer.expect_closed().await;
    };
    let (finished, ()) = tokio::join!(call(master, "admin", "echo", &body), answer);
    assert_eq!(finished.json(), json!({"error": null, "body": "ours"}));
    assert_eq!(finished.code, 0);
}

#[tokio::test]
async fn a_master_that_is_not_there_is_exit_code_five() {
    let port = muster_tests::ports::free_port();
    let finished = call(SocketAddr::from(([127, 0, 0, 1], port)), "admin", "echo", &json!({})).await;
    assert_eq!(finished.code, 5, "{finished:?}");
    assert!(!finished.stderr.is_empty(), "an error says why");
}

#[tokio::test]
async fn a_wrong_usage_is_exit_code_two() {
    for arguments in [&["no-such-command"][..], &["call"], &["monitor"], &["call", "echo", "not JSON"]] {
        let finished = muster(arguments).await;
        assert_eq!(finished.code, 2, "{arguments:?}: {finished:?}");
    }
}

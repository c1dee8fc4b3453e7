//! Our master passes bodies on as they were written; the original parses and writes them anew. Real peers, which parse
//! what they get, must not see the difference.

use std::net::SocketAddr;

use muster_tests::config::ConfigDir;
use muster_tests::daemon::Setup;
use muster_tests::node::Node;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

/// JSON as no `JSON.stringify` writes it.
fn odd() -> Vec<String> {
    let mut odd: Vec<String> = [
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"b":2,"a":{"c":3,"c":null}}"#,
        r#"{"b":1,"2":2,"1":3,"a":4,"01":5}"#,
        r#"{"__proto__":{"a":1},"constructor":2,"":3}"#,
        r#""\u0041\u00e9\u2028\ud83d\ude00\/\b\f\n\r\t\"\\""#,
        r#""\u0000\u001f\u007f""#,
        "\"\u{e9}\u{2028}\u{1f600}\u{7f}\"",
        "12345678901234567890",
        "-9007199254740993",
        "[1.0,-0,0.1e-7,1E2,1e21,123456789012345678901234567890]",
        "1e400",
        "[0.30000000000000004,5e-324,1.7976931348623157e308]",
        "  {\r\n\t\"a\" :\n[ 1 ,\t2 ] }\n ",
        "[[],{},\"\",null,true,false]",
        "\"reqId\\\",\\\"respId\"",
        r#"{"reqId":1,"respId":2,"moduleId":"other","error":"no","body":{"body":5}}"#,
    ]
    .map(str::to_owned)
    .into();
    odd.push(format!("{}{}", "[".repeat(100), "]".repeat(100)));
    odd.push(json!("\u{1f600}\"\\ab".repeat(20_000)).to_string());
    odd
}

/// Sends a request with this very text as body, and returns the response.
async fn ask(peer: &mut Peer, id: usize, body: &str) -> Value {
    let inner = format!(r#"{{ "moduleId" :"echo", "body":{body} ,"reqId": {id}}}"#);
    peer.publish("client", &json!(inner).to_string()).await;
    peer.response(id as u64).await
}

/// What an original monitor and an original client see of each text, through the master at `address`.
async fn seen(address: SocketAddr) -> Vec<(Value, Value)> {
    let monitor = Node::monitor(address, json!({"id": "chat-server-1", "type": "chat"})).await;
    monitor.event("registered").await;
    let client = Node::logged_in(address, "client-1", "admin").await;
    assert_eq!(client.call(json!({"do": "listen", "module": "echo"})).await, json!(true));
    let mut peer = Peer::admin(address, "client-2").await;
    let mut seen = Vec::new();
    for (number, odd) in odd().iter().enumerate() {
        let payload = format!(r#"{{"op":"ok","v":{odd}}}"#);
        let to_monitor = format!(r#"{{"do":"request","target":"chat-server-1","payload":{payload}}}"#);
        let answer = ask(&mut peer, 1001 + number, &to_monitor).await;
        assert_eq!(answer["error"], Value::Null, "{odd}: {answer}");
        let to_client = format!(r#"{{"do":"notifyClient","target":"client-1","payload":{odd}}}"#);
        ask(&mut peer, 2001 + number, &to_client).await;
        let notified = client.event("notify").await["msg"]["body"].clone();
        seen.push((answer["body"]["echo"].clone(), notified));
    }
    seen
}

#[tokio::test]
async fn original_peers_see_odd_json_through_our_master_as_through_the_original() {
    let (_original, address) = Node::master(ConfigDir::recorded(), json!({})).await;
    let expected = seen(address).await;
    let master = Setup::master().start().await;
    let got = seen(master.address()).await;
    for (odd, (expected, got)) in odd().iter().zip(expected.iter().zip(&got)) {
        // As text, so that the order of keys counts.
        assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{odd:.200}");
    }
    master.shutdown().await;
}

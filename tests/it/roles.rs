//! Who may do what: FAULTS.md, row 28. The matrix is generated from the master's own table: every command × every level
//! × every way to claim an identity, as request and as notify, and all of it once more from a monitor's connection.

use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::PROCESS;
use muster_tests::packet::Packet;
use muster_tests::peer::Peer;
use serde_json::{Value, json};

const PLUGINS: [&str; 9] =
    ["console", "watch_server", "scripts", "monitor_log", "system_info", "node_info", "time_report", "echo", "list"];

/// Users, whose passwords are their names, and their levels; 0 stands for none.
const USERS: [(&str, u32); 4] = [("admin", 1), ("deputy", 2), ("guest", 3), ("nobody", 0)];

/// What a body may say of who sends it.
const CLAIMS: [Claim; 7] =
    [Claim::Own, Claim::Missing, Claim::Null, Claim::Empty, Claim::Other, Claim::Stranger, Claim::Number];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Claim {
    Own,
    Missing,
    Null,
    Empty,
    /// Another client that is logged in.
    Other,
    Stranger,
    Number,
}

/// A row of the master's table.
#[derive(Debug)]
struct Row {
    module: String,
    command: String,
    level: Value,
    /// Where a body has the command.
    field: Option<String>,
}

/// How a client reaches what a row is about.
#[derive(Debug, Clone, Copy)]
enum Way {
    Request,
    Notify,
}

fn users() -> ConfigDir {
    let user = |(name, level): (&str, u32)| match level {
        0 => json!({"id": name, "username": name, "password": name}),
        level => json!({"id": name, "username": name, "password": name, "level": level}),
    };
    ConfigDir::recorded().with("adminUser.json", &USERS.map(user).into_iter().collect())
}

fn setup() -> Setup {
    Setup::master().config(users()).plugins(&PLUGINS)
}

fn client_id(user: &str) -> String {
    format!("client-{user}")
}

async fn table(admin: &mut Peer) -> Vec<Row> {
    let answer = admin.request("__roles__", json!({"action": "list"})).await;
    let rows = answer["body"]["roles"].as_array().expect("a table").iter();
    let text = |row: &Value, field: &str| row[field].as_str().expect("a name").to_owned();
    let row = |row: &Value| Row {
        module: text(row, "module"),
        command: text(row, "command"),
        level: row["level"].clone(),
        field: row["field"].as_str().map(str::to_owned),
    };
    rows.map(row).collect()
}

/// What the table and the protocol say: the error, or `None` for what is let through.
fn verdict(row: &Row, level: u32, claim: Claim) -> Option<&'static str> {
    let named = row.command != "*";
    match claim {
        Claim::Other | Claim::Stranger | Claim::Number => return Some("Client info error"),
        Claim::Missing | Claim::Null | Claim::Empty if named && row.level != "anybody" => {
            return Some("Unknow clientId");
        }
        _ => {}
    }
    match &row.level {
        Value::String(word) if word == "anybody" => None,
        Value::String(word) if word == "nobody" => Some("Command permission denied"),
        most if level == 0 => {
            assert!(most.is_u64(), "{row:?}");
            Some("Client info error")
        }
        most => (u64::from(level) > most.as_u64().expect("a level")).then_some("Command permission denied"),
    }
}

/// A body that changes nothing should it be let through: all that names something is missing.
fn body(row: &Row, user: &str, claim: Claim) -> Value {
    let mut body = json!({"username": "admin"});
    if let Some(field) = row.field.as_deref().filter(|_| row.command != "*") {
        body[field] = json!(row.command);
    }
    let other = USERS.iter().map(|(name, _)| *name).find(|name| *name != user).expect("there are others");
    let claimed = match claim {
        Claim::Own => json!(client_id(user)),
        Claim::Missing => return body,
        Claim::Null => Value::Null,
        Claim::Empty => json!(""),
        Claim::Other => json!(client_id(other)),
        Claim::Stranger => json!("client-stranger"),
        Claim::Number => json!(1),
    };
    body["clientId"] = claimed;
    body
}

/// It ends the master when it is let through.
fn is_the_end(row: &Row) -> bool {
    row.module == "__console__" && row.command == "kill"
}

/// Every cell of the matrix, on connections of this master. Returns how many there were.
async fn matrix(master: &Daemon) -> usize {
    let address = master.address();
    let mut clients = Vec::new();
    for (user, level) in USERS {
        clients.push((user, level, Peer::client(address, &client_id(user), user).await));
    }
    let rows = table(&mut clients[0].2).await;
    let mut cells = 0;
    for row in &rows {
        for (user, level, client) in &mut clients {
            for claim in CLAIMS {
                let expected = verdict(row, *level, claim);
                if expected.is_none() && is_the_end(row) {
                    continue;
                }
                let body = body(row, user, claim);
                let what = format!("{row:?} by {user} of level {level} who claims {claim:?}");
                if row.module == "command" {
                    if row.command == "*" {
                        continue;
                    }
                    let answer = client.command(&row.command, "nobody", body).await;
                    judge(&answer, expected, &what);
                } else {
                    for way in [Way::Request, Way::Notify] {
                        match way {
                            Way::Request => judge(&client.request(&row.module, body.clone()).await, expected, &what),
                            // Nobody answers it; that it is refused as well the audit says, and the silence of servers.
                            Way::Notify if expected.is_some() => client.notify(&row.module, body.clone()).await,
                            Way::Notify => {}
                        }
                    }
                }
                cells += 1;
            }
        }
        for (_, _, client) in &mut clients {
            client.expect_silence().await;
        }
    }
    // Not before: it answers nothing, and whoever asks all servers would wait for it.
    let mut server = Peer::monitor(address, "chat-server-1", "chat").await;
    from_a_monitor(&mut server, &rows).await;
    server.send(&Packet::Disconnect).await;
    server.expect_closed().await;
    cells
}

#[track_caller]
fn judge(answer: &Value, expected: Option<&str>, what: &str) {
    let refusals = ["Unknow clientId", "Client info error", "Command permission denied"];
    let message = answer["error"]["message"].as_str().filter(|message| refusals.contains(message));
    assert_eq!(message, expected, "{what}: {answer}");
    if expected.is_some() {
        assert_eq!(answer.get("body"), Some(&Value::Null), "{what}");
    }
}

/// Neither the commands nor the orders of clients mean anything when a server sends them.
async fn from_a_monitor(server: &mut Peer, rows: &[Row]) {
    for row in rows.iter().filter(|row| !row.module.starts_with("echo")) {
        let body = body(row, "admin", Claim::Own);
        let message = match row.module.as_str() {
            "command" => json!({"reqId": 900, "command": row.command, "moduleId": "echo", "body": body}),
            module => json!({"reqId": 901, "moduleId": module, "body": body}),
        };
        for topic in ["client", "monitor"] {
            server.publish(topic, &json!(message.to_string()).to_string()).await;
        }
        if row.module == "command" {
            server.expect_silence().await;
            continue;
        }
        // As a server's request it runs a master handler, which no module has for these; nothing is permitted by it.
        let Some(Packet::Publish { payload, .. }) = server.next().await else { panic!("{row:?}: an answer expected") };
        assert!(
            ["dose not have a method", "unknown moduleId", "a monitor tells the console of its program"]
                .iter()
                .any(|refusal| payload.contains(refusal))
                || is_report(row),
            "{payload}"
        );
    }
}

/// Modules that servers report to have a master handler.
fn is_report(row: &Row) -> bool {
    matches!(row.module.as_str(), "timeReport" | "systemInfo" | "nodeInfo" | "list")
}

#[tokio::test]
async fn row_28_every_command_is_for_those_whom_the_table_names() {
    let mut master = setup().start().await;
    let cells = matrix(&master).await;
    assert!(cells > 1000, "{cells} cells");
    // What was left out: level 1 may end it all.
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let kill = json!({"signal": "kill", "clientId": "client-1"});
    assert_eq!(admin.request("__console__", kill).await["body"]["code"], "ok");
    assert_eq!(master.wait(PROCESS).await.code(), Some(0));
}

#[tokio::test]
async fn row_28_the_table_is_the_operators_to_change() {
    let master = setup()
        .set("roles.__console__.restart", "2")
        .set("roles.__console__.kill", "nobody")
        .set("roles.watchServer.*", "3")
        .set("roles.scripts.list", "nobody")
        .set("roles.echo.*", "anybody")
        .set("roles.command.list", "2");
    let master = master.start().await;
    let rows = table(&mut Peer::admin(master.address(), "client-1").await).await;
    let level = |module: &str, command: &str| {
        let row = rows.iter().find(|row| row.module == module && row.command == command);
        row.map_or(Value::Null, |row| row.level.clone())
    };
    for (module, command, expected) in [
        ("__console__", "restart", json!(2)),
        ("__console__", "stop", json!(1)),
        ("watchServer", "set", json!(3)),
        ("scripts", "list", json!("nobody")),
        ("command", "list", json!(2)),
        ("command", "enable", json!(1)),
    ] {
        assert_eq!(level(module, command), expected, "{module} {command}");
    }
    matrix(&master).await;
    master.shutdown().await;
}

#[tokio::test]
async fn every_order_is_in_the_file_of_the_audit_before_its_effect_and_without_secrets() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let file = place.path().join("audit.log");
    let name = file.display().to_string();
    let master = setup().set("audit.file", &name).set("log.level", "error").start().await;
    let mut server = Peer::monitor(master.address(), "chat-server-1", "chat").await;
    let mut admin = Peer::admin(master.address(), "client-1").await;
    let with = |mut body: Value| {
        body["clientId"] = json!("client-1");
        body
    };
    let set = with(json!({"comd": "set", "context": "chat-server-1", "param": {"key": "k", "value": "s3cret"}}));
    admin.send_request("watchServer", set).await;
    // The server has it: so the line is there.
    server.expect_message().await;
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).expect("it was made at the start");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
    };
    let line = lines().pop().expect("a line");
    for (field, expected) in [
        ("user", json!("admin")),
        ("client", json!("client-1")),
        ("kind", json!("request")),
        ("module", json!("watchServer")),
        ("command", json!("set")),
        ("outcome", json!("permitted")),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    assert!(line["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{line}");
    let text = line.to_string();
    assert!(text.contains("chat-server-1") && !text.contains("s3cret"), "{text}");

    let mut guest = Peer::client(master.address(), "client-2", "guest").await;
    guest.notify("__console__", json!({"signal": "kill", "clientId": "client-2"})).await;
    guest.command("disable", "echo", json!({"clientId": "client-2"})).await;
    let told: Vec<Value> = lines().into_iter().filter(|line| line["user"] == "guest").collect();
    let short = |line: &Value| format!("{} {} {}", line["kind"], line["command"], line["outcome"]).replace('"', "");
    let told: Vec<String> = told.iter().map(short).collect();
    assert_eq!(told, ["notify kill Command permission denied", "command disable Command permission denied"]);

    // To look is no order.
    let before = lines().len();
    admin.request("watchServer", with(json!({"comd": "modules", "context": "all"}))).await;
    assert_eq!(lines().len(), before);
    assert!(!master.log().contains("audit"), "the log's own level is that of the log");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    master.shutdown().await;
}

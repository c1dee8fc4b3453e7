//! An original pomelo application on our master, and pomelo-cli typed on a terminal.

use std::net::SocketAddr;

use muster_tests::cli::muster;
use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{ANSWER, PROCESS, eventually};
use muster_tests::node::Node;
use muster_tests::ports::free_port;
use muster_tests::pty::PomeloCli;
use serde_json::{Value, json};

/// Our master for the application of `tests/node/pomelo-app`: three servers, so that it starts over when all have
/// started.
async fn application_master() -> Daemon {
    let servers = json!({
        "gate": [{"id": "gate-server-1", "host": "127.0.0.1", "clientPort": 3014, "frontend": true}],
        "connector": [{"id": "connector-server-1", "host": "127.0.0.1", "port": 4050, "clientPort": 3050, "frontend": true}],
        "chat": [{"id": "chat-server-1", "host": "127.0.0.1", "port": 6050}],
    });
    let config = ConfigDir::recorded().with("servers.json", &json!({"development": servers}));
    Setup::master().config(config).start().await
}

async fn pomelo_server(master: SocketAddr, server_type: &str) -> Node {
    let mut arguments =
        vec![format!("id={server_type}-server-1"), "host=127.0.0.1".to_owned(), format!("serverType={server_type}")];
    if server_type != "gate" {
        arguments.push(format!("port={}", free_port()));
    }
    if server_type != "chat" {
        arguments.extend([format!("clientPort={}", free_port()), "frontend=true".to_owned()]);
    }
    let server = Node::pomelo(master, &arguments).await;
    server.event("started").await;
    server
}

#[tokio::test]
async fn an_original_application_starts_completely_on_our_master() {
    let master = application_master().await;
    let gate = pomelo_server(master.address(), "gate").await;
    let connector = pomelo_server(master.address(), "connector").await;
    let chat = pomelo_server(master.address(), "chat").await;
    for server in [&gate, &connector, &chat] {
        server.event("startedAll").await;
        let known = eventually("all three are known", ANSWER, async || {
            let servers = server.call(json!({"do": "servers"})).await;
            (servers.as_object()?.len() == 3).then_some(servers)
        })
        .await;
        assert_eq!(known["chat-server-1"]["serverType"], "chat");
        assert!(known["gate-server-1"]["pid"].is_u64(), "infos carry the pid: {known}");
    }
    chat.kill().await;
    for server in [&gate, &connector] {
        assert_eq!(server.event("removed").await["ids"], json!(["chat-server-1"]));
    }
    let back = pomelo_server(master.address(), "chat").await;
    for server in [&gate, &connector] {
        eventually("chat is known again", ANSWER, async || {
            server.call(json!({"do": "servers"})).await.get("chat-server-1").cloned()
        })
        .await;
        assert_eq!(server.count("startedAll"), 1, "the application starts over once");
    }
    for server in [&gate, &connector, &back] {
        assert_eq!(server.count("exception"), 0);
    }
    master.shutdown().await;
}

#[tokio::test]
async fn original_servers_find_each_other_again_after_their_links_broke() {
    let master = application_master().await;
    let gate = pomelo_server(master.address(), "gate").await;
    let chat = pomelo_server(master.address(), "chat").await;
    for server in [&gate, &chat] {
        server.call(json!({"do": "break"})).await;
    }
    for server in [&gate, &chat] {
        server.event("replaced").await;
        eventually("both are known again", PROCESS, async || {
            let servers = server.call(json!({"do": "servers"})).await;
            (servers.as_object()?.len() == 2).then_some(())
        })
        .await;
        assert_eq!(server.count("exception"), 0);
    }
    master.shutdown().await;
}

#[tokio::test]
async fn original_servers_obey_the_console_of_our_master() {
    let master = application_master().await;
    let connector = pomelo_server(master.address(), "connector").await;
    let chat = pomelo_server(master.address(), "chat").await;
    let client = Node::logged_in(master.address(), "client-1", "admin").await;
    let console = async |body: Value| client.request("__console__", body).await;

    let listed = console(json!({"signal": "list"})).await["body"]["msg"].clone();
    assert_eq!(listed["chat-server-1"]["serverType"], "chat");
    assert!(listed["master-server-1"]["rss"].is_string(), "the master's own monitor is listed: {listed}");

    let cron = json!(["id=8", "serverId=chat-server-1", "action=chatCron.tick", "time=0 30 10 * * *"]);
    let ok = json!({"error": null, "body": {"status": "ok"}});
    assert_eq!(console(json!({"signal": "addCron", "args": cron})).await, ok);
    assert_eq!(chat.event("addedCrons").await["crons"][0]["action"], "chatCron.tick");
    let gone = json!(["id=8", "serverId=chat-server-1"]);
    assert_eq!(console(json!({"signal": "removeCron", "args": gone})).await, ok);
    assert_eq!(chat.event("removedCrons").await["crons"][0]["id"], "8");

    assert_eq!(console(json!({"signal": "blacklist", "args": ["10.1.2.3"]})).await, ok);
    eventually("the blacklist has come", ANSWER, async || {
        (connector.call(json!({"do": "blacklist"})).await == json!(["10.1.2.3"])).then_some(())
    })
    .await;

    let part = json!({"error": null, "body": {"status": "part"}});
    assert_eq!(console(json!({"signal": "stop", "ids": ["chat-server-1"]})).await, part);
    chat.wait(PROCESS).await;
    assert_eq!(connector.event("removed").await["ids"], json!(["chat-server-1"]));
    master.shutdown().await;
}

// === pomelo-cli ===

#[tokio::test]
async fn our_command_line_lists_the_servers_of_an_original_master() {
    let (_master, address) = Node::pomelo_master().await;
    let _chat = pomelo_server(address, "chat").await;
    let listed = eventually("chat is listed", ANSWER, async || {
        let address = address.to_string();
        let done = muster(&["server", "list", "--master", &address, "-o", "json"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        done.stdout.contains("chat-server-1").then_some(done)
    })
    .await;
    assert!(listed.json().to_string().contains("\"serverType\":\"chat\""), "{listed:?}");
}

#[tokio::test]
async fn pomelo_cli_logs_in_and_helps() {
    let master = Setup::master().start().await;
    let mut cli = PomeloCli::start(master.address(), "admin", "all").await;
    cli.run("help", None, "blacklist").await;
    let mut stranger = PomeloCli::open(master.address(), "admin", "wrong", "all");
    stranger.wait_for("client auth failed with username or password error").await;
    master.shutdown().await;
}

/// `use` asks the module watchServer, which comes with a later issue; until then pomelo-cli says so and goes on.
#[tokio::test]
async fn pomelo_cli_survives_that_a_module_is_missing() {
    let master = Setup::master().start().await;
    let mut cli = PomeloCli::start(master.address(), "admin", "all").await;
    cli.run("use chat-server-1", None, "unknown moduleId:watchServer").await;
    cli.run("use all", None, "switch to server: all").await;
    master.shutdown().await;
}

#[tokio::test]
async fn pomelo_cli_enables_and_disables_modules_and_the_servers_still_obey() {
    let master = application_master().await;
    let chat = pomelo_server(master.address(), "chat").await;
    let mut cli = PomeloCli::start(master.address(), "admin", "chat-server-1").await;
    cli.run("enable module timeReport", None, "command enable module timeReport ok").await;
    cli.run("disable module timeReport", None, "command disable module timeReport ok").await;
    cli.run("disable module nope", None, "command disable module nope bad").await;

    // Q18: a server that was sent the command with a clientId would never get this.
    let cron = "addCron id=8 serverId=chat-server-1 action=chatCron.tick 'time=0 30 10 * * *'";
    cli.run(cron, Some("[yes/no]"), "admin@pomelo").await;
    chat.event("addedCrons").await;
    assert_eq!(chat.count("exception"), 0);
    master.shutdown().await;
}

#[tokio::test]
async fn pomelo_cli_commands_servers() {
    let master = application_master().await;
    let connector = pomelo_server(master.address(), "connector").await;
    let chat = pomelo_server(master.address(), "chat").await;
    let mut cli = PomeloCli::start(master.address(), "admin", "chat-server-1").await;

    let cron = "addCron id=8 serverId=chat-server-1 action=chatCron.tick 'time=0 30 10 * * *'";
    cli.run(cron, Some("[yes/no]"), "admin@pomelo").await;
    assert_eq!(chat.event("addedCrons").await["crons"][0]["time"], "0 30 10 * * *");
    cli.run("removeCron id=8 serverId=chat-server-1", Some("[yes/no]"), "admin@pomelo").await;
    chat.event("removedCrons").await;

    cli.run("blacklist 10.1.2.3", Some("[yes/no]"), "admin@pomelo").await;
    eventually("the blacklist has come", ANSWER, async || {
        (connector.call(json!({"do": "blacklist"})).await == json!(["10.1.2.3"])).then_some(())
    })
    .await;

    cli.run("stop chat-server-1", Some("[yes/no]"), "admin@pomelo").await;
    chat.wait(PROCESS).await;
    assert_eq!(connector.count("exception"), 0);
    master.shutdown().await;
}

#[tokio::test]
async fn pomelo_cli_kills_an_application() {
    let mut master = application_master().await;
    let chat = pomelo_server(master.address(), "chat").await;
    let mut cli = PomeloCli::start(master.address(), "admin", "all").await;
    cli.type_line("kill");
    cli.wait_for("[yes/no]").await;
    cli.type_line("yes");
    chat.wait(PROCESS).await;
    assert_eq!(master.wait(PROCESS).await.code(), Some(0));
}

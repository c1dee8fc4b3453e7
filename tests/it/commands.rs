//! The command line: what asks a master on ours and on an original one, and what needs none.

use std::net::SocketAddr;
use std::process::Stdio;

use muster_tests::cli::{Finished, muster, muster_reading, program};
use muster_tests::config::ConfigDir;
use muster_tests::daemon::{Daemon, Setup};
use muster_tests::deadline::{PROCESS, within};
use muster_tests::node::Node;
use muster_tests::peer::Peer;
use muster_tests::plugins;
use muster_tests::pty::Terminal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Runs a command for a master.
async fn ask(master: SocketAddr, line: &str) -> Finished {
    let master = master.to_string();
    let mut words: Vec<&str> = line.split(' ').collect();
    words.extend(["--master", &master]);
    muster(&words).await
}

async fn monitor(master: SocketAddr, server_type: &str) -> Daemon {
    let id = format!("{server_type}-server-1");
    let setup =
        Setup::monitor(master, &id, server_type).plugins(&["watch_server", "console", "scripts", "monitor_log"]);
    let setup = setup.info("host", "127.0.0.1").info("port", "4050").set("app.settings.name", "interop");
    let setup = setup.set("modules.watchServer.run", "true").set("modules.scripts.enabled", "true");
    let setup = if server_type == "connector" { setup.info("frontend", "true") } else { setup };
    let monitor = setup.start().await;
    monitor.wait_registered().await;
    monitor
}

async fn our_master() -> Daemon {
    let plugins = ["watch_server", "console", "scripts", "monitor_log", "watchdog"];
    let master = Setup::master().plugins(&plugins).set("modules.watchServer.run", "true");
    master.set("modules.scripts.enabled", "true").start().await
}

/// What both kinds of masters are asked, and a word of the answer.
const COMMANDS: [(&str, &str); 23] = [
    ("server list", "chat-server-1"),
    ("server list -o wide", "UPTIME"),
    ("server list -o jsonl", "{\"serverId\":\"chat-server-1\""),
    ("server show chat-server-1", "serverType"),
    ("server wait chat-server-1 connector-server-1", "there"),
    ("show servers", "HEAP MB"),
    ("show connections", "connector-server-1"),
    ("show logins", "USER"),
    ("show modules", "watchServer"),
    ("show status --server chat-server-1", "CPU %"),
    ("show config connector -s connector-server-1", "{}"),
    ("show config master", "no config to master"),
    ("show settings -s chat-server-1 -o json", "interop"),
    ("show components -s chat-server-1", "{"),
    ("get name -s chat-server-1", "interop"),
    ("set kk vv -s chat-server-1", "set kk:vv ok"),
    ("get kk -s chat-server-1 -o json", "\"vv\""),
    ("enable app foo -s chat-server-1", "enable foo ok"),
    ("disable app foo -s chat-server-1", "disable foo ok"),
    ("run 40+2 -s chat-server-1", "42"),
    ("cron remove id=8 serverId=chat-server-1", "the cron is removed"),
    ("blacklist 10.1.2.3", "told to all servers"),
    ("top --count 1 -o name", "chat-server-1"),
];

/// `cron add`, with a time that has spaces in it.
async fn add_cron(master: SocketAddr, server: &str, time: &str) -> Finished {
    let (master, server, time) = (master.to_string(), format!("serverId={server}"), format!("time={time}"));
    muster(&["cron", "add", "--master", &master, "id=8", &server, "action=chatCron.send", &time]).await
}

async fn works(master: SocketAddr) {
    let added = add_cron(master, "chat-server-1", "0 30 10 * * *").await;
    assert!(added.code == 0 && added.stdout.contains("the cron is added"), "{added:?}");
    let absent = add_cron(master, "nobody-1", "0 30 10 * * *").await;
    assert!(absent.code == 1 && absent.stdout.contains("unreachable"), "{absent:?}");
    let odd = add_cron(master, "chat-server-1", "* * *").await;
    assert!(odd.code == 2 && odd.stderr.contains("expected six fields"), "{odd:?}");
    for (line, word) in COMMANDS {
        let done = ask(master, line).await;
        assert_eq!(done.code, 0, "{line}: {done:?}");
        assert!(done.stdout.contains(word), "{word} is missing: {line}: {done:?}");
    }
    let without_server = ask(master, "get name").await;
    assert!(without_server.code == 2 && without_server.stderr.contains("--server ID"), "{without_server:?}");

    // Two of three: the one that is there stops.
    let stopped = ask(master, "server stop chat-server-1 nobody-1 -o json").await;
    assert_eq!(stopped.code, 7, "{stopped:?}");
    let outcome =
        |of: &Finished, at: usize| format!("{} {}", of.json()[at]["server"], of.json()[at]["outcome"]).replace('"', "");
    assert_eq!([outcome(&stopped, 0), outcome(&stopped, 1)], ["chat-server-1 done", "nobody-1 unreachable"]);
    let nothing = ask(master, "server stop nobody-1").await;
    assert!(nothing.code == 1 && nothing.stdout.contains("unreachable"), "{nothing:?}");
    let late = ask(master, "server wait connector-server-1 --gone --timeout 500ms").await;
    assert!(late.code == 6 && late.stdout.contains("timed out"), "{late:?}");
    let unconfirmed = ask(master, "server kill").await;
    assert!(unconfirmed.code == 2 && unconfirmed.stderr.contains("--yes"), "{unconfirmed:?}");
    let killed = ask(master, "server kill --yes -o json").await;
    assert_eq!((killed.code, outcome(&killed, 0)), (0, "connector-server-1 done".to_owned()), "{killed:?}");
}

#[tokio::test]
async fn the_commands_work_on_our_master() {
    let mut master = our_master().await;
    let (mut connector, mut chat) =
        (monitor(master.address(), "connector").await, monitor(master.address(), "chat").await);
    let roles = ask(master.address(), "role list -o jsonl").await;
    let line = r#"{"module":"__console__","command":"kill","level":1,"field":"signal"}"#;
    assert!(roles.stdout.lines().any(|other| other == line), "{roles:?}");
    let list = ask(master.address(), "script list").await;
    assert_eq!(list.code, 0, "{list:?}");
    assert_eq!(add_cron(master.address(), "chat-server-1", "0 30 10 * * *").await.code, 0);
    let crons = ask(master.address(), "cron list -o json").await.json();
    let expected =
        json!({ "id": "8", "serverId": "chat-server-1", "action": "chatCron.send", "time": "0 30 10 * * *" });
    assert_eq!(crons, json!([expected]));
    works(master.address()).await;
    for daemon in [&mut chat, &mut connector, &mut master] {
        assert_eq!(daemon.wait(PROCESS).await.code(), Some(0));
    }
}

#[tokio::test]
async fn the_commands_work_on_an_original_master() {
    let (node, address) = Node::pomelo_master().await;
    let (mut connector, mut chat) = (monitor(address, "connector").await, monitor(address, "chat").await);
    let roles = ask(address, "role list").await;
    assert!(roles.code == 1 && roles.stderr.contains("Node master"), "{roles:?}");
    let scripts = ask(address, "script list").await;
    assert!(scripts.code == 1 && scripts.stderr.contains("there is no module scripts"), "{scripts:?}");
    let crons = ask(address, "cron list").await;
    assert!(crons.code == 1 && crons.stderr.contains("cannot list crons"), "{crons:?}");
    works(address).await;
    for daemon in [&mut chat, &mut connector] {
        assert_eq!(daemon.wait(PROCESS).await.code(), Some(0));
    }
    node.wait(PROCESS).await;
}

#[tokio::test]
async fn scripts_are_kept_on_the_master_and_run_on_a_server() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let file = place.path().join("hello.js");
    std::fs::write(&file, "result = app.serverId + ' says so'").expect("a temporary file can be written");
    let root = place.path().join("kept");
    std::fs::create_dir(&root).expect("a temporary directory can be made");
    let master = Setup::master().plugins(&["console", "scripts"]).set("modules.scripts.enabled", "true");
    let master = master.set("modules.scripts.root", &root.display().to_string()).start().await;
    let chat = monitor(master.address(), "chat").await;
    let file = file.display().to_string();
    for (line, word) in [
        (format!("script save {file} --name kept.js"), "kept.js is saved"),
        ("script list -o name".to_owned(), "kept.js"),
        ("script get kept.js".to_owned(), "result = app.serverId"),
        ("script run kept.js -s chat-server-1".to_owned(), "chat-server-1 says so"),
        (format!("exec {file} -s chat-server-1"), "chat-server-1 says so"),
    ] {
        let done = ask(master.address(), &line).await;
        assert!(done.code == 0 && done.stdout.contains(word), "{line}: {done:?}");
    }
    for daemon in [chat, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn a_log_is_read_through_the_master() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let entry = json!({"route": "chat.send", "time": "now", "timeUsed": 7, "params": {"a": 1}});
    let line = format!("[2026-11-22 01:00:00.000] [INFO] con-log - {entry}\n");
    std::fs::write(place.path().join("con-log-chat-server-1.log"), &line).expect("a temporary file can be written");
    let master = Setup::master().plugins(&["console", "monitor_log"]).start().await;
    let setup = Setup::monitor(master.address(), "chat-server-1", "chat").plugins(&["monitor_log"]);
    let chat = setup.set("modules.monitorLog.root", &place.path().display().to_string()).start().await;
    chat.wait_registered().await;
    let done = ask(master.address(), "server logs chat-server-1 -n 5").await;
    assert!(done.code == 0 && done.stdout.contains("chat.send"), "{done:?}");

    let address = master.address().to_string();
    let mut command = program();
    command.args(["server", "logs", "chat-server-1", "--follow", "--master", &address]);
    let mut followed = Terminal::open("muster server logs", command);
    followed.wait_for("chat.send").await;
    let later = line.replace("chat.send", "chat.later");
    std::fs::write(place.path().join("con-log-chat-server-1.log"), line + &later).expect("it can be written");
    followed.wait_for("chat.later").await;
    for daemon in [chat, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn what_a_wrapped_program_writes_is_read_and_followed_by_administrators() {
    let master = Setup::master().plugins(&["console", "monitor_log"]).start().await;
    let script = "echo first; echo same; echo same; echo wrong >&2; \
                  while [ ! -e more ]; do sleep 0.05; done; echo same; printf 'half '; echo done; exec sleep 600";
    let setup = Setup::monitor(master.address(), "chat-server-1", "chat").plugins(&["console", "monitor_log"]);
    let chat = setup.wrapping(&["sh", "-c", script]).start().await;
    chat.wait_registered().await;
    let address = master.address().to_string();
    let mut command = program();
    command.args(["server", "logs", "chat-server-1", "--follow", "-o", "name", "--master", &address]);
    let mut followed = Terminal::open("muster server logs", command);
    followed.wait_for("first\r\nsame\r\nsame\r\n").await;
    std::fs::write(chat.state_dir().join("more"), "").expect("a file can be made");
    // A line that is like the ones before is another one.
    assert_eq!(followed.wait_for("same\r\nhalf done").await, "");

    let table = ask(master.address(), "server logs chat-server-1 -n 2").await;
    assert_eq!(table.stdout, "OUTPUT\nsame\nhalf done\n", "{table:?}");
    let errors = ask(master.address(), "server logs chat-server-1 --file stderr -o name").await;
    assert_eq!(errors.stdout, "wrong\n", "{errors:?}");
    let visitor = "--user monitor --password monitor";
    let refused = ask(master.address(), &format!("server logs chat-server-1 --file stdout {visitor}")).await;
    assert!(refused.code == 1 && refused.stderr.contains("Command permission denied"), "{refused:?}");
    let log = master.log();
    let recorded =
        log.lines().any(|line| line.contains("audit") && line.contains("monitor") && line.contains("stdout"));
    assert!(recorded, "{log}");
    let other = ask(master.address(), &format!("server logs chat-server-1 {visitor}")).await;
    assert!(other.code == 0 && other.stdout.starts_with("TIME"), "what servers log is open to all: {other:?}");
    for daemon in [chat, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn what_was_not_started_and_what_is_not_there_is_told_apart() {
    let master = Setup::master().plugins(&["console"]);
    let crash = json!(["sh", "-c", "echo 'no such table' >&2; exit 3"]).to_string();
    let master = master.set("start.command", &crash).start().await;
    let fields = "id=chat-server-1 host=127.0.0.1 port=1 serverType=chat";
    let added = ask(master.address(), &format!("server add {fields} --timeout 3s -o json")).await;
    assert_eq!(added.code, 1, "{added:?}");
    let failed = json!([{"server": "chat-server-1", "outcome": "failed", "detail": "exit code 3: no such table"}]);
    assert_eq!(added.json(), failed, "{added:?}");
    let shown = ask(master.address(), "server show chat-server-1").await;
    for word in ["lastEnd", "exit code 3, at 20", "stderr", "no such table"] {
        assert!(shown.stdout.contains(word), "{word} is missing: {shown:?}");
    }
    let restarted = ask(master.address(), "server restart nobody-1 -o json").await;
    assert_eq!(restarted.json()[0]["outcome"], "unreachable", "{restarted:?}");
    let wide = ask(master.address(), "server list -o wide").await;
    assert!(wide.stdout.lines().next().is_some_and(|titles| titles.ends_with("HOST  PORT")), "{wide:?}");
    master.shutdown().await;
}

#[tokio::test]
async fn events_tell_who_comes_and_goes() {
    let master = Setup::master().plugins(&["console"]).start().await;
    let address = master.address();
    let mut command = program();
    command.args(["events", "--interval", "100ms", "--count", "2", "-o", "jsonl", "--master", &address.to_string()]);
    let mut follower = command.stdout(Stdio::piped()).spawn().expect("the binary can be started");
    let mut told = BufReader::new(follower.stdout.take().expect("stdout is piped")).lines();
    let mut next = async || {
        let line = within("an event", PROCESS, told.next_line()).await.expect("it writes lines").expect("one more");
        let event: Value = serde_json::from_str(&line).expect("an event is an object");
        format!("{} {}", event["server"], event["event"])
    };
    // It has looked once at those who are there.
    let mut peer = Peer::admin(address, "client").await;
    plugins::until(&mut peer, "console", "it was asked", |plugin| plugin["calls"].as_u64() > Some(0)).await;
    let chat = monitor(address, "chat").await;
    assert_eq!(next().await, "\"chat-server-1\" \"joined\"");
    chat.shutdown().await;
    assert_eq!(next().await, "\"chat-server-1\" \"left\"");
    assert_eq!(within("its end", PROCESS, follower.wait()).await.expect("it can be waited for").code(), Some(0));
    master.shutdown().await;
}

// === users ===

#[tokio::test]
async fn a_user_of_the_command_can_log_in_in_every_form_and_the_file_has_no_password() {
    let config = ConfigDir::recorded();
    let dir = config.path().display().to_string();
    let user = async |input: &str, line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.extend(["--config-dir", &dir]);
        muster_reading(input, &words).await
    };
    let added = user("s3cret\n", "user add carol --level 1").await;
    assert!(added.code == 0 && added.stdout.contains("carol is added"), "{added:?}");
    let twice = user("x\n", "user add carol").await;
    assert!(twice.code == 1 && twice.stderr.contains("there is a user carol already"), "{twice:?}");
    let listed = user("", "user list -o json").await.json();
    assert_eq!(listed[0], json!({"username": "admin", "level": 1, "password": "plain text"}));
    assert_eq!(listed[2], json!({"username": "carol", "level": 1, "password": "argon2"}));
    let changed = user("0ther\n", "user passwd carol").await;
    assert_eq!(changed.code, 0, "{changed:?}");
    let text = std::fs::read_to_string(config.path().join("adminUser.json")).expect("it is there");
    assert!(!text.contains("s3cret") && !text.contains("0ther") && text.contains("$argon2id$"), "{text}");

    let master = Setup::master().config(config).plugins(&["console"]).start().await;
    master.wait_log("keeps passwords in plain text").await;
    for (password, more, code) in
        [("0ther", "", 0), ("0ther", " --plain-password", 0), ("s3cret", "", 4), ("s3cret", " --plain-password", 4)]
    {
        let line = format!("server list --user carol --password {password}{more}");
        assert_eq!(ask(master.address(), &line).await.code, code, "{line}");
    }
    assert_eq!(ask(master.address(), "server list").await.code, 0, "beside it plain passwords are as good as before");
    master.shutdown().await;
}

/// An MD5 that was seen on the network is not taken for what only the password opens.
#[tokio::test]
async fn row_29_a_hash_of_the_password_itself_takes_no_md5_and_says_so() {
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";
    let users = json!([{"id": "1", "username": "admin", "password": hash, "level": 1}]);
    let config = ConfigDir::recorded().with("adminUser.json", &users);
    let master = Setup::master().config(config).plugins(&["console"]).start().await;
    let refused = ask(master.address(), "server list --password secret").await;
    assert!(refused.code == 4 && refused.stderr.contains("log in with md5:false"), "{refused:?}");
    let let_in = ask(master.address(), "server list --password secret --plain-password").await;
    assert_eq!(let_in.code, 0, "{let_in:?}");
    master.shutdown().await;
}

/// Also those made at the same time; and they lock nobody out, or an enemy could lock out the operator.
#[tokio::test]
async fn row_29_many_guesses_at_once_wait_for_each_other_and_the_password_still_opens() {
    let master = Setup::master().set("auth.slow_first", "400ms").set("auth.slow_longest", "800ms").start().await;
    let began = std::time::Instant::now();
    let address = master.address();
    let guess = |number: u32| async move {
        let mut peer = Peer::connect(format!("guess {number}"), address).await;
        let id = format!("g-{number}");
        let login = json!({"type": "client", "id": id, "username": "admin", "password": "x", "md5": false});
        peer.publish("register", &login.to_string()).await;
        let answer = peer.expect_json("register").await;
        assert_eq!(answer["msg"], "client auth failed with username or password error");
    };
    let guesses: Vec<_> = (0..8).map(|number| tokio::spawn(guess(number))).collect();
    for guess in guesses {
        guess.await.expect("each is refused");
    }
    assert!(began.elapsed() >= std::time::Duration::from_millis(800), "the last of them waited the longest time");
    drop(Peer::admin(master.address(), "client-1").await);
    master.shutdown().await;
}

/// What is weaker than it could be, or open, for the sake of fleets that move over, is said at each start.
#[tokio::test]
async fn row_29_passwords_in_plain_text_and_an_open_door_are_warned_of_at_the_start() {
    let warned = |master: &Daemon, of: &str| {
        master.log().lines().any(|line| line.contains(of) && (line.contains("WARN") || line.contains("\"warn\"")))
    };
    let plain = "keeps passwords in plain text";
    let open = "every peer can take the place of any server that is away";
    let master = Setup::master().set("auth.reconnect", "open").start().await;
    assert!(warned(&master, plain) && warned(&master, open), "{}", master.log());
    master.shutdown().await;

    let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow";
    let users = json!([{"id": "1", "username": "admin", "password": hash, "level": 1}]);
    let master = Setup::master().config(ConfigDir::recorded().with("adminUser.json", &users)).start().await;
    assert!(!warned(&master, plain) && !warned(&master, open), "{}", master.log());
    master.shutdown().await;
}

// === configuration ===

#[tokio::test]
async fn a_fault_is_shown_where_it_is_with_what_was_meant() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let file = place.path().join("muster.toml");
    std::fs::write(&file, "env = \"production\"\n\n[limits]\noutbx = \"1MiB\"\nwrite_stall = 5\n")
        .expect("it can be written");
    let file = file.display().to_string();
    let wrong = muster(&["config", "check", "--config", &file]).await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
    for word in [
        "limits.outbx: no such setting",
        &format!("{file}:4:1"),
        "4 | outbx = \"1MiB\"",
        "did you mean `outbox`?",
        &format!("{file}:5:15"),
        "expected a duration above 0",
    ] {
        assert!(wrong.stderr.contains(word), "{word} is missing in\n{}", wrong.stderr);
    }
    let told = muster(&["config", "check", "--config", &file, "-o", "json"]).await.json();
    let fault = told["faults"].as_array().and_then(|faults| faults.iter().find(|fault| fault["line"] == 4));
    assert_eq!(fault.expect("that of line 4")["meant"], "outbox");
    std::fs::write(&file, "env = \"production\"\n").expect("it can be written");
    let good = muster(&["config", "check", "--config", &file]).await;
    assert!(good.code == 0 && good.stdout.contains("good"), "{good:?}");
    let shown = muster(&["config", "show", "--config", &file, "--set", "monitor.token=s3cret", "-o", "json"]).await;
    let shown = shown.json();
    let setting =
        |key: &str| shown.as_array().and_then(|all| all.iter().find(|setting| setting["key"] == key)).cloned();
    assert_eq!(setting("env").expect("it is set")["from"], format!("{file}:1"));
    assert_eq!(setting("limits.outbox"), Some(json!({"key": "limits.outbox", "value": "32MiB", "from": "default"})));
    assert_eq!(setting("monitor.token").expect("it is set")["value"], "…");
}

#[tokio::test]
async fn an_application_of_pomelo_is_imported_and_a_master_starts_with_it() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let to = place.path().join("muster.toml").display().to_string();
    let app = muster_tests::node::script("pomelo-app").display().to_string();
    let done = muster(&["config", "import-pomelo", &app, "--to", &to]).await;
    assert_eq!(done.code, 0, "{done:?}");
    for word in ["3 servers", "2 users", "log4js.json", "plain text"] {
        assert!(done.stdout.contains(word), "{word} is missing in {}", done.stdout);
    }
    let twice = muster(&["config", "import-pomelo", &app, "--to", &to]).await;
    assert!(twice.code == 2 && twice.stderr.contains("--force"), "{twice:?}");
    let checked = muster(&["config", "check", "--config", &to]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    let master = Setup::master().argument("--config", &to).plugins(&["console"]).start().await;
    assert_eq!(ask(master.address(), "server list").await.code, 0);
    master.shutdown().await;
}

#[tokio::test]
async fn completions_and_man_pages_come_from_the_commands() {
    let script = muster(&["completions", "bash"]).await;
    assert!(script.code == 0 && script.stdout.contains("COMPLETE"), "{script:?}");
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = place.path().display().to_string();
    assert_eq!(muster(&["man", &dir]).await.code, 0);
    let page = std::fs::read_to_string(place.path().join("muster-server-stop.1")).expect("a page for each command");
    assert!(page.contains("Stop servers"), "{page}");

    // What only the master knows is asked of it.
    let master = Setup::master().plugins(&["console"]).start().await;
    let mut command = program();
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("MUSTER_MASTER", master.address().to_string());
    command.env("_CLAP_IFS", "\n").args(["--", "muster", "server", "show", "master"]);
    let words = command.output().await.expect("the binary can be started");
    assert_eq!(String::from_utf8_lossy(&words.stdout).trim(), "master-server-1");
    master.shutdown().await;
}

// === the shell ===

#[tokio::test]
async fn the_shell_obeys_line_by_line_and_ends_with_the_code_of_what_failed() {
    let master = our_master().await;
    let chat = monitor(master.address(), "chat").await;
    let address = master.address().to_string();
    let lines = "use chat-server-1\nget name\nget name -o json\nrun app.get(\"name\")\nbogus\nuse nobody-1\nhelp\nquit\nget name\n";
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = program();
    command.args(["shell", "--master", &address, "--notices", "0s"]).env("XDG_STATE_HOME", home.path());
    let done = muster_tests::cli::reading(lines, command).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(done.stdout.matches("interop").count(), 3, "{done:?}");
    for word in ["commands are for chat-server-1 now", "\"interop\"", "addCron"] {
        assert!(done.stdout.contains(word), "{word} is missing: {done:?}");
    }
    for word in ["unrecognized subcommand 'bogus'", "there is no server nobody-1 that answers"] {
        assert!(done.stderr.contains(word), "{word} is missing: {done:?}");
    }
    for daemon in [chat, master] {
        daemon.shutdown().await;
    }
}

#[tokio::test]
async fn the_shell_completes_remembers_and_tells_what_happens_while_one_types() {
    let master = our_master().await;
    let address = master.address().to_string();
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let shell = || {
        let mut command = program();
        command.args(["shell", "--master", &address, "--notices", "100ms"]).env("XDG_STATE_HOME", home.path());
        Terminal::open("muster shell", command)
    };
    let mut terminal = shell();
    terminal.wait_for("all> ").await;
    // Half a line is there when the notice comes, and is finished afterwards.
    terminal.type_text("server show chat");
    terminal.wait_for("server show chat").await;
    let chat = monitor(master.address(), "chat").await;
    terminal.wait_for("* chat-server-1 has joined").await;
    terminal.wait_for("server show chat").await;
    terminal.type_line("-server-1");
    terminal.wait_for("serverType").await;
    terminal.wait_for("all> ").await;
    terminal.type_text("use ch\t");
    terminal.wait_for("use chat-server-1").await;
    terminal.type_line("");
    terminal.wait_for("commands are for chat-server-1 now").await;
    terminal.wait_for("chat-server-1> ").await;
    terminal.type_line("quit");
    assert!(terminal.ended().await.success());

    let mut again = shell();
    again.wait_for("all> ").await;
    // The line before the last one.
    again.type_text("\u{1b}[A\u{1b}[A");
    again.wait_for("use chat-server-1").await;
    again.type_line("");
    again.wait_for("chat-server-1> ").await;
    again.type_text("\u{4}");
    assert!(again.ended().await.success());
    for daemon in [chat, master] {
        daemon.shutdown().await;
    }
}

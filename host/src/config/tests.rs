//! Precedence, all faults at once, and the fleet files in both places.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;

use super::*;

const SAMPLE: &str = include_str!("../../muster.sample.toml");

/// A directory with files.
#[track_caller]
fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn file(toml: &str) -> (TempDir, Sources) {
    let dir = dir(&[("muster.toml", toml)]);
    let path = dir.path().join("muster.toml");
    (dir, Sources::new().file(Some(path)))
}

fn set(pairs: &[&str]) -> Sources {
    Sources::new().set(pairs.iter().map(|&pair| pair.to_owned()).collect())
}

fn monitor_flags(sources: Sources) -> Sources {
    sources
        .flag("--master", "monitor.master", Some("127.0.0.1:3005".to_owned()))
        .flag("--id", "monitor.id", Some("chat-server-1".to_owned()))
        .flag("--type", "monitor.type", Some("chat".to_owned()))
}

fn with_config_dir(sources: Sources, dir: &Path) -> Sources {
    sources.flag("--config-dir", "config_dir", Some(dir.to_str().unwrap().to_owned()))
}

#[track_caller]
fn faults<T: std::fmt::Debug>(loaded: Result<T, Faults>) -> Vec<String> {
    loaded.unwrap_err().iter().map(Fault::to_string).collect()
}

#[test]
fn the_sample_shows_the_defaults() {
    let (_dir, sources) = file(SAMPLE);
    let sample = MasterConfig::load(sources.clone()).unwrap();
    let default = MasterConfig::load(Sources::new()).unwrap();
    assert_eq!(sample.daemon, default.daemon);
    assert_eq!(sample.auth, default.auth);
    assert_eq!((sample.listen, sample.id), (default.listen, default.id));
    let sample = MonitorConfig::load(monitor_flags(sources)).unwrap();
    assert_eq!(sample.reconnect, MonitorConfig::load(monitor_flags(Sources::new())).unwrap().reconnect);
}

#[test]
fn the_examples_of_the_sample_are_settings() {
    let examples = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    let toml: String = SAMPLE.lines().map(examples).collect();
    let dir = tempfile::tempdir().unwrap();
    let (_dir, sources) = file(&toml);
    let config = MonitorConfig::load(with_config_dir(sources, dir.path())).unwrap();
    assert_eq!(config.id.as_str(), "connector-server-1");
    assert_eq!(config.info["port"], 3150);
    assert_eq!(config.daemon.modules["timeReport"]["interval"], 5);
    assert!(config.daemon.plugins.options["console"].is_empty());
}

#[test]
fn flag_beats_environment_beats_file() {
    let (_dir, sources) = file(
        "env = 'file'\nstate_dir = 'file'\n[master]\nlisten = '127.0.0.1:1'\n[requests]\ndeadline = '1s'\nremembered = 1",
    );
    let variables = |name: &str| match name {
        "MUSTER_LISTEN" => Some("127.0.0.1:2".to_owned()),
        "MUSTER_STATE_DIR" => Some("variable".to_owned()),
        "MUSTER_SET" => Some("requests.deadline=2s\nrequests.remembered=2\n\nmaster.listen=127.0.0.1:9".to_owned()),
        "MUSTER_ENV" => Some(String::new()),
        _ => None,
    };
    let sources = sources
        .flag("--listen", "master.listen", Some("127.0.0.1:3".to_owned()))
        .flag("--env", "env", None)
        .set(vec!["requests.deadline=3s".to_owned(), "master.listen=127.0.0.1:8".to_owned()])
        .variables(variables);
    let config = MasterConfig::load(sources).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3");
    assert_eq!(config.daemon.requests.deadline, Duration::from_secs(3));
    assert_eq!(config.daemon.requests.remembered, 2);
    assert_eq!(config.daemon.state_dir, Some(PathBuf::from("variable")));
    assert_eq!(config.daemon.env, "file", "an empty variable is not set");
}

#[test]
fn all_faults_are_shown_at_once_with_their_place() {
    let (dir, sources) =
        file("sate_dir = 'x'\n[limits]\noutbox = 'lots'\nconnect_within = 5\n[auth]\nreconnect = 'maybe'\n[nosuch]\n");
    let sources = sources
        .flag("--listen", "master.listen", Some("3005".to_owned()))
        .set(vec!["nonsense".to_owned(), "requests.deadline=0s".to_owned(), "modules.timeReport=5".to_owned()])
        .variables(|name| (name == "MUSTER_MASTER").then(|| "nowhere".to_owned()));
    let file = dir.path().join("muster.toml");
    let file = file.display();
    let found = faults(MasterConfig::load(sources));
    let expected = [
        "--set: expected KEY=VALUE, found \"nonsense\"".to_owned(),
        "--listen: master.listen: expected HOST:PORT such as 127.0.0.1:3005, found \"3005\"".to_owned(),
        format!("{file}:6: auth.reconnect: expected \"known\" or \"open\", found \"maybe\""),
        "MUSTER_MASTER: monitor.master: expected HOST:PORT such as 127.0.0.1:3005, found \"nowhere\"".to_owned(),
        format!("{file}:4: limits.connect_within: expected a duration above 0 such as 5s, 100ms or 2m, found 5"),
        format!("{file}:3: limits.outbox: expected a size such as 64KiB, 16MiB or a number of bytes, found \"lots\""),
        "--set: requests.deadline: expected a duration above 0 such as 5s, 100ms or 2m, found \"0s\"".to_owned(),
        "--set: modules.timeReport: expected a table of options, found 5".to_owned(),
    ];
    assert_eq!(&found[..expected.len()], expected);
    let unknown = &found[expected.len()..];
    assert!(unknown[0].starts_with(&format!("{file}:7: nosuch: no such setting; there are: ")), "{unknown:?}");
    assert!(
        unknown[1].starts_with(&format!("{file}:1: sate_dir: no such setting; did you mean state_dir? there are: ")),
        "{unknown:?}"
    );
    assert_eq!(unknown.len(), 2);
}

#[test]
fn every_fault_of_the_syntax_has_its_line() {
    let (dir, sources) = file("a = \nb = 1\n[log\nlevel = 'info'\n");
    let found = faults(MasterConfig::load(sources));
    let file = dir.path().join("muster.toml");
    for line in [1, 3] {
        let place = format!("{}:{line}: ", file.display());
        assert!(found.iter().any(|fault| fault.starts_with(&place)), "line {line} of {found:?}");
    }
    let missing = Sources::new().file(Some(dir.path().join("nosuch.toml")));
    let found = faults(MasterConfig::load(missing));
    assert!(found[0].contains("nosuch.toml: cannot be read: "), "{found:?}");
}

#[test]
fn a_monitor_needs_master_id_and_type() {
    let found = faults(MonitorConfig::load(Sources::new()));
    assert_eq!(
        found,
        [
            "monitor.master: missing; give it as --master HOST:PORT",
            "monitor.id: missing; give it as --id ID",
            "monitor.type: missing; give it as --type TYPE",
        ]
    );
}

#[test]
fn options_of_modules_and_plugins_are_free() {
    let (_dir, sources) =
        file("[modules.timeReport]\ninterval = 0x1F\ndeep = { a = [1, 'x'] }\n[plugins.drain]\nx = 1.5");
    let sources = sources.set(
        ["modules.timeReport.type=push", "modules.new.on=true", "modules.timeReport.deep.b={\"c\":null}"]
            .map(str::to_owned)
            .into(),
    );
    let config = MasterConfig::load(sources).unwrap().daemon;
    let time_report = json!({"deep": {"a": [1, "x"], "b": {"c": null}}, "interval": 31, "type": "push"});
    assert_eq!(Value::Object(config.modules["timeReport"].clone()), time_report);
    assert_eq!(config.modules["new"]["on"], true);
    assert_eq!(config.plugins.options["drain"]["x"], 1.5, "a table is a plugin's, whatever it is called");
    assert_eq!(config.plugins.drain, defaults::DRAIN);
}

#[test]
fn a_value_that_is_json_is_taken_as_json() {
    let pairs = ["app.settings.n=5", "app.settings.s=five", "app.settings.o={\"a\":[1]}", "app.settings.e=a=b"];
    let config = MasterConfig::load(set(&pairs)).unwrap().daemon;
    assert_eq!(Value::Object(config.settings), json!({"e": "a=b", "n": 5, "o": {"a": [1]}, "s": "five"}));
}

#[test]
fn a_faulty_file_on_rereading_leaves_the_old_configuration() {
    let (dir, sources) = file("[log]\nformat = 'json'");
    let config = MasterConfig::load(sources).unwrap();
    fs::write(dir.path().join("muster.toml"), "[log]\nformat = 'yaml'").unwrap();
    assert_eq!(faults(config.reread()).len(), 1);
    assert_eq!(config.daemon.log.format, LogFormat::Json);
    fs::write(dir.path().join("muster.toml"), "[log]\nlevel = 'debug'").unwrap();
    let config = config.reread().unwrap();
    assert_eq!((config.daemon.log.format, config.daemon.log.level.as_str()), (LogFormat::Human, "debug"));
}

// === fleet ===

const USERS: &str = r#"[{"id":"user-1","username":"admin","password":"secret","level":1},
    {"username":"watcher","password":7,"level":"2"}, {"username":"guest","password":"guest"}]"#;
const TOKENS: &str = r#"[{"type":"chat","token":"t-1"},{"type":"chat","token":"t-2"},{"type":"gate","token":"t-3"}]"#;
const MASTER: &str = r#"{"id":"m-1","host":"127.0.0.1","port":3344}"#;
const SERVERS: &str =
    r#"{"chat":[{"id":"chat-server-1","host":"10.0.0.1","port":6050}],"gate":[{"id":"g","clientPort":3014}]}"#;

fn keyed(content: &str) -> String {
    format!(r#"{{"development":{{}},"production":{content}}}"#)
}

#[test]
fn fleet_files_are_found_in_both_places_keyed_or_not() {
    let files =
        [("adminUser.json", USERS), ("adminServer.json", TOKENS), ("master.json", MASTER), ("servers.json", SERVERS)];
    for below in ["", "production/"] {
        for keyed_by_env in [false, true] {
            let files = files.map(|(name, text)| {
                (format!("{below}{name}"), if keyed_by_env { keyed(text) } else { text.to_owned() })
            });
            let dir = dir(&files.each_ref().map(|(name, text)| (name.as_str(), text.as_str())));
            let sources = with_config_dir(set(&["env=production"]), dir.path());
            let config = MasterConfig::load(sources).unwrap();
            assert_eq!((config.id.as_str(), config.listen.to_string()), ("m-1", "127.0.0.1:3344".to_owned()));
            let Fleet { users, tokens, master: _, servers, crons: _ } = &config.daemon.fleet;
            let levels: Vec<_> = users.iter().map(|user| (user.username.as_str(), user.level)).collect();
            assert_eq!(levels, [("admin", 1), ("watcher", 2), ("guest", 0)]);
            assert!(users.find("watcher").unwrap().password.compare("7", false) == Login::Right);
            let tokens = tokens.as_ref().unwrap();
            assert!(tokens.accept("chat", "t-2") && !tokens.accept("chat", "t-3") && !tokens.accept("other", "t-1"));
            assert_eq!(servers.len(), 2);
            assert_eq!(servers.find("g").unwrap()["serverType"], "gate");
        }
    }
}

#[test]
fn the_crons_of_a_server_are_those_of_its_type_and_its_own() {
    let crons = r#"{"chat":[{"id":1,"time":"0 30 10 * * *","action":"chatCron.send"}],
        "chat-server-1":[{"id":2,"time":"0 0 0 * * *","action":"chatCron.clean"}], "gate":[]}"#;
    let dir = dir(&[("crons.json", &keyed(crons))]);
    let load = || MasterConfig::load(with_config_dir(set(&["env=production"]), dir.path()));
    let fleet = load().unwrap().daemon.fleet;
    let ids = |id: &str| fleet.crons.of(id, "chat").map(|cron| cron["id"].clone()).collect::<Vec<_>>();
    assert_eq!((ids("chat-server-1"), ids("chat-server-2")), (vec![json!(1), json!(2)], vec![json!(1)]));
    fs::write(dir.path().join("crons.json"), r#"{"production":{"chat":[{"id":1,"action":"a.b"}],"gate":{}}}"#).unwrap();
    let found = faults(load());
    assert!(found[0].ends_with("chat[0].time: expected a text, found nothing"), "{found:?}");
    assert!(found[1].contains("gate: expected a list of crons"), "{found:?}");
}

#[test]
fn servers_may_be_described_by_the_configuration_itself() {
    let (_dir, sources) = file("[[fleet.chat]]\nid = 'chat-1'\nport = 6050\n[[fleet.chat]]\nid = 'chat-2'\n");
    let config = MasterConfig::load(sources.clone().set(vec!["master.start=chat-2".into(), "state_dir=x".into()]));
    let servers = config.unwrap().daemon.fleet.servers;
    assert_eq!(servers.find("chat-1").unwrap()["serverType"], "chat");
    let found = faults(MasterConfig::load(sources.clone().set(vec!["master.start=gate".into()])));
    assert!(found[0].contains("--state-dir DIR"), "{found:?}");
    assert!(found[1].contains("master.start: expected all, or a type or an id"), "{found:?}");
}

#[test]
fn a_wrapped_program_needs_a_state_directory() {
    let sources =
        || monitor_flags(Sources::new()).words("monitor.command", vec!["node".into(), "-e".into(), "".into()]);
    let found = faults(MonitorConfig::load(sources()));
    assert!(found[0].contains("--state-dir DIR"), "{found:?}");
    let config = MonitorConfig::load(sources().set(vec!["state_dir=x".into()])).unwrap();
    assert_eq!(config.command, ["node", "-e", ""]);
}

#[test]
fn the_directory_itself_comes_before_the_one_of_the_environment() {
    let other = r#"[{"username":"other","password":"x"}]"#;
    let dir = dir(&[("adminUser.json", USERS), ("development/adminUser.json", other)]);
    let config = MasterConfig::load(with_config_dir(Sources::new(), dir.path())).unwrap();
    assert!(config.daemon.fleet.users.find("admin").is_some());
    assert!(config.daemon.fleet.users.find("other").is_none());
}

#[test]
fn without_files_nobody_logs_in_and_everybody_registers() {
    let dir = dir(&[]);
    let config = MasterConfig::load(with_config_dir(Sources::new(), dir.path())).unwrap();
    assert_eq!(config.daemon.fleet, Fleet::default());
    assert_eq!(config.daemon.fleet.tokens, None);
    assert_eq!((config.listen, config.id.as_str()), (defaults::listen(), "master-server-1"));
}

#[test]
fn faults_of_fleet_files_name_the_file_and_never_show_a_secret() {
    let dir = dir(&[
        ("adminUser.json", r#"[{"username":"a","password":["secret"],"level":"high"}, 5]"#),
        ("adminServer.json", "[{\"type\":\"chat\",\n\"token\":\"secret\""),
        ("master.json", r#"{"production":{"host":"h","port":1}}"#),
        ("servers.json", r#"{"chat":[{"host":"h"}],"gate":{}}"#),
    ]);
    let found = faults(MasterConfig::load(with_config_dir(Sources::new(), dir.path())));
    let place = |name: &str| dir.path().join(name).display().to_string();
    let expected = [
        format!("{}: [0].password: expected a text, found a list", place("adminUser.json")),
        format!("{}: [0].level: expected a whole number, 1 for administrators, found a text", place("adminUser.json")),
        format!("{}: [1]: expected an object, found a number", place("adminUser.json")),
        format!("{}:2: is not JSON: EOF while parsing an object at line 2 column 16", place("adminServer.json")),
        format!(
            "{}: expected an object with host and port, or one under the name of the environment, found an object",
            place("master.json")
        ),
        format!("{}: chat[0].id: expected a text, found nothing", place("servers.json")),
        format!(
            "{}: gate: expected a list of servers (is this environment in the file?), found an object",
            place("servers.json")
        ),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_config_dir_that_is_none_is_a_fault() {
    let found = faults(MasterConfig::load(set(&["config_dir=/nonexistent/config"])));
    assert!(found[0].starts_with("/nonexistent/config: config_dir: is not a directory"), "{found:?}");
}

#[test]
fn a_monitor_takes_its_token_and_info_from_the_files_unless_told() {
    let dir = dir(&[("adminServer.json", TOKENS), ("servers.json", SERVERS)]);
    let load = |sources| MonitorConfig::load(monitor_flags(sources)).unwrap();
    let exposed = |config: &MonitorConfig| config.token.as_ref().map(|token| token.expose().to_owned());

    let config = load(with_config_dir(Sources::new(), dir.path()));
    assert_eq!(exposed(&config).as_deref(), Some("t-1"), "the first of its type");
    let info = json!({"id": "chat-server-1", "host": "10.0.0.1", "port": 6050, "serverType": "chat"});
    assert_eq!(Value::Object(config.info.clone()), info);
    assert!(!format!("{config:?}").contains("t-1"), "tokens are not shown");

    let told = ["port=7", "frontend=true", "host=h", "id=other"].map(str::to_owned);
    let told = Sources::new().info(told.into()).flag("--token", "monitor.token", Some("5".to_owned()));
    let config = load(with_config_dir(told, dir.path()));
    assert_eq!(exposed(&config).as_deref(), Some("5"));
    let info = json!({"id": "chat-server-1", "host": "h", "port": 7, "serverType": "chat", "frontend": "true"});
    assert_eq!(Value::Object(config.info), info);

    assert_eq!(exposed(&load(Sources::new())).as_deref(), Some("ok"), "no file");
    let other = Sources::new().flag("--type", "monitor.type", None);
    let other = monitor_flags(with_config_dir(other, dir.path())).flag("--type", "monitor.type", Some("x".to_owned()));
    assert_eq!(exposed(&MonitorConfig::load(other).unwrap()), None, "no entry of its type");
}

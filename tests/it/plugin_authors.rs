//! What somebody does who writes a plugin outside of this repository: from nothing to a new answer of a running master,
//! for each template.

use std::process::Stdio;

use muster_tests::{
    author::{Author, BUILD, tried},
    cli::{call, muster},
    daemon::{Setup, binary, plugin_file},
    deadline::{PROCESS, within},
    output::Output,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What `muster call -o json` shows of a good answer.
fn answered(body: Value) -> Value {
    json!({ "error": null, "body": body })
}

/// From nothing to a new answer.
async fn newcomer(name: &str, template: &str, ask: Value, first: Value, edit: (&str, &str), second: Value) {
    let author = Author::begin(name, template).await;
    author.builds(&["test"]).await;
    author.builds(&["build"]).await;
    let (code, found) = tried("check", &author.library()).await;
    assert_eq!((code, &found["loadable"], &found["concerns"]), (0, &json!(true), &json!([])), "{found}");
    assert_eq!(found["plugin"]["modules"][0]["id"], name, "{found}");

    let master = Setup::master().plugins(&[]).start().await;
    let address = master.address().to_string();
    let install = async || {
        let done = muster(&["plugin", "install", &author.library(), "--name", name, "--master", &address]).await;
        assert_eq!(done.code, 0, "{done:?}");
    };
    install().await;
    assert_eq!(call(master.address(), "admin", name, &ask).await.json(), first);
    author.edit(edit.0, edit.1);
    author.builds(&["build"]).await;
    install().await;
    assert_eq!(call(master.address(), "admin", name, &ask).await.json(), second);
    master.shutdown().await;
}

#[tokio::test]
async fn the_smallest_template_answers_and_then_otherwise() {
    let (first, second) = (answered(json!("hello, admin")), answered(json!("good day, admin")));
    newcomer("new-minimal", "minimal", json!({}), first, ("\"hello\"", "\"good day\""), second).await;
}

#[tokio::test]
async fn the_periodic_template_collects_and_then_answers_otherwise() {
    let edit = ("agent.entries()", "json!({ \"servers\": agent.servers().len() })");
    // Nothing is collected before the first answer of a monitor, and the master's own monitor has the plugin, too.
    let author = Author::begin("new-periodic", "periodic").await;
    author.builds(&["test"]).await;
    author.builds(&["build"]).await;
    let master = Setup::master().plugins(&[]).start().await;
    let address = master.address().to_string();
    let install = async || {
        let done =
            muster(&["plugin", "install", &author.library(), "--name", "new-periodic", "--master", &address]).await;
        assert_eq!(done.code, 0, "{done:?}");
    };
    install().await;
    muster_tests::deadline::eventually("the load of the master's machine", PROCESS, async || {
        let answer = call(master.address(), "admin", "new-periodic", &json!({})).await.json();
        answer["body"]["master-server-1"]["load"].is_f64().then_some(())
    })
    .await;
    author.edit(edit.0, edit.1);
    author.builds(&["build"]).await;
    install().await;
    let answer = call(master.address(), "admin", "new-periodic", &json!({})).await.json();
    assert_eq!(answer, answered(json!({ "servers": 1 })));
    master.shutdown().await;
}

#[tokio::test]
async fn the_client_facing_template_takes_commands_and_then_others() {
    let ask = json!({ "do": "ping", "server": "nobody" });
    let refused = |text: &str| {
        let stack = format!("Error: {text}");
        json!({ "error": { "message": text, "stack": stack }, "body": null })
    };
    let edit = (
        "Ask::Ping { server } => Ok(agent.request(&server, MODULE, ()).await?),",
        "Ask::Ping { server } => Err(format!(\"{server} is not asked any more\").into()),",
    );
    let (first, second) = (refused("unknown server id:nobody"), refused("nobody is not asked any more"));
    newcomer("new-commands", "client-facing", ask, first, edit, second).await;
}

#[tokio::test]
async fn a_new_plugin_needs_a_good_name_and_the_interface() {
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let place = |name: &str| elsewhere.path().join(name).to_str().expect("text").to_owned();
    let nowhere = place("nowhere");
    for (arguments, words) in [
        (["1st", "--api-git", "https://example.org/m.git"], "is no name for a crate"),
        (["fine", "--api-path", &nowhere], "is no directory of the crate muster-plugin-api"),
    ] {
        let target = place(arguments[0]);
        let done = muster(&["plugin", "new", &target, arguments[1], arguments[2]]).await;
        assert!(done.code == 1 && done.stderr.contains(words), "{done:?}");
    }
    let target = place("fine");
    let git = ["plugin", "new", &target, "--api-git", "https://example.org/m.git"];
    assert_eq!(muster(&git).await.code, 0);
    let manifest = std::fs::read_to_string(elsewhere.path().join("fine/Cargo.toml")).expect("it is written");
    assert!(manifest.contains("muster-plugin-api = { git = \"https://example.org/m.git\" }"), "{manifest}");
    let again = muster(&git).await;
    assert!(again.code == 1 && again.stderr.contains("is there already"), "{again:?}");
}

#[tokio::test]
async fn a_good_file_passes_its_trial_in_both_isolation_modes() {
    let (code, found) = tried("test", plugin_file("push_report").to_str().expect("text")).await;
    assert_eq!((code, &found["passed"]), (0, &json!(true)), "{found:#}");
    let steps: Vec<String> = found["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| {
            format!("{} {}", step["isolation"].as_str().unwrap_or_default(), step["step"].as_str().unwrap_or_default())
        })
        .collect();
    let expected = ["load", "call", "tick", "reload", "unload"];
    let expected: Vec<String> =
        ["thread", "process"].iter().flat_map(|mode| expected.map(|step| format!("{mode} {step}"))).collect();
    assert_eq!(steps, expected);
}

#[tokio::test]
async fn a_file_that_stays_in_memory_does_not_pass_its_trial() {
    let (code, found) = tried("test", plugin_file("nodelete").to_str().expect("text")).await;
    assert_eq!((code, &found["passed"]), (1, &json!(false)), "{found:#}");
    let failed: Vec<&Value> =
        found["steps"].as_array().expect("steps").iter().filter(|step| step["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{found:#}");
    assert_eq!((&failed[0]["isolation"], &failed[0]["step"]), (&json!("thread"), &json!("unload")));
    assert!(failed[0]["text"].as_str().is_some_and(|text| text.contains("NODELETE")), "{found:#}");
}

#[tokio::test]
async fn a_crate_under_development_is_replaced_whenever_it_builds() {
    let author = Author::begin("new-dev", "minimal").await;
    // Built before, so that nothing below has to wait for dependencies.
    author.builds(&["build"]).await;
    let mut command = author.cargo(&[]).as_std().get_envs().fold(
        tokio::process::Command::new(binary()),
        |mut command, (name, value)| {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
            command
        },
    );
    command.args(["plugin", "dev"]).arg(&author.directory).stdin(Stdio::null()).kill_on_drop(true);
    let mut dev = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be started");
    let said = Output::collect("muster plugin dev", dev.stdout.take().expect("stdout is piped"));
    let errors = Output::collect("the compiler", dev.stderr.take().expect("stderr is piped"));

    said.wait_for("new_dev is running as generation 1", BUILD).await;
    said.wait_for("waiting for a change", BUILD).await;
    author.edit("\"hello\"", "\"good day\" +");
    said.wait_for("it does not build; what was built before serves on", BUILD).await;
    errors.wait_for("error: expected expression", BUILD).await;
    author.edit("\"good day\" +", "\"good day\"");
    said.wait_for("new_dev is running as generation 2", BUILD).await;
    let text = said.text();
    let address = text.split("--master ").nth(1).and_then(|rest| rest.lines().next()).expect("it says how to ask");
    let address = address.trim().parse().expect("an address");
    assert_eq!(call(address, "admin", "new-dev", &json!({})).await.json()["body"], "good day, admin");

    let pid = dev.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(pid, Signal::TERM).expect("a child can be signalled");
    let status = within("the end of the sandbox", PROCESS * 2, dev.wait()).await.expect("a child can be waited for");
    assert_eq!(status.code(), Some(0), "{}", said.text());
    let text = said.whole().await;
    assert!(text.contains("sandbox-1 │ ended") && text.contains("master │ ended"), "{text}");
}

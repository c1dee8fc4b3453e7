//! CPU profiles of a monitor that has something to do, and of the program that one wraps: as files, as messages, and while
//! their plugin is unloaded.

use std::{fs, io::Read, net::SocketAddr, path::Path, process::Stdio};

use flate2::read::GzDecoder;
use muster_tests::{
    cli::{Finished, muster},
    daemon::{Daemon, Setup, binary},
    deadline::{PROCESS, eventually, within},
    peer::Peer,
};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

const PLUGINS: &[&str] = &["console", "watchdog", "profiler", "busy"];

/// A master, and a monitor that uses the processor in a function of its plugin `busy`.
async fn fleet() -> (Daemon, Daemon, Peer) {
    let master = Setup::master().plugins(PLUGINS).start().await;
    let monitor = Setup::monitor(master.address(), "gate-1", "gate").plugins(PLUGINS).start().await;
    monitor.wait_registered().await;
    let mut client = Peer::admin(master.address(), "observer").await;
    let begun = client.request("busy", json!({"serverId": "gate-1"})).await;
    assert_eq!(begun["error"], Value::Null, "{begun}");
    (master, monitor, client)
}

async fn profile(master: SocketAddr, arguments: &[&str]) -> Finished {
    let master = master.to_string();
    let mut all = vec!["profile", "cpu"];
    all.extend(arguments);
    all.extend(["--master", &master]);
    muster(&all).await
}

fn file(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().expect("paths of tests are text").to_owned()
}

/// What of pprof's `profile.proto` says how often a function was seen.
#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn read(path: &Path) -> Profile {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).expect("the profile is there");
        GzDecoder::new(file).read_to_end(&mut bytes).expect("it is compressed by gzip");
        Profile::decode(bytes.as_slice()).expect("it is a profile")
    }

    /// In how many samples a function was, whose name has this part.
    fn seen(&self, part: &str) -> i64 {
        let name = |location: &u64| {
            let location = self.location.iter().find(|known| known.id == *location).expect("a known location");
            let function = self.function.iter().find(|known| known.id == location.line[0].function_id);
            self.string_table[function.expect("a known function").name as usize].as_str()
        };
        let samples = self.sample.iter();
        samples
            .filter(|sample| sample.location_id.iter().any(|id| name(id).contains(part)))
            .map(|sample| sample.value[0])
            .sum()
    }
}

#[tokio::test]
async fn a_flamegraph_and_a_pprof_profile_have_the_function_that_uses_the_processor() {
    let (master, monitor, _client) = fleet().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let svg = file(&dir, "gate.svg");
    let done = profile(master.address(), &["gate-1", "--seconds", "2", "--to", &svg]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains(&format!("samples of process {}", monitor.pid())), "{done:?}");
    let picture = fs::read_to_string(&svg).expect("the picture is there");
    assert!(picture.contains("<svg") && picture.contains("busy::burn_processor_time"), "{picture}");

    let pprof = file(&dir, "gate.pb.gz");
    let done = profile(master.address(), &["gate-1", "--seconds", "2", "--to", &pprof]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let profile = Profile::read(Path::new(&pprof));
    let (burning, all) = (profile.seen("burn_processor_time"), profile.seen(""));
    assert!(burning > 0 && burning * 2 > all, "{burning} of {all} samples");
    monitor.shutdown().await;
    master.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_is_unloaded_while_a_profile_is_taken_ends_it_and_harms_nobody() {
    let (master, mut monitor, _client) = fleet().await;
    let address = master.address();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let svg = file(&dir, "gate.svg");
    let long = tokio::spawn({
        let svg = svg.clone();
        async move { profile(address, &["gate-1", "--seconds", "60", "--to", &svg]).await }
    });
    let samplers = eventually("a profile is taken", PROCESS, async || samplers_of(monitor.pid())).await;
    // Both what takes it and what it sees.
    for plugin in ["profiler", "busy"] {
        fs::remove_file(monitor.plugin_dir().join(format!("{plugin}.so"))).expect("a plugin can be removed");
    }
    let done = long.await.expect("the command ends");
    assert_eq!(done.code, 1, "{done:?}");
    for sampler in samplers {
        let gone = async || (!Path::new(&format!("/proc/{sampler}")).exists()).then_some(());
        eventually("the one that took it is gone", PROCESS, gone).await;
    }
    assert!(monitor.is_running());
    monitor.install_plugin("profiler");
    eventually("another profile can be taken", PROCESS, async || {
        let done = profile(address, &["gate-1", "--seconds", "1", "--to", &svg]).await;
        (done.code == 0).then_some(())
    })
    .await;
    monitor.shutdown().await;
    master.shutdown().await;
}

/// The children of a process that take profiles.
fn samplers_of(pid: u32) -> Option<Vec<u32>> {
    let children = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
        let child: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()?;
        (parent == pid && command.ends_with(b"\0sample\0")).then_some(child)
    });
    let children: Vec<u32> = children.collect();
    (!children.is_empty()).then_some(children)
}

#[tokio::test]
async fn one_profile_is_taken_at_a_time_and_only_for_administrators() {
    let (master, monitor, mut client) = fleet().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let svg = file(&dir, "gate.svg");
    let done = profile(master.address(), &["gate-1", "--to", &svg, "--user", "monitor", "--password", "monitor"]).await;
    assert_eq!((done.code, done.stderr.contains("Command permission denied")), (1, true), "{done:?}");

    let started = json!({"id": 1, "method": "Profiler.start", "params": {"uid": "gate-1"}, "clientId": "observer"});
    client.notify("profiler", started).await;
    assert_eq!(said(&mut client).await["params"], json!({"isProfiling": true}));
    assert_eq!(said(&mut client).await, json!({"id": 1, "result": {}}));
    eventually("a profile is taken", PROCESS, async || samplers_of(monitor.pid())).await;
    let done = profile(master.address(), &["gate-1", "--seconds", "1", "--to", &svg]).await;
    assert_eq!((done.code, done.stderr.contains("is being taken already")), (1, true), "{done:?}");
    let log = master.log();
    for order in ["start a profile", "take a profile"] {
        assert!(log.lines().any(|line| line.contains("audit") && line.contains(order)), "{order}: {log}");
    }
    monitor.shutdown().await;
    master.shutdown().await;
}

/// What the module tells the client next: JSON in a text.
async fn said(client: &mut Peer) -> Value {
    let message = client.expect_message().await;
    assert_eq!(message["moduleId"], "profiler");
    serde_json::from_str(message["body"].as_str().expect("a text")).expect("JSON")
}

#[tokio::test]
async fn clients_of_the_original_module_start_stop_and_get_a_profile() {
    let (master, monitor, mut client) = fleet().await;
    let order = |id: u64, method: &str| {
        let params = json!({"uid": "gate-1", "type": "CPU"});
        json!({"id": id, "method": format!("Profiler.{method}"), "params": params, "clientId": "observer"})
    };
    // A text, as the original's page sends it.
    client.notify("profiler", order(1, "enable").to_string().into()).await;
    assert_eq!(said(&mut client).await, json!({"id": 1, "result": {"result": true}}));
    client.notify("profiler", order(2, "getProfile")).await;
    assert_eq!(said(&mut client).await, json!({"id": 2, "error": "there is no profile of \"gate-1\""}));
    client.notify("profiler", order(3, "start")).await;
    let recording = json!({"method": "Profiler.setRecordingProfile", "params": {"isProfiling": true}});
    assert_eq!(said(&mut client).await, recording);
    assert_eq!(said(&mut client).await, json!({"id": 3, "result": {}}));
    eventually("a profile is taken", PROCESS, async || samplers_of(monitor.pid())).await;
    client.notify("profiler", order(4, "stop")).await;
    assert_eq!(said(&mut client).await, json!({"id": 4, "result": {}}));
    let header = json!({"title": "gate-1", "uid": "gate-1", "typeId": "CPU"});
    assert_eq!(said(&mut client).await, json!({"method": "Profiler.addProfileHeader", "params": {"header": header}}));
    client.notify("profiler", order(5, "getProfileHeaders")).await;
    assert_eq!(said(&mut client).await, json!({"id": 5, "result": {"headers": [header]}}));
    client.notify("profiler", order(6, "getProfile")).await;
    let profile = said(&mut client).await["result"]["profile"].clone();
    assert_eq!((&profile["uid"], &profile["head"]["functionName"]), (&json!("gate-1"), &json!("(root)")));
    assert_eq!(profile["bottomUpHead"]["functionName"], "(root)");
    client.notify("profiler", order(7, "takeHeapSnapshot")).await;
    assert!(said(&mut client).await["error"].as_str().expect("a text").contains("V8"));
    let listed = client.request("profiler", json!({"action": "list"})).await;
    assert_eq!(listed["body"], json!(["master-server-1", "gate-1"]));
    monitor.shutdown().await;
    master.shutdown().await;
}

/// A JavaScript program that uses the processor in functions that V8 has compiled.
const BUSY_SCRIPT: &str = "\
    function burnProcessorTime() { let sum = 0; for (let i = 0; i < 1e7; i++) sum += i % 7; return sum; }\
    for (let i = 0; i < 20; i++) burnProcessorTime();\
    console.log('busy');\
    for (;;) burnProcessorTime();";

/// What follows `samples of process` when a command has written a profile.
fn profiled(done: &Finished) -> u32 {
    let pid = done.stdout.split_once("samples of process ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    pid.unwrap_or_else(|| panic!("the process is told: {done:?}"))
}

#[tokio::test]
async fn a_profile_of_a_server_that_wraps_a_program_is_one_of_the_program() {
    let master = Setup::master().plugins(PLUGINS).start().await;
    let setup = Setup::monitor(master.address(), "gate-1", "gate").plugins(PLUGINS);
    let monitor = setup.wrapping(&["node", "--perf-basic-prof", "-e", BUSY_SCRIPT]).start().await;
    monitor.wait_registered().await;
    let said = monitor.state_dir().join("logs/gate-1.stdout.log");
    let busy = async || fs::read_to_string(&said).ok().filter(|text| text.contains("busy"));
    eventually("the program is busy", PROCESS, busy).await;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let (svg, pprof) = (file(&dir, "gate.svg"), file(&dir, "gate.pb.gz"));
    let done = profile(master.address(), &["gate-1", "--seconds", "2", "--to", &svg]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let pid = profiled(&done);
    assert_ne!(pid, monitor.pid());
    let program = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("the program runs");
    assert!(program.contains("--perf-basic-prof"), "{program}");
    let picture = fs::read_to_string(&svg).expect("the picture is there");
    assert!(picture.contains("<svg") && picture.contains("burnProcessorTime"), "{picture}");

    let done = profile(master.address(), &["gate-1", "--seconds", "2", "--to", &pprof]).await;
    assert_eq!((done.code, profiled(&done)), (0, pid), "{done:?}");
    let profile = Profile::read(Path::new(&pprof));
    let (burning, all) = (profile.seen("burnProcessorTime"), profile.seen(""));
    assert!(burning > 0 && burning * 2 > all, "{burning} of {all} samples");
    monitor.shutdown().await;
    fs::remove_file(format!("/tmp/perf-{pid}.map")).expect("node tells of its functions");
    master.shutdown().await;
}

#[tokio::test]
async fn functions_of_a_javascript_program_are_named_if_it_tells_of_them() {
    let mut command = Command::new("node");
    command.args(["--perf-basic-prof", "-e", BUSY_SCRIPT]).stdout(Stdio::piped()).kill_on_drop(true);
    // V8 leaves a log where it was started.
    let dir = tempfile::tempdir().expect("a temporary directory");
    command.current_dir(dir.path());
    let mut program = command.spawn().expect("node runs");
    let pid = program.id().expect("it runs");
    let mut lines = BufReader::new(program.stdout.take().expect("stdout is piped")).lines();
    let line = within("the program is busy", PROCESS, lines.next_line()).await;
    assert_eq!(line.expect("it can be read").as_deref(), Some("busy"));

    let mut sampler = Command::new(binary());
    sampler.arg("sample").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut sampler = sampler.spawn().expect("the binary can be started");
    let order = json!({"pid": pid, "duration_ms": 1000, "format": "tree"});
    let mut stdin = sampler.stdin.take().expect("stdin is piped");
    stdin.write_all(format!("{order}\n").as_bytes()).await.expect("it takes its order");
    let output = within("the profile", PROCESS, sampler.wait_with_output()).await.expect("it ends");
    drop(stdin);
    program.kill().await.expect("a child can be killed");
    fs::remove_file(format!("/tmp/perf-{pid}.map")).expect("node tells of its functions");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("{\"Ok\":{\"samples\":") && text.contains("burnProcessorTime"), "{text}");
    assert!(text.contains("node::Start(int, char**)"), "{text}");
}

use std::{cell::RefCell, collections::BTreeMap};

use muster_plugin_api::{Figures, Info, serde_json::Value as Json};

use super::*;
use crate::{
    Capabilities,
    world::{self, Settings},
};

const LIMITS: Limits = Limits { time: Duration::from_millis(500), memory: 16 << 20 };

type Stored = Rc<RefCell<BTreeMap<String, Body>>>;
type Lines = Rc<RefCell<Vec<String>>>;

/// A server with the setting `name`, and what scripts leave there and print.
fn world(capabilities: Capabilities) -> (World, Stored, Lines) {
    let stored = Stored::new(RefCell::new([("name".to_owned(), Body::text("interop"))].into()));
    let (reader, writer) = (stored.clone(), stored.clone());
    let settings = Settings {
        get: Box::new(move |key| reader.borrow().get(key).cloned().unwrap_or_default()),
        set: Box::new(move |key, value| drop(writer.borrow_mut().insert(key.to_owned(), value))),
    };
    let info = Info {
        id: "chat-server-1".into(),
        server_type: "chat".into(),
        env: "development".into(),
        info: json!({ "port": 6050 }).into(),
    };
    let figures = capabilities.process.then(|| Figures { pid: 7, rss: 4096, ..Figures::default() });
    let facts = world::facts(&info, figures.as_ref()).unwrap();
    let lines = Lines::default();
    let printed = lines.clone();
    let log = world::Log(Box::new(move |line| printed.borrow_mut().push(line.to_owned())));
    (World { facts, settings, capabilities, log }, stored, lines)
}

fn plain() -> World {
    world(Capabilities::default()).0
}

#[track_caller]
fn answers(script: &str, expected: Json) {
    assert_eq!(run(plain(), LIMITS, script), Outcome::Value(expected.into()), "{script}");
}

#[track_caller]
fn prints(expression: &str, expected: &str) {
    assert_eq!(evaluate(plain(), LIMITS, expression), Outcome::Value(Body::text(expected)), "{expression}");
}

#[track_caller]
fn throws(world: World, script: &str) -> String {
    match run(world, LIMITS, script) {
        Outcome::Threw { text, .. } => text,
        other => panic!("{script}: {other:?}"),
    }
}

// === what the recordings have ===

#[test]
fn a_script_answers_by_its_result() {
    answers("result = app.serverId;", json!("chat-server-1"));
    answers("var result = {a: [1, 2]}", json!({ "a": [1, 2] }));
}

#[test]
fn a_script_without_a_true_result_answers_nothing() {
    for script in ["var x = 1;", "result = 0", "result = ''", "result = null", "", "let result = 1"] {
        let expected = Outcome::Nothing;
        assert_eq!(run(plain(), LIMITS, script), expected, "{script}");
    }
}

#[test]
fn an_exception_is_its_text() {
    assert_eq!(throws(plain(), "throw new Error(\"bad\")"), "Error: bad");
    assert_eq!(throws(plain(), "throw 'text'"), "text");
    assert!(throws(plain(), "result = (").starts_with("SyntaxError: "));
}

#[test]
fn an_expression_is_printed_as_node_does() {
    prints("1+1", "2");
    prints("app.serverId", "'chat-server-1'");
    prints("undefined", "undefined");
    prints("-0", "-0");
    prints(
        "({a: 1, 'b-c': [1, 'x', null], d: {e: {f: {g: 1}}}})",
        "{ a: 1, 'b-c': [ 1, 'x', null ], d: { e: { f: [Object] } } }",
    );
    prints("[]", "[]");
    prints("new Map([['a', new Set([1])]])", "Map(1) { 'a' => Set(1) { 1 } }");
    prints("(function named() {})", "[Function: named]");
    prints("\"it's\"", "\"it's\"");
    prints("(() => { const a = {}; a.self = a; return a; })()", "{ self: [Circular *1] }");
    prints("Array(103).fill(0).length", "103");
}

#[test]
fn an_expression_that_throws_tells_where() {
    match evaluate(plain(), LIMITS, "nope.nope") {
        Outcome::Threw { text, stack } => {
            assert!(text.starts_with("ReferenceError: ") && text.contains("nope"), "{text}");
            assert!(stack.starts_with(&text) && stack.contains("myApp.vm"), "{stack}");
        }
        other => panic!("{other:?}"),
    }
}

// === the server ===

#[test]
fn settings_are_read_and_written() {
    let (world, stored, _) = world(Capabilities::default());
    let script = "app.set('k', {v: 1}).enable('on'); result = [app.get('name'), app.get('nope') === undefined, app.enabled('on')]";
    assert_eq!(run(world, LIMITS, script), Outcome::Value(json!(["interop", true, true]).into()));
    assert_eq!(stored.borrow()["k"].as_str(), r#"{"v":1}"#);
    assert_eq!(stored.borrow()["on"].as_str(), "true");
}

#[test]
fn the_machine_and_the_server_are_told() {
    answers(
        "result = [os.platform(), app.getServerType(), app.get('env'), app.info.port]",
        json!(["linux", "chat", "development", 6050]),
    );
    answers("result = os.loadavg().length + (os.totalmem() > os.freemem() ? 1 : 0)", json!(4));
}

#[test]
fn what_a_script_prints_is_bounded() {
    let (world, _, lines) = world(Capabilities::default());
    run(
        world,
        LIMITS,
        "console.log('a', {b: 1}); console.log('ä'.repeat(5000)); for (let i = 0; i < 1000; i++) console.log(i)",
    );
    assert_eq!(lines.borrow().len(), LOG_LINES as usize);
    assert_eq!(lines.borrow()[0], "a { b: 1 }");
    assert!(lines.borrow()[1].len() <= LOG_LINE);
}

// === limits ===

#[test]
fn an_endless_script_is_ended() {
    let short = Limits { time: Duration::from_millis(50), ..LIMITS };
    for script in [
        "while (true) {}",
        "for (;;) try { while (true) {} } catch (e) {} finally { while (true) {} }",
        "result = {toJSON() { while (true) {} }}",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "result = [...'x'.repeat(1e4)].sort(() => { while (true) {} })",
    ] {
        let start = Instant::now();
        assert_eq!(run(plain(), short, script), Outcome::TimedOut, "{script}");
        assert!(start.elapsed() < Duration::from_secs(5), "{script} took {:?}", start.elapsed());
    }
}

/// The engine looks at the clock between steps of a script, and not within these.
#[test]
fn one_step_that_would_take_very_long_is_refused() {
    for script in [
        "let a = []; a.length = 4e9; a.reverse()",
        "let a = []; a.length = 4e9; a.concat(a)",
        "Array.prototype.splice.call({length: 2 ** 53 - 1}, 0, 1)",
        "'x'.repeat(4e6).indexOf('x'.repeat(2e6) + 'y')",
        "'x'.repeat(4e6).split('x'.repeat(2e6) + 'y')",
    ] {
        assert!(throws(plain(), script).starts_with("RangeError: "), "{script}");
    }
    answers("result = [3, 1, 2].sort().concat('a,b'.split(',')).join('-').replaceAll('-', '')", json!("123ab"));
}

#[test]
fn memory_and_depth_are_bounded() {
    assert!(throws(plain(), "let a = []; while (true) a.push('x'.repeat(1e5) + a.length)").contains("out of memory"));
    assert!(throws(plain(), "(function f() { f(); })()").contains("stack"), "recursion");
}

#[test]
fn no_run_sees_what_another_left() {
    run(plain(), LIMITS, "leftover = 1; Array.prototype.push = null");
    answers("result = [typeof leftover, typeof [].push]", json!(["undefined", "function"]));
}

// === capabilities ===

#[test]
fn nothing_reaches_further_by_default() {
    let names = "['require', 'fs', 'process', 'std', 'module', 'Deno', 'fetch', 'setTimeout', 'Worker']";
    answers(&format!("result = {names}.filter(name => name in globalThis).length + 1"), json!(1));
    assert_eq!(throws(plain(), "require('fs')"), "ReferenceError: require is not defined");
}

#[test]
fn a_capability_brings_what_it_says_and_no_more() {
    let on = |capabilities: Capabilities| world(capabilities).0;
    let require = Capabilities { require: true, ..Capabilities::default() };
    assert_eq!(
        run(on(require.clone()), LIMITS, "result = require('os').platform()"),
        Outcome::Value(json!("linux").into())
    );
    assert_eq!(throws(on(require), "require('fs')"), "Error: Cannot find module 'fs'");
    let process = Capabilities { process: true, ..Capabilities::default() };
    let seen =
        run(on(process.clone()), LIMITS, "result = [process.pid, process.memoryUsage().rss, typeof process.exit]");
    assert_eq!(seen, Outcome::Value(json!([7, 4096, "undefined"]).into()));
    assert_eq!(throws(on(process), "fs"), "ReferenceError: fs is not defined");
}

#[test]
fn files_are_those_of_the_directory() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let fs = Some(dir.path().join("root").display().to_string());
    let on = || world(Capabilities { fs: fs.clone(), ..Capabilities::default() }).0;
    let script =
        "fs.writeFileSync('a.txt', 'x'); result = [fs.readFileSync('a.txt'), fs.readdirSync(), fs.existsSync('b')]";
    assert_eq!(run(on(), LIMITS, script), Outcome::Value(json!(["x", ["a.txt"], false]).into()));
    for script in ["fs.readFileSync('../secret')", "fs.writeFileSync('../new', 'x')", "fs.readFileSync('/etc/passwd')"]
    {
        assert!(throws(on(), script).starts_with("Error: "), "{script}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

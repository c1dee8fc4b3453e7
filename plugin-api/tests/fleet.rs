//! The fleet that authors test with, tested with a module that uses all of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{cell::Cell, time::Duration};

use muster_plugin_api::{
    Agent, Answer, Body, ClientCall, Context, Event, HandlerResult, Imported, Input, Level, Manifest, MasterAgent,
    Module, ModuleError, MonitorAgent, RequestError, Role, Schedule, State,
    serde_json::json,
    testing::{CLIENT, Deed, Export, Fleet, MASTER, Outcome},
};

/// Does what it is told, in every direction.
struct Errand {
    handled: Cell<u32>,
}

impl Module for Errand {
    fn manifest() -> Manifest {
        Manifest::new("errand", "1.0.0").alias("errands").schedule(Schedule::push(10.0).delayed(3.0))
    }

    fn create(context: Context) -> Result<Errand, ModuleError> {
        match context.options.get::<String>("refuse")? {
            Some(reason) => Err(reason.into()),
            None => Ok(Errand { handled: Cell::new(0) }),
        }
    }

    async fn monitor_handler(&self, agent: MonitorAgent, input: Input) -> HandlerResult {
        match input {
            Input::Tick => drop(agent.notify("errand", json!(agent.server_id()))),
            Input::Message(message) if message.body.as_str() == "\"panic\"" => panic!("as told"),
            Input::Message(message) => return Ok(Answer::ok(message.body)),
        }
        Ok(Answer::Silence)
    }

    async fn master_handler(&self, agent: MasterAgent, input: Input) -> HandlerResult {
        if let Input::Message(message) = input {
            agent.put(&message.from.id, message.body);
        }
        Ok(Answer::Silence)
    }

    async fn client_handler(&self, agent: MasterAgent, call: ClientCall) -> HandlerResult {
        self.handled.set(self.handled.get() + 1);
        let what: Vec<String> = call.body.parse()?;
        let what: Vec<&str> = what.iter().map(String::as_str).collect();
        match what[..] {
            ["ask", id, module] => Ok(agent.request(id, module, json!("asked")).await?),
            ["ask all"] => {
                let all = agent.request_all(Duration::from_secs(2), "errand", json!("all")).await;
                let told = all.into_iter().map(|(id, answer)| match answer {
                    Ok(answer) => json!([id, answer.result()]),
                    Err(error) => json!([id, error.to_string()]),
                });
                Ok(Answer::ok(json!(told.collect::<Vec<_>>())))
            }
            ["sleep", seconds] => {
                agent.sleep(Duration::from_secs(seconds.parse().map_err(|_| "no number")?)).await;
                Ok(Answer::ok(json!(self.handled.get())))
            }
            ["level", level] => {
                call.require_level(level.parse().map_err(|_| "no number")?)?;
                Ok(Answer::done())
            }
            ["block", how] => {
                let (here, how) = (std::thread::current().id(), how.to_owned());
                let elsewhere = agent.spawn_blocking(move || match how.as_str() {
                    "panic" => panic!("in the job"),
                    _ => std::thread::current().id() != here,
                });
                Ok(Answer::ok(json!(elsewhere.await?)))
            }
            ["measure"] => {
                let metrics = agent.metrics();
                let kept = [metrics.count("asked", 2), metrics.gauge("load", 0.5), metrics.observe("seconds", 1.5)];
                Ok(Answer::ok(json!(kept)))
            }
            ["log"] => {
                agent.log_with(Level::Warn, "seen", &json!({ "n": 1 }));
                agent.audit("done", &json!({ "by": call.caller.user }));
                Ok(Answer::done())
            }
            _ => Ok(Answer::Silence),
        }
    }

    async fn on_event(&self, agent: Agent, event: Event) {
        match event {
            Event::ServerLeft { server } => agent.put("left", json!(server.id)),
            Event::ServerReconnected { server } => agent.put("back", json!([server.id, server.incarnation])),
            Event::MasterConnected { again } => agent.put("connected", json!(again)),
            _ => {}
        }
    }
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::of::<Errand>().monitor("chat-1", "chat").monitor("gate-1", "gate").start().unwrap();
    // What the modules did when they were told of their master.
    fleet.clear();
    fleet
}

#[test]
fn schedules_tick_on_the_virtual_clock() {
    let mut fleet = fleet();
    fleet.advance(Duration::from_millis(2_999));
    assert!(fleet.values(MASTER, "errand").is_empty());
    fleet.advance(Duration::from_secs(3600));
    let ticks: Vec<f64> = fleet
        .records()
        .iter()
        .filter(|record| record.deed == Deed::Tick && record.server == "chat-1")
        .map(|record| record.at.as_secs_f64())
        .collect();
    assert_eq!((ticks.len(), ticks[0], ticks[359]), (360, 3.0, 3593.0));
    assert_eq!(fleet.values(MASTER, "errand")["gate-1"].as_str(), "\"gate-1\"");
}

#[test]
fn options_change_a_schedule_as_they_do_in_a_daemon() {
    let setup = Fleet::of::<Errand>().monitor("chat-1", "chat").options("errand", json!({ "interval": 0 }));
    let mut fleet = setup.start().unwrap();
    fleet.advance(Duration::from_secs(60));
    assert!(fleet.records().iter().all(|record| record.deed != Deed::Tick), "{}", fleet.transcript());
}

#[test]
fn a_request_goes_to_the_module_of_the_monitor_and_its_answer_back() {
    let mut fleet = fleet();
    assert_eq!(fleet.call("errand", json!(["ask", "chat-1", "errand"])).body().as_str(), "\"asked\"");
    assert_eq!(
        fleet.call("errands", json!(["ask all"])).parse::<Vec<[String; 2]>>(),
        [["chat-1".to_owned(), "all".to_owned()], ["gate-1".to_owned(), "all".to_owned()]]
    );
    let nobody = fleet.call("errand", json!(["ask", "chat-2", "errand"]));
    assert_eq!(nobody.error(), "unknown server id:chat-2");
    assert_eq!(fleet.call("errand", json!(["ask", "chat-1", "other"])).error(), "unknown moduleId:other");
    assert_eq!(fleet.ask_monitor("gate-1", "errand", json!(7)).body().as_str(), "7");
}

#[test]
fn scripts_answer_in_the_place_of_modules() {
    let mut fleet = fleet();
    fleet.script("*", "other", |body| Ok(Answer::ok(json!({ "got": body }))));
    fleet.script("gate-1", "errand", |_| Err(RequestError::Busy("busy".into())));
    let answer = fleet.call("errand", json!(["ask", "chat-1", "other"]));
    assert_eq!(answer.body().as_str(), r#"{"got":"asked"}"#);
    let all = fleet.call("errand", json!(["ask all"])).body();
    assert_eq!(all.as_str(), r#"[["gate-1","busy"],["chat-1","all"]]"#, "in the order in which they came");
}

#[test]
fn time_passes_for_who_sleeps_and_for_who_is_silent() {
    let mut fleet = fleet();
    assert_eq!(fleet.call("errand", json!(["sleep", "14"])).body().as_str(), "1");
    assert_eq!(fleet.now(), Duration::from_secs(14));
    assert_eq!(fleet.call("errand", json!(["silence"])), Outcome::TimedOut);
    assert_eq!(fleet.now(), Duration::from_secs(29));
    assert_eq!(fleet.call("errand", json!(["sleep", "60"])), Outcome::TimedOut, "the deadline is 15 s");
}

#[test]
fn work_that_blocks_is_done_on_another_thread_and_its_panic_is_an_error() {
    let mut fleet = fleet();
    assert!(fleet.call("errand", json!(["block", "fine"])).parse::<bool>());
    assert_eq!(fleet.call("errand", json!(["block", "panic"])).error(), "panicked: in the job");
}

#[test]
fn what_is_measured_is_in_the_transcript() {
    let mut fleet = fleet();
    assert_eq!(fleet.call("errand", json!(["measure"])).parse::<Vec<bool>>(), [true; 3]);
    for line in ["count asked 2", "gauge load 0.5", "observe seconds 1.5"] {
        assert!(fleet.transcript().contains(line), "{}", fleet.transcript());
    }
}

#[test]
fn errors_panics_and_levels_are_told_apart() {
    let mut fleet = fleet();
    assert!(fleet.call("errand", json!(1)).error().contains("invalid type"));
    let denied = fleet.call_as("ann", 2, "errand", json!(["level", "1"]));
    assert_eq!(denied.error(), "Unknow clientId", "the body claims nobody");
    let panic = fleet.ask_monitor("chat-1", "errand", json!("panic"));
    assert_eq!(panic, Outcome::Panicked { text: "as told".into() });
    assert_eq!(fleet.ask_monitor("chat-1", "errand", json!(1)).body().as_str(), "1", "it goes on");
    assert_eq!(fleet.ask_master("chat-1", "nothing", ()).error(), "unknown moduleId:nothing");
}

#[test]
fn what_is_logged_and_audited_is_in_the_transcript() {
    let mut fleet = fleet();
    drop(fleet.call("errand", json!(["log"])));
    assert_eq!(
        fleet.transcript(),
        format!(
            "0.000 master   errand: call by {CLIENT} [\"log\"]\n\
             0.000 master   errand: warn seen {{\"n\":1}}\n\
             0.000 master   errand: audit done {{\"by\":\"{CLIENT}\"}}\n\
             0.000 master   errand: answer\n"
        )
    );
    fleet.clear();
    assert_eq!(fleet.transcript(), "");
}

#[test]
fn a_monitor_that_leaves_is_told_of_and_hears_nothing_until_it_is_back() {
    let mut fleet = fleet();
    fleet.leave("chat-1");
    assert_eq!(fleet.values(MASTER, "errand")["left"].as_str(), "\"chat-1\"");
    assert!(fleet.call("errand", json!(["ask", "chat-1", "errand"])).error().contains("unknown server"));
    fleet.come_back("chat-1");
    assert_eq!(fleet.values(MASTER, "errand")["back"].as_str(), r#"["chat-1",3]"#);
    assert_eq!(fleet.values("chat-1", "errand")["connected"].as_str(), "true");
    assert_eq!(fleet.call("errand", json!(["ask", "chat-1", "errand"])).body().as_str(), "\"asked\"");
}

#[test]
fn a_module_that_does_not_start_is_an_error_with_its_reason() {
    let setup = Fleet::of::<Errand>().options("errand", json!({ "refuse": "not today" }));
    assert_eq!(setup.start().unwrap_err().message(), "module errand did not start as master: not today");
}

#[test]
fn a_replacement_keeps_what_is_stored_and_nothing_else() {
    let mut fleet = fleet();
    fleet.advance(Duration::from_secs(3));
    assert_eq!(fleet.call("errand", json!(["sleep", "0"])).body().as_str(), "1");
    fleet.replace().unwrap();
    assert_eq!(fleet.call("errand", json!(["sleep", "0"])).body().as_str(), "1", "a new instance");
    assert_eq!(fleet.values(MASTER, "errand")["chat-1"].as_str(), "\"chat-1\"");
    fleet.stop();
}

/// Counts calls, and hands the count over as schema `SCHEMA`; takes 1 and 2.
struct Counter<const SCHEMA: u32>(Cell<u64>);

impl<const SCHEMA: u32> Module for Counter<SCHEMA> {
    fn manifest() -> Manifest {
        Manifest::new("counter", "1.0.0").state(SCHEMA).only(Role::Master)
    }

    fn create(_: Context) -> Result<Self, ModuleError> {
        Ok(Counter(Cell::new(0)))
    }

    async fn client_handler(&self, _: MasterAgent, _: ClientCall) -> HandlerResult {
        self.0.set(self.0.get() + 1);
        Ok(Answer::ok(json!(self.0.get())))
    }

    async fn export_state(&self, _: Agent) -> Result<Body, ModuleError> {
        Ok(json!(self.0.get()).into())
    }

    async fn import_state(&self, _: Agent, state: State) -> Result<Imported, ModuleError> {
        match (state.schema, SCHEMA) {
            (3, _) => Err("schema 3 is too new".into()),
            (_, 3) => Ok(Imported::Empty),
            _ => {
                self.0.set(state.body.parse()?);
                Ok(Imported::Taken)
            }
        }
    }
}

#[test]
fn a_state_is_handed_over_or_the_old_generation_serves_on() {
    let count = |fleet: &mut Fleet| fleet.call("counter", ()).parse::<u64>();
    let mut fleet = Fleet::of::<Counter<1>>().start().unwrap();
    assert_eq!((count(&mut fleet), count(&mut fleet)), (1, 2));
    fleet.replace_by(Fleet::of::<Counter<2>>()).unwrap();
    assert_eq!(count(&mut fleet), 3, "it was taken over");
    fleet.replace_by(Fleet::of::<Counter<3>>()).unwrap();
    assert_eq!(count(&mut fleet), 1, "it starts without");
    assert!(fleet.transcript().contains("starts without the state"), "{}", fleet.transcript());
    let refused = fleet.replace_by(Fleet::of::<Counter<1>>()).unwrap_err();
    assert_eq!(refused.message(), "module counter did not take over the state: schema 3 is too new");
    assert_eq!(count(&mut fleet), 2, "the old one serves on, with what it had");
}

#[test]
fn several_modules_are_one_library() {
    struct Other;
    impl Module for Other {
        fn manifest() -> Manifest {
            Manifest::new("other", "1.0.0")
        }
        fn create(_: Context) -> Result<Other, ModuleError> {
            Ok(Other)
        }
        async fn monitor_handler(&self, _: MonitorAgent, _: Input) -> HandlerResult {
            Ok(Answer::ok(json!("other")))
        }
    }
    const MODULES: &[Export] = &[Export::of::<Errand>(), Export::of::<Other>()];
    let mut fleet = Fleet::with(MODULES).monitor("chat-1", "chat").start().unwrap();
    assert_eq!(fleet.call("errand", json!(["ask", "chat-1", "other"])).body().as_str(), "\"other\"");
    assert_eq!(fleet.call("other", ()), Outcome::NoHandler);
    fleet.stop();
}

#[test]
fn the_file_that_is_shipped_is_refused_like_in_a_daemon_if_it_is_none() {
    let error = Fleet::open("/no/such/file.so").map(|_| ()).unwrap_err();
    assert!(error.message().contains("cannot open shared object file"), "{error}");
}

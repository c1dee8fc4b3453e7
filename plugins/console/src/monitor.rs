//! In the monitor: carries out what the master orders.

use std::time::Duration;

use muster_plugin_api::{
    Answer, Body, HandlerResult, Info, Level, Message, ModuleError, MonitorAgent,
    serde_json::{self, Value},
};
use serde::Deserialize;

use crate::{MODULE, figures::Listed, signal::Signal};

/// From the answer to a `kill` until the end, so that the answer is out: the original's.
const KILL_DELAY: Duration = Duration::from_secs(2);

/// From the answer to a `restart` until the end, so that the answer is out.
const RESTART_DELAY: Duration = Duration::from_millis(200);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Order {
    signal: Value,
    cron: Body,
    blacklist: Body,
}

pub(crate) async fn handle(agent: &MonitorAgent, message: &Message) -> HandlerResult {
    let order: Order = message.body.parse().unwrap_or_default();
    let app = agent.app();
    let info = app.info();
    match Signal::deserialize(&order.signal) {
        Ok(Signal::List) => {
            let figures = app.figures().await?;
            return Ok(Answer::in_error_slot(Body::of(&Listed::new(&info.id, &info.server_type, &figures))?));
        }
        Ok(Signal::Kill) => {
            if !is_master(&info) {
                app.kill(KILL_DELAY);
            }
            return Ok(Answer::in_error_slot(Body::text(&info.id)));
        }
        Ok(Signal::Restart) => return Ok(restart(agent, &info)),
        Ok(Signal::ListCrons) => {
            return Ok(Answer::ok(serde_json::json!({ "serverId": info.id, "body": app.crons() })));
        }
        // Told by this side, asked of nobody.
        Ok(Signal::Program) => {}
        Ok(Signal::Stop) => {
            if !is_master(&info) {
                app.stop(Duration::ZERO);
            }
        }
        Ok(Signal::AddCron) => {
            if !app.add_cron(present(order.cron, "addCron needs a cron")?) {
                return Err("it is no cron: it needs id, action and a time of six fields".into());
            }
        }
        Ok(Signal::RemoveCron) => {
            if !app.remove_cron(present(order.cron, "removeCron needs a cron")?) {
                agent.log(Level::Debug, "the cron to remove is not known here");
            }
        }
        Ok(Signal::Blacklist) => app.blacklist(present(order.blacklist, "blacklist needs a list of addresses")?),
        // The original never answers here, so that its master waits for ever.
        Ok(Signal::Add) | Err(_) => {
            agent.log(Level::Debug, format_args!("unknown signal {}", order.signal));
            return Ok(Answer::error_text(&format!("unknown signal:{}", name(&order.signal))));
        }
    }
    Ok(Answer::done())
}

/// Tells the master what became of the program that this monitor wraps: it is asked why long after this monitor is gone.
pub(crate) fn tell_of_program(agent: &MonitorAgent) {
    let program = agent.app().program();
    if !program.is_absent() {
        agent.notify(MODULE, serde_json::json!({ "signal": Signal::Program, "program": program }));
    }
}

/// A server says of itself what its master needs to start it again, and stops. A wrapped program is started again here,
/// and nobody else is to start a second one: to a master that does not know of that, an empty object says so.
fn restart(agent: &MonitorAgent, info: &Info) -> Answer {
    if is_master(info) {
        return Answer::in_error_slot(serde_json::json!({}));
    }
    if agent.app().program().is_absent() {
        agent.app().stop(RESTART_DELAY);
        return Answer::in_error_slot(info.info.clone());
    }
    let later = agent.clone();
    agent.spawn(async move {
        // The link is another one as soon as the process is.
        later.sleep(RESTART_DELAY).await;
        if let Err(error) = later.app().restart_program().await {
            later.log(Level::Error, format_args!("the program was not restarted: {error}"));
        }
    });
    Answer::both(serde_json::json!({}), serde_json::json!({ "restarts": true }))
}

/// The master runs a monitor of itself; orders to all servers reach it, but are not meant for it.
fn is_master(info: &Info) -> bool {
    info.server_type == "master"
}

fn present(body: Body, otherwise: &str) -> Result<Body, ModuleError> {
    if body.is_null() { Err(ModuleError::new(otherwise)) } else { Ok(body) }
}

fn name(signal: &Value) -> String {
    signal.as_str().map_or_else(|| signal.to_string(), str::to_owned)
}

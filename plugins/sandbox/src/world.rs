//! What a script sees of the server.

use std::{ffi::OsString, fmt};

use muster_figures::machine::{self, Machine};
use muster_plugin_api::{
    App, Body, Figures, Info, ModuleError,
    serde_json::{Map, Value, json},
};

use crate::Capabilities;

/// What a script sees.
#[derive(Debug)]
pub struct World {
    /// What `app`, `os` and `process` tell; read once, before the run.
    pub(crate) facts: Value,
    pub(crate) settings: Settings,
    pub(crate) capabilities: Capabilities,
    /// Where `console` writes.
    pub(crate) log: Log,
}

/// The settings that `app` gets and sets.
pub(crate) struct Settings {
    /// The setting of this name, absent if there is none.
    pub(crate) get: Box<Getter>,
    pub(crate) set: Box<Setter>,
}

type Getter = dyn Fn(&str) -> Body;
type Setter = dyn Fn(&str, Body);

/// Takes a line.
pub(crate) struct Log(pub(crate) Box<dyn Fn(&str)>);

impl World {
    /// The server of `app`; `log` takes what the script prints.
    ///
    /// # Errors
    /// When the machine or the process cannot be read.
    pub async fn of(
        app: &App,
        capabilities: &Capabilities,
        log: impl Fn(&str) + 'static,
    ) -> Result<World, ModuleError> {
        let figures = if capabilities.process { Some(app.figures().await?) } else { None };
        Ok(World {
            facts: facts(&app.info(), figures.as_ref())?,
            settings: Settings::of(app),
            capabilities: capabilities.clone(),
            log: Log(Box::new(log)),
        })
    }
}

impl Settings {
    fn of(app: &App) -> Settings {
        let (reader, writer) = (app.clone(), app.clone());
        Settings {
            get: Box::new(move |key| reader.setting(key)),
            set: Box::new(move |key, value| writer.set_setting(key, value)),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

pub(crate) fn facts(info: &Info, figures: Option<&Figures>) -> Result<Value, ModuleError> {
    let os = Machine::read().map_err(|error| error.to_string())?;
    let process = figures.map(|figures| {
        json!({
            "pid": figures.pid, "uptime": figures.uptime_s, "platform": std::env::consts::OS, "arch": machine::arch(),
            "memory": { "rss": figures.rss, "heapTotal": figures.heap_total, "heapUsed": figures.heap_used },
            "env": environment(),
        })
    });
    let app = json!({ "serverId": info.id, "serverType": info.server_type, "env": info.env, "info": info.info });
    Ok(json!({ "app": app, "os": os, "process": process }))
}

/// The daemon's environment, as text: JavaScript knows no other.
fn environment() -> Map<String, Value> {
    let text = |os: OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value).into())).collect()
}

//! What a module says of itself before it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// Where an instance of a module runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// In the master: `master_handler` and `client_handler` are called.
    Master,
    /// In a monitor: `monitor_handler` is called.
    Monitor,
}

/// What a module says of itself before it runs. Read once, without creating an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The module id: the name under which peers and clients address it.
    pub id: String,
    /// Further ids under which the same instance answers.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The module's own version, for people.
    pub version: String,
    /// Where instances are made.
    pub roles: Vec<Role>,
    /// When the module ticks; none without one.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// How long a request may take before its caller gets a timeout error, in milliseconds; the host's 15 s without one.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Modules that have to be served, in each of its roles, before the plugin is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// The schema version of the state that it hands over to the generation after it; nothing is handed over without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<u32>,
    /// What clients may do with it.
    #[serde(default)]
    pub commands: Commands,
}

/// What clients may do with a module: what only looks is open to every user who is logged in, everything else needs a
/// user of level one. The master asks this before a message reaches the module, also of notifies; its operator may set
/// other levels (`roles` in the configuration), and everything that is not a look is a line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Commands {
    /// The field of a client's body that names the command; without one all that clients send is one command.
    pub field: Option<String>,
    /// Commands that only look. `*` stands for whatever is not named.
    pub looks: Vec<String>,
    /// Commands that change something. What is in neither list counts as such.
    pub changes: Vec<String>,
}

impl Commands {
    /// Stands for whatever is not named.
    pub const OTHERS: &str = "*";

    /// Whether a command only looks.
    pub fn only_looks(&self, command: &str) -> bool {
        let named = |list: &[String], name: &str| list.iter().any(|other| other == name);
        named(&self.looks, command) || (named(&self.looks, Commands::OTHERS) && !named(&self.changes, command))
    }
}

impl Manifest {
    /// A module with both roles and no schedule. Use `env!("CARGO_PKG_VERSION")` for `version`.
    pub fn new(id: &str, version: &str) -> Manifest {
        Manifest {
            id: id.to_owned(),
            aliases: Vec::new(),
            version: version.to_owned(),
            roles: vec![Role::Master, Role::Monitor],
            schedule: None,
            deadline_ms: None,
            needs: Vec::new(),
            state: None,
            commands: Commands::default(),
        }
    }

    /// The module runs in this role only.
    #[must_use]
    pub fn only(mut self, role: Role) -> Manifest {
        self.roles = vec![role];
        self
    }

    /// The module also answers under `id`.
    #[must_use]
    pub fn alias(mut self, id: &str) -> Manifest {
        self.aliases.push(id.to_owned());
        self
    }

    /// The module ticks.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Manifest {
        self.schedule = Some(schedule);
        self
    }

    /// The module works with the module `id`, which is started before it. As long as nobody serves `id` in a role of
    /// this module, the plugin is refused with that reason; it is started by itself when `id` is there.
    ///
    /// It is no promise about later: what is needed may be replaced or removed while the module runs.
    #[must_use]
    pub fn needs(mut self, id: &str) -> Manifest {
        self.needs.push(id.to_owned());
        self
    }

    /// The module takes part in hand-overs: it exports its state in this version of its schema, and is asked to import
    /// what the generation before it exports. See [`Module::export_state`](crate::Module::export_state).
    #[must_use]
    pub fn state(mut self, schema: u32) -> Manifest {
        self.state = Some(schema);
        self
    }

    /// Clients name a command in `field` of their body: one that only looks, or one that changes something. See
    /// [`Commands`].
    #[must_use]
    pub fn commands(mut self, field: &str, looks: &[&str], changes: &[&str]) -> Manifest {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.commands = Commands { field: Some(field.to_owned()), looks: owned(looks), changes: owned(changes) };
        self
    }

    /// All that clients can do with the module is look: open to every user who is logged in. See [`Commands`].
    #[must_use]
    pub fn only_looks(mut self) -> Manifest {
        self.commands = Commands { looks: vec![Commands::OTHERS.to_owned()], ..Commands::default() };
        self
    }

    /// Requests to the module may take this long.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Manifest {
        self.deadline_ms = Some(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

/// What one `.so` says of itself: who built it, and its modules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginManifest {
    /// The crate that was built.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of `muster-plugin-api` it was built with.
    pub api: String,
    /// The compiler it was built with.
    pub compiler: String,
    /// `unwind` or `abort`: what a panic does.
    pub panic: String,
    /// The modules it exports, in order.
    pub modules: Vec<Manifest>,
}

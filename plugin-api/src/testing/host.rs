//! The host of a fleet: what a plugin reads is answered at once, what it says is written down for the fleet to act upon.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use abi_stable::std_types::{RSlice, RStr, RVec};

use super::record::{Deed, Record};
use crate::{
    abi::{HostApi, ask, kind, query, tell},
    agent::{Level, ServerAddress},
    app::{Figures, Info},
    event::{Event, Server},
    manifest::Role,
    message::Body,
};

/// What all daemons of a fleet and their plugins share. Plugins may call from threads of theirs.
pub(super) type Shared = Arc<Mutex<World>>;

#[derive(Default)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) rooms: Vec<Room>,
    pub(super) records: Vec<Record>,
    /// What the plugins have said and the fleet has not acted upon, with the daemon that it was said in.
    pub(super) said: VecDeque<(usize, Said)>,
    /// The daemon whose plugin runs: what is logged for a whole library comes from there.
    pub(super) current: usize,
}

/// What a daemon knows.
pub(super) struct Room {
    pub(super) info: Info,
    pub(super) role: Role,
    pub(super) linked: bool,
    /// Master: who is registered.
    pub(super) servers: Vec<Server>,
    pub(super) directory: BTreeMap<String, Body>,
    pub(super) settings: BTreeMap<String, serde_json::Value>,
    /// By module, then by key.
    pub(super) values: BTreeMap<String, BTreeMap<String, Body>>,
    /// The modules of its instances, by their numbers from 1.
    pub(super) modules: Vec<String>,
    pub(super) figures: Figures,
    crons: BTreeMap<String, Body>,
    connections: Body,
    pub(super) woken: bool,
}

pub(super) enum Said {
    Reply {
        call: u64,
        status: u32,
        error: Body,
        body: Body,
    },
    Ask(Asked),
    Notify {
        op: u32,
        to: String,
        module: String,
        body: Body,
    },
    Forget {
        id: String,
        module: String,
    },
    /// Something happened that all modules of the daemon are told of.
    Event(Event),
}

/// What a module asks for, as [`HostApi::ask`] has it.
pub(super) struct Asked {
    pub(super) instance: u32,
    pub(super) id: u64,
    pub(super) op: u32,
    pub(super) a: String,
    pub(super) b: String,
    pub(super) n: u64,
    pub(super) body: Body,
}

/// The host, as the plugin of one daemon holds it.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) world: Shared,
    pub(super) index: usize,
}

impl World {
    pub(super) fn shared(rooms: Vec<Room>) -> Shared {
        Arc::new(Mutex::new(World { rooms, ..World::default() }))
    }

    pub(super) fn record(&mut self, index: usize, instance: u32, deed: Deed) {
        let (at, room) = (self.now, &self.rooms[index]);
        let record = Record { at, server: room.info.id.clone(), module: room.module(instance).to_owned(), deed };
        self.records.push(record);
    }
}

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    pub(super) fn new(id: &str, server_type: &str, role: Role) -> Room {
        let described = serde_json::json!({ "id": id, "serverType": server_type });
        Room {
            info: Info {
                id: id.to_owned(),
                server_type: server_type.to_owned(),
                env: "test".to_owned(),
                info: described.into(),
            },
            role,
            linked: false,
            servers: Vec::new(),
            directory: BTreeMap::new(),
            settings: BTreeMap::new(),
            values: BTreeMap::new(),
            modules: Vec::new(),
            figures: Figures { pid: 1000, ..Figures::default() },
            crons: BTreeMap::new(),
            connections: Body::ABSENT,
            woken: false,
        }
    }

    fn module(&self, instance: u32) -> &str {
        let index = usize::try_from(instance).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| self.modules.get(index)).map_or("*", String::as_str)
    }

    /// The ids of the servers that a notify is for.
    pub(super) fn addressed(&self, op: u32, to: &str) -> Vec<String> {
        if self.role == Role::Monitor {
            return if self.linked { vec![super::MASTER.to_owned()] } else { Vec::new() };
        }
        let fits = |server: &&Server| match op {
            tell::NOTIFY => server.id == to,
            tell::NOTIFY_SERVER => serde_json::from_str::<ServerAddress>(to).is_ok_and(|to| to.id == server.id),
            tell::NOTIFY_TYPE => server.server_type == to,
            tell::NOTIFY_ALL => true,
            // Nobody has slaves here.
            _ => false,
        };
        self.servers.iter().filter(fits).map(|server| server.id.clone()).collect()
    }

    fn query(&self, module: &str, op: u32, a: &str) -> Body {
        let values = || self.values.get(module);
        let json = |value: Result<Body, crate::ModuleError>| value.unwrap_or_default();
        match op {
            query::VALUE => values().and_then(|values| values.get(a)).cloned().unwrap_or_default(),
            query::VALUES => values().map(|values| json(Body::of(values))).unwrap_or_default(),
            query::INFO => json(Body::of(&self.info)),
            query::SETTING if a.is_empty() => json(Body::of(&self.settings)),
            query::SETTING => self.settings.get(a).map(Body::from).unwrap_or_default(),
            query::DIRECTORY => {
                let of_type = |info: &Body| {
                    let info = info.parse::<serde_json::Value>().unwrap_or_default();
                    a.is_empty() || info["serverType"] == a
                };
                json(Body::of(&self.directory.iter().filter(|(_, info)| of_type(info)).collect::<BTreeMap<_, _>>()))
            }
            query::MODULES => json(Body::of(&self.modules)),
            query::SERVERS => json(Body::of(&self.servers)),
            query::FLEET => json(Body::of::<[Body]>(&[])),
            query::CRONS => json(Body::of(&self.crons.values().collect::<Vec<_>>())),
            query::CONNECTIONS => self.connections.clone(),
            _ => Body::ABSENT,
        }
    }

    /// Does what changes this daemon alone, and returns what others are told of it.
    fn change(&mut self, module: &str, op: u32, a: &str, body: &Body) -> (i64, Option<Event>) {
        let parsed = || body.parse::<serde_json::Value>().unwrap_or_default();
        match op {
            tell::PUT => drop(self.values.entry(module.to_owned()).or_default().insert(a.to_owned(), body.clone())),
            tell::REMOVE => drop(self.values.get_mut(module).and_then(|values| values.remove(a))),
            tell::SET_SETTING => drop(self.settings.insert(a.to_owned(), parsed())),
            tell::ADD_SERVER => {
                self.directory.insert(a.to_owned(), body.clone());
                let servers = BTreeMap::from([(a.to_owned(), body.clone())]);
                return (1, Some(Event::ServersAdded { servers }));
            }
            tell::REMOVE_SERVER => {
                self.directory.remove(a);
                return (1, Some(Event::ServersRemoved { ids: vec![a.to_owned()] }));
            }
            tell::REPLACE_SERVERS => match body.parse::<BTreeMap<String, Body>>() {
                Ok(servers) => {
                    self.directory.clone_from(&servers);
                    return (1, Some(Event::ServersReplaced { servers }));
                }
                Err(_) => return (-1, None),
            },
            tell::START_OVER => return (1, Some(Event::StartOver)),
            tell::ADD_CRON => {
                self.crons.insert(parsed()["id"].to_string(), body.clone());
                return (1, Some(Event::CronAdded { cron: body.clone() }));
            }
            tell::REMOVE_CRON => {
                let known = self.crons.remove(&parsed()["id"].to_string()).is_some();
                return (i64::from(known), known.then(|| Event::CronRemoved { cron: body.clone() }));
            }
            tell::BLACKLIST => {
                return (1, Some(Event::Blacklisted { addresses: body.parse().unwrap_or_default() }));
            }
            tell::PUBLISH_CONNECTIONS => self.connections = body.clone(),
            tell::STOP | tell::AUDIT | tell::COUNT | tell::GAUGE | tell::OBSERVE => {}
            // Of a later version of the interface than this harness.
            _ => return (-1, None),
        }
        (1, None)
    }
}

/// The name of an operation, for the transcript.
fn words(op: u32) -> &'static str {
    match op {
        tell::REMOVE => "remove",
        tell::SET_SETTING => "set setting",
        tell::ADD_SERVER => "add server",
        tell::REMOVE_SERVER => "remove server",
        tell::REPLACE_SERVERS => "replace servers",
        tell::START_OVER => "start over",
        tell::ADD_CRON => "add cron",
        tell::REMOVE_CRON => "remove cron",
        tell::BLACKLIST => "blacklist",
        tell::STOP => "stop the daemon",
        tell::AUDIT => "audit",
        tell::COUNT => "count",
        tell::GAUGE => "gauge",
        tell::OBSERVE => "observe",
        tell::PUBLISH_CONNECTIONS => "publish connections",
        _ => "something unknown",
    }
}

fn level_of(level: u32) -> Level {
    match level {
        0 | 1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        _ => Level::Trace,
    }
}

impl HostApi for Desk {
    fn log(&self, instance: u32, level: u32, message: RStr<'_>, fields: RStr<'_>) {
        let mut world = lock(&self.world);
        let index = if instance == kind::EVERYONE { world.current } else { self.index };
        let fields = Body::from_wire(fields.as_str().as_bytes());
        world.record(index, instance, Deed::Log { level: level_of(level), text: message.into(), fields });
    }

    fn reply(&self, call: u64, status: u32, error: RSlice<'_, u8>, body: RSlice<'_, u8>) {
        let (error, body) = (Body::from_wire(error.as_slice()), Body::from_wire(body.as_slice()));
        lock(&self.world).said.push_back((self.index, Said::Reply { call, status, error, body }));
    }

    fn ask(&self, instance: u32, id: u64, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) {
        let body = Body::from_wire(body.as_slice());
        let mut world = lock(&self.world);
        let to = match op {
            ask::REQUEST if world.rooms[self.index].role == Role::Monitor => Some(super::MASTER.to_owned()),
            ask::REQUEST => Some(a.into()),
            ask::REQUEST_SERVER => serde_json::from_str::<ServerAddress>(a.as_str()).ok().map(|address| address.id),
            ask::REQUEST_ALL => Some("everybody".to_owned()),
            _ => None,
        };
        if let Some(to) = to {
            world.record(self.index, instance, Deed::Request { to, module: b.into(), body: body.clone() });
        }
        let said = Said::Ask(Asked { instance, id, op, a: a.into(), b: b.into(), n, body });
        world.said.push_back((self.index, said));
    }

    fn tell(&self, instance: u32, op: u32, a: RStr<'_>, b: RStr<'_>, n: u64, body: RSlice<'_, u8>) -> i64 {
        if op == tell::STEP {
            return 1;
        }
        let body = Body::from_wire(body.as_slice());
        let mut world = lock(&self.world);
        let to = match op {
            tell::NOTIFY if world.rooms[self.index].role == Role::Monitor => Some(super::MASTER.to_owned()),
            tell::NOTIFY => Some(a.into()),
            tell::NOTIFY_SERVER => serde_json::from_str::<ServerAddress>(a.as_str()).ok().map(|address| address.id),
            tell::NOTIFY_SLAVES => Some(format!("slaves of {a}")),
            tell::NOTIFY_TYPE => Some(format!("type {a}")),
            tell::NOTIFY_ALL => Some("everybody".to_owned()),
            tell::NOTIFY_CLIENT => Some(format!("client {a}")),
            _ => None,
        };
        if let Some(to) = to {
            let heard = op == tell::NOTIFY_CLIENT || !world.rooms[self.index].addressed(op, a.as_str()).is_empty();
            world.record(self.index, instance, Deed::Notify { to, module: b.into(), body: body.clone() });
            world.said.push_back((self.index, Said::Notify { op, to: a.into(), module: b.into(), body }));
            return i64::from(heard);
        }
        if op == tell::FORGET {
            world.said.push_back((self.index, Said::Forget { id: a.into(), module: b.into() }));
            return 1;
        }
        let module = world.rooms[self.index].module(instance).to_owned();
        let (result, event) = world.rooms[self.index].change(&module, op, a.as_str(), &body);
        let deed = match op {
            tell::PUT => Deed::Put { key: a.into(), value: body },
            tell::COUNT => Deed::Tell { what: words(op), about: a.into(), body: serde_json::Value::from(n).into() },
            _ => Deed::Tell { what: words(op), about: a.into(), body },
        };
        world.record(self.index, instance, deed);
        if let Some(event) = event {
            world.said.push_back((self.index, Said::Event(event)));
        }
        result
    }

    fn query(&self, instance: u32, op: u32, a: RStr<'_>, _b: RStr<'_>) -> RVec<u8> {
        let world = lock(&self.world);
        let room = &world.rooms[self.index];
        room.query(room.module(instance), op, a.as_str()).wire().to_vec().into()
    }

    fn wake(&self) {
        lock(&self.world).rooms[self.index].woken = true;
    }
}

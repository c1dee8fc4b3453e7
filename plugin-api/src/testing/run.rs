//! How a fleet moves: mail is delivered, what the plugins say is acted upon, and time passes when nothing is left to do.

use std::{collections::BTreeMap, time::Duration};

use abi_stable::std_types::{RSlice, RStr};
use serde_json::json;

use super::{
    DEADLINE, Fleet, MASTER,
    calls::{Call, Gather, Outcome, Waiter},
    host::{Asked, Said},
    record::Deed,
};
use crate::{
    abi::{self, ask, kind, outcome, status, tell},
    agent::ServerAddress,
    message::{Answer, Body, RequestError},
};

/// Turns without a pause after which modules are taken to keep each other busy for ever.
const TURNS: usize = 100_000;

/// [`abi::Mail`] that owns what it is made of.
#[derive(Clone, Default)]
pub(super) struct Mail {
    pub(super) kind: u32,
    pub(super) instance: u32,
    pub(super) id: u64,
    pub(super) status: u32,
    pub(super) level: u32,
    pub(super) connection: u64,
    pub(super) left: Duration,
    pub(super) a: String,
    pub(super) b: String,
    pub(super) error: Body,
    pub(super) body: Body,
}

/// What happens at a moment, in the order in which it was asked for.
#[derive(Default)]
pub(super) struct Timers {
    at: BTreeMap<(Duration, u64), What>,
    next: u64,
}

pub(super) enum What {
    Tick { index: usize, number: u32, every: Duration },
    Wake { index: usize, instance: u32, ask: u64 },
    Deadline { call: u64, limit: Duration },
}

// === impl Mail ===

impl Mail {
    pub(super) fn of(body: Body) -> Mail {
        Mail { body, ..Mail::default() }
    }

    fn crossing(&self) -> abi::Mail<'_> {
        abi::Mail {
            kind: self.kind,
            instance: self.instance,
            id: self.id,
            status: self.status,
            level: self.level,
            connection: self.connection,
            left_ms: u64::try_from(self.left.as_millis()).unwrap_or(u64::MAX),
            a: RStr::from_str(&self.a),
            b: RStr::from_str(&self.b),
            error: RSlice::from_slice(self.error.wire()),
            body: RSlice::from_slice(self.body.wire()),
        }
    }

    /// What the transcript says of it.
    fn deed(&self) -> Option<Deed> {
        let body = self.body.clone();
        match self.kind {
            kind::TICK => Some(Deed::Tick),
            kind::MESSAGE => Some(Deed::Message { from: self.a.clone(), body }),
            kind::CLIENT => Some(Deed::Call { from: self.a.clone(), body }),
            _ => None,
        }
    }
}

// === impl Timers ===

impl Timers {
    pub(super) fn add(&mut self, at: Duration, what: What) {
        self.next += 1;
        self.at.insert((at, self.next), what);
    }

    fn due(&mut self, until: Duration) -> Option<(Duration, What)> {
        let key = *self.at.first_key_value().filter(|((at, _), _)| *at <= until)?.0;
        self.at.remove(&key).map(|what| (key.0, what))
    }

    /// The moment of the next one.
    pub(super) fn next(&self) -> Option<Duration> {
        self.at.first_key_value().map(|((at, _), _)| *at)
    }

    /// Forgets the schedules of a daemon.
    pub(super) fn forget_ticks(&mut self, of: usize) {
        self.at.retain(|_, what| !matches!(what, What::Tick { index, .. } if *index == of));
    }

    /// Forgets the schedules and the sleeps of a daemon.
    pub(super) fn forget(&mut self, of: usize) {
        self.at.retain(|_, what| match what {
            What::Tick { index, .. } | What::Wake { index, .. } => *index != of,
            What::Deadline { .. } => true,
        });
    }
}

// === impl Fleet ===

impl Fleet {
    /// A message as another daemon sends it.
    pub(super) fn mail_from(&self, from: usize, body: Body) -> Mail {
        let world = self.world();
        let info = &world.rooms[from].info;
        let incarnation = world.rooms[0].servers.iter().find(|server| server.id == info.id);
        let connection = incarnation.map_or(1, |server| server.incarnation);
        Mail { kind: kind::MESSAGE, a: info.id.clone(), b: info.server_type.clone(), connection, ..Mail::of(body) }
    }

    /// Sends a message to a module of a daemon, which may not be there.
    pub(super) fn send(
        &mut self,
        index: usize,
        module: &str,
        mail: Mail,
        waiter: Option<Waiter>,
        limit: Option<Duration>,
    ) {
        let instances = &self.daemons[index].instances;
        let named = |id: &String| id == module;
        let found = instances.iter().position(|manifest| named(&manifest.id) || manifest.aliases.iter().any(named));
        let Some(place) = found else {
            if let Some(waiter) = waiter {
                let error = Body::text(&format!("unknown moduleId:{module}"));
                let limit = limit.unwrap_or(DEADLINE);
                self.settled(waiter, module, Outcome::Answered { error, body: Body::ABSENT }, limit);
            }
            return;
        };
        let own = instances[place].deadline_ms.map(Duration::from_millis);
        let number = u32::try_from(place + 1).unwrap_or(u32::MAX);
        self.deliver(index, number, mail, waiter, limit.or(own).unwrap_or(DEADLINE));
    }

    /// Puts mail for an instance into its daemon's box.
    pub(super) fn deliver(&mut self, index: usize, number: u32, mail: Mail, waiter: Option<Waiter>, limit: Duration) {
        let mut mail = Mail { instance: number, left: limit, ..mail };
        if let Some(waiter) = waiter {
            mail.id = self.calls.slot();
            match mail.kind {
                // The version of a schema is there.
                kind::IMPORT => {}
                // A tick is waited for by the schedule alone: it is no request.
                other => mail.status = u32::from(other != kind::TICK),
            }
            if mail.kind != kind::TICK {
                let deadline = self.now() + limit;
                self.timers.add(deadline, What::Deadline { call: mail.id, limit });
            }
            let module = self.daemons[index].instances[number as usize - 1].id.clone();
            self.calls.waiting.insert(mail.id, Call { index, instance: number, module, waiter });
        }
        self.daemons[index].mail.push(mail);
    }

    /// Lets everything happen that can without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..TURNS {
            let ready = |index: &usize| {
                !self.daemons[*index].mail.is_empty() || self.world().rooms.get(*index).is_some_and(|room| room.woken)
            };
            let Some(index) = (0..self.daemons.len()).find(ready) else { return };
            self.turn(index);
        }
        panic!("the modules do not come to rest: a task wakes itself, or they answer each other without end");
    }

    /// Settles, and lets time pass until a call has its outcome.
    pub(super) fn outcome(&mut self, slot: u64) -> Outcome {
        loop {
            self.settle();
            if let Some(outcome) = self.calls.outcomes.remove(&slot) {
                return outcome;
            }
            let (at, what) = self.timers.due(Duration::MAX).unwrap_or_else(|| panic!("a call has lost its deadline"));
            self.world().now = at;
            self.fire(what);
        }
    }

    pub(super) fn pass_until(&mut self, until: Duration) {
        self.settle();
        while let Some((at, what)) = self.timers.due(until) {
            self.world().now = at;
            self.fire(what);
            self.settle();
        }
        self.world().now = until;
    }

    fn turn(&mut self, index: usize) {
        let mail = std::mem::take(&mut self.daemons[index].mail);
        {
            let mut world = self.world();
            world.current = index;
            world.rooms[index].woken = false;
            for one in &mail {
                if let Some(deed) = one.deed() {
                    world.record(index, one.instance, deed);
                }
            }
        }
        let crossing: Vec<abi::Mail<'_>> = mail.iter().map(Mail::crossing).collect();
        self.daemons[index].plugin.turn(RSlice::from_slice(&crossing));
        loop {
            let said = self.world().said.pop_front();
            let Some((index, said)) = said else { return };
            self.heed(index, said);
        }
    }

    fn fire(&mut self, what: What) {
        match what {
            What::Tick { index, number, every } => {
                let again = self.now() + every;
                self.timers.add(again, What::Tick { index, number, every });
                if self.ticking.insert((index, number)) {
                    let mail = Mail { kind: kind::TICK, ..Mail::default() };
                    self.deliver(index, number, mail, Some(Waiter::Tick { index, number }), DEADLINE);
                }
            }
            What::Wake { index, instance, ask } => {
                self.complete(index, instance, ask, Ok((Body::ABSENT, Body::ABSENT)))
            }
            What::Deadline { call, limit } => {
                if let Some(Call { module, waiter, .. }) = self.calls.waiting.remove(&call) {
                    self.settled(waiter, &module, Outcome::TimedOut, limit);
                }
            }
        }
    }

    /// Acts upon what a plugin has said.
    fn heed(&mut self, index: usize, said: Said) {
        match said {
            Said::Reply { call, status, error, body } => self.replied(call, status, error, body),
            Said::Ask(asked) => self.asked(index, asked),
            Said::Notify { op, to, module, body } => {
                let to = self.world().rooms[index].addressed(op, &to);
                for id in to {
                    let mail = self.mail_from(index, body.clone());
                    self.send(self.index(&id), &module, mail, None, None);
                }
            }
            Said::Forget { id, module } => {
                let to = self.world().rooms.iter().position(|room| room.info.id == id);
                let meant = |call: &Call| Some(call.index) == to && call.module == module;
                let waiting = std::mem::take(&mut self.calls.waiting);
                for (number, call) in waiting {
                    match call.waiter {
                        Waiter::Ask { index, instance, ask } if meant(&call) => {
                            let gone = RequestError::Gone(format!("the requests to {module} of {id} were dropped"));
                            self.complete(index, instance, ask, Err(gone));
                        }
                        _ => drop(self.calls.waiting.insert(number, call)),
                    }
                }
            }
            Said::Event(event) => self.tell(index, &event),
        }
    }

    fn replied(&mut self, call: u64, status: u32, error: Body, body: Body) {
        let Some(waiting) = self.calls.waiting.get(&call) else { return };
        let (index, instance) = (waiting.index, waiting.instance);
        let is_call = matches!(waiting.waiter, Waiter::Test(_) | Waiter::Ask { .. } | Waiter::Gather { .. });
        let text = || body.parse::<String>().unwrap_or_else(|_| body.as_str().to_owned());
        let outcome = match status {
            // The one who asked waits for the deadline.
            status::SILENCE if is_call => return,
            status::ANSWER | status::SILENCE => Outcome::Answered { error, body },
            status::NO_SUCH_HANDLER => Outcome::NoHandler,
            status::PANIC => Outcome::Panicked { text: text() },
            status::FAILED => Outcome::Failed { error: text() },
            _ => {
                let said: serde_json::Value = error.parse().unwrap_or_default();
                Outcome::Failed { error: said["message"].as_str().unwrap_or(error.as_str()).to_owned() }
            }
        };
        let deed = match &outcome {
            Outcome::Answered { error, body } if is_call => {
                Some(Deed::Answer { error: error.clone(), body: body.clone() })
            }
            Outcome::Answered { .. } => None,
            other => Some(Deed::Fail { reason: other.clone().reason() }),
        };
        if let Some(deed) = deed {
            self.world().record(index, instance, deed);
        }
        if let Some(Call { module, waiter, .. }) = self.calls.waiting.remove(&call) {
            self.settled(waiter, &module, outcome, DEADLINE);
        }
    }

    /// Tells whoever waits how a call to `module` ended.
    fn settled(&mut self, waiter: Waiter, module: &str, outcome: Outcome, limit: Duration) {
        match waiter {
            Waiter::Test(slot) | Waiter::Life(slot) => drop(self.calls.outcomes.insert(slot, outcome)),
            Waiter::Ask { index, instance, ask } => {
                self.complete(index, instance, ask, outcome.for_a_module(module, limit));
            }
            Waiter::Gather { gather, server } => {
                let one = match outcome.for_a_module(module, limit) {
                    Ok((error, body)) => json!({ "id": server, "error": error, "body": body }),
                    Err(failed) => json!({ "id": server, "failed": failed }),
                };
                self.gathered(gather, one);
            }
            Waiter::Tick { index, number } => drop(self.ticking.remove(&(index, number))),
        }
    }

    fn gathered(&mut self, gather: u64, one: serde_json::Value) {
        let Some(gathering) = self.calls.gathers.get_mut(&gather) else { return };
        gathering.found.push(one);
        if gathering.found.len() < gathering.missing {
            return;
        }
        if let Some(Gather { index, instance, ask, found, .. }) = self.calls.gathers.remove(&gather) {
            self.complete(index, instance, ask, Ok((Body::ABSENT, json!(found).into())));
        }
    }

    /// Does what a module asks the host for.
    fn asked(&mut self, index: usize, asked: Asked) {
        let Asked { instance, id: ask, op, a, b, n, body } = asked;
        let limit = (n > 0).then(|| Duration::from_millis(n));
        let waiter = Waiter::Ask { index, instance, ask };
        match op {
            ask::SLEEP => {
                let at = self.now() + Duration::from_millis(n);
                self.timers.add(at, What::Wake { index, instance, ask });
            }
            ask::REQUEST if index > 0 && !self.world().rooms[index].linked => {
                self.complete(index, instance, ask, Err(RequestError::Gone("there is no link to the master".into())));
            }
            ask::REQUEST if index > 0 => self.request(index, MASTER, &b, body, waiter, limit),
            ask::REQUEST => self.request(index, &a, &b, body, waiter, limit),
            ask::REQUEST_SERVER => {
                let id = serde_json::from_str::<ServerAddress>(&a).map(|address| address.id).unwrap_or_default();
                self.request(index, &id, &b, body, waiter, limit);
            }
            ask::REQUEST_ALL => {
                let servers = self.world().rooms[0].addressed(tell::NOTIFY_ALL, "");
                let gather = self.calls.slot();
                let missing = servers.len();
                self.calls.gathers.insert(gather, Gather { index, instance, ask, missing, found: Vec::new() });
                if servers.is_empty() {
                    self.calls.gathers.remove(&gather);
                    self.complete(index, instance, ask, Ok((Body::ABSENT, json!([]).into())));
                }
                for server in servers {
                    let waiter = Waiter::Gather { gather, server: server.clone() };
                    self.request(index, &server, &b, body.clone(), waiter, limit);
                }
            }
            ask::FIGURES => {
                let figures = Body::of(&self.world().rooms[index].figures).unwrap_or_default();
                self.complete(index, instance, ask, Ok((Body::ABSENT, figures)));
            }
            ask::SPAWN => {
                self.world().record(index, instance, Deed::Tell { what: "spawn", about: String::new(), body });
                self.complete(index, instance, ask, Ok((Body::ABSENT, Body::ABSENT)));
            }
            ask::BLOCKING => {
                // On a thread of its own, as in a daemon, but waited for: so the same happens in every run.
                let ran = self.source.runner().map(|run| std::thread::spawn(move || run(n)).join());
                let result = match ran {
                    Some(Ok(())) => Ok((Body::ABSENT, Body::ABSENT)),
                    Some(Err(_)) | None => Err(RequestError::Refused("the job was not done".into())),
                };
                self.complete(index, instance, ask, result);
            }
            // Of a later version of the interface than this harness.
            _ => {
                let refused = RequestError::Refused(format!("this fleet does not offer service {op}"));
                self.complete(index, instance, ask, Err(refused));
            }
        }
    }

    /// A request of a module to a module of another daemon, or to the script in its place.
    fn request(&mut self, from: usize, to: &str, module: &str, body: Body, waiter: Waiter, limit: Option<Duration>) {
        let is_known = to == MASTER || self.world().rooms[0].servers.iter().any(|server| server.id == to);
        let (instance, ask) = waiter.asker();
        if !is_known {
            return self.complete(from, instance, ask, Err(RequestError::UnknownServer(to.to_owned())));
        }
        let fits = |id: &str| id == to || (id == "*" && to != MASTER);
        let script = self.scripts.iter_mut().find(|script| fits(&script.id) && script.module == module);
        let answered = script.map(|script| (script.answer)(&body));
        match answered {
            None => {
                let mail = self.mail_from(from, body);
                self.send(self.index(to), module, mail, Some(waiter), limit);
            }
            Some(Ok(Answer::Reply { error, body })) => {
                self.settled(waiter, module, Outcome::Answered { error, body }, DEADLINE);
            }
            Some(Ok(Answer::Silence)) | Some(Err(RequestError::Timeout(_))) => {
                let limit = limit.unwrap_or(DEADLINE);
                let call = self.calls.slot();
                let deadline = self.now() + limit;
                self.timers.add(deadline, What::Deadline { call, limit });
                let call_of = Call { index: self.index(to), instance: 0, module: module.to_owned(), waiter };
                self.calls.waiting.insert(call, call_of);
            }
            Some(Err(error)) => match waiter {
                Waiter::Gather { gather, server } => {
                    self.gathered(gather, json!({ "id": server, "failed": error }));
                }
                _ => self.complete(from, instance, ask, Err(error)),
            },
        }
    }

    /// Tells a module how what it asked for has ended.
    pub(super) fn complete(
        &mut self,
        index: usize,
        instance: u32,
        ask: u64,
        result: Result<(Body, Body), RequestError>,
    ) {
        let (status, error, body) = match result {
            Ok((error, body)) => (outcome::ANSWER, error, body),
            Err(error) => (outcome::FAILED, Body::ABSENT, Body::of(&error).unwrap_or_default()),
        };
        let mail = Mail { kind: kind::COMPLETE, instance, id: ask, status, error, body, ..Mail::default() };
        self.daemons[index].mail.push(mail);
    }
}

impl Waiter {
    /// The instance and its ask, of a module that waits.
    fn asker(&self) -> (u32, u64) {
        match self {
            Waiter::Ask { instance, ask, .. } => (*instance, *ask),
            Waiter::Test(_) | Waiter::Life(_) | Waiter::Gather { .. } | Waiter::Tick { .. } => (0, 0),
        }
    }
}

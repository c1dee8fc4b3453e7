//! The registry of modules: which id is served by which generation, in which role.
//!
//! Routes are published as one table that is never changed, only replaced: a reader sees all modules of a file in their
//! old generation or all of them in the new one.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use foldhash::fast::FixedState;
use muster_plugin_api::{Event, Manifest, Role, Schedule};
use tokio::sync::Notify;

use crate::{beat, ids::ModuleId};

pub(crate) mod actor;
mod breaker;
pub(crate) mod call;
pub(crate) mod calls;
pub(crate) mod deliver;
pub(crate) mod host;
pub(crate) mod jobs;
pub(crate) mod latency;
pub(crate) mod mailbox;
pub(crate) mod metrics;
pub(crate) mod presence;
pub(crate) mod schedule;
pub(crate) mod services;
mod switch;

use call::Call;
use calls::Tick;
use mailbox::{Mailbox, Refused};
use presence::SLOW;
use switch::Attempt;

/// What `switch.rs` takes from `std`; its model has something else in this place.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
}

/// How often overdue calls are looked for: a deadline is kept to a quarter of a second.
const SWEEP: Duration = beat::OFTEN;

/// A sweep that comes so late was not busy: the whole process was stopped, or its machine was.
const STOPPED: Duration = SWEEP.saturating_mul(4);

/// How often slow handlers of one generation are told of, at most.
const TELL_SLOW: Duration = Duration::from_secs(10);

/// The registry. One for all roles of a daemon.
#[derive(Debug)]
pub(crate) struct Modules {
    routes: ArcSwap<Routes>,
    ledger: Mutex<Ledger>,
    /// Ids that are the host's own.
    reserved: &'static [&'static str],
    /// How long a request may take if its module does not say.
    deadline: Duration,
    /// Handlers that take longer are reported.
    slow: Duration,
    /// What ticks has changed.
    rescheduled: Notify,
    /// A module hangs, or does no more.
    upset: Notify,
}

/// One id in one role, as it is served now.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) role: Role,
    /// Its own id; further ones lead here as well.
    pub(crate) id: ModuleId,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) instance: u32,
    schedule: Option<Schedule>,
    enabled: Arc<AtomicBool>,
    ticking: Arc<AtomicBool>,
}

/// A message that did not get to a module.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// There is no such module in this role.
    Unknown(Call),
    /// The module is disabled.
    Disabled(Call),
    /// Whoever sent it may not: why, in the original's words.
    Forbidden(Call, &'static str),
    /// Its library is in no state to take calls: what completes "module X ".
    Unfit(Call, Box<str>),
    /// The mailbox has no room; [`Modules::space`] tells when it is worth while to route again.
    Full(Call),
}

/// All modules of a file, in one generation, about to be served.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The file that owns the ids.
    pub(crate) owner: Arc<str>,
    /// Where its modules stand in lists, among those of other files.
    pub(crate) place: u64,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Number of the instance, role, manifest, effective schedule.
    pub(crate) modules: Vec<(u32, Role, Arc<Manifest>, Option<Schedule>)>,
}

/// An id that another file owns (or, with no owner, the host).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdTaken {
    pub(crate) id: String,
    pub(crate) owner: Option<Arc<str>>,
}

/// The tables are asked for each message, by names that peers choose. They cannot put any in, so that a fast hash is safe.
#[derive(Debug, Default)]
struct Routes {
    master: HashMap<ModuleId, Arc<Route>, FixedState>,
    monitor: HashMap<ModuleId, Arc<Route>, FixedState>,
    /// In the order of lists.
    files: Vec<Served>,
}

#[derive(Debug, Clone)]
struct Served {
    owner: Arc<str>,
    place: u64,
    routes: Vec<Arc<Route>>,
}

/// What outlives generations. Its lock also makes one writer of many.
#[derive(Debug, Default)]
struct Ledger {
    enabled: HashMap<(Role, ModuleId), Arc<AtomicBool>>,
    greetings: HashMap<Role, Bytes>,
    watched: Vec<Watched>,
}

/// A generation that is looked at every now and then.
#[derive(Debug, Clone)]
struct Watched {
    mailbox: Weak<Mailbox>,
    /// When its slow handlers were told of.
    told_slow: Option<Instant>,
}

// === impl Modules ===

impl Modules {
    /// An empty registry, in which no plugin may take a `reserved` id, and a request to a module that does not say
    /// otherwise may take as long as `deadline`.
    pub(crate) fn new(reserved: &'static [&'static str], deadline: Duration) -> Modules {
        Modules {
            routes: ArcSwap::default(),
            ledger: Mutex::default(),
            reserved,
            deadline,
            slow: SLOW,
            rescheduled: Notify::new(),
            upset: Notify::new(),
        }
    }

    /// Reports handlers that take longer than this.
    pub(crate) fn with_slow(self, slow: Duration) -> Modules {
        Modules { slow, ..self }
    }

    /// Hands a message to the module `id`, if `may`, which is asked once, has nothing against it. The order of checks is the
    /// original's: unknown, disabled, not permitted.
    ///
    /// # Errors
    /// The call comes back, with whoever waits for it.
    pub(crate) fn route(
        &self,
        role: Role,
        id: &str,
        call: Call,
        may: impl FnOnce(&Manifest) -> Result<(), &'static str>,
    ) -> Result<(), Rejected> {
        let may = Cell::new(Some(may));
        let load = || self.routes.load();
        let is_same = |one: &Guard<Arc<Routes>>, other: &Guard<Arc<Routes>>| Arc::ptr_eq(one, other);
        let handed = switch::hand_over(call, load, is_same, |routes, call| {
            let Some(route) = routes.of(role).get(id) else { return Attempt::Over(Err(Rejected::Unknown(call))) };
            if !route.is_enabled() {
                return Attempt::Over(Err(Rejected::Disabled(call)));
            }
            if let Some(Err(text)) = may.take().map(|may| may(&route.manifest)) {
                return Attempt::Over(Err(Rejected::Forbidden(call, text)));
            }
            let patience = call.patience_ms.map(|ms| Duration::from_millis(ms.into()));
            let deadline = call.arrived + patience.or(route.deadline()).unwrap_or(self.deadline);
            match route.mailbox.post(route.instance, deadline, call) {
                Ok(()) => Attempt::Over(Ok(())),
                Err(Refused::Full(back)) => Attempt::Over(Err(Rejected::Full(back))),
                Err(Refused::Unfit(back, why)) => Attempt::Over(Err(Rejected::Unfit(back, why))),
                Err(Refused::Closed(back)) => Attempt::Closed(back),
            }
        });
        handed.unwrap_or_else(|back| Err(Rejected::Unknown(back)))
    }

    /// The route of a module, as it is now.
    pub(crate) fn find(&self, role: Role, id: &str) -> Option<Arc<Route>> {
        self.routes.load().of(role).get(id).cloned()
    }

    /// Waits until a call to the module would not be refused for want of room.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub(crate) async fn space(&self, role: Role, id: &str) {
        if let Some(route) = self.find(role, id) {
            route.mailbox.space().await;
        }
    }

    /// For how long the module's library has been in one handler.
    pub(crate) fn in_handler_for(&self, role: Role, id: &str) -> Option<Duration> {
        self.find(role, id)?.mailbox.presence().in_step_for()
    }

    /// The ids of all modules in this role, in order of registration: by name of the file at the start of the daemon,
    /// then by arrival. A file that is replaced keeps its place.
    pub(crate) fn list(&self, role: Role) -> Vec<String> {
        let routes = self.routes.load();
        let routes = routes.files.iter().flat_map(|file| &file.routes);
        routes.filter(|route| route.role == role).map(|route| route.id.to_string()).collect()
    }

    /// Enables or disables a module; says whether there is one. Holds for later generations too.
    pub(crate) fn set_enabled(&self, role: Role, id: &str, enabled: bool) -> bool {
        let Some(route) = self.find(role, id) else { return false };
        if route.enabled.swap(enabled, Ordering::SeqCst) != enabled {
            self.rescheduled.notify_one();
        }
        true
    }

    /// Modules that were disabled before the daemon ended stay so when they come.
    pub(crate) fn start_disabled(&self, role: Role, ids: &[String]) {
        let mut ledger = self.ledger();
        for id in ids {
            ledger.enabled.insert((role, ModuleId::from(id.as_str())), Arc::new(false.into()));
        }
    }

    /// Sends an event to all modules in this role.
    pub(crate) fn broadcast_event(&self, role: Role, event: &Event) {
        let json = event_json(event);
        for route in self.routes.load().files.iter().flat_map(|file| &file.routes) {
            if route.role == role {
                route.mailbox.event(route.instance, json.clone());
            }
        }
    }

    /// Sets the event that modules of this role get when they have started; none with `None`.
    ///
    /// For `MasterConnected` in a monitor that is connected: set it, then broadcast the event. A module that starts
    /// in between gets it twice, but none misses it.
    pub(crate) fn greet(&self, role: Role, greeting: Option<&Event>) {
        let mut ledger = self.ledger();
        match greeting {
            Some(event) => drop(ledger.greetings.insert(role, event_json(event))),
            None => drop(ledger.greetings.remove(&role)),
        }
    }

    /// Serves all modules of the offer, in place of all that its file has served so far, in one step.
    ///
    /// # Errors
    /// When another file owns one of the ids; then nothing has changed.
    pub(crate) fn install(&self, offer: Offer) -> Result<(), IdTaken> {
        self.check_ids(&offer.owner, offer.served())?;
        let mut ledger = self.ledger();
        let routes: Vec<Arc<Route>> = offer
            .modules
            .into_iter()
            .map(|(instance, role, manifest, schedule)| {
                let id = ModuleId::from(manifest.id.as_str());
                let enabled = ledger.enabled.entry((role, id.clone())).or_insert_with(|| Arc::new(true.into())).clone();
                let mailbox = offer.mailbox.clone();
                let ticking = Arc::default();
                Arc::new(Route { role, id, manifest, mailbox, instance, schedule, enabled, ticking })
            })
            .collect();
        let mut files = self.routes.load().files.clone();
        files.retain(|file| file.owner != offer.owner);
        let at = files.partition_point(|file| file.place < offer.place);
        files.insert(at, Served { owner: offer.owner, place: offer.place, routes: routes.clone() });
        self.routes.store(Arc::new(Routes::of_files(files)));
        for route in routes {
            if let Some(greeting) = ledger.greetings.get(&route.role) {
                route.mailbox.event(route.instance, greeting.clone());
            }
        }
        ledger.watched.retain(|watched| watched.mailbox.strong_count() > 0);
        drop(ledger);
        self.rescheduled.notify_one();
        Ok(())
    }

    /// Whether the ids of these modules are free, or the file's own.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check_ids<'a>(
        &self,
        file: &str,
        modules: impl Iterator<Item = (Role, &'a Manifest)>,
    ) -> Result<(), IdTaken> {
        let routes = self.routes.load();
        for (role, manifest) in modules {
            for id in ids_of(manifest) {
                if self.reserved.contains(&id) {
                    return Err(IdTaken { id: id.to_owned(), owner: None });
                }
                let mut others = routes.files.iter().filter(|other| &*other.owner != file);
                let owner = others
                    .find(|other| other.routes.iter().any(|route| route.role == role && route.answers_to(id)))
                    .map(|other| other.owner.clone());
                if owner.is_some() {
                    return Err(IdTaken { id: id.to_owned(), owner });
                }
            }
        }
        Ok(())
    }

    /// Serves no module of this file any more.
    pub(crate) fn retire(&self, owner: &str) {
        let ledger = self.ledger();
        let mut files = self.routes.load().files.clone();
        files.retain(|file| &*file.owner != owner);
        self.routes.store(Arc::new(Routes::of_files(files)));
        drop(ledger);
        self.rescheduled.notify_one();
    }

    /// Watches a generation from now on, for as long as it exists: its calls' deadlines, and whether its handlers
    /// return.
    pub(crate) fn watch(&self, mailbox: &Arc<Mailbox>) {
        mailbox.presence().set_slow(self.slow);
        self.ledger().watched.push(Watched { mailbox: Arc::downgrade(mailbox), told_slow: None });
    }

    /// Waits until a module hangs, or one that hung does no more.
    pub(crate) async fn upset(&self) {
        self.upset.notified().await;
    }

    /// Ends calls at their deadlines and finds handlers that do not return, for ever. On a thread that no plugin can
    /// stop.
    pub(crate) async fn sweep(&self) {
        let mut beat = beat::every(SWEEP);
        let mut last = Instant::now();
        loop {
            beat.tick().await;
            let now = Instant::now();
            let stopped = Some(now - last).filter(|passed| *passed >= STOPPED).map(|passed| passed - SWEEP);
            last = now;
            if let Some(stopped) = stopped {
                tracing::warn!(?stopped, "this process was stopped: no module is blamed for that time");
            }
            crate::batch::rescue(now);
            let watched = self.ledger().watched.clone();
            for mailbox in watched.iter().filter_map(|watched| watched.mailbox.upgrade()) {
                if let Some(stopped) = stopped {
                    mailbox.presence().forgive(stopped);
                    mailbox.calls().forgive(stopped);
                }
                mailbox.calls().expire(now);
                if mailbox.look_for_hang(self.deadline) {
                    self.upset.notify_one();
                }
            }
            self.tell_slow(now);
        }
    }

    /// Tells of handlers that took long, of each generation every now and then.
    fn tell_slow(&self, now: Instant) {
        for watched in &mut self.ledger().watched {
            if watched.told_slow.is_some_and(|told| now.saturating_duration_since(told) < TELL_SLOW) {
                continue;
            }
            let Some(mailbox) = watched.mailbox.upgrade() else { continue };
            if let Some(slow) = mailbox.presence().take_slow() {
                watched.told_slow = Some(now);
                let handler = slow.step.name(mailbox.calls().instances());
                let (count, slowest_ms) = (slow.count, slow.slowest.as_millis() as u64);
                tracing::warn!(handler, count, slowest_ms, limit_ms = self.slow.as_millis() as u64, "slow handler");
            }
        }
    }

    /// What ticks now, on which side, and how.
    fn scheduled(&self) -> Vec<(Role, ModuleId, Schedule)> {
        let routes = self.routes.load();
        let routes = routes.files.iter().flat_map(|file| &file.routes);
        routes
            .filter(|route| route.is_enabled())
            .filter_map(|route| Some((route.role, route.id.clone(), route.schedule?)))
            .filter(|(role, _, schedule)| schedule::side(schedule.kind) == *role)
            .collect()
    }

    /// Gives a module its tick, unless it has not ended the one before.
    fn tick(&self, role: Role, id: &ModuleId) {
        let Some(route) = self.find(role, id.as_str()).filter(|route| route.is_enabled()) else { return };
        let deadline = Instant::now() + route.deadline().unwrap_or(self.deadline);
        let ticked = Tick::begin(&route.ticking).is_some_and(|tick| route.mailbox.tick(route.instance, deadline, tick));
        if !ticked {
            route.mailbox.calls().figures().ticks_skipped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Offer ===

impl Offer {
    /// What it would serve, and in which roles.
    pub(crate) fn served(&self) -> impl Iterator<Item = (Role, &Manifest)> {
        self.modules.iter().map(|(_, role, manifest, _)| (*role, &**manifest))
    }
}

// === impl Route ===

impl Route {
    /// Whether messages get through.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// How long a request may take, if the module says so.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.manifest.deadline_ms.map(Duration::from_millis)
    }

    fn answers_to(&self, id: &str) -> bool {
        ids_of(&self.manifest).any(|own| own == id)
    }
}

// === impl Routes ===

impl Routes {
    fn of_files(files: Vec<Served>) -> Routes {
        let mut routes = Routes { files, ..Routes::default() };
        for route in routes.files.iter().flat_map(|file| &file.routes) {
            let table = match route.role {
                Role::Master => &mut routes.master,
                Role::Monitor => &mut routes.monitor,
            };
            for id in ids_of(&route.manifest) {
                table.insert(ModuleId::from(id), route.clone());
            }
        }
        routes
    }

    fn of(&self, role: Role) -> &HashMap<ModuleId, Arc<Route>, FixedState> {
        match role {
            Role::Master => &self.master,
            Role::Monitor => &self.monitor,
        }
    }
}

#[cfg(test)]
mod switching;

fn ids_of(manifest: &Manifest) -> impl Iterator<Item = &str> {
    std::iter::once(manifest.id.as_str()).chain(manifest.aliases.iter().map(String::as_str))
}

fn event_json(event: &Event) -> Bytes {
    // Of texts, numbers and bodies that are JSON already: it cannot fail, and an unknown event harms nobody.
    serde_json::to_vec(event).unwrap_or_else(|_| br#"{"event":"unknown"}"#.to_vec()).into()
}

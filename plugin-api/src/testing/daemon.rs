//! The plugin in one daemon of a fleet.

use std::rc::Rc;

use abi_stable::{sabi_trait::TD_Opaque, std_types::RArc};

use super::{
    Fleet, MASTER, START,
    calls::{Outcome, Waiter},
    host::{Desk, World, lock},
    run::{Mail, What},
};
use crate::{
    abi::{HostApi_TO, HostObj, PluginObj, RawPlugin_TO, kind},
    blocking::run,
    event::Event,
    loader::Library,
    manifest::{Manifest, Role},
    message::{Body, ModuleError},
    runtime::{Export, Runtime, fence},
    schedule::{Schedule, ScheduleKind},
};

/// Where a plugin comes from.
#[derive(Clone)]
pub(super) enum Source {
    /// Modules of the test's own code.
    Code(&'static [Export]),
    /// A library that is open, and its manifest.
    Library(Rc<Library>, Rc<[Manifest]>),
}

pub(super) struct Daemon {
    pub(super) plugin: PluginObj,
    /// What is to be delivered with the next turn.
    pub(super) mail: Vec<Mail>,
    /// The manifests of its instances, by their numbers from 1.
    pub(super) instances: Vec<Manifest>,
}

// === impl Source ===

impl Source {
    pub(super) fn manifests(&self) -> Result<Vec<Manifest>, ModuleError> {
        match self {
            Source::Code(exports) => Ok(fence(|| exports.iter().map(|export| (export.manifest)()).collect())?),
            Source::Library(_, manifests) => Ok(manifests.to_vec()),
        }
    }

    /// What does the jobs of the plugin; none in one of the first version of the interface.
    pub(super) fn runner(&self) -> Option<extern "C" fn(u64)> {
        extern "C" fn own(job: u64) {
            run(job);
        }
        match self {
            Source::Code(_) => Some(own),
            Source::Library(library, _) => library.run(),
        }
    }

    fn create(&self, host: HostObj) -> Result<PluginObj, ModuleError> {
        match self {
            // Without the hook of `export::create`: the test's own prints what its assertions say.
            Source::Code(exports) => Ok(RawPlugin_TO::from_value(Runtime::new(host, exports), TD_Opaque)),
            Source::Library(library, _) => Ok(library.create(host)?),
        }
    }
}

// === impl Fleet ===

impl Fleet {
    /// Creates the plugin in the next daemon, and starts its instances and their schedules.
    pub(super) fn begin(&mut self, index: usize) -> Result<(), ModuleError> {
        let (daemon, numbers) = self.created(index)?;
        self.daemons.push(daemon);
        self.start_instances(index, numbers)?;
        self.begin_schedules(index);
        Ok(())
    }

    /// A plugin with no instances yet, and what these will be.
    pub(super) fn created(&self, index: usize) -> Result<(Daemon, u32), ModuleError> {
        let desk = Desk { world: self.world.clone(), index };
        let role = self.world().rooms[index].role;
        let here = |manifest: &Manifest| manifest.roles.contains(&role);
        let instances: Vec<Manifest> = self.source.manifests()?.into_iter().filter(here).collect();
        let ids = instances.iter().map(|manifest| manifest.id.clone()).collect();
        self.world().rooms[index].modules = ids;
        self.world().current = index;
        let plugin = self.source.create(HostApi_TO::from_ptr(RArc::new(desk), TD_Opaque))?;
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        Ok((Daemon { plugin, mail: Vec::new(), instances }, count))
    }

    pub(super) fn start_instances(&mut self, index: usize, count: u32) -> Result<(), ModuleError> {
        let role = if index == 0 { MASTER } else { "monitor" };
        for number in 1..=count {
            let id = self.daemons[index].instances[number as usize - 1].id.clone();
            let options = self.options.get(&id).map(Body::from).unwrap_or_else(|| serde_json::json!({}).into());
            let mail = Mail { kind: kind::START, a: id.clone(), b: role.to_owned(), ..Mail::of(options) };
            match self.life(index, number, mail) {
                Outcome::Answered { .. } => {}
                Outcome::TimedOut => return Err(format!("module {id} has not started after {START:?}").into()),
                other => return Err(format!("module {id} did not start as {role}: {}", other.reason()).into()),
            }
        }
        Ok(())
    }

    /// Ends all instances of a daemon; whether each did stop.
    pub(super) fn end(&mut self, index: usize) -> bool {
        let count = u32::try_from(self.daemons[index].instances.len()).unwrap_or(u32::MAX);
        let stop = || Mail { kind: kind::STOP, ..Mail::of(Body::ABSENT) };
        (1..=count).all(|number| matches!(self.life(index, number, stop()), Outcome::Answered { .. }))
    }

    /// A step in the life of an instance, until it has an outcome.
    pub(super) fn life(&mut self, index: usize, number: u32, mail: Mail) -> Outcome {
        let slot = self.calls.slot();
        self.deliver(index, number, mail, Some(Waiter::Life(slot)), START);
        self.outcome(slot)
    }

    pub(super) fn begin_schedules(&mut self, index: usize) {
        let role = self.world().rooms[index].role;
        for (manifest, number) in self.daemons[index].instances.clone().iter().zip(1..) {
            let options = self.options.get(&manifest.id).cloned().unwrap_or_default();
            let schedule = Schedule::effective(manifest.schedule, &options);
            let side = schedule.map(|schedule| match schedule.kind {
                ScheduleKind::Pull => Role::Master,
                ScheduleKind::Push => Role::Monitor,
            });
            if let Some(pace) = schedule.and_then(|schedule| schedule.pace()).filter(|_| side == Some(role)) {
                let at = self.now() + pace.delay;
                self.timers.add(at, What::Tick { index, number, every: pace.interval });
            }
        }
    }

    /// Gives an event to all modules of a daemon.
    pub(super) fn tell(&mut self, index: usize, event: &Event) {
        // Events of this crate can be expressed in JSON.
        let event = Body::of(event).unwrap_or_default();
        let mail = Mail { kind: kind::EVENT, instance: kind::EVERYONE, ..Mail::of(event) };
        self.daemons[index].mail.push(mail);
    }

    pub(super) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        lock(&self.world)
    }
}
